"""A lane's consumer: takes the next delivery, attempts it until it is delivered or dropped, then the next.

An endpoint has one lane, or several if it orders by key, of which only so many are at work at once as it has slots.
Order rests on three rules: one consumer per lane, one request in flight per consumer, and no attempt before the outcome
of the one before it is committed.
"""

from __future__ import annotations

import asyncio
import math

from msgspec.structs import replace

from webhookd.delivery.deps import Deps
from webhookd.delivery.queue import Lane, Slots
from webhookd.delivery.recorder import Recorder
from webhookd.models import Endpoint, QueuedDelivery
from webhookd.rules.retry import Decision, RetryIn, RetrySchedule, remaining_wait, wait_step
from webhookd.sender import request_builder
from webhookd.sender.client import Transport
from webhookd.sender.request_builder import RequestBuilder
from webhookd.store import deliveries

# What a step may take beyond its own time (an attempt's timeout, a wait's length) before the consumer counts as stuck.
STEP_MARGIN_SECONDS = 10.0


class Consumer:
    """Sends the deliveries of one lane until `stop` is called or nothing is left."""

    def __init__(self, lane: Lane, deps: Deps, recorder: Recorder, transport: Transport) -> None:
        self._lane = lane
        self._slots = lane.slots
        self._has_slot = False
        self._slot_request: asyncio.Future[bool] | None = None
        self._deps = deps
        self._recorder = recorder
        self._transport = transport
        self._interrupt = asyncio.Event()  # ends or shortens a wait
        self.stopped = False
        self._builder: RequestBuilder | None = None
        self.in_flight = False
        self.current: QueuedDelivery | None = None
        self.next_attempt_at_ms: int | None = None
        self.due_at = 0.0  # monotonic: when the present step has to be over
        self._expect(0)

    def stop(self) -> None:
        """Start no further attempt: a wait ends now, an attempt in flight ends and is recorded."""
        self.stopped = True
        self._interrupt.set()
        if self._slot_request is not None and not self._slot_request.done():
            self._slot_request.set_result(False)

    @property
    def waits_for_slot(self) -> bool:
        """Whether other lanes of the endpoint are at work, as many as may be."""
        return self._slot_request is not None

    def reschedule(self) -> None:
        """The schedule may have changed: a wait under way that is longer than its step now is cut to it."""
        self._interrupt.set()

    async def run(self) -> bool:
        """Returns whether the queue was emptied; if not, the next consumer reads what waits from the table again."""
        try:
            while not self.stopped:
                self._expect(0)
                if not await self._lane.fetch(self._refill):
                    return True
                if self._slots is not None and not await self._take_slot(self._slots):
                    return False
                if not await self._deliver(self._lane.take()):
                    return False
                self._release_slot()
            return False
        finally:
            self._release_slot()

    async def _take_slot(self, slots: Slots) -> bool:
        """Wait until the lane may be at work; False if `stop` was called."""
        if self.stopped:
            return False
        self._slot_request = slots.request()
        self.due_at = math.inf  # others may keep theirs for as long as a wait for a retry
        self._has_slot = await self._slot_request
        self._slot_request = None
        return self._has_slot and not self.stopped

    def _release_slot(self) -> None:
        if self._has_slot and self._slots is not None:
            self._has_slot = False
            self._slots.release()

    async def _deliver(self, delivery: QueuedDelivery) -> bool:
        """Attempt one delivery until it is finished; False if the consumer has to end before that."""
        wait_seconds, local = self._restored_wait(delivery), delivery.after_local_failure
        while True:
            self.current = delivery
            if wait_seconds > 0 and not await self._waited(wait_seconds, delivery.tries, local=local):
                return False
            endpoint = self._deps.registry.get(delivery.endpoint_seq)
            if self.stopped or endpoint is None or not self._deps.registry.runs(endpoint):
                return False
            if self._deps.clustered is not None and not self._deps.clustered.may_attempt():
                return False
            if delivery.body is None:
                whole = await self._with_body(delivery)
                if whole.body is None:
                    await self._recorder.quarantine(endpoint, delivery)
                    return True
                delivery = whole
                wait_seconds = 0.0
                continue  # the endpoint may have been stopped meanwhile
            decision = await self._attempt(endpoint, delivery)
            if not isinstance(decision, RetryIn):
                return True
            wait_seconds, local = decision.seconds, not decision.uses_attempt
            used = 1 if decision.uses_attempt else 0
            delivery = replace(delivery, attempt_count=delivery.attempt_count + 1, tries=delivery.tries + used)

    async def _attempt(self, endpoint: Endpoint, delivery: QueuedDelivery) -> Decision:
        assert delivery.body is not None
        now_ms = self._deps.clock.wall_ms()
        if self._builder is None or not self._builder.fits(endpoint, now_ms):
            self._builder = RequestBuilder(endpoint, now_ms)
        request = self._builder.build(
            delivery.event_id,
            delivery.body,
            number=delivery.attempt_count + 1,
            now_ms=now_ms,
            marks=_marks(delivery),
            place=None if delivery.sequence is None else (delivery.sequence, delivery.lane_previous),
            trace=delivery.trace,
        )
        self.in_flight = True
        self._expect(self._deps.settings().delivery.timeout_seconds)
        try:
            outcome = await self._transport.post(request)
            is_last = self._lane.is_empty and (self._slots is None or not self._slots.wanted)
            return await self._recorder.record(endpoint, delivery, request, outcome, is_last=is_last)
        finally:
            self.in_flight = False

    async def _waited(self, seconds: float, tries: int, *, local: bool) -> bool:
        """Wait for the next attempt, `tries` being used up; False if `stop` was called."""
        if self._slots is None or not self._slots.park():
            return await self._wait(seconds, tries, local=local)
        self._has_slot = False
        try:
            waited = await self._wait(seconds, tries, local=local)
        finally:
            self._slots.unpark()
        return waited and await self._take_slot(self._slots)

    async def _wait(self, seconds: float, tries: int, *, local: bool) -> bool:
        clock = self._deps.clock
        began, began_ms = clock.monotonic(), clock.wall_ms()
        try:
            while True:
                self.next_attempt_at_ms = began_ms + round(seconds * 1000)
                left = max(0.0, began + seconds - clock.monotonic())
                self._expect(left)
                interrupted = await clock.wait(self._interrupt, left)
                if self.stopped or not interrupted:
                    return not self.stopped
                self._interrupt.clear()
                seconds = min(seconds, wait_step(tries, self._schedule(), after_local_failure=local))
        finally:
            self.next_attempt_at_ms = None

    def _schedule(self) -> RetrySchedule:
        return RetrySchedule(self._deps.settings().delivery.retry_seconds)

    def _restored_wait(self, delivery: QueuedDelivery) -> float:
        if delivery.next_attempt_at_ms is None:
            return 0.0
        return remaining_wait(
            delivery.next_attempt_at_ms,
            self._deps.clock.wall_ms(),
            delivery.tries,
            self._schedule(),
            after_local_failure=delivery.after_local_failure,
        )

    def _expect(self, seconds: float) -> None:
        self.due_at = self._deps.clock.monotonic() + seconds + STEP_MARGIN_SECONDS

    async def _with_body(self, delivery: QueuedDelivery) -> QueuedDelivery:
        self._expect(0)
        body = await self._deps.store.read_for_delivery(lambda db: deliveries.body(db, delivery.seq))
        return replace(delivery, body=body)

    async def _refill(self, lane: Lane, after_seq: int, limit: int, inline_bytes: int) -> list[QueuedDelivery]:
        endpoint = self._deps.registry.get(lane.endpoint_seq)
        after_seq = max(after_seq, endpoint.skipped_upto if endpoint else 0)
        return await self._deps.store.read_for_delivery(
            lambda db: deliveries.page(
                db, lane.endpoint_seq, after_seq, limit, inline_bytes, upto_seq=lane.upto_seq, lane_hash=lane.hash
            )
        )


def _marks(delivery: QueuedDelivery) -> tuple[tuple[str, str], ...]:
    if delivery.replay_of is not None:
        return request_builder.REPLAY
    return request_builder.BACKFILL if delivery.backfill else ()
