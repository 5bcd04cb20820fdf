"""Accepting events: refused where there is no room, durable and queued before the caller gets its answer."""

from __future__ import annotations

from collections.abc import Sequence

from webhookd import log
from webhookd.delivery.deps import Deps
from webhookd.delivery.dispatcher import Dispatcher
from webhookd.errors import ApiError
from webhookd.models import Accepted, NewEvent, Workspace, WorkspaceKey
from webhookd.store.batch import ROW_BYTES
from webhookd.store.events import ACCEPT, Ingested
from webhookd.store.writer import storage_full
from webhookd.tasks import LoopTurns

TRY_AGAIN_SECONDS = 30


class Ingest:
    """The one entry for events."""

    def __init__(self, deps: Deps, dispatcher: Dispatcher) -> None:
        self._store, self._registry, self._clock, self._settings = deps.store, deps.registry, deps.clock, deps.settings
        self._dispatcher = dispatcher
        self._open = True
        self.accepted_count = 0
        self.loop_turns = LoopTurns()  # for the checks of events, many at a time

    def close(self) -> None:
        """Accept no further event: the daemon stops."""
        self._open = False

    @property
    def closed(self) -> bool:
        """Whether the daemon is stopping."""
        return not self._open

    async def accept(self, key: WorkspaceKey, new: Sequence[NewEvent]) -> list[Accepted]:
        """Accept events in their order; returns what became of each, once that is durable.

        Raises ApiError, and then nothing was accepted: `not_found`, `unavailable`, `storage_full`, `too_far_behind`.
        """
        workspace = self._registry.workspace(key)
        self._check_room(workspace)
        deliver = not self._registry.paused(workspace.seq)
        results: list[Accepted] = []
        try:
            while len(results) < len(new):
                part, delivery_count = self._next_part(workspace.seq, new, len(results), deliver=deliver)
                ingested = Ingested(workspace.seq, part, deliver, self._clock.wall_ms(), delivery_count)
                # Only the first part may be refused: the caller is to learn of all or of none.
                results += await self._add(ingested, retry_when_full=bool(results))
        finally:
            self._log(workspace.id, results)
        return results

    async def _add(self, ingested: Ingested, *, retry_when_full: bool) -> list[Accepted]:
        return await self._store.add(
            ingested.now_ms,
            ACCEPT.of(ingested),
            workspace_seq=ingested.workspace_seq,
            on_commit=self._offer,
            retry_when_full=retry_when_full,
        )

    def _offer(self, results: list[Accepted]) -> None:
        for result in results:
            if result.queued:
                self._dispatcher.offer(result.queued)

    def _next_part(
        self, workspace_seq: int, new: Sequence[NewEvent], begin: int, *, deliver: bool
    ) -> tuple[Sequence[NewEvent], int]:
        """As many events from `begin` on as the writer takes at once, at least one; how many deliveries they get."""
        left = self._store.writer.batch_size
        delivery_count = 0
        for end in range(begin, len(new)):
            event = new[end]
            fan_out = self._registry.fan_out(workspace_seq, event.type) if deliver else 0
            left -= 1 + fan_out + len(event.body) // ROW_BYTES
            if left < 0 and end > begin:
                return new[begin:end], delivery_count
            delivery_count += fan_out
        return new[begin:] if begin else new, delivery_count

    def _check_room(self, workspace: Workspace) -> None:
        if not self._open:
            raise ApiError("unavailable", "webhookd is stopping. Send it again in a moment.", retry_after_seconds=2)
        if self._store.disk_space.short():
            raise storage_full()
        limits = self._settings().limits
        backlog = self._dispatcher.backlog(workspace.seq)
        megabytes = backlog.waiting_bytes / 1024**2
        if backlog.waiting >= limits.waiting_per_workspace or megabytes >= limits.waiting_mb_per_workspace:
            raise ApiError(
                "too_far_behind",
                f"{backlog.waiting} deliveries ({megabytes:.0f} MiB) wait in workspace {workspace.id!r}; allowed are "
                f"{limits.waiting_per_workspace} and {limits.waiting_mb_per_workspace:g} MiB. Look for an endpoint "
                "that is slow, failing or disabled.",
                details={"waiting": backlog.waiting, "waiting_bytes": backlog.waiting_bytes},
                retry_after_seconds=TRY_AGAIN_SECONDS,
            )

    def _log(self, workspace_id: str, results: list[Accepted]) -> None:
        added = [result for result in results if not result.duplicate and not result.conflict]
        self.accepted_count += len(added)
        if len(results) == 1 and added:
            log.emit(
                "event.accepted", workspace=workspace_id, event_id=added[0].event_id, deliveries=added[0].deliveries
            )
        elif added:
            log.emit(
                "event.accepted",
                workspace=workspace_id,
                count=len(added),
                deliveries=sum(result.deliveries for result in added),
            )
