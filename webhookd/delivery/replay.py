"""Replay: a finished delivery, or all that match a filter, as new deliveries at the end of the queue."""

from __future__ import annotations

from dataclasses import replace

from webhookd import log
from webhookd.delivery.deps import Deps
from webhookd.delivery.dispatcher import Dispatcher
from webhookd.errors import ApiError
from webhookd.models import DeliveryState, DeliveryView, QueuedDelivery
from webhookd.rules.ids import delivery_id
from webhookd.store import deliveries, delivery_log
from webhookd.store.delivery_log import LogFilter
from webhookd.store.store import Db

# In one transaction: a replay of a million goes in short steps.
STEP = 500
_WAITING = (DeliveryState.PENDING, DeliveryState.HELD)


class Replayer:
    """Replays deliveries; only finished ones, only to active endpoints."""

    def __init__(self, deps: Deps, dispatcher: Dispatcher) -> None:
        self._store, self._registry, self._clock = deps.store, deps.registry, deps.clock
        self._dispatcher = dispatcher

    async def one(self, delivery: DeliveryView) -> int:
        """Replay one delivery; returns the number of the new one.

        Raises ApiError: `delivery_not_finished`, `endpoint_gone`, `endpoint_not_active`, `not_found` (its body was
        pruned, or it was a test).
        """
        endpoint = self._registry.get(delivery.endpoint_seq)
        if delivery.state in _WAITING:
            raise ApiError("delivery_not_finished", "This delivery still waits; it will go out by itself.")
        if endpoint is None:
            raise ApiError(
                "endpoint_gone", f"Endpoint {delivery.endpoint_id} was deleted; there is nowhere to send to."
            )
        if not self._registry.runs(endpoint):
            raise ApiError("endpoint_not_active", f"Endpoint {endpoint.id} is not active. Enable it first.")
        if delivery.is_test:
            raise ApiError("not_found", "A test is not replayed: send another one.")
        queued = await self._replay([delivery.seq])
        if not queued:
            raise ApiError("not_found", "The body of this event was pruned; it can't be sent again.")
        log.emit(
            "delivery.replayed",
            workspace=endpoint.workspace,
            endpoint_id=endpoint.id,
            delivery_id=delivery_id(queued[0].seq),
            replay_of=delivery_id(delivery.seq),
        )
        return queued[0].seq

    async def many(self, wanted: LogFilter, *, dry_run: bool) -> int:
        """Replay all deliveries of a filter that are finished by now, oldest first; returns how many."""
        workspace = self._registry.workspace(wanted.workspace_seq)
        if wanted.endpoint_seq is not None:
            endpoint = self._registry.get(wanted.endpoint_seq)
            if endpoint is None or not self._registry.runs(endpoint):
                raise ApiError("endpoint_not_active", "The endpoint is not active. Enable it first.")
        if self._registry.paused(workspace.seq):
            raise ApiError("endpoint_not_active", "The workspace's plan has no webhooks, so none of them is active.")
        wanted = replace(wanted, upto_seq=await self._store.read(deliveries.newest_seq))
        total = after_seq = 0
        while True:
            seqs = await self._store.read(
                lambda db, after=after_seq: delivery_log.finished_matching(db, wanted, after_seq=after, limit=STEP)  # type: ignore[misc]
            )
            if not seqs:
                break
            after_seq = seqs[-1]
            total += len(seqs) if dry_run else len(await self._replay(seqs))
        if not dry_run:
            log.emit("delivery.replayed", workspace=workspace.id, count=total)
        return total

    async def _replay(self, seqs: list[int]) -> list[QueuedDelivery]:
        now_ms = self._clock.wall_ms()

        def command(db: Db) -> list[QueuedDelivery]:
            return deliveries.replay(db, seqs, now_ms)

        return await self._store.add(now_ms, command, on_commit=self._dispatcher.offer)
