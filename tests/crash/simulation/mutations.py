"""Faults built into webhookd on purpose, each the kind that a change might bring: the simulation has to find them.

Those that it found by itself are here as well, so that the seeds kept for them can be shown to find them again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from webhookd.delivery import consumer
from webhookd.delivery.consumer import Consumer
from webhookd.delivery.dispatcher import Dispatcher
from webhookd.delivery.ingest import Ingest
from webhookd.delivery.queue import EndpointQueue, Lane, Slots
from webhookd.delivery.recorder import Recorder
from webhookd.delivery.watchdog import Watchdog
from webhookd.models import Accepted
from webhookd.rules.failure_budget import FailureWindow
from webhookd.rules.retry import RetryIn, RetrySchedule, decide
from webhookd.store import connection, deliveries, endpoints

# What is replaced, by the thing that has it and its name there.
Change = dict[tuple[Any, str], Any]
_kept: set[asyncio.Task[Any]] = set()


def _goes_on_before_the_commit() -> Change:
    """The consumer takes the next delivery while the outcome of the one before is still to be committed."""
    record = Recorder.record

    async def hasty(self: Recorder, endpoint: Any, delivery: Any, request: Any, outcome: Any) -> Any:
        recording = asyncio.create_task(record(self, endpoint, delivery, request, outcome))
        _kept.add(recording)
        recording.add_done_callback(_kept.discard)
        await asyncio.sleep(0)
        return decide(outcome.reason, delivery.tries + 1, RetrySchedule(self._settings().delivery.retry_seconds))

    return {(Recorder, "record"): hasty}


def _answers_before_the_commit() -> Change:
    """An event is answered for while its commit is under way."""
    accept = Ingest.accept

    async def hasty(self: Ingest, workspace_id: str, new: Any) -> list[Accepted]:
        accepting = asyncio.create_task(accept(self, workspace_id, new))
        _kept.add(accepting)
        accepting.add_done_callback(_kept.discard)
        await asyncio.sleep(0.001)
        return accepting.result() if accepting.done() else [Accepted(each.id, 0) for each in new]

    return {(Ingest, "accept"): hasty}


def _a_retry_lets_others_pass() -> Change:
    """What waits for its retry goes to the back of the queue."""
    attempt = Consumer._attempt

    async def impatient(self: Consumer, endpoint: Any, delivery: Any) -> Any:
        decision = await attempt(self, endpoint, delivery)
        return None if isinstance(decision, RetryIn) else decision

    return {(Consumer, "_attempt"): impatient}


def _the_budget_is_one_less() -> Change:
    """The 30th failure disables."""
    fail = FailureWindow.fail

    def strict(self: FailureWindow, endpoint_seq: int, ended_at: float) -> Any:
        verdict = fail(self, endpoint_seq, ended_at)
        return replace(verdict, exceeded=verdict.count >= self.budget.limit)

    return {(FailureWindow, "fail"): strict}


def _the_budget_is_one_more() -> Change:
    """The 32nd failure disables."""
    fail = FailureWindow.fail

    def lenient(self: FailureWindow, endpoint_seq: int, ended_at: float) -> Any:
        verdict = fail(self, endpoint_seq, ended_at)
        return replace(verdict, exceeded=verdict.count > self.budget.limit + 1)

    return {(FailureWindow, "fail"): lenient}


def _a_restart_forgets_the_budget() -> Change:
    """The window is empty after a start."""

    async def forgetful(self: Watchdog) -> None:
        self._windows.clear()

    return {(Watchdog, "restore"): forgetful}


def _enable_gives_nothing_back() -> Change:
    """An endpoint that is enabled keeps its failures."""

    def stingy(self: Watchdog, workspace: str, endpoint_seq: int) -> None:
        """Forget nothing."""

    return {(Watchdog, "forget"): stingy}


def _the_budget_stops_nobody_now() -> Change:
    """Who is disabled hears of it only at the next start."""
    disable = endpoints.disable

    def unheard(db: Any, seqs: Any, **rest: Any) -> list[Any]:
        changed = disable(db, seqs, **rest)
        return [] if rest["reason"] == "failure_budget" else changed

    return {(endpoints, "disable"): unheard}


def _a_person_stops_after_the_commit() -> Change:
    """Disabling and deleting commit first and stop the consumer then."""

    def late(self: Dispatcher, endpoint_seq: int) -> None:
        """Block nothing."""

    return {(Dispatcher, "block"): late}


def _enable_waits_for_nobody() -> Change:
    """Enable goes through while an attempt is in flight."""

    async def rude(self: Dispatcher, endpoint_seq: int) -> None:
        """Wait for nothing."""

    return {(Dispatcher, "wait_idle"): rude}


def _a_full_queue_forgets() -> Change:
    """What doesn't fit into the queue in memory is not read from the table again."""
    offer = Lane.offer

    def forgetful(self: Lane, delivery: Any) -> None:
        offer(self, delivery)
        if self._items is not None and self._items.full():
            self._behind = False

    return {(Lane, "offer"): forgetful}


def _a_page_comes_twice() -> Change:
    """A page may bring what was offered already."""

    def forgetful(self: Lane, delivery: Any) -> None:
        assert self._items is not None
        self._items.put_nowait(delivery)

    return {(Lane, "_put"): forgetful}


def _a_restored_wait_trusts_the_clock() -> Change:
    """After a restart a wait goes by the wall clock, however it was set."""

    def trusting(next_attempt_at_ms: int, now_ms: int, *_: Any, **__: Any) -> float:
        return max(0.0, (next_attempt_at_ms - now_ms) / 1000)

    return {(consumer, "remaining_wait"): trusting}


def _every_wait_is_the_first() -> Change:
    """Retries come 30, 30 and 30 seconds apart."""
    attempt = Consumer._attempt

    async def eager(self: Consumer, endpoint: Any, delivery: Any) -> Any:
        decision = await attempt(self, endpoint, delivery)
        return replace(decision, seconds=min(30.0, decision.seconds)) if isinstance(decision, RetryIn) else decision

    return {(Consumer, "_attempt"): eager}


def _skipped_ones_come_all_the_same() -> Change:
    """The mark of `skip_held` isn't looked at when the queue is read."""
    page = deliveries.page

    def blind(db: Any, endpoint_seq: int, after_seq: int, limit: int, inline_bytes: int, **more: Any) -> Any:
        return page(db, endpoint_seq, 0 if after_seq else after_seq, limit, inline_bytes, **more)

    return {(deliveries, "page"): blind}


def _a_large_event_waits_twice() -> Change:
    """Found by the simulation: a restored wait began anew when the body had been read (until `a6cc7df`)."""
    restored, with_body = Consumer._restored_wait, Consumer._with_body
    waits: dict[int, float] = {}

    def remembered(self: Consumer, delivery: Any) -> float:
        waits[delivery.seq] = restored(self, delivery)
        return waits[delivery.seq]

    async def slow(self: Consumer, delivery: Any) -> Any:
        with_it = await with_body(self, delivery)
        await self._waited(waits.get(delivery.seq, 0.0))
        return with_it

    return {(Consumer, "_restored_wait"): remembered, (Consumer, "_with_body"): slow}


def _a_local_wait_is_taken_for_a_retry() -> Change:
    """Found by the simulation: a restored wait for webhookd's own machine was cut to the schedule's step."""
    remaining_wait = consumer.remaining_wait

    def mistaken(*terms: Any, **__: Any) -> float:
        return remaining_wait(*terms)

    return {(consumer, "remaining_wait"): mistaken}


def _every_drop_is_reported() -> Change:
    """Whether the endpoint has delivered since the last notice isn't asked."""
    return {(deliveries, "first_drop"): lambda db, endpoint_seq, seq: True}


def _a_drop_is_reported_after_its_commit() -> Change:
    """A kill in between leaves a drop without a notice."""
    notify = Watchdog.notify_of_drop

    def later(self: Watchdog, db: Any, *fact: Any) -> bool:
        telling = asyncio.create_task(self._store.write(lambda db: notify(self, db, *fact)))
        _kept.add(telling)
        telling.add_done_callback(_kept.discard)
        return False

    return {(Watchdog, "notify_of_drop"): later}


def _a_key_has_several_lanes() -> Change:
    """The lane follows from the whole event, not from its key."""
    lane_hash = connection.lane_hash
    return {(connection, "lane_hash"): lambda path, body: lane_hash("event_id", body)}


def _another_key_is_no_barrier() -> Change:
    """What was accepted under the new key goes beside what still waits under the old one."""
    take = EndpointQueue.take_ordering

    def hasty(self: EndpointQueue, ordering: Any) -> None:
        take(self, replace(ordering, barriers=()))

    return {(EndpointQueue, "take_ordering"): hasty}


def _lanes_are_not_counted() -> Change:
    """Every lane that has work is at work."""

    def generous(self: Slots) -> Any:
        request = asyncio.get_running_loop().create_future()
        request.set_result(True)
        return request

    return {(Slots, "request"): generous}


MUTATIONS: dict[str, Callable[[], Change]] = {
    made.__name__.strip("_"): made
    for made in (
        _goes_on_before_the_commit,
        _answers_before_the_commit,
        _a_retry_lets_others_pass,
        _the_budget_is_one_less,
        _the_budget_is_one_more,
        _a_restart_forgets_the_budget,
        _enable_gives_nothing_back,
        _the_budget_stops_nobody_now,
        _a_person_stops_after_the_commit,
        _enable_waits_for_nobody,
        _a_full_queue_forgets,
        _a_page_comes_twice,
        _a_restored_wait_trusts_the_clock,
        _every_wait_is_the_first,
        _skipped_ones_come_all_the_same,
        _every_drop_is_reported,
        _a_drop_is_reported_after_its_commit,
        _a_key_has_several_lanes,
        _another_key_is_no_barrier,
        _lanes_are_not_counted,
    )
}
# What the simulation found by itself; `seeds.txt` has the seeds that found it.
FOUND: dict[str, Callable[[], Change]] = {
    made.__name__.strip("_"): made for made in (_a_large_event_waits_twice, _a_local_wait_is_taken_for_a_retry)
}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """webhookd with a fault built in."""
    before = {}
    for (where, what), other in (MUTATIONS | FOUND)[name]().items():
        before[where, what] = getattr(where, what)
        setattr(where, what, other)
    try:
        yield
    finally:
        for (where, what), own in before.items():
            setattr(where, what, own)
