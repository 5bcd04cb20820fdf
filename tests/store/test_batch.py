"""Commands that come in crowds: the same outcome as each by itself, in the order of their submission."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.stores import add_endpoint, add_workspace, open_store
from webhookd.errors import ApiError, StoreFailed
from webhookd.models import Accepted, NewEvent
from webhookd.store import deliveries, events
from webhookd.store.batch import ROW_BYTES, packed
from webhookd.store.deliveries import RECORD_SUCCESS, Success
from webhookd.store.events import ACCEPT, Ingested
from webhookd.store.store import BATCH, Store

BODY = b'{"event_type":"message.sent"}'


def ingested(*ids: str, deliver: bool = True, body: bytes = BODY) -> Ingested:
    return Ingested(1, [NewEvent(each, "message.sent", body) for each in ids], deliver, 7)


def told(results: Sequence[Sequence[Accepted]]) -> list[list[tuple[str, int, bool, bool]]]:
    return [[(a.event_id, a.deliveries, a.duplicate, a.conflict) for a in result] for result in results]


async def bodies(store: Store) -> dict[str, bytes]:
    return dict(await store.read(lambda db: db.execute("SELECT id, body FROM events ORDER BY seq").fetchall()))


async def test_a_crowd_is_accepted_in_its_order(tmp_path: Path) -> None:
    """Requests of one transaction: each event with its own body and a delivery per endpoint, numbered in order."""
    async with open_store(tmp_path) as store:
        workspace = await add_workspace(store)
        for name in "ab":
            await add_endpoint(store, workspace, f"https://{name}.example.com/")
        items = [ingested(f"e{n}-0", f"e{n}-1", body=b'{"n":%d}' % n) for n in range(20)]
        results = await asyncio.gather(*[store.write(ACCEPT.of(item)) for item in items])
        assert [[(f"e{n}-{k}", 2, False, False) for k in (0, 1)] for n in range(20)] == told(results)
        queued = [delivery for result in results for each in result for delivery in each.queued]
        assert list(range(1, 81)) == [each.seq for each in queued]
        assert [1, 2] * 40 == [each.endpoint_seq for each in queued]
        assert [(f"e{n}-{k}", b'{"n":%d}' % n) for n in range(20) for k in (0, 1)] == list(
            (await bodies(store)).items()
        )
        for endpoint_seq in (1, 2):
            waiting = await store.read(lambda db, seq=endpoint_seq: deliveries.page(db, seq, 0, 100, 8192))  # type: ignore[misc]
            assert [each for each in queued if each.endpoint_seq == endpoint_seq] == waiting


async def test_what_is_new_goes_in_one_statement(tmp_path: Path) -> None:
    """What is new is accepted and what waits is recorded together; nothing takes the slow way without need."""
    async with open_store(tmp_path) as store:
        await add_endpoint(store, await add_workspace(store))
        first = {ACCEPT: [ingested("a", "b"), ingested("c")]}
        await store.write(lambda db: BATCH.insert(db, BATCH.pack(first)))
        added = await store.read(lambda db: ACCEPT.read(db, first[ACCEPT]))
        accepted = ACCEPT.results(first[ACCEPT], added)
        assert [[("a", 1, False, False), ("b", 1, False, False)], [("c", 1, False, False)]] == told(accepted)
        both = {ACCEPT: [ingested("d")], RECORD_SUCCESS: [Success(seq, 1, b"{}", 9) for seq in (1, 2, 3)]}
        await store.write(lambda db: BATCH.insert(db, BATCH.pack(both)))
        states = await store.read(lambda db: db.execute("SELECT state FROM deliveries ORDER BY seq").fetchall())
        assert [(1,), (1,), (1,), (0,)] == states


async def test_nothing_is_left_of_a_crowd_that_is_refused(tmp_path: Path) -> None:
    """One of a crowd can't be: neither its own kind's nor the other's rows are there."""
    async with open_store(tmp_path) as store:
        await add_endpoint(store, await add_workspace(store))
        await store.write(ACCEPT.of(ingested("old")))
        for refused in (
            {ACCEPT: [ingested("new"), ingested("old")], RECORD_SUCCESS: [Success(1, 1, b"{}", 9)]},
            {ACCEPT: [ingested("new")], RECORD_SUCCESS: [Success(1, 1, b"{}", 9), Success(77, 1, b"{}", 9)]},
        ):
            with pytest.raises(sqlite3.IntegrityError):
                await store.write(lambda db, items=refused: BATCH.insert(db, BATCH.pack(items)))  # type: ignore[misc]
            assert ["old"] == list(await bodies(store))
            waiting = await store.read(
                lambda db: db.execute("SELECT count(*) FROM deliveries WHERE state = 0").fetchall()
            )
            assert [(1,)] == waiting


async def test_what_is_committed_and_cannot_be_read_ends_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without memory right after the commit nobody is told that nothing was accepted: only a new start knows."""

    def exhausted(*_: object) -> None:
        raise MemoryError

    async def accept() -> None:
        async with open_store(tmp_path) as store:
            await add_endpoint(store, await add_workspace(store))
            monkeypatch.setattr(events, "QueuedDelivery", exhausted)
            with pytest.raises(ApiError, match="restarts"):
                await store.write(ACCEPT.of(ingested("a")))

    with pytest.raises(StoreFailed, match="no memory to read what was committed"):
        await accept()
    monkeypatch.undo()
    async with open_store(tmp_path) as store:
        assert ["a"] == list(await bodies(store))


async def test_a_crowd_with_a_known_id_falls_back(tmp_path: Path) -> None:
    """An id known before, or twice in the crowd, is a duplicate or a conflict for itself alone."""
    async with open_store(tmp_path) as store:
        await add_endpoint(store, await add_workspace(store))
        await store.write(ACCEPT.of(ingested("old")))
        items = [ingested("a"), ingested("old"), ingested("b", "a"), ingested("old", body=b"{}"), ingested("c")]
        results = await asyncio.gather(*[store.write(ACCEPT.of(item)) for item in items])
        assert [
            [("a", 1, False, False)],
            [("old", 1, True, False)],
            [("b", 1, False, False), ("a", 1, True, False)],
            [("old", 0, False, True)],
            [("c", 1, False, False)],
        ] == told(results)
        assert ["old", "a", "b", "c"] == list(await bodies(store))


async def test_events_of_a_paused_workspace_get_no_deliveries(tmp_path: Path) -> None:
    """In one crowd, those that are not to be delivered are accepted all the same."""
    async with open_store(tmp_path) as store:
        await add_endpoint(store, await add_workspace(store))
        items = [ingested("a", "b"), ingested("c", "d", deliver=False), ingested("e", "f")]
        results = await asyncio.gather(*[store.write(ACCEPT.of(item)) for item in items])
        assert [[1, 1], [0, 0], [1, 1]] == [[each.deliveries for each in result] for result in results]
        assert 6 == len(await bodies(store))


async def test_numbers_are_never_given_again(tmp_path: Path) -> None:
    """Rows that are gone leave their numbers used, in a crowd as well: marks compare with them."""
    async with open_store(tmp_path) as store:
        await add_endpoint(store, await add_workspace(store))
        await store.write(ACCEPT.of(ingested("a", "b", "c")))
        await store.write(lambda db: (db.execute("DELETE FROM deliveries"), db.execute("DELETE FROM events")))
        (result,) = [await store.write(ACCEPT.of(ingested("d", "e")))]
        assert [4, 5] == [each.queued[0].seq for each in result]
        assert [(4,), (5,)] == await store.read(lambda db: db.execute("SELECT event_seq FROM deliveries").fetchall())


async def test_successes_are_recorded_together(tmp_path: Path) -> None:
    """Each gets its own record; one that no longer waited is told so and still delivered."""
    async with open_store(tmp_path) as store:
        await add_endpoint(store, await add_workspace(store))
        await store.write(ACCEPT.of(ingested("a", "b", "c", "d")))
        await store.write(
            lambda db: db.execute("UPDATE deliveries SET state = ? WHERE seq = 2", (deliveries.CANCELLED,))
        )
        items = [Success(seq, seq + 5, b"record %d" % seq, 9) for seq in (1, 2, 3)]
        waited = await asyncio.gather(*[store.write(RECORD_SUCCESS.of(item)) for item in items])
        assert [True, False, True] == waited
        (alone,) = await asyncio.gather(*[store.write(RECORD_SUCCESS.of(Success(4, 1, b"r", 9)))])
        assert alone is True
        rows = await store.read(
            lambda db: db.execute(
                "SELECT seq, state, attempt_count, tries, finished_at, final_attempt FROM deliveries"
            ).fetchall()
        )
        assert [(n, 1, n + 5, 1, 9, b"record %d" % n) for n in (1, 2, 3)] + [(4, 1, 1, 1, 9, b"r")] == rows


async def test_a_command_between_two_crowds_keeps_its_place(tmp_path: Path) -> None:
    """What is subscribed to between two events counts for the second alone; results go to whoever asked."""
    async with open_store(tmp_path) as store:
        workspace = await add_workspace(store)
        first = [store.write(ACCEPT.of(ingested(f"before-{n}"))) for n in range(3)]
        middle = asyncio.ensure_future(add_endpoint(store, workspace))
        await asyncio.sleep(0)  # it is in the queue now
        after = [store.write(ACCEPT.of(ingested(f"after-{n}"))) for n in range(3)]
        done = await asyncio.gather(*first, middle, *after)
        assert [0, 0, 0] == [each[0].deliveries for each in done[:3]]
        assert [1, 1, 1] == [each[0].deliveries for each in done[4:]]


async def test_one_that_cannot_be_packed_fails_alone(tmp_path: Path) -> None:
    """What isn't UTF-8 is refused for itself; its neighbour is accepted, and the writer goes on."""
    async with open_store(tmp_path) as store:
        await add_workspace(store)
        items = [ingested("a\udc80"), ingested("b")]
        done = await asyncio.gather(*[store.write(ACCEPT.of(item)) for item in items], return_exceptions=True)
        assert "UnicodeEncodeError" == type(done[0]).__name__
        await store.write(ACCEPT.of(ingested("c")))
        assert ["b", "c"] == list(await bodies(store))


async def test_deliveries_are_numbered_alike_alone_and_in_a_crowd(tmp_path: Path) -> None:
    """In the order of the endpoints' numbers, whatever each of them is subscribed by."""
    async with open_store(tmp_path) as store:
        workspace = await add_workspace(store)
        for name in "ab":
            await add_endpoint(store, workspace, f"https://{name}.example.com/")
        await store.write(
            lambda db: db.execute("UPDATE subscriptions SET event_type = 'message.sent' WHERE endpoint_seq = 1")
        )
        items = [ingested("a"), ingested("a", "b")]
        together = await store.write(ACCEPT.of(items[0]))
        alone = await store.write(ACCEPT.of(items[1]))
        assert [1, 2] == [each.endpoint_seq for each in together[0].queued]
        assert [1, 2] == [each.endpoint_seq for each in alone[1].queued]


async def test_one_that_fails_in_a_crowd_fails_alone(tmp_path: Path) -> None:
    """A statement refused for the crowd is tried for each, and only the one at fault hears of it."""
    async with open_store(tmp_path) as store:
        await add_workspace(store)
        items = [ingested("x"), Ingested(1, [NewEvent("bad", None, BODY)], True, 7), ingested("y")]  # type: ignore[arg-type]
        done = await asyncio.gather(*[store.write(ACCEPT.of(item)) for item in items], return_exceptions=True)
        assert "IntegrityError" == type(done[1]).__name__
        assert ["x", "y"] == list(await bodies(store))


def test_a_row_finds_its_blob() -> None:
    """All blobs are one, and each row says where its own begins and how long it is."""
    rows = [((n,), b"x" * size) for n, size in enumerate((4, 6, 1))]
    assert ("[[0,1,4],[1,5,6],[2,11,1]]", b"x" * 11) == packed(rows)


def test_large_bodies_make_small_groups() -> None:
    """A group of so many rows bounds its bytes as well: what is large counts as several."""
    assert 2 == ACCEPT.size(ingested("a", "b"))
    assert 1 + 100 == ACCEPT.size(ingested("a", body=b"x" * 100 * ROW_BYTES))
