"""Batches: the same outcome as of each command by itself, in the order of their submission."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.stores import add_endpoint, add_workspace, open_store
from webhookd.errors import ApiError, StoreFailed
from webhookd.models import Accepted, NewEvent, Workspace
from webhookd.store import deliveries, events
from webhookd.store.batch import ROW_BYTES, packed
from webhookd.store.deliveries import RECORD_SUCCESS, Success
from webhookd.store.events import ACCEPT, Ingested
from webhookd.store.store import BATCH, Store

BODY = b'{"event_type":"message.sent"}'


@pytest.fixture
async def workspace(store: Store) -> Workspace:
    workspace = await add_workspace(store)
    await add_endpoint(store, workspace)
    return workspace


def ingested(*ids: str, deliver: bool = True, body: bytes = BODY) -> Ingested:
    return Ingested(1, [NewEvent(each, "message.sent", body) for each in ids], deliver, 7)


def outcomes(results: Sequence[Sequence[Accepted]]) -> list[list[tuple[str, int, bool, bool]]]:
    return [[(a.event_id, a.deliveries, a.duplicate, a.conflict) for a in result] for result in results]


async def accept(store: Store, *items: Ingested) -> list[Any]:
    """All at once; an exception in place of the result of one that was refused."""
    return await asyncio.gather(*[store.write(ACCEPT.of(item)) for item in items], return_exceptions=True)


async def rows(store: Store, sql: str) -> list[Any]:
    return await store.read(lambda db: db.execute(sql).fetchall())


async def ids(store: Store) -> list[str]:
    return [row[0] for row in await rows(store, "SELECT id FROM events ORDER BY seq")]


async def test_a_batch_is_accepted_in_its_order(store: Store, workspace: Workspace) -> None:
    """Requests of one transaction: each event with its own body and a delivery per endpoint, numbered in order."""
    await add_endpoint(store, workspace, "https://b.example.com/")
    results = await accept(store, *(ingested(f"e{n}-0", f"e{n}-1", body=b'{"n":%d}' % n) for n in range(20)))
    assert [[(f"e{n}-{k}", 2, False, False) for k in (0, 1)] for n in range(20)] == outcomes(results)
    queued = [delivery for result in results for each in result for delivery in each.queued]
    assert [*zip(range(1, 81), [1, 2] * 40, strict=True)] == [(each.seq, each.endpoint_seq) for each in queued]
    expected = [(f"e{n}-{k}", b'{"n":%d}' % n) for n in range(20) for k in (0, 1)]
    assert expected == await rows(store, "SELECT id, body FROM events ORDER BY seq")
    for endpoint_seq in (1, 2):
        waiting = await store.read(lambda db, seq=endpoint_seq: deliveries.page(db, seq, 0, 100, 8192))  # type: ignore[misc]
        assert [each for each in queued if each.endpoint_seq == endpoint_seq] == waiting


@pytest.mark.usefixtures("workspace")
async def test_what_is_new_goes_in_one_statement(store: Store) -> None:
    """What is new is accepted and what waits is recorded together; nothing takes the slow way without need."""
    first = {ACCEPT: [ingested("a", "b"), ingested("c")]}
    await store.write(lambda db: BATCH.insert(db, BATCH.pack(first)))
    added = await store.read(lambda db: ACCEPT.read(db, first[ACCEPT]))
    accepted = ACCEPT.results(first[ACCEPT], added)
    assert [[("a", 1, False, False), ("b", 1, False, False)], [("c", 1, False, False)]] == outcomes(accepted)
    both = {ACCEPT: [ingested("d")], RECORD_SUCCESS: [Success(seq, 1, b"{}", 9) for seq in (1, 2, 3)]}
    await store.write(lambda db: BATCH.insert(db, BATCH.pack(both)))
    assert [(1,), (1,), (1,), (0,)] == await rows(store, "SELECT state FROM deliveries ORDER BY seq")


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize(
    ("accepted", "succeeded"), [(["new", "old"], [1]), (["new"], [1, 77])], ids=["known event", "no such delivery"]
)
async def test_nothing_is_left_of_a_statement_that_fails(
    store: Store, accepted: list[str], succeeded: list[int]
) -> None:
    """Neither the rows of its own kind nor the other's are there."""
    await accept(store, ingested("old"))
    items = {
        ACCEPT: [ingested(each) for each in accepted],
        RECORD_SUCCESS: [Success(seq, 1, b"{}", 9) for seq in succeeded],
    }
    with pytest.raises(sqlite3.IntegrityError):
        await store.write(lambda db: BATCH.insert(db, BATCH.pack(items)))
    assert ["old"] == await ids(store)
    assert [(1,)] == await rows(store, "SELECT count(*) FROM deliveries WHERE state = 0")


async def test_what_is_committed_and_cannot_be_read_ends_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without memory right after the commit no caller is refused: only a new start knows what is durable."""

    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    async def accept_without_memory() -> None:
        async with open_store(tmp_path) as store:
            await add_endpoint(store, await add_workspace(store))
            monkeypatch.setattr(events, "QueuedDelivery", exhausted)
            with pytest.raises(ApiError, match="restarts"):
                await store.write(ACCEPT.of(ingested("a")))

    with pytest.raises(StoreFailed, match="no memory to read what was committed"):
        await accept_without_memory()
    monkeypatch.undo()
    async with open_store(tmp_path) as store:
        assert ["a"] == await ids(store)


@pytest.mark.usefixtures("workspace")
async def test_a_batch_with_a_known_id_falls_back(store: Store) -> None:
    """An id known before, or twice in the batch, is a duplicate or a conflict for itself alone."""
    await accept(store, ingested("old"))
    items = [ingested("a"), ingested("old"), ingested("b", "a"), ingested("old", body=b"{}"), ingested("c")]
    assert [
        [("a", 1, False, False)],
        [("old", 1, True, False)],
        [("b", 1, False, False), ("a", 1, True, False)],
        [("old", 0, False, True)],
        [("c", 1, False, False)],
    ] == outcomes(await accept(store, *items))
    assert ["old", "a", "b", "c"] == await ids(store)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (NewEvent("a\udc80", "message.sent", BODY), "UnicodeEncodeError"),  # it can't be packed
        (NewEvent("bad", None, BODY), "IntegrityError"),  # type: ignore[arg-type]  # the statement fails
    ],
)
async def test_one_that_fails_in_a_batch_fails_alone(store: Store, bad: NewEvent, error: str) -> None:
    """Its neighbours are accepted, and the writer goes on."""
    await add_workspace(store)
    done = await accept(store, ingested("x"), Ingested(1, [bad], True, 7), ingested("y"))
    assert error == type(done[1]).__name__
    await accept(store, ingested("z"))
    assert ["x", "y", "z"] == await ids(store)


@pytest.mark.usefixtures("workspace")
async def test_events_of_a_paused_workspace_get_no_deliveries(store: Store) -> None:
    """In one batch, those that are not to be delivered are accepted all the same."""
    results = await accept(store, ingested("a", "b"), ingested("c", "d", deliver=False), ingested("e", "f"))
    assert [[1, 1], [0, 0], [1, 1]] == [[each.deliveries for each in result] for result in results]
    assert 6 == len(await ids(store))


@pytest.mark.usefixtures("workspace")
async def test_numbers_are_never_given_again(store: Store) -> None:
    """Rows that are gone leave their numbers used, in a batch as well: marks compare with them."""
    await accept(store, ingested("a", "b", "c"))
    await store.write(lambda db: (db.execute("DELETE FROM deliveries"), db.execute("DELETE FROM events")))
    (result,) = await accept(store, ingested("d", "e"))
    assert [4, 5] == [each.queued[0].seq for each in result]
    assert [(4,), (5,)] == await rows(store, "SELECT event_seq FROM deliveries")


@pytest.mark.usefixtures("workspace")
async def test_successes_are_recorded_together(store: Store) -> None:
    """Each gets its own record; the result of one that no longer waited says so, and it is delivered all the same."""
    await accept(store, ingested("a", "b", "c", "d"))
    await store.write(lambda db: db.execute("UPDATE deliveries SET state = ? WHERE seq = 2", (deliveries.CANCELLED,)))
    items = [Success(seq, seq + 5, b"record %d" % seq, 9) for seq in (1, 2, 3)]
    assert [True, False, True] == await asyncio.gather(*[store.write(RECORD_SUCCESS.of(item)) for item in items])
    assert await store.write(RECORD_SUCCESS.of(Success(4, 1, b"r", 9)))
    assert [(n, 1, n + 5, 1, 9, b"record %d" % n) for n in (1, 2, 3)] + [(4, 1, 1, 1, 9, b"r")] == await rows(
        store, "SELECT seq, state, attempt_count, tries, finished_at, final_attempt FROM deliveries"
    )


async def test_a_command_between_items_keeps_its_place(store: Store) -> None:
    """An endpoint added between two events counts for the second alone; each caller gets its own result."""
    workspace = await add_workspace(store)
    first = [store.write(ACCEPT.of(ingested(f"before-{n}"))) for n in range(3)]
    middle = asyncio.ensure_future(add_endpoint(store, workspace))
    await asyncio.sleep(0)  # it is in the queue now
    after = [store.write(ACCEPT.of(ingested(f"after-{n}"))) for n in range(3)]
    done = await asyncio.gather(*first, middle, *after)
    assert [0, 0, 0] == [each[0].deliveries for each in done[:3]]
    assert [1, 1, 1] == [each[0].deliveries for each in done[4:]]


async def test_deliveries_are_numbered_alike_alone_and_in_a_batch(store: Store, workspace: Workspace) -> None:
    """In the order of the endpoints' numbers, whatever each of them is subscribed by."""
    await add_endpoint(store, workspace, "https://b.example.com/")
    await store.write(
        lambda db: db.execute("UPDATE subscriptions SET event_type = 'message.sent' WHERE endpoint_seq = 1")
    )
    ((together,),) = await accept(store, ingested("a"))
    ((_, alone),) = await accept(store, ingested("a", "b"))
    for each in (together, alone):
        assert [1, 2] == [delivery.endpoint_seq for delivery in each.queued]


def test_a_row_finds_its_blob() -> None:
    """All blobs are one, and each row says where its own begins and how long it is."""
    parts = [((n,), b"x" * size) for n, size in enumerate((4, 6, 1))]
    assert ("[[0,1,4],[1,5,6],[2,11,1]]", b"x" * 11) == packed(parts)


def test_large_bodies_make_small_batches() -> None:
    """A batch of so many rows bounds its bytes as well: what is large counts as several."""
    assert 2 == ACCEPT.size(ingested("a", "b"))
    assert 1 + 100 == ACCEPT.size(ingested("a", body=b"x" * 100 * ROW_BYTES))
