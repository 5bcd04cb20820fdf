"""The one writer: whatever waits becomes one transaction, and callers hear of it only after the commit.

A caller submits a *command*, a function of the connection.  The writer takes commands that wait or are on their way
(`_gather`, `_take_group`), runs them in order as one transaction, each in a savepoint of its own so that one that is
refused doesn't take its neighbours along, and after the commit calls each command's `then` and answers its future,
again in order.  So the order of submission is the order of the table and the order in which the rest of the process
hears of it.

Commands that come in crowds (accepted events, recorded successes) are submitted as items of a kind (`bulk`): those
between two other commands are carried out together, in one statement.

Commands are not cancelled: a caller that goes away leaves its command behind, which is run all the same.

A checkpoint is asked for like a command and runs by itself, between two transactions (`checkpoint`): SQLite makes
one on its own only when the log has become long, and whoever commits then waits for all of it.

A full disk refuses commands, except those submitted with `must=True` (outcomes of attempts): these are tried again,
with pieces of the reserve (`store.room`), until there is room.  So does a lack of memory, which SQLite rolls back
from.  Any other failure of SQLite ends the daemon, because what is durable is no longer known.
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
from webhookd.store.batch import Command, Crowd, Refused, lost_sight, run_group
from webhookd.store.bulk import Bulk, Crowds
from webhookd.store.connection import CHECKPOINT_PAGES, Connection, bound_log, fatal_error, is_full, may_be_full
from webhookd.store.disk_space import DiskSpace

I = TypeVar("I")  # noqa: E741 - an item of a bulk kind
T = TypeVar("T")

# Few enough that a group stays in the milliseconds.
GROUP_SIZE = 400
# Enough to make the sync cheap per row.  More than these are shared with the next group: while one is being written,
# the event loop works on the others.  All in one, loop and SQLite would wait for each other by turns.
WORTHWHILE_SIZE = 48
# A request takes a few turns of the event loop from the socket to its command; after so many without one, none is near.
IDLE_TURNS = 8
FULL_RETRY_SECONDS = 0.5


class Writer:
    """Owns the connection that writes; `run` is a root task of the daemon."""

    def __init__(self, connection: Connection, crowds: Crowds, disk_space: DiskSpace) -> None:
        self._connection = connection
        self._crowds = crowds
        self._room = disk_space
        self._log_pages = CHECKPOINT_PAGES
        self._waiting: deque[Command[Any]] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._failed: FatalError | None = None
        self.full = False
        self.commits = 0
        self.commit_seconds = Histogram()
        # How long the last group kept everybody else waiting, its commit included; `then` may read it for its own.
        self.held_seconds = 0.0

    def submit(
        self,
        run: Callable[[sqlite3.Connection], T],
        *,
        on_commit: Callable[[T], None] | None = None,
        retry_when_full: bool = False,
    ) -> asyncio.Future[T]:
        """Queue a command; the future has its result once it is durable, or its exception.

        `then` is called with the result right after the commit, before any later command's, on the event loop.
        """
        return self._queue(Command(run, on_commit, retry_when_full, asyncio.get_running_loop().create_future()))

    def submit_item(
        self,
        bulk: Bulk[I, T],
        item: I,
        *,
        on_commit: Callable[[T], None] | None = None,
        retry_when_full: bool = False,
    ) -> asyncio.Future[T]:
        """`submit` for an item of a kind of which many may come."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        return self._queue(
            Command(lambda db: bulk.one(db, item), on_commit, retry_when_full, future, bulk, item, bulk.size(item))
        )

    async def checkpoint(self) -> float:
        """Bring what the log holds into the database file, as far as no reader keeps it; returns how long it took."""
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        return await asyncio.shield(
            self._queue(Command(_checkpoint, None, retry_when_full=False, future=future, exclusive=True))
        )

    def _queue(self, command: Command[T]) -> asyncio.Future[T]:
        if self._failed is not None:
            command.future.set_exception(_unavailable())
        else:
            self._waiting.append(command)
            self._idle.clear()
            self._wake.set()
        return command.future

    async def write(
        self,
        run: Callable[[sqlite3.Connection], T],
        *,
        on_commit: Callable[[T], None] | None = None,
        retry_when_full: bool = False,
    ) -> T:
        """`submit` and wait.  A cancelled caller cancels its future, not the command."""
        return await self.submit(run, on_commit=on_commit, retry_when_full=retry_when_full)

    async def answer(self) -> None:
        """Return once the writer came by and its connection began and ended a transaction; a full disk lets it."""
        try:
            await self.write(_nothing)
        except ApiError as refusal:
            if refusal.code != "storage_full":
                raise

    async def write_item(
        self,
        bulk: Bulk[I, T],
        item: I,
        *,
        on_commit: Callable[[T], None] | None = None,
        retry_when_full: bool = False,
    ) -> T:
        """`submit_item` and wait; as `write`."""
        return await self.submit_item(bulk, item, on_commit=on_commit, retry_when_full=retry_when_full)

    async def flushed(self) -> None:
        """Return when nothing waits to be written."""
        await self._idle.wait()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being written."""
        return self._idle.is_set()

    @property
    def adapts(self) -> bool:
        """Whether the next group begins with the write-ahead log bounded anew."""
        return self._room.log_pages() != self._log_pages

    async def tidy(self) -> None:
        """Carry the write-ahead log over into the file now, as far as that has room."""
        self._log_pages = 0
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
        """Write until cancelled; raises Fatal when the store can't be trusted any more."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting and self._failed is None:
                    await self._gather()
                    await self._write_group()
                if self._failed is not None:
                    raise self._give_up(self._failed)
                self._idle.set()
        except sqlite3.Error as error:
            raise self._give_up(fatal_error(error)) from error

    async def _adapt(self) -> None:
        """Keep the write-ahead log as small as the room on the disk asks for."""
        self._log_pages = pages = self._room.log_pages()
        await self._connection.run(lambda db: bound_log(db, pages))

    async def _gather(self) -> None:
        """Let more commands come, up to a worthwhile group, as long as the turns of the event loop bring any.

        That is no wait for a time: an idle loop makes these turns in a tenth of a commit's time.
        """
        idle_turns, count = 0, len(self._waiting)
        while idle_turns < IDLE_TURNS and count < WORTHWHILE_SIZE:
            await asyncio.sleep(0)
            idle_turns = idle_turns + 1 if count == len(self._waiting) else 0
            count = len(self._waiting)

    async def _write_group(self) -> None:
        if self.adapts:
            await self._adapt()
        group = self._take_group()
        try:
            results = await self._carry_out(group)
        except MemoryError as error:
            log.throttled("resource.exhausted", error=f"{type(error).__name__}: {error}")
            self._put_back(group, Refused(_no_memory()))
            await asyncio.sleep(FULL_RETRY_SECONDS)
            return
        except sqlite3.Error as error:
            if not is_full(error) and not (may_be_full(error) and await asyncio.to_thread(self._room.exhausted)):
                for command in group:
                    _answer(command, Refused(_unavailable()))
                raise
            await self._after_full(group)
            return
        if not group[0].exclusive:
            self._committed(group)
        for command, result in zip(group, results, strict=True):
            if command.on_commit is not None and not isinstance(result, Refused):
                command.on_commit(result)
        for command, result in zip(group, results, strict=True):
            _answer(command, result)

    async def _carry_out(self, group: list[Command[Any]]) -> list[Any]:
        """The results of a group, once it is committed."""
        if group[0].exclusive:
            return [await self._run(group[0].run)]
        crowds: Crowds | None = self._crowds
        if all(command.bulk is not None for command in group):
            crowd = Crowd(self._crowds, group)
            read = await self._run(crowd.run)  # one statement, which is a transaction by itself
            if read is not None:
                try:
                    return crowd.results(read)
                except MemoryError as error:
                    raise lost_sight() from error
            crowds = None  # they don't go together, and needn't be tried again
        return await self._run(lambda db: run_group(db, crowds, group))

    async def _run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        result, self.held_seconds = await self._connection.run(lambda db: _timed(db, function))
        return result

    def _committed(self, group: list[Command[Any]]) -> None:
        self.commits += 1
        self.commit_seconds.observe(self.held_seconds)
        # An empty transaction goes through on a full disk as well.
        self.full = self.full and all(command.run is _nothing for command in group)

    def _take_group(self) -> list[Command[Any]]:
        """The commands for the next transaction: half of those that wait, if that is worthwhile.

        One that is `alone` has it to itself.
        """
        half = len(self._waiting) // 2
        group = [self._waiting.popleft()]
        size = group[0].size
        while not group[0].exclusive and self._waiting and size < GROUP_SIZE and not self._waiting[0].exclusive:
            if size >= WORTHWHILE_SIZE and len(group) >= half:
                break
            group.append(self._waiting.popleft())
            size += group[-1].size
        return group

    async def _after_full(self, group: list[Command[Any]]) -> None:
        self.full = True
        self._put_back(group, Refused(storage_full()))
        if self._room.give_back():
            self._log_pages = 0  # with this piece the log can be carried over
        elif self._waiting and self._waiting[0].retry_when_full:
            await asyncio.sleep(FULL_RETRY_SECONDS)

    def _put_back(self, group: list[Command[Any]], refused: Refused) -> None:
        """Refuse what may be refused and keep the rest at the head of the queue, in order."""
        kept = [command for command in group if command.retry_when_full]
        for command in group:
            if not command.retry_when_full:
                _answer(command, refused)
        self._waiting.extendleft(reversed(kept))

    def _give_up(self, error: FatalError) -> FatalError:
        self._failed = error
        while self._waiting:
            _answer(self._waiting.popleft(), Refused(_unavailable()))
        self._idle.set()
        return error


def storage_full() -> ApiError:
    """The refusal for a disk that is (nearly) full."""
    return ApiError(
        "storage_full",
        "The disk is nearly full, so nothing was accepted. Free some space (store.min_free_mb) and send it again.",
        retry_after_seconds=10,
    )


def _no_memory() -> ApiError:
    return ApiError("unavailable", "There is no memory for this now. Try again in a moment.", retry_after_seconds=2)


def _unavailable() -> ApiError:
    return ApiError("unavailable", "webhookd's database failed; it restarts. Send it again.", retry_after_seconds=2)


def _nothing(db: sqlite3.Connection) -> None:
    """A command that only wants to come back."""


def _answer(command: Command[Any], result: Any) -> None:
    if command.future.done():  # its caller was cancelled
        return
    if isinstance(result, Refused):
        command.future.set_exception(result.error)
    else:
        command.future.set_result(result)


def _timed(db: sqlite3.Connection, run: Callable[[sqlite3.Connection], T]) -> tuple[T, float]:
    """Run on the connection's thread; with how long it took there."""
    began = time.perf_counter()
    return run(db), time.perf_counter() - began


def _checkpoint(db: sqlite3.Connection) -> float:
    began = time.perf_counter()
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return time.perf_counter() - began
