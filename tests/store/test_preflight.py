"""A database that is not fit: refused with a reason and a way out, and not a byte of any file changed."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.stores import accept, add_endpoint, add_workspace, open_store
from webhookd.errors import StoreFailed, StoreUnusable
from webhookd.store import connection
from webhookd.store.connection import open_reader, open_writer
from webhookd.store.store import Store

PAGE = 8192


async def make(folder: Path, *, killed: bool) -> Path:
    """A database with some events; with `killed`, as a kill leaves it: with its log and the index of it."""
    made = folder / "made"
    made.mkdir()
    async with open_store(made) as store:
        workspace = await add_workspace(store)
        await add_endpoint(store, workspace)
        await accept(store, workspace, *(f"e{number}" for number in range(200)), now_ms=0, body=b"x" * 3000)
        await store.writer.checkpoint()
        await accept(store, workspace, *(f"f{number}" for number in range(50)), now_ms=0, body=b"x" * 3000)
        copied = folder / "state"
        shutil.copytree(made, copied)
    if not killed:
        shutil.rmtree(copied)
        shutil.copytree(made, copied)
    assert killed is (copied / "webhookd.db-wal").exists()
    return copied / "webhookd.db"


def contents(path: Path) -> dict[str, bytes]:
    """Every file beside the database."""
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


def cut_to(size: int) -> Callable[[Path], None]:
    """Only the first bytes are left; a negative number: so many are missing."""

    def spoil(path: Path) -> None:
        os.truncate(path, size if size >= 0 else path.stat().st_size + size)

    return spoil


def overwritten(path: Path) -> None:
    """Rubbish in the middle."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // PAGE * PAGE)
        file.write(b"\xa5" * PAGE)


def schema_spoilt(path: Path) -> None:
    """Rubbish where the schema is."""
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xa5" * 4000)


def foreign(path: Path) -> None:
    """Another program's database."""
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE notes (text)")


def text(path: Path) -> None:
    """A text file."""
    path.write_text("this is not a database\n" * 100)


def newer(path: Path) -> None:
    """Written by a webhookd of the future."""
    with path.open("r+b") as file:
        file.seek(60)  # user_version
        file.write((999).to_bytes(4, "big"))


def newer_in_the_log(path: Path) -> None:
    """The same, killed before its checkpoint."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 999")
        db.commit()
        for suffix in ("", "-wal", "-shm"):
            shutil.copy(f"{path}{suffix}", f"{path}.kept{suffix}")
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}.kept{suffix}").rename(f"{path}{suffix}")


SPOILT = {
    "empty": (cut_to(0), "empty"),
    "50 bytes": (cut_to(50), "truncated"),
    "99 bytes": (cut_to(99), "truncated"),
    "100 bytes": (cut_to(100), "truncated|corrupt"),
    "one page": (cut_to(PAGE), "truncated|corrupt"),
    "half a page missing": (cut_to(-PAGE // 2), "truncated|corrupt"),
    "ten pages missing": (cut_to(-10 * PAGE), "truncated|corrupt"),
    "overwritten": (overwritten, "corrupt"),
    "schema spoilt": (schema_spoilt, "corrupt"),
    "foreign": (foreign, "another program"),
    "text": (text, "not a SQLite database"),
    "newer in the log": (newer_in_the_log, "newer webhookd"),
}


# Of a killed one the log has the first page anew, and makes it whole.
@pytest.mark.parametrize(
    ("name", "killed"),
    [(name, killed) for name in SPOILT for killed in (False, True) if (name, killed) != ("schema spoilt", True)],
)
async def test_what_is_not_fit_is_refused_and_left_as_it_is(
    name: str, killed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what is wrong and that nothing was touched; nor was it, -wal and -shm included."""
    monkeypatch.setattr(connection.preflight, "LOOK_AGAIN_SECONDS", 0.01)
    spoil, message = SPOILT[name]
    path = await make(tmp_path, killed=killed)
    (path.parent / "webhookd.db-reserve").write_bytes(bytes(100))
    spoil(path)
    before = contents(path)
    with pytest.raises(StoreUnusable, match=message) as refused:
        await open_writer(path)
    assert before == contents(path)
    assert "left as it is" in str(refused.value) or "was left" in str(refused.value)
    assert (
        "Restore a backup" in str(refused.value)
        or "Set store.path" in str(refused.value)
        or message == "newer webhookd"
    )
    assert 78 == refused.value.exit_code


async def test_a_newer_database_is_refused_by_its_header(tmp_path: Path) -> None:
    """Also where it was stopped cleanly."""
    path = await make(tmp_path, killed=False)
    newer(path)
    before = contents(path)
    with pytest.raises(StoreUnusable, match=r"schema 999.*Install the newer version again"):
        await open_writer(path)
    assert before == contents(path)


async def test_a_log_without_its_file_is_refused(tmp_path: Path) -> None:
    """SQLite would remove it, and with it what it holds."""
    path = await make(tmp_path, killed=True)
    path.unlink()
    before = contents(path)
    with pytest.raises(StoreUnusable, match=r"missing, but .*-wal beside it"):
        await open_writer(path)
    assert before == contents(path)


async def test_a_symbolic_link_is_refused_and_not_followed(tmp_path: Path) -> None:
    """It leads to a database, or nowhere yet."""
    path = await make(tmp_path, killed=False)
    (tmp_path / "links").mkdir()
    for name, target in (("whole.db", path), ("dangling.db", tmp_path / "nothing.db")):
        link = tmp_path / "links" / name
        link.symlink_to(target)
        with pytest.raises(StoreUnusable, match="symbolic link"):
            await open_writer(link)
    assert not (tmp_path / "nothing.db").exists()


@pytest.mark.parametrize("killed", [False, True])
async def test_what_is_fit_is_opened_with_all_that_is_in_its_log(killed: bool, tmp_path: Path) -> None:
    """The look before leaves no trace and no lock."""
    path = await make(tmp_path, killed=killed)
    store = await Store.open(path)
    try:
        assert [(250,)] == await store.read(lambda db: db.execute("SELECT count(*) FROM events").fetchall())
    finally:
        await store.close()


async def test_nothing_there_and_an_empty_file_of_a_first_start_are_begun(tmp_path: Path) -> None:
    """A kill at the very first moment leaves an empty file, and nothing beside it."""
    for name in ("none.db", "empty.db"):
        if name == "empty.db":
            (tmp_path / name).touch()
        connection, before, now = await open_writer(tmp_path / name)
        await connection.close()
        assert 0 == before < now


async def test_what_cant_be_opened_for_reading_closes_what_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails between two connections is a failed store, and no thread keeps the process alive."""
    monkeypatch.setattr(connection, "_READER_PRAGMAS", "SELECT * FROM nowhere;")
    with pytest.raises(StoreFailed):
        await open_reader(tmp_path / "webhookd.db")
    with pytest.raises(StoreFailed):
        await Store.open(tmp_path / "webhookd.db")
