"""Held events: what waits for an endpoint that isn't active, up to a number, a size and an age; then the oldest expire.

Also the rows behind a mark: deleting an endpoint or skipping its held events sets one mark, and here the rows of its
deliveries follow.  Each step is one short command of the writer, so a million rows don't block it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable

from webhookd import log
from webhookd.clock import rfc3339
from webhookd.delivery.deps import Deps
from webhookd.delivery.dispatcher import HOUR_MS, Dispatcher
from webhookd.delivery.notices import add_notice, endpoint_facts
from webhookd.errors import ApiError
from webhookd.models import Endpoint, Json
from webhookd.store import deliveries, endpoints
from webhookd.store.store import Db

STEP_ROWS = 500
WARN_MS = 12 * HOUR_MS  # how long before the first held event expires a mail says so
LOOK_SECONDS = 1.0
_EVERYTHING = 2**63 - 1


class HeldEvents:
    """A root task: `run` looks once a second.  `wake_mail` starts the outbox."""

    def __init__(self, deps: Deps, dispatcher: Dispatcher, wake_mail: Callable[[], None]) -> None:
        self._store, self._registry, self._clock, self._settings = deps.store, deps.registry, deps.clock, deps.settings
        self._dispatcher = dispatcher
        self._wake_mail = wake_mail
        self._warned: set[tuple[int, int]] = set()  # endpoints, and since when their events are held
        self._stopping = asyncio.Event()
        self._marks_followed = -1  # of the dispatcher's; at the start those of earlier daemons are still to follow
        self._began_ms = self._clock.wall_ms() - self._clock.monotonic() * 1000
        self.expired_count = 0

    async def run(self) -> None:
        """Look once a second, for ever."""
        while not await self._clock.wait(self._stopping, LOOK_SECONDS):
            with contextlib.suppress(ApiError):  # the disk is full, or the daemon stops; the next look continues
                await self.look()

    async def look(self) -> None:
        """Do everything that is due now."""
        if self._marks_followed != (marks := self._dispatcher.marks):
            for endpoint_seq, upto_seq, state in await self._store.read(deliveries.marked):
                await self._follow(endpoint_seq, upto_seq, state)
            self._marks_followed = marks
        for endpoint in self._dispatcher.waiting_endpoints():
            if not self._registry.runs(endpoint):
                await self._warn(endpoint)
                await self._expire(endpoint)

    async def _follow(self, endpoint_seq: int, upto_seq: int, state: int) -> None:
        """Finish the rows behind a mark; what waits was counted down when it was set."""
        total = 0
        while finished := await self._finish(endpoint_seq, state, upto_seq, after_seq=0, limit=STEP_ROWS):
            total += len(finished)
        endpoint = await self._store.read(lambda db: endpoints.get(db, endpoint_seq))  # a deleted one is only there
        log.emit(
            "delivery.cancelled" if state == deliveries.CANCELLED else "delivery.skipped",
            workspace=endpoint.workspace,
            endpoint_id=endpoint.id,
            count=total,
        )

    async def _warn(self, endpoint: Endpoint) -> None:
        """Queue a mail, once for a stop, when the first event that it holds expires within `WARN_MS`."""
        since_ms, now_ms = self._held_since_ms(endpoint), self._now_ms()
        max_age_ms = round(self._settings().hold.max_age_hours * HOUR_MS)
        too_early = now_ms + WARN_MS < since_ms + max_age_ms
        if too_early or not self._settings().mail.host or (endpoint.seq, since_ms) in self._warned:
            return
        oldest = await self._store.read(lambda db: deliveries.oldest_waiting(db, endpoint.seq, endpoint.skipped_upto))
        expires_ms = max(oldest[1], since_ms) + max_age_ms if oldest else 0
        if not now_ms < expires_ms <= now_ms + WARN_MS:
            return
        facts = {"expires_at": rfc3339(expires_ms), "waiting": self._dispatcher.view(endpoint.seq).waiting}

        def command(db: Db) -> None:
            if self._same_stop(endpoints.get(db, endpoint.seq), endpoint):
                self._notify(db, endpoint, "expiring", facts)

        await self._store.write(command, on_commit=lambda _: self._wake_mail())
        self._warned.add((endpoint.seq, since_ms))

    def _notify(self, db: Db, endpoint: Endpoint, kind: str, facts: Json) -> None:
        """Queue a notice unless there was one of its kind for this stop already."""
        mail, now_ms = self._settings().mail, self._clock.wall_ms()
        if mail.host and endpoints.add_held_notice(db, endpoint.seq, kind, self._held_since_ms(endpoint)):
            paused = self._registry.paused(endpoint.workspace_seq)
            payload = endpoint_facts(endpoint, now_ms) | {"paused": paused} | facts
            add_notice(db, mail, endpoint.workspace_seq, kind, payload, now_ms)

    async def _expire(self, endpoint: Endpoint) -> None:
        def on_commit(finished: list[tuple[int, int, int | None]]) -> None:
            self._dispatcher.settle(endpoint.seq, [(size, lane_hash) for _, size, lane_hash in finished])
            self._wake_mail()

        totals: Counter[str] = Counter()
        while True:
            limit, reason = await self._due(endpoint)
            if not limit:
                break
            finished = await self._finish(
                endpoint.seq,
                deliveries.EXPIRED,
                _EVERYTHING,
                after_seq=endpoint.skipped_upto,
                limit=limit,
                still=lambda db: self._same_stop(endpoints.get(db, endpoint.seq), endpoint),
                also=lambda db, facts={"reason": reason}: self._notify(db, endpoint, "expired", facts),  # type: ignore[misc]
                on_commit=on_commit,
            )
            if not finished:
                break
            totals[reason] += len(finished)
        for reason, count in totals.items():
            self.expired_count += count
            log.emit(
                "delivery.expired",
                workspace=endpoint.workspace,
                endpoint_id=endpoint.id,
                reason=reason,
                count=count,
            )

    async def _due(self, endpoint: Endpoint) -> tuple[int, str]:
        """How many of the oldest held events have to expire now, at most one step of them, and by which limit."""
        hold = self._settings().hold
        held = self._dispatcher.view(endpoint.seq)
        if not self._same_stop(self._registry.get(endpoint.seq), endpoint):
            return 0, ""
        if held.waiting > hold.max_events:
            return min(STEP_ROWS, held.waiting - hold.max_events), "max_events"
        if held.waiting_bytes > hold.max_mb * 1024**2:
            count = await self._store.read(
                lambda db: deliveries.oldest_of_size(
                    db,
                    endpoint.seq,
                    endpoint.skipped_upto,
                    round(held.waiting_bytes - hold.max_mb * 1024**2),
                    STEP_ROWS,
                )
            )
            return count, "max_mb"
        return await self._due_by_age(endpoint, round(hold.max_age_hours * HOUR_MS)), "max_age_hours"

    async def _due_by_age(self, endpoint: Endpoint, max_age_ms: int) -> int:
        """Held since accepted or since the stop, the later of both."""
        now_ms = self._now_ms()
        if now_ms - self._held_since_ms(endpoint) < max_age_ms:
            return 0
        return await self._store.read(
            lambda db: deliveries.oldest_before(db, endpoint.seq, endpoint.skipped_upto, now_ms - max_age_ms, STEP_ROWS)
        )

    def _now_ms(self) -> int:
        """The wall clock's time, by the monotonic one where the wall clock was set forward."""
        return min(self._clock.wall_ms(), round(self._began_ms + self._clock.monotonic() * 1000))

    def _held_since_ms(self, endpoint: Endpoint) -> int:
        since = [] if endpoint.disabled_at_ms is None else [endpoint.disabled_at_ms]
        if self._registry.paused(endpoint.workspace_seq):
            since.append(self._registry.workspace(endpoint.workspace_seq).plan_changed_at_ms)
        return min(since, default=self._clock.wall_ms())

    async def _finish(
        self,
        endpoint_seq: int,
        state: int,
        upto_seq: int,
        *,
        after_seq: int,
        limit: int,
        still: Callable[[Db], bool] = lambda db: True,
        also: Callable[[Db], None] = lambda db: None,
        on_commit: Callable[[list[tuple[int, int, int | None]]], None] | None = None,
    ) -> list[tuple[int, int, int | None]]:
        now_ms = self._clock.wall_ms()

        def command(db: Db) -> list[tuple[int, int, int | None]]:
            if not still(db):
                return []
            finished = deliveries.finish_some(
                db, endpoint_seq, state=state, upto_seq=upto_seq, after_seq=after_seq, limit=limit, now_ms=now_ms
            )
            if finished:
                also(db)
            return finished

        return await self._store.write(command, on_commit=on_commit)

    def _same_stop(self, now: Endpoint | None, before: Endpoint) -> bool:
        """Whether what was due still is: not if the endpoint was enabled since, nor if it was stopped again after."""
        return (
            now is not None
            and now.deleted_at_ms is None
            and not self._registry.runs(now)
            and (now.disabled_at_ms, now.skipped_upto) == (before.disabled_at_ms, before.skipped_upto)
        )
