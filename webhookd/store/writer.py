"""The one writer: commands that wait go to SQLite as one batch, and callers get their results after the commit.

A *command* is a function of the connection.  Each runs in a savepoint of its own, so that a refused one leaves its
neighbours alone; commands of a `BatchKind` that follow each other go in one statement.  The order of submission is the
order of the table and the order in which the rest of the process sees the results.  A command of a caller that was
cancelled runs all the same.

A full disk refuses commands, except those submitted with `retry_when_full` (outcomes of attempts): these are tried
again, with pieces of the reserve (`store.disk_space`).  So does a lack of memory.  Any other failure of SQLite ends the
daemon, because what is durable is no longer known.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from webhookd import log
from webhookd.errors import ApiError, FatalError
from webhookd.metrics import Histogram
from webhookd.store.batch import BatchItem, BatchStatement, Command, PackedBatch, Refused, run_batch
from webhookd.store.connection import CHECKPOINT_PAGES, Connection, fatal_error, is_full, limit_wal, may_be_full
from webhookd.store.disk_space import DiskSpace

T = TypeVar("T")

# Rows: few enough that a batch stays in the milliseconds.
BATCH_SIZE = 400
# Enough to make the sync cheap per row.  More than these are shared with the next batch: while one is being written,
# the event loop works on the others.  All in one, loop and SQLite would wait for each other by turns.
WORTHWHILE_SIZE = 48
# A request takes a few turns of the event loop from the socket to its command; after so many without one, none is near.
IDLE_TURNS = 8
FULL_RETRY_SECONDS = 0.5


class Writer:
    """Owns the connection that writes; `run` is a root task of the daemon."""

    def __init__(self, connection: Connection, statement: BatchStatement, disk_space: DiskSpace) -> None:
        self._connection = connection
        self._statement = statement
        self._disk_space = disk_space
        self._wal_limit_pages = CHECKPOINT_PAGES
        self._waiting: deque[Command[Any]] = deque()
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
    ) -> asyncio.Future[T]:
        """Queue a command; the future has its result once it is durable, or its exception.

        `on_commit` is called with the result right after the commit, before any later command's, on the event loop.
        `exclusive`: it runs alone and outside a transaction.  A cancelled caller cancels its future, not the command.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._failed is not None:
            future.set_exception(_unavailable())
        else:
            self._waiting.append(Command(run, on_commit, retry_when_full, exclusive, future))
            self._idle.clear()
            self._wake.set()
        return future

    async def checkpoint(self) -> float:
        """Bring what the log holds into the database file, as far as no reader keeps it; returns how long it took."""
        return await asyncio.shield(self.write(_checkpoint, exclusive=True))

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
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being written."""
        return self._idle.is_set()

    @property
    def wal_limit_changed(self) -> bool:
        """Whether the space on the disk asks for another limit of the write-ahead log than the one in force."""
        return self._disk_space.wal_limit_pages() != self._wal_limit_pages

    async def shrink_wal(self) -> None:
        """Carry the write-ahead log over into the file now, as far as that has space."""
        self._wal_limit_pages = 0
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
                if self._failed is not None:
                    raise self._give_up(self._failed)
                self._idle.set()
        except sqlite3.Error as error:
            raise self._give_up(fatal_error(error)) from error

    async def _gather(self) -> None:
        """Let more commands come, up to a worthwhile batch, as long as the turns of the event loop bring any."""
        idle_turns, count = 0, len(self._waiting)
        while idle_turns < IDLE_TURNS and count < WORTHWHILE_SIZE:
            await asyncio.sleep(0)
            idle_turns = idle_turns + 1 if count == len(self._waiting) else 0
            count = len(self._waiting)

    async def _write_batch(self) -> None:
        if self.wal_limit_changed:
            self._wal_limit_pages = pages = self._disk_space.wal_limit_pages()
            await self._connection.run(lambda db: limit_wal(db, pages))
        batch = self._next_batch()
        try:
            results = await self._carry_out(batch)
        except MemoryError as error:
            log.throttled("resource.exhausted", error=f"{type(error).__name__}: {error}")
            self._put_back(batch, Refused(_no_memory()))
            await asyncio.sleep(FULL_RETRY_SECONDS)
            return
        except sqlite3.Error as error:
            if not is_full(error) and not (may_be_full(error) and await asyncio.to_thread(self._disk_space.exhausted)):
                for command in batch:
                    _answer(command, Refused(_unavailable()))
                raise
            await self._after_full(batch)
            return
        if not batch[0].exclusive:
            self._count_commit(batch)
        for command, result in zip(batch, results, strict=True):
            if command.on_commit is not None and not isinstance(result, Refused):
                command.on_commit(result)
        for command, result in zip(batch, results, strict=True):
            _answer(command, result)

    def _next_batch(self) -> list[Command[Any]]:
        """The commands for the next transaction: half of those that wait, if that is worthwhile."""
        half = len(self._waiting) // 2
        batch = [self._waiting.popleft()]
        size = batch[0].size()
        while not batch[0].exclusive and self._waiting and size < BATCH_SIZE and not self._waiting[0].exclusive:
            if size >= WORTHWHILE_SIZE and len(batch) >= half:
                break
            batch.append(self._waiting.popleft())
            size += batch[-1].size()
        return batch

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

    async def _after_full(self, batch: list[Command[Any]]) -> None:
        self.full = True
        self._put_back(batch, Refused(storage_full()))
        if self._disk_space.release():
            self._wal_limit_pages = 0  # with this piece the log can be carried over
        elif self._waiting and self._waiting[0].retry_when_full:
            await asyncio.sleep(FULL_RETRY_SECONDS)

    def _put_back(self, batch: list[Command[Any]], refused: Refused) -> None:
        """Refuse what may be refused and keep the rest at the head of the queue, in order."""
        for command in batch:
            if not command.retry_when_full:
                _answer(command, refused)
        self._waiting.extendleft(command for command in reversed(batch) if command.retry_when_full)

    def _give_up(self, error: FatalError) -> FatalError:
        self._failed = error
        while self._waiting:
            _answer(self._waiting.popleft(), Refused(_unavailable()))
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


def _timed(db: sqlite3.Connection, run: Callable[[sqlite3.Connection], T]) -> tuple[T, float]:
    began = time.perf_counter()
    return run(db), time.perf_counter() - began


def _checkpoint(db: sqlite3.Connection) -> float:
    began = time.perf_counter()
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return time.perf_counter() - began
