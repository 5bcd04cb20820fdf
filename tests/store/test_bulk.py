"""Commands that come in crowds: the same outcome as each by itself, in the order of their submission."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.stores import add_endpoint, add_workspace, open_store
from webhookd.model import Accepted, NewEvent
from webhookd.store import deliveries, events
from webhookd.store.bulk import Bulk, packed
from webhookd.store.deliveries import RECORD_SUCCESS, Success
from webhookd.store.events import ACCEPT, Ingested
from webhookd.store.store import Db, Store

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
        results = await asyncio.gather(*[store.write_item(ACCEPT, item) for item in items])
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


async def test_no_crowd_takes_the_slow_way_without_need(tmp_path: Path) -> None:
    """What is new is accepted, and what waits is recorded, in a few statements for all."""
    async with open_store(tmp_path) as store:
        await add_endpoint(store, await add_workspace(store))
        accepted = await store.write(lambda db: ACCEPT.together(db, [ingested("a", "b"), ingested("c")]))
        assert accepted is not None
        assert [[("a", 1, False, False), ("b", 1, False, False)], [("c", 1, False, False)]] == told(accepted)
        items = [Success(seq, 1, b"{}", 9) for seq in (1, 2, 3)]
        assert [True, True, True] == await store.write(lambda db: RECORD_SUCCESS.together(db, items))


async def test_a_crowd_with_a_known_id_falls_back(tmp_path: Path) -> None:
    """An id known before, or twice in the crowd, is a duplicate or a conflict for itself alone."""
    async with open_store(tmp_path) as store:
        await add_endpoint(store, await add_workspace(store))
        await store.write_item(ACCEPT, ingested("old"))
        items = [ingested("a"), ingested("old"), ingested("b", "a"), ingested("old", body=b"{}"), ingested("c")]
        results = await asyncio.gather(*[store.write_item(ACCEPT, item) for item in items])
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
        results = await asyncio.gather(*[store.write_item(ACCEPT, item) for item in items])
        assert [[1, 1], [0, 0], [1, 1]] == [[each.deliveries for each in result] for result in results]
        assert 6 == len(await bodies(store))


async def test_numbers_are_never_given_again(tmp_path: Path) -> None:
    """Rows that are gone leave their numbers used, in a crowd as well: marks compare with them."""
    async with open_store(tmp_path) as store:
        await add_endpoint(store, await add_workspace(store))
        await store.write_item(ACCEPT, ingested("a", "b", "c"))
        await store.write(lambda db: (db.execute("DELETE FROM deliveries"), db.execute("DELETE FROM events")))
        (result,) = [await store.write_item(ACCEPT, ingested("d", "e"))]
        assert [4, 5] == [each.queued[0].seq for each in result]
        assert [(4,), (5,)] == await store.read(lambda db: db.execute("SELECT event_seq FROM deliveries").fetchall())


async def test_successes_are_recorded_together(tmp_path: Path) -> None:
    """Each gets its own record; one that no longer waited is told so and still delivered."""
    async with open_store(tmp_path) as store:
        await add_endpoint(store, await add_workspace(store))
        await store.write_item(ACCEPT, ingested("a", "b", "c", "d"))
        await store.write(
            lambda db: db.execute("UPDATE deliveries SET state = ? WHERE seq = 2", (deliveries.CANCELLED,))
        )
        items = [Success(seq, seq + 5, b"record %d" % seq, 9) for seq in (1, 2, 3)]
        waited = await asyncio.gather(*[store.write_item(RECORD_SUCCESS, item) for item in items])
        assert [True, False, True] == waited
        (alone,) = await asyncio.gather(*[store.write_item(RECORD_SUCCESS, Success(4, 1, b"r", 9))])
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
        first = [store.write_item(ACCEPT, ingested(f"before-{n}")) for n in range(3)]
        middle = add_endpoint(store, workspace)
        after = [store.write_item(ACCEPT, ingested(f"after-{n}")) for n in range(3)]
        done = await asyncio.gather(*first, middle, *after)
        assert [0, 0, 0] == [each[0].deliveries for each in done[:3]]
        assert [1, 1, 1] == [each[0].deliveries for each in done[4:]]


async def test_one_that_fails_in_a_crowd_fails_alone(tmp_path: Path) -> None:
    """A statement refused for the crowd is tried for each, and only the one at fault hears of it."""

    def one(db: Db, name: str) -> str:
        db.execute(
            "INSERT INTO sqlite_sequence VALUES (?, 1)" if name != "bad" else "no SQL", (name,) if name != "bad" else ()
        )
        return name

    def together(db: Db, names: Sequence[str]) -> list[str] | None:
        return [one(db, name) for name in names]

    kind = Bulk(one, together)
    async with open_store(tmp_path) as store:
        names = ["x", "bad", "y"]
        done = await asyncio.gather(*[store.write_item(kind, name) for name in names], return_exceptions=True)
        assert ["x", "y"] == [done[0], done[2]]
        assert "OperationalError" == type(done[1]).__name__
        counted = await store.read(
            lambda db: db.execute("SELECT count(*) FROM sqlite_sequence WHERE name IN ('x', 'y')").fetchall()
        )
        assert [(2,)] == counted


def test_blobs_are_cut_into_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """No piece holds more than its share, except one that is larger by itself."""
    monkeypatch.setattr("webhookd.store.bulk.BLOB_BYTES", 10)
    rows = [((n,), b"x" * size) for n, size in enumerate((4, 6, 1, 30, 2))]
    assert [
        (2, "[[0,1,4],[1,5,6]]", b"x" * 10),
        (1, "[[2,1,1]]", b"x"),
        (1, "[[3,1,30]]", b"x" * 30),
        (1, "[[4,1,2]]", b"xx"),
    ] == list(packed(rows))


async def test_a_crowd_larger_than_a_piece_is_accepted_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers go on from piece to piece, and each event keeps its own body."""
    monkeypatch.setattr("webhookd.store.bulk.BLOB_BYTES", 100)
    async with open_store(tmp_path) as store:
        await add_endpoint(store, await add_workspace(store))
        result = await store.write_item(ACCEPT, ingested(*[f"e{n}" for n in range(50)]))
        assert list(range(1, 51)) == [each.queued[0].seq for each in result]
        seen = await store.read(lambda db: [events.get(db, 1, f"e{n}") for n in range(50)])
        assert [BODY] * 50 == [each.body for each in seen if each is not None]
