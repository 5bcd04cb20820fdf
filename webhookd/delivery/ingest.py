"""Accepting events: refused where there is no room, durable and queued before the caller gets its answer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from webhookd import log
from webhookd.delivery.deps import Deps
from webhookd.delivery.dispatcher import Dispatcher
from webhookd.errors import ApiError
from webhookd.models import Accepted, NewEvent, Workspace, WorkspaceKey
from webhookd.retention import Retention
from webhookd.rules.filters import Filters, parsed
from webhookd.rules.ordering import lane_hash
from webhookd.rules.rate_limit import RateLimit
from webhookd.store.batch import ROW_BYTES
from webhookd.store.events import ACCEPT, Ingested
from webhookd.store.workspaces import DELIVERY_BYTES, EVENT_BYTES
from webhookd.store.writer import storage_full
from webhookd.tasks import LoopTurns

TRY_AGAIN_SECONDS = 30
# Between two slices of checks, while several workspaces write.  Where the loop's thread and SQLite's are both busy all
# the time, the kernel suspends the one that holds the interpreter's lock, and the other waits for it.
SHARED_REST_SECONDS = 0.0025


class Ingest:
    """The one entry for events."""

    def __init__(self, deps: Deps, dispatcher: Dispatcher, retention: Retention) -> None:
        self._store, self._registry, self._clock, self._settings = deps.store, deps.registry, deps.clock, deps.settings
        self._dispatcher = dispatcher
        self._retention = retention
        self._publish = deps.clustered.publish if deps.clustered else None
        self._rate_limits: dict[int, RateLimit] = {}  # by workspace, where there is a limit
        self._open = True
        self.accepted_count = 0
        self.mismatched = 0  # accepted though they do not fit the schema of their type
        self.loop_turns = LoopTurns(self._rest_seconds)  # for the checks of events, many at a time

    def close(self) -> None:
        """Accept no further event: the daemon stops."""
        self._open = False

    @property
    def closed(self) -> bool:
        """Whether the daemon is stopping."""
        return not self._open

    async def accept(
        self,
        key: WorkspaceKey,
        new: Sequence[NewEvent],
        *,
        stopping: asyncio.Event | None = None,
        trace: str | None = None,
    ) -> list[Accepted]:
        """Accept events in their order, all of one `trace`; returns what became of each, once that is durable.

        Past `limits.events_per_second` a stream, which has an event `stopping`, waits for its turn; others are refused.
        Raises ApiError, and then nothing was accepted: `not_found`, `unavailable`, `storage_full`, `workspace_full`,
        `too_far_behind`, `rate_limited`.
        """
        workspace = self._registry.workspace(key)
        if self._settings().limits.events_per_second:
            await self._keep_rate(workspace, len(new), stopping)
        await self.check_capacity(workspace)
        if self._publish is not None:
            return await self._publish(workspace, new, trace)
        deliver = not self._registry.paused(workspace.seq)
        results: list[Accepted] = []
        try:
            while len(results) < len(new):
                part, delivery_count = self._next_part(workspace.seq, new, len(results), deliver=deliver)
                facts = self.body_facts(workspace.seq, part) if deliver else ()
                now_ms = self._clock.wall_ms()
                ingested = Ingested(workspace.seq, part, deliver, now_ms, delivery_count, trace, facts)
                # Only the first part may be refused: the caller is to learn of all or of none.
                results += await self._add(ingested, retry_when_full=bool(results))
        finally:
            self.note(workspace, new, results)
        return results

    def note(self, workspace: Workspace, new: Sequence[NewEvent], results: Sequence[Accepted]) -> None:
        """Log events that were accepted, and count what they take of the workspace's quota."""
        self._log(workspace.id, results)
        if self._settings().limits.log_mb_per_workspace:
            self._retention.added(workspace.seq, _log_bytes(new, results))

    def _rest_seconds(self) -> float:
        return SHARED_REST_SECONDS if self._store.writer.shared else 0.0

    async def _keep_rate(self, workspace: Workspace, count: int, stopping: asyncio.Event | None) -> None:
        """Wait until so many events may come, or refuse them."""
        rate = self._settings().limits.events_per_second
        limit = self._rate_limits.setdefault(workspace.seq, RateLimit(max(rate, 1.0), self._clock.monotonic()))
        while wait_seconds := limit.wait_seconds(count, rate, self._clock.monotonic()):
            if stopping is None:
                raise ApiError(
                    "rate_limited",
                    f"Workspace {workspace.id!r} may send {rate:g} events a second (limits.events_per_second).",
                    details={"events_per_second": rate},
                    retry_after_seconds=math.ceil(wait_seconds),
                )
            if await self._clock.wait(stopping, wait_seconds):
                raise _stopping()
        limit.took(count)

    async def _add(self, ingested: Ingested, *, retry_when_full: bool) -> list[Accepted]:
        return await self._store.add(
            ingested.now_ms,
            ACCEPT.of(ingested),
            workspace_seq=ingested.workspace_seq,
            on_commit=self.offer,
            retry_when_full=retry_when_full,
        )

    def offer(self, results: Sequence[Accepted]) -> None:
        """Queue the deliveries of events that were just committed, in commit order."""
        self.accepted_count += sum(result.is_new for result in results)
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

    def body_facts(self, workspace_seq: int, new: Sequence[NewEvent]) -> Sequence[dict[str, int] | None]:
        """What endpoints need to know of each event's body, in the form of `Ingested.body_facts`.

        Found out here, on the event loop: SQL could ask for it too, but the store's thread would have to win the
        interpreter's lock for each answer.
        """
        if not self._registry.needs_body_facts(workspace_seq):
            return ()
        needed = {name: self._registry.needed_facts(workspace_seq, name) for name in {event.type for event in new}}
        return [self._facts_of(event, *needed[event.type]) for event in new]

    @staticmethod
    def _facts_of(event: NewEvent, key_paths: Sequence[str], filters: Sequence[Filters]) -> dict[str, int] | None:
        facts = {path: lane_hash(path, event.body) for path in key_paths}
        if any(each.concerns(event.type) for each in filters):
            value = parsed(event.body)
            facts |= {each.id: int(each.matches(event.type, value)) for each in filters}
        else:
            facts |= {each.id: 1 for each in filters}
        return facts or None

    def waits_for_space(self, workspace: Workspace) -> bool:
        """Whether `accept` waits until there is room again for events of this workspace."""
        return self._retention.over_quota(workspace.seq)

    async def check_capacity(self, workspace: Workspace) -> None:
        """Refuse more of a workspace where there is no room for it, after a moment if it is over its quota.

        Raises ApiError: `unavailable`, `storage_full`, `workspace_full`, `too_far_behind`.
        """
        if self.waits_for_space(workspace):
            await self._retention.wait_for_space(workspace.seq)
        if not self._open:
            raise _stopping()
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

    def _log(self, workspace_id: str, results: Sequence[Accepted]) -> None:
        added = [result for result in results if result.is_new]
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


def _stopping() -> ApiError:
    return ApiError("unavailable", "webhookd is stopping. Send it again in a moment.", retry_after_seconds=2)


def _log_bytes(new: Sequence[NewEvent], results: Sequence[Accepted]) -> int:
    """By how much the log has grown."""
    return sum(
        EVENT_BYTES + len(event.body) + DELIVERY_BYTES * result.deliveries
        for event, result in zip(new, results, strict=False)
        if result.is_new
    )
