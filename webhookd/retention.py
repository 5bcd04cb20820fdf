"""Retention: removes old events from the log, by age and by size, slowly enough not to disturb delivery.

A sweep takes small steps, each one command of the writer; after each the writer has twice as long for others.  How long
a step may take follows from how long the steps before it held the writer (`Pace`).  Between steps the sweep makes small
checkpoints: SQLite's own (after 64 MiB, for 30 to 70 ms) would come within another command's commit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from webhookd import log
from webhookd.clock import Clock
from webhookd.config import Config
from webhookd.errors import ApiError
from webhookd.store import credentials, outbox, retention
from webhookd.store.retention import FileSize, Step, Terms
from webhookd.store.store import Store

T = TypeVar("T")

SWEEP_SECONDS = 60.0
# What held the writer for longer than SLOW is done in smaller steps the next time, what took less than QUICK in larger.
SLOW_SECONDS = 0.010
QUICK_SECONDS = 0.005
REST = 2.0  # times the step before it
LOOK_AGAIN_SECONDS = 900.0
# An attempt in flight when its endpoint was deleted is over and recorded after this.
SETTLE_MS = 10 * 60 * 1000
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


class Retention:
    """Sweeps for ever (`run`, a root task), or once (`sweep`)."""

    def __init__(self, store: Store, clock: Clock, settings: Callable[[], Config]) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._never = asyncio.Event()
        self._step_seconds = Pace(0.004, least=0.0005, most=SLOW_SECONDS)
        self._steps_between_checkpoints = Pace(4, least=1, most=64)
        self._steps_since_checkpoint = 0
        self._examined_upto = 0
        self._passed_over = False
        self._started_over_at = clock.monotonic()

    async def run(self) -> None:
        """Sweep once a minute; more often where events are kept for minutes only."""
        while True:
            with contextlib.suppress(ApiError):  # the disk is full, or the daemon stops; the writer has logged it
                await self.sweep()
            kept_seconds = self._settings().retention.max_age_days * 86_400
            await self._clock.wait(self._never, min(SWEEP_SECONDS, max(1.0, kept_seconds / 20)))

    async def sweep(self) -> Swept:
        """Remove everything that may go now; ApiError when the store can't be written to."""
        self._look_again()
        terms = self._terms()
        total = Swept()
        for reason, work in (
            ("workspace", self._clear_workspaces),
            ("age", self._oldest),
            ("size", self._by_size),
        ):
            began = self._clock.monotonic()
            swept = await work(terms)
            total.events += swept.events
            total.deliveries += swept.deliveries
            if swept.events:
                took_ms = round((self._clock.monotonic() - began) * 1000, 1)
                log.emit(
                    "store.pruned",
                    reason=reason,
                    events=swept.events,
                    deliveries=swept.deliveries,
                    duration_ms=took_ms,
                )
        await self._forget_the_rest(terms)
        total.bytes = await self._shrink()
        return total

    def _terms(self) -> Terms:
        kept, budget = self._settings().retention, self._settings().budget
        now_ms = self._clock.wall_ms()
        return Terms(
            now_ms=now_ms,
            accepted_before_ms=now_ms - round(kept.max_age_days * 86_400_000),
            remembered_since_ms=now_ms - round(kept.idempotency_hours * 3_600_000),
            counted_since_ms=now_ms - round(budget.window_seconds * 1000),
            settled_before_ms=now_ms - SETTLE_MS,
        )

    def _look_again(self) -> None:
        """Start over at the oldest event if any was passed over: now and then, or each time while room is short."""
        now = self._clock.monotonic()
        due = now - self._started_over_at >= LOOK_AGAIN_SECONDS or self._store.disk_space.short()
        if self._passed_over and due:
            self._examined_upto = 0
            self._passed_over = False
            self._started_over_at = now

    # What goes, and why

    async def _clear_workspaces(self, terms: Terms) -> Swept:
        swept = Swept()
        for seq in await self._store.read(lambda db: retention.deleted_workspaces(db, terms)):
            await self._clear_workspace(seq, swept)
        return swept

    async def _clear_workspace(self, seq: int, swept: Swept) -> None:
        while step := await self._step(lambda db, late: retention.clear_workspace(db, seq, out_of_time=late)):
            swept.add(step)

    async def _by_size(self, terms: Terms) -> Swept:
        allowed_bytes = round(self._settings().retention.max_size_mb * MIB)
        if (await self._store.read(retention.file_size)).used_bytes <= allowed_bytes:
            return Swept()
        return await self._oldest(terms, until_used_bytes=allowed_bytes)

    async def _oldest(self, terms: Terms, *, until_used_bytes: int | None = None) -> Swept:
        """Remove the oldest events that may go: all that are old enough, or as many as make the rest small enough."""
        swept = Swept()
        by_age = until_used_bytes is None
        while True:
            examined = await self._store.read(
                lambda db: retention.examine(db, terms, after_seq=self._examined_upto, by_age=by_age)
            )
            kept = await self._prune(examined.prunable, terms, until_used_bytes, swept)
            if kept:
                self._examined_upto = kept[0] - 1
                return swept
            self._examined_upto = examined.upto_seq
            self._passed_over |= examined.passed_over
            if examined.ended:
                return swept

    async def _prune(self, seqs: list[int], terms: Terms, until_used_bytes: int | None, swept: Swept) -> list[int]:
        """Remove these events, in as many steps as it takes; returns those that may stay because it was enough."""

        def some(db: Any, late: Callable[[], bool]) -> Step:
            return retention.prune(db, seqs, terms, out_of_time=late, until_used_bytes=until_used_bytes)

        while seqs:
            step = await self._step(some)
            swept.add(step)
            self._passed_over |= step.done != step.events  # a replay came in between
            seqs = seqs[step.done :]
            if step.enough:
                return seqs
        return []

    async def _forget_the_rest(self, terms: Terms) -> None:
        before_ms, limit = terms.accepted_before_ms, retention.PIECE_ROWS
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

    async def _step(self, work: Callable[[Any, Callable[[], bool]], T]) -> T:
        """One command of the writer with a time limit; afterwards the writer is left to others for a while."""
        writer, clock, pace = self._store.writer, self._clock, self._step_seconds
        began = took_seconds = 0.0

        def command(db: Any) -> T:
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
