"""Replay: a finished delivery, or all that match a filter, as new deliveries at the end of the queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from webhookd import log
from webhookd.delivery.deps import Deps
from webhookd.delivery.dispatcher import Dispatcher
from webhookd.errors import ApiError
from webhookd.models import DeliveryView, QueuedDelivery
from webhookd.rules.ids import delivery_id
from webhookd.store import deliveries, delivery_log
from webhookd.store.delivery_log import LogFilter
from webhookd.store.store import Db
from webhookd.store.writer import storage_full

# In one transaction: a replay of a million goes in short steps, between which live events have their turns.
STEP = 100
# A replay fills no more than this share of what may wait in a workspace: the rest is for live events.
ROOM_SHARE = 0.5

_REFUSALS = {
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
class _Room:
    """What a replay may still add: deliveries, and their bytes."""

    count: int
    size: int

    def choose(self, rows: Iterable[tuple[int, int, str | None]], reasons: Counter[str]) -> list[int]:
        """Those of `delivery_log.left_out` to replay; the others are counted in `reasons`."""
        chosen = []
        for seq, size, reason in rows:
            no_room = "no_room" if self.count < 1 or self.size < size else None
            if left := reason or no_room:
                reasons[left] += 1
                continue
            self.count -= 1
            self.size -= size
            chosen.append(seq)
        return chosen


class Replayer:
    """Replays deliveries; only finished ones, only to active endpoints."""

    def __init__(self, deps: Deps, dispatcher: Dispatcher) -> None:
        self._store, self._registry, self._clock, self._settings = deps.store, deps.registry, deps.clock, deps.settings
        self._dispatcher = dispatcher
        self._running: set[tuple[int, int | None]] = set()  # workspaces and endpoints that `many` is at work on

    async def why_not(self, delivery: DeliveryView) -> str | None:
        """Why a delivery can't be replayed now, None if it can: a reason of `delivery_log.left_out`."""
        wanted = self._own(delivery)
        if wanted is None:
            return "test" if delivery.is_test else "gone"
        rows = await self._store.read(lambda db: delivery_log.left_out(db, wanted, [delivery.seq], once=False))
        return rows[0][2]

    async def one(self, delivery: DeliveryView) -> int:
        """Replay one delivery; returns the number of the new one.

        Raises ApiError: `delivery_not_finished`, `delivered_since`, `endpoint_gone`, `endpoint_not_active`, `not_found`
        (its body was pruned, or it was a test), `too_far_behind`.
        """
        wanted = self._own(delivery)
        if wanted is None:
            raise ApiError(*_REFUSALS["gone"])
        queued, reasons = await self._replay(wanted, [delivery.seq], once=False)
        if not queued:
            (reason,) = reasons
            raise ApiError(*_REFUSALS[reason])
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
        `replay_running` (one at a time for an endpoint).
        """
        workspace = self._registry.workspace(wanted.workspace_seq)
        if wanted.endpoint_seq is not None:
            endpoint = self._registry.get(wanted.endpoint_seq)
            if endpoint is None or not self._registry.runs(endpoint):
                raise ApiError("endpoint_not_active", "The endpoint is not active. Enable it first.")
        if self._registry.paused(workspace.seq):
            raise ApiError("endpoint_not_active", "The workspace's plan has no webhooks, so none of them is active.")
        if dry_run:
            return await self._many(wanted, dry_run=True)
        running = workspace.seq, wanted.endpoint_seq
        self._check_none_runs(*running)
        self._running.add(running)
        try:
            replayed = await self._many(wanted, dry_run=False)
        finally:
            self._running.discard(running)
        log.emit("delivery.replayed", workspace=workspace.id, count=replayed.count)
        return replayed

    def _check_none_runs(self, workspace_seq: int, endpoint_seq: int | None) -> None:
        """Refuse a replay that sends to an endpoint to which another is sending."""
        for running_workspace, running_endpoint in self._running:
            everything = endpoint_seq is None or running_endpoint is None
            if running_workspace == workspace_seq and (everything or running_endpoint == endpoint_seq):
                raise ApiError(
                    "replay_running",
                    "A replay for the same endpoint is running. Wait until it ends, or narrow one of the two.",
                    retry_after_seconds=5,
                )

    async def _many(self, wanted: LogFilter, *, dry_run: bool) -> Replayed:
        wanted = replace(wanted, upto_seq=await self._store.read(deliveries.newest_seq))
        total = after_seq = 0
        reasons: Counter[str] = Counter()
        room = self._room(wanted.workspace_seq)
        while True:
            seqs = await self._store.search(
                wanted.workspace_seq,
                lambda db, after=after_seq: delivery_log.finished_matching(db, wanted, after_seq=after, limit=STEP),  # type: ignore[misc]
            )
            if not seqs:
                break
            after_seq = seqs[-1]
            if dry_run:
                rows = await self._store.search(
                    wanted.workspace_seq,
                    lambda db, of=seqs: delivery_log.left_out(db, wanted, of, once=True),  # type: ignore[misc]
                )
                chosen = room.choose(rows, reasons)
                total += len(chosen)
            else:
                queued, left = await self._replay(wanted, seqs, once=True)
                total += len(queued)
                reasons += left
        return Replayed(total, dict(sorted(reasons.items())))

    def _own(self, delivery: DeliveryView) -> LogFilter | None:
        """The log of the delivery's workspace, None once its endpoint was deleted."""
        endpoint = self._registry.get(delivery.endpoint_seq)
        if endpoint is None:
            return None
        return LogFilter(endpoint.workspace_seq, self._registry.paused(endpoint.workspace_seq))

    async def _replay(
        self, wanted: LogFilter, seqs: Sequence[int], *, once: bool
    ) -> tuple[list[QueuedDelivery], Counter[str]]:
        """Queue one step, decided in its transaction; returns what was queued, and why others were left out."""
        now_ms = self._clock.wall_ms()
        room = self._room(wanted.workspace_seq)

        def command(db: Db) -> tuple[list[QueuedDelivery], Counter[str]]:
            reasons: Counter[str] = Counter()
            chosen = room.choose(delivery_log.left_out(db, wanted, seqs, once=once), reasons)
            return deliveries.replay(db, chosen, now_ms), reasons

        return await self._store.add(
            now_ms,
            command,
            workspace_seq=wanted.workspace_seq,
            on_commit=lambda result: self._dispatcher.offer(result[0]),
            size=2 * len(seqs),
        )

    def _room(self, workspace_seq: int) -> _Room:
        """How much a replay may add in a workspace.  ApiError `storage_full`."""
        if self._store.disk_space.short():
            raise storage_full()
        limits, backlog = self._settings().limits, self._dispatcher.backlog(workspace_seq)
        return _Room(
            round(limits.waiting_per_workspace * ROOM_SHARE) - backlog.waiting,
            round(limits.waiting_mb_per_workspace * 1024**2 * ROOM_SHARE) - backlog.waiting_bytes,
        )
