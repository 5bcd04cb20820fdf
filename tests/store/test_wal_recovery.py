"""Frames of the write-ahead log that no sync has followed are found, written again and synced."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from webhookd.store.preflight import recover_wal

HEADER_BYTES = 32
FRAME_BYTES = 24 + 8192
READING = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('SELECT * FROM kept'); print(); input()"


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "live.db", isolation_level=None)) as db:
        db.executescript("PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE kept (text TEXT)")
        yield db


def commit(db: sqlite3.Connection, text: str) -> None:
    db.execute("INSERT INTO kept VALUES (?)", (text,))


def copy_left(tmp_path: Path, *suffixes: str) -> Path:
    for suffix in suffixes:
        shutil.copy(tmp_path / f"live.db{suffix}", tmp_path / f"left.db{suffix}")
    return tmp_path / "left.db"


def contents(path: Path) -> bytes:
    return path.with_name(f"{path.name}-wal").read_bytes()


def test_only_what_came_after_the_last_sync_is_written_again(writer: sqlite3.Connection, tmp_path: Path) -> None:
    """The index, as it was before the last two commits, doesn't count their frames; the bytes stay the same."""
    commit(writer, "synced")
    copy_left(tmp_path, "", "-shm")
    commit(writer, "in doubt")
    commit(writer, "as well")
    path = copy_left(tmp_path, "-wal")
    before = contents(path)
    assert 2 * FRAME_BYTES == recover_wal(path)
    assert before == contents(path)


def test_nothing_is_written_while_another_program_has_it_open(writer: sqlite3.Connection, tmp_path: Path) -> None:
    """It may be writing just there; who opens the database beside it makes no new index, and reads no such frame."""
    copy_left(tmp_path, "", "-shm")
    commit(writer, "in doubt")
    path = copy_left(tmp_path, "-wal")
    index = path.with_name("left.db-shm")
    with subprocess.Popen(
        [sys.executable, "-u", "-c", READING, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        index.write_bytes(bytes(index.stat().st_size))  # as if it counted nothing
        assert 0 == recover_wal(path)
        other.communicate(b"\n")


def test_nothing_is_written_where_all_was_synced(writer: sqlite3.Connection, tmp_path: Path) -> None:
    """After a kill at rest, after an orderly end, and where there was nothing yet."""
    commit(writer, "synced")
    assert 0 == recover_wal(copy_left(tmp_path, "", "-wal", "-shm"))
    writer.close()
    assert 0 == recover_wal(tmp_path / "live.db")
    assert 0 == recover_wal(tmp_path / "new.db")


@pytest.mark.parametrize("fault", ["missing", "torn", "short"])
def test_without_its_index_the_whole_log_is_in_doubt(writer: sqlite3.Connection, tmp_path: Path, fault: str) -> None:
    """An index that is gone, or was being written, tells nothing."""
    commit(writer, "synced")
    path = copy_left(tmp_path, "", "-wal", "-shm")
    index = path.with_name("left.db-shm")
    if fault == "missing":
        index.unlink()
    else:
        whole = bytearray(index.read_bytes())
        whole[16] += 1
        index.write_bytes(whole[:10] if fault == "short" else whole)
    assert len(contents(path)) == recover_wal(path)


def test_a_log_that_began_anew_is_in_doubt_from_its_header_on(writer: sqlite3.Connection, tmp_path: Path) -> None:
    """Frames of its former time that it hasn't overwritten yet are left alone, and the index of then doesn't count."""
    for number in range(5):
        commit(writer, f"former {number}")
    copy_left(tmp_path, "-shm")
    writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
    commit(writer, "anew")
    path = copy_left(tmp_path, "", "-wal")
    assert len(contents(path)) > HEADER_BYTES + FRAME_BYTES
    assert HEADER_BYTES + FRAME_BYTES == recover_wal(path)


def test_a_frame_that_was_cut_off_is_no_trouble(writer: sqlite3.Connection, tmp_path: Path) -> None:
    """SQLite ignores it; what there is of it is written again."""
    copy_left(tmp_path, "", "-shm")
    commit(writer, "cut off")
    path = copy_left(tmp_path, "-wal")
    log = path.with_name("left.db-wal")
    log.write_bytes(contents(path)[:-100])
    assert FRAME_BYTES - 100 == recover_wal(path)
    for nothing in (contents(path)[:20], bytes(100)):
        log.write_bytes(nothing)
        assert 0 == recover_wal(path)
