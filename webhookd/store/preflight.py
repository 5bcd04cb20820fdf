"""Before the database is opened: whether webhookd may open the file (`examine`), and WAL recovery (`recover_wal`).

SQLite changes a file by opening it.  So `examine` uses a connection that can't write, takes no locks and keeps the
index of the WAL in memory (the VFS `unix-none` and `locking_mode=EXCLUSIVE`).

A commit writes its frames into the WAL and then syncs them.  After a kill between the two, or a failed sync, frames may
be in the kernel's memory alone: the next daemon would read them, answer "duplicate", and lose them when the power
fails.  After a failed sync Linux reports the next one as successful without writing, so the frames are written again.
The log's index (`-shm`) counts a commit only after its sync, until SQLite opens the database and makes it anew.  The
formats: https://sqlite.org/walformat.html and fileformat2.html#walformat.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from webhookd.errors import StoreUnusable

# About 0.1 s of checking.  Of a larger file the header, the length and the schema are looked at; a corrupt page in it
# ends the daemon, with the same exit code, when it is read.
CHECKED_BYTES = 64 * 1024 * 1024
LOOK_AGAIN_SECONDS = 0.5
JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
RECOVERY = "it was left as it is. Restore a backup (webhookd help recovery)"
_ANEW = "or move it away, with the files beside it, to start anew"

LOG_HEADER_BYTES = 32
LOG_MAGIC = bytes.fromhex("377f06")
FRAME_HEADER_BYTES = 24
INDEX_HEADER_BYTES = 48  # there are two of them, the same unless it was being written
# Who has the database open holds a shared lock on this byte of the index; the first to open it, an exclusive one.
OPEN_LOCK_AT = 128
PIECE_BYTES = 1024 * 1024


def examine(path: Path, application_id: int, newest_version: int) -> None:
    """Return if `path` is webhookd's own, whole and not newer than `newest_version`, or isn't there yet.

    Else StoreUnusable; OSError and sqlite3.DatabaseError when it can't be read.
    """
    if path.is_symlink():
        # SQLite keeps the log beside the file itself, where nothing here looks.
        raise StoreUnusable(f"{path} is a symbolic link. Set store.path to the file that it leads to.")
    try:
        if _is_new(path) or _never_committed(path):
            return
        _refuse_foreign(path, application_id)
        if _bytes_of(path, "-journal"):
            return  # a first start was cut short, before the WAL is used: rolled back when the file is opened
    except PermissionError as error:
        raise StoreUnusable(f"{path} can't be read: {error.strerror}. Give it to webhookd's own user.") from error
    try:
        _look_inside(path, newest_version)
    except (sqlite3.DatabaseError, StoreUnusable):
        time.sleep(LOOK_AGAIN_SECONDS)
        _look_inside(path, newest_version)


def _bytes_of(path: Path, suffix: str) -> int:
    file = path.with_name(path.name + suffix)
    return file.stat().st_size if file.exists() else 0


def _is_new(path: Path) -> bool:
    """Whether there is nothing yet; StoreUnusable where there was something, because an empty file is a loss then."""
    if path.exists() and path.stat().st_size:
        return False
    log_bytes = _bytes_of(path, "-wal")
    if log_bytes:
        raise StoreUnusable(
            f"{path} is {'empty' if path.exists() else 'missing'}, but {path.name}-wal beside it has {log_bytes} bytes "
            f"that belong to it; {RECOVERY}, {_ANEW}."
        )
    if path.exists() and path.with_name(path.name + "-reserve").exists():
        raise StoreUnusable(f"{path} is empty, and was not before; {RECOVERY}, {_ANEW}.")
    return True


def _never_committed(path: Path) -> bool:
    """Whether the first transaction was cut off: the journal's count of pages, at 16, is 0 (fileformat2.html, §3)."""
    try:
        with path.with_name(f"{path.name}-journal").open("rb") as file:
            head = file.read(20)
    except FileNotFoundError:
        return False
    return len(head) == 20 and head.startswith(JOURNAL_MAGIC) and head[16:] == bytes(4)


def _refuse_foreign(path: Path, application_id: int) -> None:
    """Look at the header: opening a foreign file with SQLite may already change it."""
    with path.open("rb") as file:
        head = file.read(100)
    if len(head) < 100 or not head.startswith(b"SQLite format 3\0"):
        raise StoreUnusable(f"{path} is not a SQLite database, or a truncated one; {RECOVERY}, {_ANEW}.")
    found_id = int.from_bytes(head[68:72], "big")
    if found_id != application_id:
        raise StoreUnusable(
            f"{path} is a database of another program (application_id {found_id:#x}); it was left as it is. "
            "Set store.path to a file of webhookd's own."
        )
    expected_bytes = _page_bytes(head) * int.from_bytes(head[28:32], "big")
    # What the WAL holds may not be in the file yet.
    if path.stat().st_size + _bytes_of(path, "-wal") < expected_bytes:
        raise StoreUnusable(f"{path} is truncated ({path.stat().st_size} of {expected_bytes} bytes); {RECOVERY}.")


def _page_bytes(head: bytes) -> int:
    size = int.from_bytes(head[16:18], "big")
    return 65536 if size == 1 else size


def _look_inside(path: Path, newest_version: int) -> None:
    uri = f"{path.absolute().as_uri()}?mode=ro&vfs=unix-none"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > newest_version:
            raise StoreUnusable(
                f"{path} was written by a newer webhookd (schema {version}, this program knows {newest_version}); "
                "it was left as it is. Install the newer version again, or restore the backup made before the upgrade."
            )
        pages, page_bytes = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        if version and pages * page_bytes <= CHECKED_BYTES:
            problem = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise StoreUnusable(f"{path} is corrupt ({problem}); {RECOVERY}.")


def recover_wal(path: Path) -> int:
    """Write again and sync what the WAL of the database at `path` holds beyond its last sync; how many bytes.

    Call it before SQLite opens the database in this process, whose locks it would end.  Where another program (one that
    replicates the file) has it open, the index stays, without those frames, and nothing is done.  OSError when the disk
    fails.
    """
    log, index = (path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm"))
    if not log.exists():
        return 0
    with _opened(index, os.O_RDWR | os.O_CREAT) as index_file:
        try:
            fcntl.lockf(index_file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, OPEN_LOCK_AT)
        except BlockingIOError:
            return 0
        with _opened(log, os.O_RDWR) as file:
            begin, end = _doubtful(file, os.pread(index_file, 2 * INDEX_HEADER_BYTES, 0))
            if begin < end:
                _write_again(file, begin, end)
                with _opened(path.parent, os.O_RDONLY) as directory:  # the WAL may be new
                    os.fsync(directory)
    return end - begin


def _doubtful(file: int, index: bytes) -> tuple[int, int]:
    """From where to where the frames reach that belong to the WAL and aren't counted in its index."""
    header = os.pread(file, LOG_HEADER_BYTES, 0)
    if len(header) < LOG_HEADER_BYTES or not header.startswith(LOG_MAGIC):
        return 0, 0  # SQLite doesn't read it either
    salts = header[16:24]  # a frame with others is of an earlier time, and only hasn't been overwritten yet
    frame_bytes = FRAME_HEADER_BYTES + int.from_bytes(header[8:12], "big")
    synced = _synced_frames(index, salts)
    begin = end = LOG_HEADER_BYTES + synced * frame_bytes
    while os.pread(file, FRAME_HEADER_BYTES, end)[8:16] == salts:
        end += frame_bytes
    if end == begin:
        return 0, 0
    return (begin if synced else 0), min(end, os.fstat(file).st_size)


def _synced_frames(index: bytes, salts: bytes) -> int:
    """How many frames of the WAL with these salts are certainly on the disk."""
    header = index[:INDEX_HEADER_BYTES]
    if header != index[INDEX_HEADER_BYTES:] or header[32:40] != salts:
        return 0
    return int.from_bytes(header[16:20], sys.byteorder)


def _write_again(file: int, begin: int, end: int) -> None:
    for offset in range(begin, end, PIECE_BYTES):
        _write(file, os.pread(file, min(PIECE_BYTES, end - offset), offset), offset)
    os.fdatasync(file)


def _write(file: int, piece: bytes, offset: int) -> None:
    while piece:
        written = os.pwrite(file, piece, offset)
        piece, offset = piece[written:], offset + written


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
