"""Past events as new deliveries at the end of the queue.

Replay: a finished delivery, or all that match a filter.  Backfill: events that an endpoint never had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace

from webhookd import log
from webhookd.delivery.deps import Deps
from webhookd.delivery.dispatcher import Dispatcher
from webhookd.errors import ApiError
from webhookd.models import EVERY_TYPE, DeliveryView, Endpoint, QueuedDelivery
from webhookd.retention import Retention
from webhookd.rules.ids import delivery_id
from webhookd.store import deliveries, delivery_log
from webhookd.store.connection import Late
from webhookd.store.deliveries import Backfill
from webhookd.store.delivery_log.log_filter import LogFilter
from webhookd.store.store import Db
from webhookd.store.workspaces import DELIVERY_BYTES
from webhookd.store.writer import storage_full

# Found at a time; queued are as many of them in one transaction as the writer takes at once: a replay of a million goes
# in short steps, between which live events have their turns.
STEP = 100
ROWS_EACH = 2  # the work of one, for the writer: it is judged and queued
# A replay or a backfill fills no more than this share of what may wait in a workspace: the rest is for live events.
CAPACITY_SHARE = 0.5

_ERRORS = {
    "test": ("not_found", "A test is not replayed: send another one."),
    "gone": ("endpoint_gone", "Its endpoint was deleted; there is nowhere to send to."),
    "not_active": ("endpoint_not_active", "Its endpoint is not active. Enable it first."),
    "waiting": ("delivery_not_finished", "This event still waits for the endpoint; it will go out by itself."),
    "delivered_since": (
        "delivered_since",
        "The endpoint got this event since. To send it once more, replay its newest delivery.",
    ),
    "pruned": ("not_found", "The body of this event was pruned; it can't be sent again."),
    "no_room": ("too_far_behind", "Too much waits in this workspace already; replay it later."),
}


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many deliveries were queued again, and how many were left out, by reason."""

    count: int
    left_out: dict[str, int]


@dataclass(slots=True)
class _Capacity:
    """What may still be added: deliveries, and their bytes."""

    count: int
    size: int

    def choose(self, rows: Iterable[tuple[int, int, str | None]], reasons: Counter[str]) -> list[int]:
        """Those to queue of rows `(number, size, why not)`; the others are counted in `reasons`."""
        chosen = []
        for seq, size, reason in rows:
            if reason is None and (self.count < 1 or self.size < size):
                reason = "no_room"
                self.count = 0  # nor for what follows: it would overtake
            if reason is not None:
                reasons[reason] += 1
                continue
            self.count -= 1
            self.size -= size
            chosen.append(seq)
        return chosen


@dataclass(frozen=True, slots=True)
class _Source:
    """What is queued, in steps of its numbers: how the next ones are found (after one), judged and queued (at a time).

    `capacity`: how many numbers for new deliveries were set aside; None: they get the next ones.
    """

    workspace_seq: int
    find: Callable[[Db, int, Late], tuple[list[int], int | None]]
    left_out: Callable[[Db, Sequence[int]], list[tuple[int, int, str | None]]]
    queue: Callable[[Db, Sequence[int], int], list[QueuedDelivery]]
    capacity: int | None = None


class Replayer:
    """Replays deliveries, only finished ones, and backfills; only to active endpoints."""

    def __init__(self, deps: Deps, dispatcher: Dispatcher, retention: Retention) -> None:
        self._store, self._registry, self._clock, self._settings = deps.store, deps.registry, deps.clock, deps.settings
        self._dispatcher = dispatcher
        self._retention = retention
        self._running: set[tuple[int, int | None]] = set()  # workspaces and endpoints with a replay or backfill

    async def why_not(self, delivery: DeliveryView) -> str | None:
        """Why a delivery can't be replayed now, None if it can: a reason of `delivery_log.left_out`."""
        wanted = self._own(delivery)
        if wanted is None:
            return "test" if delivery.is_test else "gone"
        rows = await self._store.search(
            wanted.workspace_seq, lambda db, _: delivery_log.left_out(db, wanted, [delivery.seq], once=False)
        )
        return rows[0][2] if rows else "pruned"

    async def one(self, delivery: DeliveryView) -> int:
        """Replay one delivery; returns the number of the new one.

        Raises ApiError: `delivery_not_finished`, `delivered_since`, `endpoint_gone`, `endpoint_not_active`, `not_found`
        (its body was pruned, or it was a test), `too_far_behind`, `workspace_full`.
        """
        wanted = self._own(delivery)
        if wanted is None:
            raise ApiError(*_ERRORS["gone"])
        _, queued, reasons = await self._step(self._of_log(wanted, once=False), [delivery.seq], 0)
        if not queued:
            raise ApiError(*_ERRORS[next(iter(reasons), "pruned")])  # without one, its row was removed meanwhile
        log.emit(
            "delivery.replayed",
            workspace=delivery.workspace,
            endpoint_id=delivery.endpoint_id,
            delivery_id=delivery_id(queued[0].seq),
            replay_of=delivery_id(delivery.seq),
        )
        return queued[0].seq

    async def many(self, wanted: LogFilter, *, dry_run: bool) -> Replayed:
        """Replay all finished deliveries of a filter, oldest first, each event once per endpoint.

        Says how many (with `dry_run`: would be), and why others were left out.  What becomes finished while it runs,
        its own replays among them, is not replayed.  Raises ApiError: `endpoint_not_active`, `storage_full`,
        `workspace_full`, `replay_running` (one at a time for an endpoint).
        """
        with self._running_alone(wanted.workspace_seq, wanted.endpoint_seq, dry_run=dry_run):
            wanted = replace(wanted, upto_seq=await self._store.read(deliveries.newest_seq))
            replayed = await self._all(self._of_log(wanted, once=True), dry_run=dry_run)
        if not dry_run:
            log.emit(
                "delivery.replayed", workspace=self._registry.workspace(wanted.workspace_seq).id, count=replayed.count
            )
        return replayed

    async def backfill(
        self, endpoint: Endpoint, *, event_type: str | None, since_ms: int, until_ms: int | None, dry_run: bool
    ) -> Replayed:
        """Queue past events of the endpoint's types, or of one of them, that it never had, in order of acceptance.

        They go after what waits for it already and before what is accepted from now on: until all are queued, no
        attempt to this endpoint starts.  Raises ApiError as `many` does, and `invalid_field` (a type it doesn't want).
        """
        types = endpoint.event_types
        if event_type is not None and event_type not in types and EVERY_TYPE not in types:
            raise ApiError(
                "invalid_field",
                f"The endpoint doesn't subscribe to {event_type}, so it gets none of these. Subscribe it first.",
                details={"field": "event_type"},
            )
        wanted = Backfill(
            workspace_seq=endpoint.workspace_seq,
            endpoint_seq=endpoint.seq,
            event_types=types if event_type is None else (event_type,),
            since_ms=since_ms,
            until_ms=until_ms,
            paused=self._registry.paused(endpoint.workspace_seq),
        )
        with self._running_alone(endpoint.workspace_seq, endpoint.seq, dry_run=dry_run):
            if dry_run:
                return await self._all(_of_events(wanted), dry_run=True)
            self._dispatcher.block(endpoint.seq)
            try:
                now_ms, capacity = self._clock.wall_ms(), max(0, self._capacity(wanted.workspace_seq).count)
                reserved = await self._store.write(lambda db: deliveries.reserve(db, wanted, capacity, now_ms))
                done = await self._all(_of_events(reserved, reserved.capacity), dry_run=False)
            finally:
                self._dispatcher.unblock(endpoint.seq)
        log.emit("delivery.backfilled", workspace=endpoint.workspace, endpoint_id=endpoint.id, count=done.count)
        return done

    def runs_to(self, endpoint: Endpoint) -> bool:
        """Whether a replay or a backfill to this endpoint alone is running."""
        return (endpoint.workspace_seq, endpoint.seq) in self._running

    @contextmanager
    def _running_alone(self, workspace_seq: int, endpoint_seq: int | None, *, dry_run: bool) -> Iterator[None]:
        """Refuse what goes to an endpoint that isn't active, or to which a replay or a backfill is sending already."""
        if endpoint_seq is not None:
            endpoint = self._registry.get(endpoint_seq)
            if endpoint is None or not self._registry.runs(endpoint):
                raise ApiError("endpoint_not_active", "The endpoint is not active. Enable it first.")
        if self._registry.paused(workspace_seq):
            raise ApiError("endpoint_not_active", "The workspace's plan has no webhooks, so none of them is active.")
        if dry_run:
            yield
            return
        for running_workspace, running_endpoint in self._running:
            everything = endpoint_seq is None or running_endpoint is None
            if running_workspace == workspace_seq and (everything or running_endpoint == endpoint_seq):
                raise ApiError(
                    "replay_running",
                    "A replay or backfill to the same endpoint is running. Wait until it ends, or narrow either.",
                    retry_after_seconds=5,
                )
        self._running.add((workspace_seq, endpoint_seq))
        try:
            yield
        finally:
            self._running.discard((workspace_seq, endpoint_seq))

    async def _all(self, source: _Source, *, dry_run: bool) -> Replayed:
        """Everything from a source, step by step, until there is no more capacity: the rest is only counted."""
        total = 0
        go_on: int | None = 0
        reasons: Counter[str] = Counter()
        capacity = self._capacity(source.workspace_seq, source.capacity)
        while go_on is not None:
            seqs, go_on = await self._store.search(
                source.workspace_seq,
                lambda db, late, after=go_on: source.find(db, after, late),  # type: ignore[misc]
            )
            if dry_run or reasons["no_room"]:
                rows = await self._store.search(source.workspace_seq, lambda db, _, of=seqs: source.left_out(db, of))  # type: ignore[misc]
                total += len(capacity.choose(rows, reasons))
                continue
            while seqs:
                size = max(1, self._store.writer.batch_size // ROWS_EACH)
                capacity, queued, left = await self._step(source, seqs[:size], total)
                seqs = seqs[size:]
                total += len(queued)
                reasons += left
        return Replayed(total, dict(sorted(reasons.items())))

    def _of_log(self, wanted: LogFilter, *, once: bool) -> _Source:
        return _Source(
            wanted.workspace_seq,
            lambda db, after_seq, late: delivery_log.finished_matching(
                db, wanted, after_seq=after_seq, limit=STEP, late=late
            ),
            lambda db, seqs: delivery_log.left_out(db, wanted, seqs, once=once),
            deliveries.replay,
        )

    def _own(self, delivery: DeliveryView) -> LogFilter | None:
        """The log of the delivery's workspace, None once its endpoint was deleted."""
        endpoint = self._registry.get(delivery.endpoint_seq)
        if endpoint is None:
            return None
        return LogFilter(endpoint.workspace_seq, self._registry.paused(endpoint.workspace_seq))

    async def _step(
        self, source: _Source, seqs: Sequence[int], before: int
    ) -> tuple[_Capacity, list[QueuedDelivery], Counter[str]]:
        """Queue one step, decided in its transaction; returns what was queued, and why others were left out."""
        await self._retention.wait_for_space(source.workspace_seq)
        now_ms = self._clock.wall_ms()
        capacity = self._capacity(source.workspace_seq, None if source.capacity is None else source.capacity - before)

        def command(db: Db) -> tuple[_Capacity, list[QueuedDelivery], Counter[str]]:
            reasons: Counter[str] = Counter()
            left = copy(capacity)
            chosen = left.choose(source.left_out(db, seqs), reasons)
            return left, source.queue(db, chosen, now_ms), reasons

        def on_commit(result: tuple[_Capacity, list[QueuedDelivery], Counter[str]]) -> None:
            self._dispatcher.offer(result[1])
            self._retention.added(source.workspace_seq, DELIVERY_BYTES * len(result[1]))

        return await self._store.add(
            now_ms,
            command,
            workspace_seq=source.workspace_seq,
            on_commit=on_commit,
            size=ROWS_EACH * len(seqs),
        )

    def _capacity(self, workspace_seq: int, at_most: int | None = None) -> _Capacity:
        """How much may still be added in a workspace.  ApiError `storage_full`."""
        if self._store.disk_space.short():
            raise storage_full()
        limits, backlog = self._settings().limits, self._dispatcher.backlog(workspace_seq)
        count = round(limits.waiting_per_workspace * CAPACITY_SHARE) - backlog.waiting
        return _Capacity(
            count if at_most is None else min(count, at_most),
            round(limits.waiting_mb_per_workspace * 1024**2 * CAPACITY_SHARE) - backlog.waiting_bytes,
        )


def _of_events(wanted: Backfill, capacity: int | None = None) -> _Source:
    return _Source(
        wanted.workspace_seq,
        lambda db, after_seq, late: deliveries.to_backfill(db, wanted, after_seq=after_seq, limit=STEP, late=late),
        lambda db, seqs: deliveries.backfill_left_out(db, wanted, seqs),
        lambda db, seqs, _: deliveries.backfill(db, wanted, seqs),
        capacity,
    )
