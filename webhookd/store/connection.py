"""Open the database: the lock, the pragmas, the migrations, and what SQLite's errors mean here.

Each pragma is a measured choice: only `synchronous=FULL` survives power loss in WAL mode; checkpoints are the writer's
(`writer.Writer`), never a part of a commit.  One connection writes and checkpoints, because SQLite before 3.51.3 can
corrupt a WAL when two do; readers are `query_only`.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import importlib.resources
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from webhookd.errors import AlreadyRunning, FatalError, StoreFailed, StoreUnusable
from webhookd.rules.encryption import PLAIN, Cipher, key_name
from webhookd.rules.filters import wants
from webhookd.rules.ordering import lane_hash
from webhookd.store import preflight

T = TypeVar("T")
# Whether a question should end with what it has found.
Late = Callable[[], bool]

APPLICATION_ID = 0x77686B64  # "whkd" in the header, where `file` and a careful opener look
LOCK_WAIT_SECONDS = 5.0

_PRAGMAS = """
PRAGMA busy_timeout = 5000;
PRAGMA foreign_keys = ON;
PRAGMA mmap_size = 0;
PRAGMA cache_size = -{cache_kib};
PRAGMA temp_store = MEMORY;
"""
_WRITER_PRAGMAS = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA wal_autocheckpoint = 0;
PRAGMA journal_size_limit = 16777216;
"""
PAGE_BYTES = 4096  # of a new database; an older one may have 8192
CACHE_KIB = 8000
# Steps of SQLite's machine between two looks whether to stop, each of which needs the interpreter's lock: some 5 ms.
_STEPS_BETWEEN_LOOKS = 500_000
_LOOK = "Look at the disk and the kernel's log."
_READER_PRAGMAS = """
PRAGMA query_only = ON;
PRAGMA wal_autocheckpoint = 0;
"""


class Connection:
    """An aiosqlite connection that runs whole functions on its thread: a hop there costs more than most statements."""

    def __init__(self, raw: aiosqlite.Connection) -> None:
        self._raw = raw

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run `function` on the connection's own thread and return its result; its exceptions pass through."""
        # aiosqlite has no public call that takes a function.  All its public ones call this private one; pyproject.toml
        # pins aiosqlite below the next minor version for it, and nothing else here uses a private part.
        result: T = await self._raw._execute(function, self._raw._conn)  # type: ignore[no-untyped-call]
        return result

    async def close(self) -> None:
        """Close it; an unclosed connection's thread would hang the exit of the process."""
        await self._raw.close()


class Reader:
    """A connection that only reads, on which each question has its time and ends when its caller has gone."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.close = connection.close

    async def ask(self, question: Callable[[sqlite3.Connection, Late], T], seconds: float, longest_seconds: float) -> T:
        """Run a question, which is `late` after `seconds`; after `longest_seconds` it is stopped, with QuestionStopped.

        Its time begins when those before it are done.  Cancelling the caller stops it too.
        """
        gone = False

        def run(db: sqlite3.Connection) -> T:
            assert isinstance(db, _Stoppable)
            began = time.monotonic()
            db.stops = lambda: gone or time.monotonic() - began > longest_seconds
            try:
                return question(db, lambda: gone or time.monotonic() - began > seconds)
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorname", None) == "SQLITE_INTERRUPT":
                    raise QuestionStopped from error
                raise
            finally:
                db.stops = _never
                if db.in_transaction:  # it was stopped within a snapshot
                    db.rollback()

        try:
            return await self._connection.run(run)
        except asyncio.CancelledError:
            gone = True
            raise


class QuestionStopped(Exception):
    """A question took too long, or its caller has gone."""


class _Stoppable(sqlite3.Connection):
    """Asks before each statement, and now and then within one, whether to stop."""

    stops: Callable[[], bool]

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        """QuestionStopped once it `stops`."""
        if self.stops():
            raise QuestionStopped
        return super().execute(*arguments)


def _never() -> bool:
    return False


class WalIndex:
    """How much of the write-ahead log isn't in the file yet: its index (`-shm`) counts it (sqlite.org/walformat.html).

    To be closed after every connection: closing the descriptor would end the locks that SQLite has on that file.
    """

    def __init__(self, path: Path, page_bytes: int) -> None:
        self._page_bytes = page_bytes
        self._fd = os.open(path.with_name(f"{path.name}-shm"), os.O_RDONLY | os.O_CLOEXEC)

    def pending_bytes(self) -> int:
        """The pages that a checkpoint has yet to carry over, in bytes; takes 2 µs."""
        header = os.pread(self._fd, 100, 0)
        frames, carried = (int.from_bytes(header[at : at + 4], sys.byteorder) for at in (16, 96))
        return (frames - carried) * self._page_bytes

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


class StateLock:
    """One daemon per state directory: an `flock` on a file that holds the daemon's pid."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "lock"
        self._fd: int | None = None

    async def acquire(self, wait_seconds: float = LOCK_WAIT_SECONDS) -> None:
        """Take the lock, waiting up to `wait_seconds` for a daemon that is just stopping; else AlreadyRunning."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = asyncio.get_running_loop().time() + wait_seconds
        while not _try_lock(fd):
            if asyncio.get_running_loop().time() >= deadline:
                pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(fd)
                raise AlreadyRunning(
                    f"another webhookd (pid {pid}) uses {self._path.parent}; "
                    "stop it, or give this one its own --state-dir"
                )
            await asyncio.sleep(0.05)
        with suppress(OSError):  # only for people to read, and the disk may be full
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Let the next daemon in."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def open_writer(path: Path, cipher: Cipher = PLAIN) -> tuple[Connection, int, int]:
    """Open the database for the one writer, made or migrated as needed; with the schema's version before and now.

    Raises StoreUnusable, with every file left as it was, when it is corrupt, not webhookd's or newer than this program;
    StoreFailed when the disk fails.
    """
    try:
        await asyncio.to_thread(preflight.examine, path, APPLICATION_ID, len(_migrations()))
        _tighten(path)
        await asyncio.to_thread(preflight.recover_wal, path)
    except sqlite3.DatabaseError as error:
        raise fatal_error(error, path) from error
    except OSError as error:
        raise StoreFailed(f"{path} can't be opened: {error.strerror}. {_LOOK}") from error
    connection, (before, now) = await _connect(path, cipher, _prepare)
    return connection, before, now


async def open_reader(path: Path, cipher: Cipher = PLAIN, cache_kib: int = CACHE_KIB) -> Connection:
    """Open the database for reading only; it never checkpoints."""
    pragmas = _PRAGMAS.format(cache_kib=cache_kib) + _READER_PRAGMAS
    connection, _ = await _connect(path, cipher, lambda db: db.executescript(pragmas))
    return connection


async def open_stoppable(path: Path, cipher: Cipher = PLAIN, cache_kib: int = CACHE_KIB) -> Reader:
    """`open_reader` for questions that others wait behind: each can be stopped."""

    def begin(db: sqlite3.Connection) -> None:
        assert isinstance(db, _Stoppable)
        db.stops = _never
        db.executescript(_PRAGMAS.format(cache_kib=cache_kib) + _READER_PRAGMAS)
        db.set_progress_handler(lambda: db.stops(), _STEPS_BETWEEN_LOOKS)

    connection, _ = await _connect(path, cipher, begin, factory=_Stoppable)
    return Reader(connection)


def add_functions(db: sqlite3.Connection, cipher: Cipher) -> None:
    """Let statements encrypt and decrypt, find the hash of an event's key, and hold an event against filters."""
    for name, function in (("encrypted", cipher.encrypt), ("decrypted", cipher.decrypt), ("renewed", cipher.renew)):
        db.create_function(name, 2, function)
    db.create_function("key_name", 1, key_name)
    db.create_function("lane_hash", 2, lane_hash, deterministic=True)
    db.create_function("wants", 3, wants, deterministic=True)


async def _connect(
    path: Path,
    cipher: Cipher,
    begin: Callable[[sqlite3.Connection], T],
    factory: type[sqlite3.Connection] = sqlite3.Connection,
) -> tuple[Connection, T]:
    """Connect, with the functions of `cipher` for the statements, and run `begin`.

    Where SQLite fails, the connection is closed and the error becomes a FatalError.
    """

    def prepare(db: sqlite3.Connection) -> T:
        add_functions(db, cipher)
        return begin(db)

    try:
        raw = await aiosqlite.connect(path, isolation_level=None, cached_statements=256, factory=factory)
        connection = Connection(raw)
    except sqlite3.DatabaseError as error:
        raise fatal_error(error, path) from error
    try:
        return connection, await connection.run(prepare)
    except BaseException as error:  # cancelled as well: an open connection's thread would hang the exit
        await connection.close()
        if isinstance(error, sqlite3.DatabaseError):
            raise fatal_error(error, path) from error
        raise


def _tighten(path: Path) -> None:
    """Owner only, from the first byte on, also a restored copy: signing keys are in it.  Side files take its mode."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        with suppress(FileNotFoundError, PermissionError):  # another's file: it is theirs to protect
            if file.stat().st_mode & 0o077:
                file.chmod(0o600)


def _prepare(db: sqlite3.Connection) -> tuple[int, int]:
    db.executescript(_PRAGMAS.format(cache_kib=CACHE_KIB))
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    newest = len(_migrations())
    if version == 0:
        # Only before the first table do these take effect.  One transaction, so that no kill leaves a file without our
        # application_id; deferred, because the first page must not be made before `auto_vacuum` is set.
        db.executescript(
            f"PRAGMA page_size = {PAGE_BYTES}; BEGIN; PRAGMA auto_vacuum = INCREMENTAL; "
            f"PRAGMA application_id = {APPLICATION_ID}; COMMIT;",
        )
    db.executescript(_WRITER_PRAGMAS)
    for number, script in enumerate(_migrations()[version:], start=version + 1):
        db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")
    return version, newest


@functools.cache
def _migrations() -> tuple[str, ...]:
    folder = importlib.resources.files("webhookd.store") / "migrations"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return tuple(file.read_text("utf-8") for file in files)


def fatal_error(error: sqlite3.Error, path: Path | str = "the database") -> FatalError:
    """What a SQLite error means for the daemon: a corrupt file exits 78; after any other a new start may help."""
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreUnusable(f"{path} is corrupt ({error}, {name}); {preflight.RECOVERY}.")
    return StoreFailed(f"{path} failed: {error} ({name}). {_LOOK}")


def is_broken(error: sqlite3.Error) -> bool:
    """Whether the file is corrupt or its disk fails; a lack of memory is neither."""
    name = getattr(error, "sqlite_errorname", None) or ""
    return name != "SQLITE_IOERR_NOMEM" and name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR"))


def is_full(error: sqlite3.Error) -> bool:
    """Whether the disk is full: reads still work, and it passes."""
    return (getattr(error, "sqlite_errorname", None) or "").startswith("SQLITE_FULL")


def may_be_full(error: sqlite3.Error) -> bool:
    """Whether SQLite raises it for a full quota too; `DiskSpace.exhausted` tells that from a broken disk."""
    return (getattr(error, "sqlite_errorname", None) or "") in ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE")


def checkpoint(db: sqlite3.Connection) -> None:
    """Carry what the write-ahead log holds over into the file, as far as no reader is in the way."""
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def concerns_command_only(error: sqlite3.Error) -> bool:
    """Whether the fault lies in the one statement (a constraint, a wrong type), not in the file or the disk."""
    name = getattr(error, "sqlite_errorname", None) or "SQLITE_ERROR"  # raised by the module itself: wrong use
    return name.startswith(("SQLITE_ERROR", "SQLITE_CONSTRAINT", "SQLITE_TOOBIG", "SQLITE_MISMATCH", "SQLITE_RANGE"))
