"""The writer: its checkpoints, apart from every transaction, in their turn; how long transactions took; no memory."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable

import pytest

from tests.support.stores import accept, add_workspace
from webhookd.errors import ApiError
from webhookd.store import disk_space, retention, writer
from webhookd.store.store import Store

BODY = b'{"event_type":"message.sent","x":"' + b"x" * 20_000 + b'"}'


async def test_an_empty_transaction_is_no_sign_of_space(store: Store) -> None:
    """It goes through on a full disk, as the heartbeat's does: only a command that wrote something ends `full`."""
    store.writer.full = True
    await store.writer.answer()
    assert store.writer.full
    await store.write(lambda db: None)
    assert not store.writer.full


async def test_a_checkpoint_brings_everything_into_the_file(store: Store) -> None:
    """Before it, what was committed stands in the log alone; after it, in the file."""
    workspace = await add_workspace(store)
    await accept(store, workspace, *(f"e{number}" for number in range(50)), now_ms=0, body=BODY)
    expected = (await store.read(retention.file_size)).bytes
    assert store.size_bytes() < expected
    assert await store.writer.checkpoint() > 0
    assert expected == store.size_bytes()


@pytest.mark.parametrize("busy", [False, True])
async def test_the_log_is_carried_over_between_commits(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, busy: bool
) -> None:
    """Never within one: when the writer has nothing to do, and at the latest when the log is as large as it may be."""
    limit_bytes = 50 * len(BODY)
    monkeypatch.setattr(disk_space if busy else writer, "WAL_BYTES" if busy else "CHECKPOINT_BYTES", limit_bytes)
    assert [(0,)] == await store.write(lambda db: db.execute("PRAGMA wal_autocheckpoint").fetchall())
    index, largest = store.writer._wal_index, 0
    workspace = await add_workspace(store)
    for number in range(20):
        parts = [
            accept(store, workspace, *(f"e{number}-{part}-{n}" for n in range(5)), now_ms=0, body=BODY)
            for part in range(5 if busy else 1)
        ]
        await asyncio.gather(*parts)
        largest = max(largest, index.pending_bytes())
        if not busy:
            await store.writer.flushed()
    assert limit_bytes / 2 < largest < 2 * limit_bytes
    assert store.size_bytes() > 20 * len(BODY)


async def test_a_deferrable_command_shares_the_commit_of_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where none comes it is committed all the same, a moment later; `flushed` waits for it."""
    monkeypatch.setattr(writer, "DEFERRAL_SECONDS", 60.0)
    await store.write(lambda db: db.execute("CREATE TABLE noted (name TEXT)"))
    began = store.writer.commits
    deferrable = store.write(lambda db: db.execute("INSERT INTO noted VALUES ('deferrable')"), deferrable=True)
    await asyncio.sleep(0.02)
    assert (0, False, False) == (store.writer.commits - began, deferrable.done(), store.writer.idle)
    await store.write(lambda db: db.execute("INSERT INTO noted VALUES ('other')"))
    assert (1, True) == (store.writer.commits - began, deferrable.done())
    monkeypatch.setattr(writer, "DEFERRAL_SECONDS", 0.01)
    alone = store.write(lambda db: db.execute("INSERT INTO noted VALUES ('alone')"), deferrable=True)
    await store.writer.flushed()
    assert (2, True) == (store.writer.commits - began, alone.done())


async def test_a_checkpoint_has_its_turn_to_itself(store: Store) -> None:
    """What was submitted before it is committed before it, what comes after has a transaction of its own."""
    began, counted = store.writer.commits, store.writer.commit_seconds.buckets()[-1][1]
    in_transaction: list[tuple[str, bool]] = []

    def noting(name: str) -> Callable[[sqlite3.Connection], None]:
        return lambda db: in_transaction.append((name, db.in_transaction))

    async def checkpoint() -> None:
        await store.writer.checkpoint()
        in_transaction.append(("checkpoint", False))

    first = [store.write(noting(name)) for name in ("a", "b")]
    between = asyncio.create_task(checkpoint())
    await asyncio.sleep(0)  # it is in the queue now
    last = store.write(noting("c"))
    await asyncio.gather(*first, between, last)
    assert [("a", True), ("b", True)] == in_transaction[:2]
    assert {("c", True), ("checkpoint", False)} == set(in_transaction[2:])
    assert 2 == store.writer.commits - began
    assert 2 == store.writer.commit_seconds.buckets()[-1][1] - counted


async def test_a_workspace_does_not_wait_for_the_checkpoint_of_anothers_events(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shared and busy, the writer makes small ones, after the commit of whoever waits already."""
    store.writer._shared_checkpoint_bytes = len(BODY)
    done: list[str] = []
    carry_over = writer.checkpoint
    monkeypatch.setattr(writer, "checkpoint", lambda db: (done.append("checkpoint"), carry_over(db)))
    monkeypatch.setattr(writer, "CHECKPOINT_LIMITS", (len(BODY), len(BODY)))
    await store.write(lambda db: db.execute("CREATE TABLE noise (body)"))

    def make_noise(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO noise VALUES (?)", (BODY * 5,))

    await store.write(make_noise, workspace_seq=1)
    await store.writer.flushed()
    assert not done
    await store.write(lambda db: None, workspace_seq=2)
    await store.writer.flushed()
    assert ["checkpoint"] == done
    noise = store.write(make_noise, workspace_seq=1)
    while len(store.writer._waiting):
        await asyncio.sleep(0)
    await store.write(lambda db: None, workspace_seq=2, on_commit=lambda _: done.append("committed"))
    await noise
    await store.writer.flushed()
    assert ["checkpoint", "committed", "checkpoint"] == done


async def test_without_memory_what_may_be_refused_is_and_the_rest_is_written_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch without memory is undone whole; `retry_when_full` ones are written once there is some, in order."""
    monkeypatch.setattr(writer, "FULL_RETRY_SECONDS", 0.01)
    await store.write(lambda db: db.execute("CREATE TABLE noted (name TEXT)"))
    shortages = 2

    def note(name: str) -> Callable[[sqlite3.Connection], None]:
        def run(db: sqlite3.Connection) -> None:
            nonlocal shortages
            db.execute("INSERT INTO noted VALUES (?)", (name,))
            if name == "c" and shortages:
                shortages -= 1
                raise MemoryError

        return run

    writes = [store.write(note(name), retry_when_full=name in "ac") for name in "abc"]
    await asyncio.gather(writes[0], writes[2])
    with pytest.raises(ApiError, match="no memory") as refused:
        await writes[1]
    assert ("unavailable", 2) == (refused.value.code, refused.value.retry_after_seconds)
    await store.write(note("d"))
    found = await store.read(lambda db: db.execute("SELECT name FROM noted").fetchall())
    assert ["a", "c", "d"] == [row[0] for row in found]


@pytest.mark.parametrize("outcome", [False, True])
async def test_the_writer_is_shared_for_a_moment_after_two_workspaces_wrote(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, outcome: bool
) -> None:
    """One alone, its outcomes too, and what has none, shares nothing."""
    monkeypatch.setattr(writer, "SHARED_SECONDS", 0.05)
    for workspace_seq in (1, None, 1):
        await store.write(lambda db: None, workspace_seq=workspace_seq)
    await store.write(lambda db: None, on_behalf_of=1)
    assert not store.writer.shared
    await store.write(lambda db: None, **({"on_behalf_of": 2} if outcome else {"workspace_seq": 2}))
    assert store.writer.shared
    await asyncio.sleep(0.06)
    assert not store.writer.shared
