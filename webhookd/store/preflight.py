"""Whether a file is a database that webhookd may open, found out without touching anything.

SQLite changes a file by opening it: a write-ahead log is rolled in at the close, its index is made anew.  So a file
that is not fit is looked at through SQLite's eyes, but with a connection that can't write, takes no locks and keeps the
index of the log in memory (the VFS `unix-none` and `locking_mode=EXCLUSIVE`).  The state directory's lock keeps other
daemons away; who replicates the file may write meanwhile, so what looks wrong is looked at twice.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from webhookd.errors import StoreUnusable

# About 0.1 s of checking.  Of a larger file the header, the length and the schema are looked at; a corrupt page in it
# ends the daemon, with the same exit code, when it is read.
CHECKED_BYTES = 64 * 1024 * 1024
LOOK_AGAIN_SECONDS = 0.5
JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
RECOVERY = "it was left as it is. Restore a backup (README, «Recovery»)"
_ANEW = "or move it away, with the files beside it, to start anew"


def examine(path: Path, application_id: int, newest_version: int) -> None:
    """Return if `path` is webhookd's own, whole and not newer than `newest_version`, or isn't there yet.

    Else StoreUnusable.  OSError and sqlite3.DatabaseError when it can't be read, or where SQLite has the words.
    """
    try:
        if _is_new(path) or _never_committed(path):
            return
        _refuse_foreign(path, application_id)
        if _bytes_of(path, "-journal"):
            return  # a first start was cut short, before the log is used: rolled back when the file is opened
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
    """Whether there is nothing yet.  Where there was something, an empty file is a loss, and nothing new begins."""
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
    """Whether the first transaction ever was cut off: SQLite will roll it back to an empty file (fileformat2, §3).

    Its journal tells: it begins with a magic number and, at 16, has the number of pages before the transaction.
    """
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
    # What the log holds may not be in the file yet.
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
