"""The store as the rest of webhookd uses it: commands go to the one writer, questions to readers of their own."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from webhookd import log
from webhookd.store import deliveries, events, retention, time_index
from webhookd.store.batch import BatchStatement
from webhookd.store.connection import Connection, fatal_error, is_broken, open_reader, open_writer
from webhookd.store.disk_space import DiskSpace
from webhookd.store.time_index import TimeIndex
from webhookd.store.writer import Writer
from webhookd.tasks import KeyedLocks

T = TypeVar("T")

DISK_LOOK_SECONDS = 1.0
# While the disk is short: the file shrinks with a checkpoint that no reader was in the way of.
SHRINK_SECONDS = 5.0

# What a command or a question is given: passed on to the store's functions, never used by others itself.
Db = sqlite3.Connection
SQLITE_VERSION = sqlite3.sqlite_version
BATCH = BatchStatement([events.ACCEPT, deliveries.RECORD_SUCCESS])


class Store:
    """The open database.  `writer.run` has to run for commands to be carried out."""

    def __init__(
        self,
        path: Path,
        disk_space: DiskSpace,
        connection: Connection,
        delivery_reader: Connection,
        reader: Connection,
        search_reader: Connection,
        newest_ms: int,
    ) -> None:
        self.path = path
        self.disk_space = disk_space
        self._connection = connection
        # Readers of their own, so that a search of the log keeps neither a consumer from its next page nor upkeep,
        # sign-ins, metrics and other pages from their answers.
        self._delivery_reader = delivery_reader
        self._reader = reader
        self._search_reader = search_reader
        self._searches = KeyedLocks()
        self._time_index = TimeIndex(newest_ms)
        self.writer = Writer(connection, BATCH, disk_space)
        self.write = self.writer.write

    @classmethod
    async def open(cls, path: Path, min_free_mb: float = 0) -> Store:
        """Open or make the database at `path`, keeping `min_free_mb` of its disk; StoreUnusable when it is not fit."""
        began = time.monotonic()
        disk_space = DiskSpace(path, min_free_mb)
        disk_space.prepare()
        connection, before, now = await open_writer(path)
        opened = [connection]
        try:
            newest_ms = await connection.run(time_index.newest_ms)
            await connection.run(BATCH.prepare)
            for _ in range(3):
                opened.insert(0, await open_reader(path))
        except BaseException:
            for each in opened:
                await each.close()
            raise
        disk_space.acquire()
        store = cls(path, disk_space, connection, opened[0], opened[1], opened[2], newest_ms)
        if 0 < before < now:
            log.emit("store.migrated", from_version=before, to_version=now)
        log.emit(
            "store.opened",
            path=str(path),
            sqlite_version=SQLITE_VERSION,
            schema_version=now,
            size_bytes=store.size_bytes(),
            duration_ms=round((time.monotonic() - began) * 1000, 1),
        )
        return store

    async def add(
        self,
        at_ms: int,
        run: Callable[[sqlite3.Connection], T],
        *,
        workspace_seq: int,
        on_commit: Callable[[T], None] | None = None,
        retry_when_full: bool = False,
        size: int = 1,
    ) -> T:
        """`write` for a command of a workspace that adds events or deliveries dated `at_ms` (ms since 1970)."""
        if not self._time_index.goes_back(at_ms):
            return await self.write(
                run, on_commit=on_commit, retry_when_full=retry_when_full, workspace_seq=workspace_seq, size=size
            )

        def run_after_step(db: sqlite3.Connection) -> T:
            time_index.add_clock_step(db)
            return run(db)

        def step_committed(result: T) -> None:
            self._time_index.stepped_back(at_ms)
            if on_commit is not None:
                on_commit(result)

        # What was dated before the step has to be there before it, whosever turn it is.
        return await self.write(
            run_after_step, on_commit=step_committed, retry_when_full=retry_when_full, in_order=True, size=size
        )

    async def read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Run a short question; it sees everything committed before."""
        return await self._ask(self._reader, question)

    async def search(self, workspace_seq: int, question: Callable[[sqlite3.Connection], T]) -> T:
        """Run a question about a workspace's log, one at a time for each workspace; callers that leave are forgotten.

        So many searches in one workspace keep another's waiting for one of them at most.
        """
        async with self._searches.of(str(workspace_seq)):
            return await self._ask(self._search_reader, question)

    async def read_for_delivery(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Run a question of the delivery itself: short, and never behind a search of the log."""
        return await self._ask(self._delivery_reader, question)

    async def backup(self, target: Path) -> None:
        """Write a consistent copy to `target` (a file that isn't there or is empty), while everything goes on."""
        # A reader of its own: a copy takes seconds, and no question should wait for it.
        connection = await open_reader(self.path)
        try:
            await self._ask(connection, lambda db: _copy(db, target))
        finally:
            await connection.close()

    async def _ask(self, connection: Connection, question: Callable[[sqlite3.Connection], T]) -> T:
        """Run a question; a broken file or disk ends the daemon, whatever the question was."""
        try:
            return await connection.run(question)
        except sqlite3.DatabaseError as error:
            if not is_broken(error):
                raise
            fatal = fatal_error(error, self.path)
            self.writer.end(fatal)
            raise fatal from error

    async def watch_disk_space(self) -> None:
        """A root task: keeps the reserve whole, and the write-ahead log as small as the space on the disk asks for."""
        shrunk_at = time.monotonic()
        while True:
            await asyncio.sleep(DISK_LOOK_SECONDS)
            await asyncio.to_thread(self.disk_space.refill)
            if self.disk_space.spare_bytes() < 0:
                self.disk_space.free_inside_bytes = (await self.read(retention.file_size)).free_bytes
            due = self.disk_space.short() and time.monotonic() - shrunk_at >= SHRINK_SECONDS
            if due or self.writer.wal_limit_changed:
                shrunk_at = time.monotonic()
                await self.writer.shrink_wal()

    def size_bytes(self) -> int:
        """The database file's size, its write-ahead log apart."""
        return self.path.stat().st_size

    def wal_bytes(self) -> int:
        """The write-ahead log's size."""
        wal = self.path.with_name(self.path.name + "-wal")
        return wal.stat().st_size if wal.exists() else 0

    async def close(self) -> None:
        """Close the readers first: the last to close checkpoints, and only the writer may."""
        await self._delivery_reader.close()
        await self._reader.close()
        await self._search_reader.close()
        await self._connection.close()


def _copy(db: Db, target: Path) -> None:
    db.execute("PRAGMA query_only = OFF")  # it forbids VACUUM INTO as well, which only reads this database
    db.execute("VACUUM INTO ?", (str(target),)).fetchall()
