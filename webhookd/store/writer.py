"""The one writer: commands that wait go to SQLite as one batch, and callers get their results after the commit.

A *command* is a function of the connection.  Commands are taken by turns (`batch.Turns`: outcomes first, workspaces
fairly), and each runs in a savepoint of its own, so that a refused one leaves its neighbours alone; commands of a
`BatchKind` that follow each other go in one statement.  The order in which they are taken is the order of the table and
the order in which the rest of the process sees the results; within a workspace it is that of submission.  A command of
a caller that was cancelled runs all the same.

A batch is cut by its cost, so that it holds the writer for about `SLOW_SECONDS` at most: how much fits is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

from webhookd import log
from webhookd.errors import ApiError, FatalError
from webhookd.metrics import Histogram
from webhookd.store.batch import BatchItem, BatchStatement, Command, PackedBatch, Refused, Turns, run_batch
from webhookd.store.connection import Connection, WalIndex, checkpoint, fatal_error, is_full, may_be_full
from webhookd.store.disk_space import MIB, DiskSpace

T = TypeVar("T")

# A batch that takes longer is followed by smaller ones, one of less than half by larger ones.  Workspaces that share
# the writer wait for each other's batches; one alone has more of its events in each, which takes less of each event.
SLOW_SECONDS = 0.010
SLOW_SHARED_SECONDS = 0.004
# In rows.  With less than the least, a slow disk would do little else than sync.
BATCH_SIZE = 400  # to begin with
LEAST_SIZE = 100
MOST_SIZE = 2000
# How long two workspaces that write count as sharing the writer.
SHARED_SECONDS = 1.0
# Enough to make the sync cheap per row.  More than these are shared with the next batch: while one is being written,
# the event loop works on the others.  All in one, loop and SQLite would wait for each other by turns.
WORTHWHILE_SIZE = 72
# A request takes a few turns of the event loop from the socket to its command; after so many without one, none is near.
IDLE_TURNS = 8
# While others work on the loop its turns take long, and then less is waited for.
GATHER_SECONDS = 0.002
# How long a deferrable command may wait for one that isn't, to share its commit.
DEFERRAL_SECONDS = 0.01
# With nothing else to do, a checkpoint is made when the write-ahead log holds so much: it takes milliseconds.
CHECKPOINT_BYTES = 4 * MIB
# While workspaces share the writer, and none waits but those that have just had their turn: another may come at any
# moment.  A checkpoint takes the longer, the more different pages there are; with less, it would do little but sync.
CHECKPOINT_LIMITS = (1 * MIB, CHECKPOINT_BYTES)
FULL_RETRY_SECONDS = 0.5


class Writer:
    """Owns the connection that writes; `run` is a root task of the daemon."""

    def __init__(
        self, connection: Connection, statement: BatchStatement, disk_space: DiskSpace, wal_index: WalIndex
    ) -> None:
        self._connection = connection
        self._statement = statement
        self._disk_space = disk_space
        self._wal_index = wal_index
        self._not_carried_bytes = 0  # what the last checkpoint left in the log, because of a reader
        self._shared_checkpoint_bytes: float = CHECKPOINT_LIMITS[0]
        self._waiting = Turns()
        self._deferred: list[Command[Any]] = []
        self._deferral: asyncio.TimerHandle | None = None
        self._alone = False  # whether the last batch was one command
        self._batch_size: float = BATCH_SIZE
        self._last_workspace: int | None = None
        self._had_their_turn: set[int | None] = set()  # of the last batch
        self._shared_until = 0.0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._failed: FatalError | None = None
        self.full = False
        self.commits = 0
        self.commit_seconds = Histogram()
        # How long the last batch took, its commit included; its own `on_commit` may read it.
        self.batch_seconds = 0.0

    def write(
        self,
        run: Callable[[sqlite3.Connection], T],
        *,
        on_commit: Callable[[T], None] | None = None,
        retry_when_full: bool = False,
        exclusive: bool = False,
        workspace_seq: int | None = None,
        on_behalf_of: int | None = None,
        in_order: bool = False,
        deferrable: bool = False,
        size: int = 1,
    ) -> asyncio.Future[T]:
        """Queue a command; the future has its result once it is durable, or its exception.

        `on_commit` is called with the result right after the commit, before any later command's, on the event loop.
        `exclusive`: it runs alone and outside a transaction.  `workspace_seq`: it takes turns with the commands of
        other workspaces; without one it goes before these, and `on_behalf_of` says whose work it is.  `in_order`: it
        keeps its place among all others.  `deferrable`: no caller depends on it soon, so it may wait for another's
        commit.  `size`: its work in rows, unless it is of a `BatchKind`.

        A cancelled caller cancels its future, not the command.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._failed is not None:
            future.set_exception(_unavailable())
        else:
            size = run.size if isinstance(run, BatchItem) else size
            command = Command(run, on_commit, retry_when_full, exclusive, future, size, workspace_seq)
            self._idle.clear()
            self._note_sharing(on_behalf_of or workspace_seq)
            if deferrable:
                self._deferred.append(command)
                if self._deferral is None:
                    self._deferral = asyncio.get_running_loop().call_later(DEFERRAL_SECONDS, self._end_deferral)
            else:
                self._waiting.add(command, in_order=in_order)
                self._wake.set()
        return future

    def _note_sharing(self, workspace_seq: int | None) -> None:
        if workspace_seq not in (None, self._last_workspace):
            if self._last_workspace is not None:
                self._shared_until = time.perf_counter() + SHARED_SECONDS
            self._last_workspace = workspace_seq

    async def checkpoint(self) -> float:
        """Bring what the log holds into the database file, as far as no reader keeps it; returns how long it took."""
        return await asyncio.shield(self.write(_timed_checkpoint, exclusive=True))

    async def answer(self) -> None:
        """Return once an empty transaction went through; a full disk lets it.  ApiError where the store failed."""
        try:
            await self.write(_do_nothing)
        except ApiError as error:
            if error.code != "storage_full":
                raise

    async def flushed(self) -> None:
        """Return when nothing waits to be written."""
        await self._idle.wait()

    @property
    def batch_size(self) -> int:
        """How many rows a command may write at most, so that it holds the writer for milliseconds only."""
        return max(1, int(self._batch_size))

    @property
    def shared(self) -> bool:
        """Whether several workspaces have written just now."""
        return time.perf_counter() < self._shared_until

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being written."""
        return self._idle.is_set()

    async def shrink_wal(self) -> None:
        """Carry the write-ahead log over into the file now, as far as that has space."""
        self._not_carried_bytes = -self._disk_space.wal_limit_bytes()
        with contextlib.suppress(ApiError):
            await self.answer()

    @property
    def failed(self) -> FatalError | None:
        """Why nothing is written any more, or None."""
        return self._failed

    def end(self, error: FatalError) -> None:
        """A reader found that the store can't be trusted any more: `run` raises this."""
        self._failed = self._failed or error
        self._wake.set()

    async def run(self) -> None:
        """Write until cancelled; raises FatalError when the store can't be trusted any more."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting and self._failed is None:
                    await self._gather()
                    await self._write_batch()
                    await self._carry_over()
                if self._failed is not None:
                    raise self._give_up(self._failed)
                if not self._deferred:
                    self._idle.set()
        except sqlite3.Error as error:
            raise self._give_up(fatal_error(error)) from error

    async def _gather(self) -> None:
        """Let more commands come, up to a worthwhile batch, as long as the turns of the event loop bring any.

        After a batch of one alone none is near: each of these turns would cost a caller at rest 4 µs.
        """
        idle_turns, count = 0, len(self._waiting)
        if self._alone and count == 1:
            return
        until = time.perf_counter() + GATHER_SECONDS
        while idle_turns < IDLE_TURNS and count < WORTHWHILE_SIZE and self._waiting.size < LEAST_SIZE:
            await asyncio.sleep(0)
            idle_turns = idle_turns + 1 if count == len(self._waiting) else 0
            count = len(self._waiting)
            if time.perf_counter() > until:
                break

    def _end_deferral(self) -> None:
        self._add_deferred()
        self._wake.set()

    def _add_deferred(self) -> None:
        if self._deferral is not None:
            self._deferral.cancel()
            self._deferral = None
        for command in self._deferred:
            self._waiting.add(command)
        self._deferred.clear()

    async def _carry_over(self) -> None:
        """Make a checkpoint, if one is due: between transactions, so that none waits for it in its commit.

        What the last one left in the log, because of a reader, doesn't count.
        """
        limit_bytes: float = self._disk_space.wal_limit_bytes()
        if not self._waiting:
            limit_bytes = min(limit_bytes, CHECKPOINT_BYTES)
        if self.shared and self._waiting.workspaces <= self._had_their_turn:
            limit_bytes = min(limit_bytes, self._shared_checkpoint_bytes)
        size = self._wal_index.pending_bytes() - self._not_carried_bytes
        if size < limit_bytes:
            return
        try:
            seconds = await self._connection.run(_timed_checkpoint)
        except (sqlite3.Error, MemoryError) as error:
            if not isinstance(error, MemoryError) and not await self._is_full(error):
                raise
        else:
            if self.shared:
                self._shared_checkpoint_bytes = _fitting(
                    self._shared_checkpoint_bytes, size, seconds, SLOW_SHARED_SECONDS, CHECKPOINT_LIMITS
                )
        self._not_carried_bytes = self._wal_index.pending_bytes()

    async def _is_full(self, error: sqlite3.Error) -> bool:
        return is_full(error) or (may_be_full(error) and await asyncio.to_thread(self._disk_space.exhausted))

    async def _write_batch(self) -> None:
        self._alone = len(self._waiting) == 1
        self._add_deferred()
        batch = self._next_batch()
        self._had_their_turn = {command.workspace_seq for command in batch}
        try:
            results = await self._carry_out(batch)
        except MemoryError as error:
            log.throttled("resource.exhausted", error=f"{type(error).__name__}: {error}")
            self._put_back(batch, Refused(_no_memory()))
            await asyncio.sleep(FULL_RETRY_SECONDS)
            return
        except sqlite3.Error as error:
            if not await self._is_full(error):
                for command in batch:
                    _answer(command, Refused(_unavailable()))
                raise
            await self._after_full(batch)
            return
        if not batch[0].exclusive:
            self._count_commit(batch)
            self._adapt(sum(command.size for command in batch))
        for command, result in zip(batch, results, strict=True):
            if command.on_commit is not None and not isinstance(result, Refused):
                command.on_commit(result)
        for command, result in zip(batch, results, strict=True):
            _answer(command, result)

    def _next_batch(self) -> list[Command[Any]]:
        """The commands for the next transaction: half of those that wait, if that is worthwhile.

        On a full disk outcomes go apart, so that they needn't wait until a part of an array fits as well.
        """
        return self._waiting.take(self.batch_size, WORTHWHILE_SIZE, apart=self.full)

    async def _carry_out(self, batch: list[Command[Any]]) -> list[Any]:
        if batch[0].exclusive:
            return [await self._run(batch[0].run)]
        statement: BatchStatement | None = self._statement
        items = [command.run for command in batch if isinstance(command.run, BatchItem)]
        if len(items) == len(batch):
            packed = PackedBatch(self._statement, items)
            if await self._run(packed.run):  # one statement, which is a transaction by itself
                return packed.results()
            statement = None  # they don't go together, and needn't be tried again
        return await self._run(lambda db: run_batch(db, statement, batch))

    async def _run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        result, self.batch_seconds = await self._connection.run(lambda db: _timed(db, function))
        return result

    def _count_commit(self, batch: list[Command[Any]]) -> None:
        self.commits += 1
        self.commit_seconds.observe(self.batch_seconds)
        # An empty transaction goes through on a full disk as well.
        self.full = self.full and all(command.run is _do_nothing for command in batch)

    def _adapt(self, size: int) -> None:
        """Make later batches smaller or larger by how long this one, of `size` rows, held the writer."""
        slow_seconds = SLOW_SHARED_SECONDS if self.shared else SLOW_SECONDS
        if self._batch_size < LEAST_SIZE:  # cut by a full disk
            self._batch_size *= 2
        else:
            limits = (LEAST_SIZE, MOST_SIZE)
            self._batch_size = _fitting(self._batch_size, size, self.batch_seconds, slow_seconds, limits)

    async def _after_full(self, batch: list[Command[Any]]) -> None:
        self.full = True
        refused = Refused(storage_full())
        self._put_back(batch, refused)
        first = sum(command.workspace_seq is None for command in batch)
        if 0 < first < len(batch):
            return  # these need less, and go apart now
        if len(batch) > 1:
            self._batch_size = max(1, min(int(self._batch_size), sum(command.size for command in batch)) // 2)
        if first and self._disk_space.release():
            self._not_carried_bytes = -self._disk_space.wal_limit_bytes()  # with this piece it can be carried over
        elif any(command.retry_when_full for command in batch):
            if first:  # until these fit, nothing else has its turn
                for command in self._waiting.take_refusable():
                    _answer(command, refused)
            await asyncio.sleep(FULL_RETRY_SECONDS)

    def _put_back(self, batch: list[Command[Any]], refused: Refused) -> None:
        """Refuse what may be refused and keep the rest at the head of the queue, in order."""
        for command in batch:
            if not command.retry_when_full:
                _answer(command, refused)
        self._waiting.put_back([command for command in batch if command.retry_when_full])

    def _give_up(self, error: FatalError) -> FatalError:
        self._failed = error
        self._add_deferred()
        while self._waiting:
            for command in self._waiting.take(MOST_SIZE, MOST_SIZE):
                _answer(command, Refused(_unavailable()))
        self._idle.set()
        return error


def storage_full() -> ApiError:
    """The error for a disk that is (nearly) full."""
    return ApiError(
        "storage_full",
        "The disk is nearly full, so nothing was accepted. Free some space (store.min_free_mb) and send it again.",
        retry_after_seconds=10,
    )


def _no_memory() -> ApiError:
    return ApiError("unavailable", "There is no memory for this now. Try again in a moment.", retry_after_seconds=2)


def _unavailable() -> ApiError:
    return ApiError("unavailable", "webhookd's database failed; it restarts. Send it again.", retry_after_seconds=2)


def _do_nothing(db: sqlite3.Connection) -> None:
    """A no-op, used as a health probe."""


def _answer(command: Command[Any], result: Any) -> None:
    if command.future.done():  # its caller was cancelled
        return
    if isinstance(result, Refused):
        command.future.set_exception(result.error)
    else:
        command.future.set_result(result)


def _fitting(size: float, taken: float, seconds: float, slow_seconds: float, limits: tuple[int, int]) -> float:
    """The next size: smaller than one that was `taken` and slow, larger after one that took less than half as long."""
    least, most = limits
    if seconds > slow_seconds and taken > least:
        return max(least, min(size, taken) * 0.7)
    if seconds < slow_seconds / 2 and taken > size / 2:
        return min(most, size * 1.2)
    return size


def _timed(db: sqlite3.Connection, run: Callable[[sqlite3.Connection], T]) -> tuple[T, float]:
    began = time.perf_counter()
    return run(db), time.perf_counter() - began


def _timed_checkpoint(db: sqlite3.Connection) -> float:
    return _timed(db, checkpoint)[1]
