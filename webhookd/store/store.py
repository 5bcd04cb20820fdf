"""The store as the rest of webhookd uses it: commands go to the one writer, questions to readers of their own."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from webhookd import log
from webhookd.errors import ApiError, StoreUnusable
from webhookd.rules.encryption import PLAIN, Cipher
from webhookd.store import deliveries, endpoints, events, retention, time_index
from webhookd.store.batch import BatchStatement
from webhookd.store.connection import (
    Connection,
    Late,
    QuestionStopped,
    Reader,
    WalIndex,
    fatal_error,
    is_broken,
    open_reader,
    open_stoppable,
    open_writer,
)
from webhookd.store.disk_space import DiskSpace
from webhookd.store.time_index import TimeIndex
from webhookd.store.writer import Writer
from webhookd.tasks import KeyedLocks

T = TypeVar("T")

DISK_LOOK_SECONDS = 1.0
ENCRYPTED_AT_ONCE = 100
# While the disk is short: the file shrinks with a checkpoint that no reader was in the way of.
SHRINK_SECONDS = 5.0

# How long a search of the log may take: alone, and while another workspace waits.
SEARCH_SECONDS = 0.06
SHARED_SEARCH_SECONDS = 0.04
# After so long any question of a caller is stopped, unless it has ended by itself.
LONGEST_SECONDS = 5.0
# The page cache of the readers that ask for little.
SMALL_CACHE_KIB = 2000

# What a command or a question is given: passed on to the store's functions, never used by others itself.
Db = sqlite3.Connection
SQLITE_VERSION = sqlite3.sqlite_version
BATCH = BatchStatement([events.ACCEPT, deliveries.RECORD_SUCCESS])


@dataclass(frozen=True, slots=True)
class Readers:
    """The connections that only read, each with a thread: no kind of question waits for one of another kind.

    Figures of what each costs are in manual/decisions.md.
    """

    delivery: Connection
    upkeep: Connection
    sign_in: Connection
    status: Reader
    search: Reader

    @classmethod
    async def open(cls, path: Path, cipher: Cipher) -> Readers:
        """Open all of them, or none."""
        opened: list[Connection | Reader] = []
        try:
            opened += [delivery := await open_reader(path, cipher)]
            opened += [upkeep := await open_reader(path, cipher, SMALL_CACHE_KIB)]
            opened += [sign_in := await open_reader(path, cipher, SMALL_CACHE_KIB)]
            opened += [status := await open_stoppable(path, cipher, SMALL_CACHE_KIB)]
            return cls(delivery, upkeep, sign_in, status, await open_stoppable(path, cipher))
        except BaseException:
            for each in opened:
                await each.close()
            raise

    async def close(self) -> None:
        """Close all of them."""
        for each in (self.delivery, self.upkeep, self.sign_in, self.status, self.search):
            await each.close()


class Store:
    """The open database.  `writer.run` has to run for commands to be carried out."""

    def __init__(
        self,
        path: Path,
        disk_space: DiskSpace,
        connection: Connection,
        readers: Readers,
        wal_index: WalIndex,
        newest_ms: int,
        cipher: Cipher,
    ) -> None:
        self.path = path
        self.encrypted = bool(cipher.name)
        self.disk_space = disk_space
        self._connection = connection
        self._readers = readers
        self._searches = KeyedLocks()
        self._time_index = TimeIndex(newest_ms)
        self._wal_index = wal_index
        self.writer = Writer(connection, BATCH, disk_space, wal_index)
        self.write = self.writer.write

    @classmethod
    async def open(cls, path: Path, min_free_mb: float = 0, cipher: Cipher = PLAIN) -> Store:
        """Open or make the database at `path`, keeping `min_free_mb` of its disk and its secrets by `cipher`.

        StoreUnusable when it is not fit, or has secrets of another key.
        """
        began = time.monotonic()
        disk_space = DiskSpace(path, min_free_mb)
        disk_space.prepare()
        connection, before, now = await open_writer(path, cipher)
        readers: Readers | None = None
        try:
            await _encrypt(connection, path, cipher)
            newest_ms = await connection.run(time_index.newest_ms)
            await connection.run(BATCH.prepare)
            readers = await Readers.open(path, cipher)
            wal_index = await connection.run(lambda db: WalIndex(path, db.execute("PRAGMA page_size").fetchone()[0]))
        except BaseException:
            if readers is not None:
                await readers.close()
            await connection.close()
            raise
        disk_space.acquire()
        store = cls(path, disk_space, connection, readers, wal_index, newest_ms, cipher)
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

        # What was dated before the step has to be there before it, whichever workspace has its turn.
        return await self.write(
            run_after_step, on_commit=step_committed, retry_when_full=retry_when_full, in_order=True, size=size
        )

    async def read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Run a question of the upkeep (mail, held events, retention); it sees everything committed before."""
        return await self._ask(self._readers.upkeep.run(question))

    async def read_for_delivery(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Run a question of the delivery itself."""
        return await self._ask(self._readers.delivery.run(question))

    async def read_for_sign_in(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Run a question about tokens and sessions, which every call of the page waits for."""
        return await self._ask(self._readers.sign_in.run(question))

    async def read_status(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Run a question about endpoints as they are now, for the metrics too.  ApiError `unavailable` after 5 s."""
        return await self._ask(self._readers.status.ask(lambda db, _: question(db), LONGEST_SECONDS, LONGEST_SECONDS))

    async def search(
        self,
        workspace_seq: int | None,
        question: Callable[[sqlite3.Connection, Late], T],
        *,
        seconds: float = SEARCH_SECONDS,
    ) -> T:
        """Run a question about a workspace's log (None: about all of webhookd), one at a time for each workspace.

        When it is `Late`, after `seconds`, earlier while another workspace waits, it should end with what it has found.
        A caller that is cancelled ends it.  ApiError `unavailable` after 5 s.
        """
        async with self._searches.of(str(workspace_seq)):

            def shared(db: sqlite3.Connection, late: Late) -> T:
                shared_until = time.monotonic() + SHARED_SEARCH_SECONDS
                return question(db, lambda: late() or (len(self._searches) > 1 and time.monotonic() > shared_until))

            return await self._ask(self._readers.search.ask(shared, seconds, LONGEST_SECONDS))

    async def backup(self, target: Path) -> None:
        """Write a consistent copy to `target` (a file that isn't there or is empty), while everything goes on."""
        # A reader of its own: a copy takes seconds, and no question should wait for it.
        connection = await open_reader(self.path)
        try:
            await self._ask(connection.run(lambda db: _copy(db, target)))
        finally:
            await connection.close()

    async def _ask(self, answer: Awaitable[T]) -> T:
        """Wait for an answer; a broken file or disk ends the daemon, whatever the question was."""
        try:
            return await answer
        except QuestionStopped:
            raise ApiError(
                "unavailable",
                f"This took longer than {LONGEST_SECONDS:g} s and was stopped. Ask for less: a smaller limit, "
                "one endpoint, since and until.",
                retry_after_seconds=1,
            ) from None
        except sqlite3.DatabaseError as error:
            if not is_broken(error):
                raise
            fatal = fatal_error(error, self.path)
            self.writer.end(fatal)
            raise fatal from error

    async def watch_disk_space(self) -> None:
        """A root task: keeps the reserve whole, and the write-ahead log small while the space on the disk is short."""
        shrunk_at = time.monotonic()
        while True:
            await asyncio.sleep(DISK_LOOK_SECONDS)
            if not self.disk_space.is_whole():
                await asyncio.to_thread(self.disk_space.refill)
            if self.disk_space.spare_bytes() < 0:
                self.disk_space.free_inside_bytes = (await self.read(retention.file_size)).free_bytes
            due = self.disk_space.short() and time.monotonic() - shrunk_at >= SHRINK_SECONDS
            if due:
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
        await self._readers.close()
        await self._connection.close()
        self._wal_index.close()


async def _encrypt(connection: Connection, path: Path, cipher: Cipher) -> None:
    """Bring every secret to the present key, in small steps; StoreUnusable if one has a key that isn't there."""
    names = await connection.run(endpoints.encrypting_keys)
    missing = names - cipher.names - cipher.lost - {""}
    if missing:
        raise StoreUnusable(
            f"{path} has signing keys and header values that are encrypted by the database key "
            f"{' and '.join(sorted(missing))}, and the keys given are {' and '.join(sorted(cipher.names)) or 'none'}. "
            "Give that key as well, in the credential database-key or in store.key_file, on a line after the present "
            "one; if it is lost, see webhookd help security."
        )
    if names <= {cipher.name} | cipher.lost:
        return
    try:
        # Overwritten, and not only unlinked: what was plain would stay readable in the file and its log.
        await connection.run(lambda db: db.execute("PRAGMA secure_delete = ON").fetchall())
        seq = await connection.run(partial(endpoints.renew_encryption, after_seq=0, limit=ENCRYPTED_AT_ONCE))
        while seq:
            seq = await connection.run(partial(endpoints.renew_encryption, after_seq=seq, limit=ENCRYPTED_AT_ONCE))
        await connection.run(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        await connection.run(lambda db: db.execute("PRAGMA secure_delete = OFF").fetchall())
    except sqlite3.DatabaseError as error:
        raise fatal_error(error, path) from error
    log.emit("store.encrypted", path=str(path), key=cipher.name or None)


def _copy(db: Db, target: Path) -> None:
    db.execute("PRAGMA query_only = OFF")  # it forbids VACUUM INTO as well, which only reads this database
    db.execute("VACUUM INTO ?", (str(target),)).fetchall()
