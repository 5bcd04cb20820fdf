"""Opening the database: whose it is, and whose eyes it is for."""

from __future__ import annotations

import asyncio
import importlib.resources
import shutil
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest

from webhookd.errors import StoreUnusable
from webhookd.store.connection import open_writer
from webhookd.store.store import Store


def test_each_migration_has_a_number_of_its_own() -> None:
    """They run in the order of their names, and the database counts them: two with one number would trade places."""
    folder = importlib.resources.files("webhookd.store") / "migrations"
    numbers = sorted(each.name.partition("_")[0] for each in folder.iterdir() if each.name.endswith(".sql"))
    assert [f"{number:04}" for number in range(1, len(numbers) + 1)] == numbers


async def test_a_restored_copy_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Signing keys are in it: a copy that everybody may read is tightened before SQLite makes its side files."""
    path = tmp_path / "webhookd.db"
    for mode in (0o600, 0o644):
        if path.exists():
            path.chmod(mode)
        connection, _, _ = await open_writer(path)
        try:
            modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
        finally:
            await connection.close()
        assert {"webhookd.db": 0o600, "webhookd.db-shm": 0o600, "webhookd.db-wal": 0o600} == modes


def interrupted(folder: Path, *, before: str = "") -> Path:
    """A database whose transaction was cut off when some of it was in the file: `before` was committed earlier."""
    origin, copy = folder / "origin.db", folder / "webhookd.db"
    with closing(sqlite3.connect(origin, isolation_level=None)) as db:
        db.executescript(before)
        db.executescript("PRAGMA cache_size = 1; BEGIN; CREATE TABLE cut (off TEXT)")
        for _ in range(200):
            db.execute("INSERT INTO cut VALUES (?)", ("x" * 4000,))
        for suffix in ("", "-journal"):
            shutil.copy(f"{origin}{suffix}", f"{copy}{suffix}")
        db.execute("ROLLBACK")
    return copy


async def test_a_first_start_that_was_cut_off_begins_anew(tmp_path: Path) -> None:
    """Nothing was ever committed to the file: it is no other program's, whatever its first page says."""
    path = interrupted(tmp_path)
    assert path.stat().st_size > 0
    connection, before, now = await open_writer(path)
    await connection.close()
    assert before == 0 < now


async def test_a_foreign_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    """Another program committed something before: the file and its journal stay as they are."""
    path = interrupted(tmp_path, before="CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)")
    found = [path.read_bytes(), path.with_name("webhookd.db-journal").read_bytes()]
    with pytest.raises(StoreUnusable, match="another program"):
        await open_writer(path)
    assert found == [path.read_bytes(), path.with_name("webhookd.db-journal").read_bytes()]


def test_migrations_are_numbered_without_gap_or_repetition() -> None:
    """The database's version is a migration's place: two of one number would take each other's."""
    folder = importlib.resources.files("webhookd.store") / "migrations"
    numbers = sorted(int(file.name[:4]) for file in folder.iterdir() if file.name.endswith(".sql"))
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.slow
async def test_opening_can_be_cancelled_at_any_moment(tmp_path: Path) -> None:
    """A machine that leaves while it takes a partition over: a connection left open would hang the process's exit."""
    await (await Store.open(tmp_path / "webhookd.db")).close()
    before = set(threading.enumerate())
    for step in range(40):
        opening = asyncio.ensure_future(Store.open(tmp_path / "webhookd.db"))
        for _ in range(step):
            await asyncio.sleep(0.0005)
        opening.cancel()
        with suppress(asyncio.CancelledError):
            await (await opening).close()
    async with asyncio.timeout(5):
        while [each for each in threading.enumerate() if each not in before and "asyncio" not in each.name]:
            await asyncio.sleep(0.01)
