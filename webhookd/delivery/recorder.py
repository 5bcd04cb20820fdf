"""What follows from an attempt's outcome: decided by the rules, recorded in one transaction, then published.

A failure, the delivery's new state, the disabling that the failure causes and the mail about it are one transaction:
either all of it happened or none.  What concerns the failure budget is `delivery.watchdog`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import orjson

from webhookd import log
from webhookd.delivery.attempt_record import attempt_record
from webhookd.delivery.deps import Deps
from webhookd.delivery.live_feed import LiveFeed, delivery_view
from webhookd.delivery.watchdog import Watchdog
from webhookd.metrics import Histogram
from webhookd.models import DeliveryState, Endpoint, Json, Outcome, QueuedDelivery, Request
from webhookd.rules.ids import delivery_id
from webhookd.rules.retry import Decision, Delivered, Dropped, RetryIn, RetrySchedule, decide
from webhookd.store import attempts, deliveries, records
from webhookd.store.store import Db

DURATION_WEIGHT = 0.2


class Recorder:
    """Records outcomes.  `on_finished` is called with a delivery that no longer waits, once that is committed."""

    def __init__(
        self, deps: Deps, watchdog: Watchdog, live_feed: LiveFeed, on_finished: Callable[[QueuedDelivery], None]
    ) -> None:
        self._store, self._registry, self._clock, self._settings = deps.store, deps.registry, deps.clock, deps.settings
        self._watchdog = watchdog
        self._live_feed = live_feed
        self._on_finished = on_finished
        self.delivered_count = self.failed_count = self.dropped_count = 0
        self.failures_by_reason: Counter[str] = Counter()
        self.delivered_seconds = Histogram()
        self.failed_seconds = Histogram()
        self.durations_ms: dict[int, float] = {}  # per endpoint, the recent ones weighing most

    async def record(
        self, endpoint: Endpoint, delivery: QueuedDelivery, request: Request, outcome: Outcome, *, is_last: bool
    ) -> Decision:
        """Record what came of an attempt that began with `endpoint` as it was; returns what follows from it.

        `is_last`: no other delivery waits for the endpoint, so none waits for this outcome.
        """
        now_ms = self._clock.wall_ms()
        if outcome.delivered:
            return await self._delivered(endpoint, delivery, request, outcome, now_ms, is_last=is_last)
        return await self._failed(endpoint, delivery, request, outcome, now_ms)

    async def _delivered(
        self,
        endpoint: Endpoint,
        delivery: QueuedDelivery,
        request: Request,
        outcome: Outcome,
        now_ms: int,
        *,
        is_last: bool,
    ) -> Decision:
        number = delivery.attempt_count + 1
        record = attempt_record(number, outcome, request, counted=False)
        success = deliveries.Success(delivery.seq, number, records.shortened(orjson.dumps(record)), now_ms)

        def on_commit(waited: bool) -> None:  # noqa: FBT001 - the command's result
            self._committed(endpoint, delivery, record, outcome, DeliveryState.DELIVERED, waited=waited, now_ms=now_ms)

        command = deliveries.RECORD_SUCCESS.of(success)
        await self._store.write(
            command,
            on_commit=on_commit,
            retry_when_full=True,
            on_behalf_of=endpoint.workspace_seq,
            deferrable=is_last,
        )
        return Delivered()

    async def _failed(
        self, endpoint: Endpoint, delivery: QueuedDelivery, request: Request, outcome: Outcome, now_ms: int
    ) -> Decision:
        number = delivery.attempt_count + 1
        schedule = RetrySchedule(self._settings().delivery.retry_seconds)
        decision = decide(outcome.reason, delivery.tries + 1, schedule)
        next_ms = now_ms + round(decision.seconds * 1000) if isinstance(decision, RetryIn) else None
        uses_attempt = not isinstance(decision, RetryIn) or decision.uses_attempt
        tries = delivery.tries + uses_attempt
        judgement = self._watchdog.judge(endpoint, outcome)
        record = attempt_record(number, outcome, request, counted=judgement.verdict is not None)

        def command(db: Db) -> tuple[bool, list[Endpoint], bool]:
            attempts.insert(
                db,
                delivery_seq=delivery.seq,
                endpoint_seq=endpoint.seq,
                workspace_seq=endpoint.workspace_seq,
                ended_at_ms=now_ms,
                counted=record["counted"],
                record=orjson.dumps(record),
            )
            waited = deliveries.failed(
                db, delivery.seq, attempt_count=number, tries=tries, next_attempt_at_ms=next_ms, now_ms=now_ms
            )
            disabled = self._watchdog.disable(db, endpoint, judgement, now_ms)
            dropped = waited and next_ms is None
            notified = dropped and self._watchdog.notify_of_drop(db, endpoint, delivery, disabled, now_ms)
            return waited, disabled, notified

        def on_commit(result: tuple[bool, list[Endpoint], bool]) -> None:
            waited, disabled, notified = result
            self._registry.put_all(disabled)
            state = self._state_after(endpoint, decision, waited=waited)
            self._committed(
                endpoint, delivery, record, outcome, state, waited=waited, now_ms=now_ms, next_attempt_at_ms=next_ms
            )
            self._watchdog.committed(endpoint, delivery, judgement, disabled, notified=notified)

        with self._watchdog.stopping(judgement):
            await self._store.write(
                command, on_commit=on_commit, retry_when_full=True, on_behalf_of=endpoint.workspace_seq
            )
        return decision

    async def quarantine(self, endpoint: Endpoint, delivery: QueuedDelivery) -> None:
        """End a delivery whose event can't be read, so that those behind it go on."""
        now_ms = self._clock.wall_ms()
        await self._store.write(
            lambda db: deliveries.quarantine(db, delivery.seq, now_ms),
            on_commit=lambda _: self._on_finished(delivery),
            retry_when_full=True,
        )
        log.emit(
            "delivery.quarantined",
            workspace=endpoint.workspace,
            endpoint_id=endpoint.id,
            event_id=delivery.event_id,
            delivery_id=delivery_id(delivery.seq),
            event_type=delivery.event_type,
        )

    def _state_after(self, endpoint: Endpoint, decision: Decision, *, waited: bool) -> DeliveryState:
        """What a delivery reads as after a failed attempt; `waited` is whether it still did when that was recorded."""
        if waited and isinstance(decision, Dropped):
            return DeliveryState.DROPPED
        now = self._registry.get(endpoint.seq)
        if now is None:
            return DeliveryState.CANCELLED
        if not waited:
            return DeliveryState.EXPIRED
        return DeliveryState.PENDING if self._registry.runs(now) else DeliveryState.HELD

    def _committed(
        self,
        endpoint: Endpoint,
        delivery: QueuedDelivery,
        record: Json,
        outcome: Outcome,
        state: DeliveryState,
        *,
        waited: bool,
        now_ms: int,
        next_attempt_at_ms: int | None = None,
    ) -> None:
        finished = state in (DeliveryState.DELIVERED, DeliveryState.DROPPED)
        if finished and waited:
            self._on_finished(delivery)
        self._count(endpoint, outcome, state)
        fields = {
            "workspace": endpoint.workspace,
            "endpoint_id": endpoint.id,
            "event_id": delivery.event_id,
            "delivery_id": delivery_id(delivery.seq),
            "event_type": delivery.event_type,
            "attempt": record["number"],
            "status": outcome.status,
            "reason": outcome.reason,
        }
        log.emit(
            "delivery.attempted",
            **fields,
            duration_ms=record["duration_ms"],
            outcome=record["outcome"],
            counted=record["counted"],
            connection_retried=outcome.connection_retried,
            detail=outcome.detail or None,
        )
        if state is DeliveryState.DROPPED:
            log.emit("delivery.dropped", **fields, duration_ms=record["duration_ms"])
        if self._live_feed.wanted:
            view = delivery_view(
                endpoint, delivery, state, record, next_attempt_at_ms, finished_at_ms=now_ms if finished else None
            )
            self._live_feed.publish("delivery.attempted", view)

    def publish_accepted(self, endpoint: Endpoint, delivery: QueuedDelivery) -> None:
        """Publish that a delivery was queued."""
        if self._live_feed.wanted:
            state = DeliveryState.PENDING if self._registry.runs(endpoint) else DeliveryState.HELD
            self._live_feed.publish("delivery.accepted", delivery_view(endpoint, delivery, state))

    def forget(self, endpoint_seq: int) -> None:
        """The endpoint was deleted."""
        self.durations_ms.pop(endpoint_seq, None)

    def _count(self, endpoint: Endpoint, outcome: Outcome, state: DeliveryState) -> None:
        self.delivered_count += outcome.delivered
        self.failed_count += not outcome.delivered
        (self.delivered_seconds if outcome.delivered else self.failed_seconds).observe(outcome.duration_ms / 1000)
        if outcome.reason is not None:
            self.failures_by_reason[outcome.reason] += 1
        self.dropped_count += state is DeliveryState.DROPPED
        if self._registry.get(endpoint.seq) is None:
            return  # deleted while the attempt was under way
        before_ms = self.durations_ms.get(endpoint.seq, outcome.duration_ms)
        self.durations_ms[endpoint.seq] = before_ms + DURATION_WEIGHT * (outcome.duration_ms - before_ms)
