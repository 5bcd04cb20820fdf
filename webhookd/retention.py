"""Retention: removes old events from the log, by age, by size and by quota, slowly enough not to disturb delivery.

A sweep takes small steps, each one command of the writer; after each the writer has twice as long for others.  How long
a step may take follows from how long the steps before it held the writer (`Pace`).  Between steps the sweep makes small
checkpoints of its own, before the log is so full that the writer makes a large one.

By size and by quota the workspace that uses most goes first, its oldest events first, then the oldest of its ids that
are only remembered.  By size none goes below an equal share, so one that fills the file costs others nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from webhookd import log
from webhookd.clock import Clock
from webhookd.config import Config
from webhookd.errors import ApiError
from webhookd.store import credentials, outbox, retention, workspaces
from webhookd.store.retention import FileSize, Step, Terms
from webhookd.store.store import Db, Store

T = TypeVar("T")

SWEEP_SECONDS = 60.0
# What held the writer for longer than SLOW is done in smaller steps the next time, what took less than QUICK in larger.
SLOW_SECONDS = 0.010
QUICK_SECONDS = 0.005
REST = 2.0  # times the step before it
LOOK_AGAIN_SECONDS = 900.0
# An attempt in flight when its endpoint was deleted is over and recorded after this.
SETTLE_MS = 10 * 60 * 1000
# Whatever the size, an id is remembered for so long: a producer that got no answer tries again within that time.
IDS_KEPT_MS = 60 * 60 * 1000
# Of a quota: a log larger than the first share is shortened to the second, before its workspace has to wait.
PRUNE_FROM, PRUNE_TO = 0.95, 0.9
# How long events of a workspace over its quota wait for room, and the pause between two looks for some.
SPACE_SECONDS = 1.0
WAKE_SECONDS = 0.1
# What was passed over is looked at again after so many times the look's own length.
AGAIN_TIMES = 10.0
# Free pages are taken by new events again; only more than a quarter of the file, and this, is worth moving pages for.
KEPT_FREE_BYTES = 16 * 1024 * 1024
MIB = 1024 * 1024


@dataclass(slots=True)
class Swept:
    """What a sweep removed: events with their deliveries, and the bytes by which the file became smaller."""

    events: int = 0
    deliveries: int = 0
    bytes: int = 0

    def add(self, step: Step) -> None:
        """Count what a step did."""
        self.events += step.events
        self.deliveries += step.deliveries


@dataclass(slots=True)
class Pace:
    """How much is done at a time: halved after a slow step, a little more after a quick one."""

    at_a_time: float
    least: float
    most: float

    def took(self, seconds: float) -> None:
        """Adapt to how long a step held the writer."""
        if seconds > SLOW_SECONDS:
            self.at_a_time = max(self.least, self.at_a_time / 2)
        elif seconds < QUICK_SECONDS:
            self.at_a_time = min(self.most, self.at_a_time * 1.25)


@dataclass(slots=True)
class _Place:
    """Up to where events were looked at, whether some were passed over that may go later, and when that look began."""

    began_at: float
    upto_seq: int = 0
    passed_over: bool = False
    seconds: float = 0.0  # that the look took so far


class Retention:
    """Sweeps for ever (`run`, a root task), or once (`sweep`); knows which workspace is over its quota."""

    def __init__(self, store: Store, clock: Clock, settings: Callable[[], Config]) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._never = asyncio.Event()
        self._step_seconds = Pace(0.004, least=0.0005, most=SLOW_SECONDS)
        self._steps_between_checkpoints = Pace(4, least=1, most=64)
        self._steps_since_checkpoint = 0
        self._places: dict[int | None, _Place] = {}  # by workspace; None: of all, by age
        self._log_bytes: dict[int, int] = {}  # by workspace, where there is a quota: as last read, and added since
        self._wake = asyncio.Event()
        self._freed = asyncio.Event()

    async def run(self) -> None:
        """Sweep once a minute; more often where events are kept for minutes only, by quota when ingest asks for it."""
        while True:
            with contextlib.suppress(ApiError):  # the disk is full, or the daemon stops; the writer has logged it
                await self.sweep()
            kept_seconds = self._settings().retention.max_age_days * 86_400
            due_at = self._clock.monotonic() + min(SWEEP_SECONDS, max(1.0, kept_seconds / 20))
            while (left := due_at - self._clock.monotonic()) > 0 and await self._clock.wait(self._wake, left):
                self._wake.clear()
                with contextlib.suppress(ApiError):
                    await self._remove("quota", self._by_quota, self._terms())
                await self._clock.wait(self._never, WAKE_SECONDS)

    async def sweep(self) -> Swept:
        """Remove everything that may go now; ApiError when the store can't be written to."""
        for place in self._places.values():
            self._look_again(place, 0.0 if self._store.disk_space.short() else LOOK_AGAIN_SECONDS)
        terms = self._terms()
        total = Swept()
        for reason, work in (
            ("workspace", self._clear_workspaces),
            ("age", self._by_age),
            ("quota", self._by_quota),
            ("size", self._by_size),
        ):
            swept = await self._remove(reason, work, terms)
            total.events += swept.events
            total.deliveries += swept.deliveries
        await self._forget_the_rest(terms)
        total.bytes = await self._shrink()
        return total

    async def _remove(self, reason: str, work: Callable[[Terms], Awaitable[Swept]], terms: Terms) -> Swept:
        began = self._clock.monotonic()
        swept = await work(terms)
        if swept.events:
            took_ms = round((self._clock.monotonic() - began) * 1000, 1)
            log.emit(
                "store.pruned", reason=reason, events=swept.events, deliveries=swept.deliveries, duration_ms=took_ms
            )
        return swept

    # Quotas

    def reload(self) -> None:
        """The quota may be another."""
        self._wake.set()

    def added(self, workspace_seq: int, byte_count: int) -> None:
        """A workspace's log has grown."""
        if not self._settings().limits.log_mb_per_workspace:
            return
        self._log_bytes[workspace_seq] = self._log_bytes.get(workspace_seq, 0) + byte_count
        if self._log_bytes[workspace_seq] > self._quota_bytes() * PRUNE_FROM:
            self._wake.set()

    def over_quota(self, workspace_seq: int) -> bool:
        """Whether the workspace's log takes as much as it may."""
        return 0 < self._quota_bytes() <= self._log_bytes.get(workspace_seq, 0)

    async def wait_for_space(self, workspace_seq: int) -> None:
        """Wait until the workspace isn't over its quota any more; ApiError `workspace_full` after `SPACE_SECONDS`."""
        until = self._clock.monotonic() + SPACE_SECONDS
        while self.over_quota(workspace_seq):
            self._wake.set()
            left = until - self._clock.monotonic()
            if left <= 0:
                raise self._workspace_full(workspace_seq)
            await self._clock.wait(self._freed, left)

    def _workspace_full(self, workspace_seq: int) -> ApiError:
        log_bytes, max_bytes = self._log_bytes[workspace_seq], self._quota_bytes()
        return ApiError(
            "workspace_full",
            f"The log of this workspace takes {log_bytes / MIB:.3g} MiB, and allowed are {max_bytes / MIB:.3g} MiB "
            "(limits.log_mb_per_workspace). What still waits, and the ids of the last hour, can't be removed.",
            details={"log_bytes": log_bytes, "max_bytes": max_bytes},
            retry_after_seconds=10,
        )

    def _quota_bytes(self) -> int:
        return round(self._settings().limits.log_mb_per_workspace * MIB)

    def _note_log_bytes(self, log_bytes: dict[int, int]) -> None:
        self._log_bytes = log_bytes
        self._freed.set()
        self._freed.clear()

    def _terms(self) -> Terms:
        kept, budget = self._settings().retention, self._settings().budget
        now_ms = self._clock.wall_ms()
        return Terms(
            now_ms=now_ms,
            accepted_before_ms=now_ms - round(kept.max_age_days * 86_400_000),
            remembered_since_ms=now_ms - round(kept.idempotency_hours * 3_600_000),
            ids_kept_since_ms=now_ms - min(round(kept.idempotency_hours * 3_600_000), IDS_KEPT_MS),
            counted_since_ms=now_ms - round(budget.window_seconds * 1000),
            settled_before_ms=now_ms - SETTLE_MS,
        )

    def _place(self, workspace_seq: int | None) -> _Place:
        return self._places.setdefault(workspace_seq, _Place(self._clock.monotonic()))

    def _look_again(self, place: _Place, after_seconds: float) -> None:
        """Start over at the oldest event if any was passed over, and the last start was `after_seconds` ago."""
        now = self._clock.monotonic()
        if place.passed_over and now - place.began_at >= after_seconds:
            place.began_at, place.upto_seq, place.passed_over, place.seconds = now, 0, False, 0.0

    # What goes, and why

    async def _clear_workspaces(self, terms: Terms) -> Swept:
        swept = Swept()
        for seq in await self._store.read(lambda db: retention.deleted_workspaces(db, terms)):
            await self._clear_workspace(seq, swept)
        return swept

    async def _clear_workspace(self, seq: int, swept: Swept) -> None:
        while step := await self._step(lambda db, late: retention.clear_workspace(db, seq, out_of_time=late)):
            swept.add(step)
        self._places.pop(seq, None)

    async def _by_age(self, terms: Terms) -> Swept:
        swept = Swept()
        while not await self._oldest(None, terms, swept):
            pass
        return swept

    async def _by_size(self, terms: Terms) -> Swept:
        """Remove the oldest events of the workspaces that use most, as many as make the rest small enough."""
        allowed_bytes = round(self._settings().retention.max_size_mb * MIB)
        swept, exhausted = Swept(), set[int]()

        while True:
            used_bytes = (await self._store.read(retention.file_size)).used_bytes
            if used_bytes <= allowed_bytes:
                return swept
            logs = await self._store.read(workspaces.log_bytes)
            share_bytes = equal_share(logs.values(), sum(logs.values()) * allowed_bytes / used_bytes)
            larger = [seq for seq, size in logs.items() if size > share_bytes and seq not in exhausted]
            if not larger:
                return swept
            largest = max(larger, key=logs.__getitem__)
            enough = _at_most(largest, share_bytes, allowed_bytes)
            if not await self._shorten(largest, terms, swept, enough):
                exhausted.add(largest)

    async def _by_quota(self, terms: Terms) -> Swept:
        """Shorten each log that is larger than its workspace's quota, a piece of each in turn."""
        swept, quota_bytes = Swept(), self._quota_bytes()
        if not quota_bytes:
            return swept
        self._note_log_bytes(await self._store.read(workspaces.log_bytes))
        over = [seq for seq, size in self._log_bytes.items() if size > quota_bytes * PRUNE_FROM]
        for seq in over:
            place = self._place(seq)
            self._look_again(place, max(SPACE_SECONDS / 2, AGAIN_TIMES * place.seconds))
        kept_bytes = quota_bytes * PRUNE_TO
        while over:
            for seq in list(over):
                if not await self._shorten(seq, terms, swept, _at_most(seq, kept_bytes)):
                    over.remove(seq)
            self._note_log_bytes(await self._store.read(workspaces.log_bytes))
            over = [seq for seq in over if self._log_bytes.get(seq, 0) > kept_bytes]
        return swept

    async def _shorten(self, workspace_seq: int, terms: Terms, swept: Swept, enough: Callable[[Db], bool]) -> bool:
        """Remove some of what a workspace has that may go, until `enough`; False when there is no more."""
        ended = await self._oldest(workspace_seq, terms, swept, enough)
        return (
            not ended
            or await self._step(
                lambda db, late: retention.forget_oldest_ids(
                    db, terms, workspace_seq, stop=lambda: late() or enough(db)
                )
            )
            > 0
        )

    async def _oldest(
        self, workspace_seq: int | None, terms: Terms, swept: Swept, enough: Callable[[Db], bool] | None = None
    ) -> bool:
        """Remove the oldest events that may go, those of one look: of a workspace, or all that are old enough.

        Returns whether that was the last of them.
        """
        place = self._place(workspace_seq)
        began = self._clock.monotonic()
        examined = await self._store.read(
            lambda db: retention.examine(db, terms, after_seq=place.upto_seq, workspace_seq=workspace_seq)
        )
        place.seconds += self._clock.monotonic() - began
        kept = await self._prune(examined.prunable, terms, enough, place, swept)
        if kept:
            place.upto_seq = kept[0] - 1
            return False
        place.upto_seq = examined.upto_seq
        place.passed_over |= examined.passed_over
        return examined.ended

    async def _prune(
        self, seqs: list[int], terms: Terms, enough: Callable[[Db], bool] | None, place: _Place, swept: Swept
    ) -> list[int]:
        """Remove these events, in as many steps as it takes; returns those that may stay because it was enough."""

        def some(db: Db, late: Callable[[], bool]) -> Step:
            return retention.prune(db, seqs, terms, out_of_time=late, enough=enough)

        while seqs:
            step = await self._step(some)
            swept.add(step)
            place.passed_over |= step.done != step.events  # a replay came in between
            seqs = seqs[step.done :]
            if step.enough:
                return seqs
        return []

    async def _forget_the_rest(self, terms: Terms) -> None:
        # What was mailed in the last hour counts for `mail.max_per_hour`.
        before_ms = min(terms.accepted_before_ms, terms.now_ms - outbox.HOUR_MS)
        limit = retention.PIECE_ROWS
        while await self._step(lambda db, late: retention.forget_ids(db, terms, out_of_time=late)):
            pass
        while await self._step(lambda db, late: outbox.forget_closed(db, before_ms=before_ms, limit=limit)):
            pass
        audit_before_ms = terms.now_ms - round(self._settings().retention.audit_days * 86_400_000)
        while await self._step(lambda db, late: credentials.forget_audit(db, before_ms=audit_before_ms, limit=limit)):
            pass
        while await self._step(lambda db, late: retention.forget_endpoints(db, terms, out_of_time=late)):
            pass

    async def _shrink(self) -> int:
        """Make the file smaller if it is larger than it may be, or has too much free inside; returns by how much."""
        size = before = await self._store.read(retention.file_size)
        while size.free_bytes > self._free_bytes_to_keep(size):
            smaller = await self._shrink_some(self._free_bytes_to_keep(size))
            if smaller.bytes == size.bytes:
                break
            size = smaller
        return before.bytes - size.bytes

    async def _shrink_some(self, keep_bytes: int) -> FileSize:
        return await self._step(lambda db, late: retention.shrink(db, out_of_time=late, until_free_bytes=keep_bytes))

    def _free_bytes_to_keep(self, size: FileSize) -> int:
        """How much may stay free inside the file: what fits beside the rows, but not most of a large file."""
        allowed_bytes = round(self._settings().retention.max_size_mb * MIB)
        return min(max(0, allowed_bytes - size.used_bytes), max(KEPT_FREE_BYTES, size.bytes // 4))

    async def _step(self, work: Callable[[Db, Callable[[], bool]], T]) -> T:
        """One command of the writer with a time limit; afterwards the writer is left to others for a while."""
        writer, clock, pace = self._store.writer, self._clock, self._step_seconds
        began = took_seconds = 0.0

        def command(db: Db) -> T:
            nonlocal began
            began = clock.monotonic()
            return work(db, lambda: clock.monotonic() - began >= pace.at_a_time)

        def on_commit(_: T) -> None:
            nonlocal took_seconds
            took_seconds = clock.monotonic() - began
            pace.took(writer.batch_seconds)

        result = await self._store.write(command, on_commit=on_commit)
        await clock.wait(self._never, took_seconds * REST)
        await self._checkpoint_now_and_then()
        return result

    async def _checkpoint_now_and_then(self) -> None:
        self._steps_since_checkpoint += 1
        if self._steps_since_checkpoint < self._steps_between_checkpoints.at_a_time:
            return
        self._steps_since_checkpoint = 0
        began = self._clock.monotonic()
        self._steps_between_checkpoints.took(await self._store.writer.checkpoint())
        await self._clock.wait(self._never, (self._clock.monotonic() - began) * REST)


def _at_most(workspace_seq: int, log_bytes: float, used_bytes: int = 0) -> Callable[[Db], bool]:
    """Whether a workspace's log has become so small, or the rows of all together."""
    return lambda db: (
        workspaces.log_bytes_of(db, workspace_seq) <= log_bytes or retention.file_size(db).used_bytes <= used_bytes
    )


def equal_share(sizes: Iterable[int], total: float) -> float:
    """How much each may have at most so that all together have `total`, where those with less keep what they have."""
    left = sorted(sizes)
    while left and left[0] * len(left) <= total:
        total -= left.pop(0)
    return total / len(left) if left else math.inf
