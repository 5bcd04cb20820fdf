"""The numbers of rows, and what the log of a workspace takes: neither is written with each event."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.stores import accept, add_endpoint, add_test, add_workspace, open_store
from webhookd.models import NewEvent, Workspace
from webhookd.store import deliveries, events, workspaces
from webhookd.store.deliveries import Backfill, Success
from webhookd.store.events import ACCEPT, Ingested
from webhookd.store.store import BATCH, Db, Store

FIRST_VERSION = Path(__file__).parent / "frozen" / "version_1.sql"
FRAME_BYTES = 24 + 4096
COUNTED = "SELECT seq, log_bytes FROM workspaces"
RECOUNTED = (
    "SELECT workspace_seq, sum(bytes) FROM (SELECT workspace_seq, 200 + coalesce(length(body), 0) AS bytes FROM events "
    "UNION ALL SELECT e.workspace_seq, 400 FROM deliveries d JOIN endpoints e ON e.seq = d.endpoint_seq) "
    "GROUP BY workspace_seq"
)


def written_pages(store: Store) -> list[int]:
    """The numbers of the pages in the write-ahead log, in the order in which they were written."""
    log = store.path.with_name("webhookd.db-wal").read_bytes()
    return [int.from_bytes(log[at : at + 4], "big") for at in range(32, len(log) - 23, FRAME_BYTES)]


async def test_an_event_writes_its_own_pages_alone(store: Store) -> None:
    """Of two tables and four indexes; neither of `workspaces`, nor of any that holds a number."""
    workspace = await add_workspace(store)
    await add_endpoint(store, workspace)
    await store.write(ACCEPT.of(Ingested(1, [NewEvent("e0", "message.sent", b"{}")], True, 1)))
    before = len(written_pages(store))
    await store.write(ACCEPT.of(Ingested(1, [NewEvent("e1", "message.sent", b"{}")], True, 2)))
    await store.write(deliveries.RECORD_SUCCESS.of(Success(2, 1, b"{}", 3)))
    trees = await store.read(lambda db: dict(db.execute("SELECT rootpage, name FROM sqlite_schema").fetchall()))
    both = {"deliveries", "deliveries_waiting"}
    own = {"events", "sqlite_autoindex_events_1", "deliveries_by_event"}
    written = sorted(trees[page] for page in written_pages(store)[before:])
    assert sorted([*own, *both, *both, "deliveries_log"]) == written


async def test_no_number_is_given_twice(tmp_path: Path) -> None:
    """Though the newest rows are gone, also at the next start; whatever makes the next one."""
    async with open_store(tmp_path) as store:
        workspace = await add_workspace(store)
        endpoint = await add_endpoint(store, workspace)
        await accept(store, workspace, "e1", "e2", "e3", now_ms=1)
        await store.write(_remove_newest)
    async with open_store(tmp_path) as store:
        assert [4] == [each.seq for each in await accept(store, workspace, "e4", now_ms=2)]
        await store.write(_remove_newest)
        replayed = await store.write(lambda db: deliveries.replay(db, [1], 3))
        assert [5] == [each.seq for each in replayed]
        await store.write(_remove_newest)
        assert 6 == await add_test(store, endpoint, delivered=True)
        await store.write(_remove_newest)
        await store.write(lambda db: BATCH.insert(db, BATCH.pack({ACCEPT: [_ingested(workspace, "e5", "e6")]})))
        rows = await store.read(lambda db: db.execute("SELECT event_seq, seq FROM deliveries").fetchall())
        assert [(1, 1), (2, 2), (6, 7), (7, 8)] == rows


async def test_numbers_go_on_where_a_database_of_the_first_version_was(tmp_path: Path) -> None:
    """It has given four of each, and has lost the newest."""
    with contextlib.closing(sqlite3.connect(tmp_path / "webhookd.db")) as old:
        old.executescript(FIRST_VERSION.read_text("utf-8"))
        _remove_newest(old)
        old.commit()
    async with open_store(tmp_path) as store:
        (workspace,) = await store.read(workspaces.load)
        seq = (await accept(store, workspace, "new", now_ms=9))[0].seq
        newest = await store.read(lambda db: db.execute("SELECT max(seq) FROM events").fetchall())
        assert (5, [(5,)]) == (seq, newest)
        assert "ok" == (await store.read(lambda db: db.execute("PRAGMA integrity_check").fetchall()))[0][0]
        assert await store.read(lambda db: db.execute(RECOUNTED).fetchall()) == [(1, 4 * (200 + 29 + 400))]
        assert {1: 4 * (200 + 29 + 400)} == await store.read(workspaces.log_bytes)


async def test_what_a_log_takes_is_exact_whatever_comes_and_goes(store: Store) -> None:
    """Counted or not yet, of two workspaces: events and deliveries; removed, pruned, replayed, set aside."""
    chance = random.Random(5)
    pair = [await add_workspace(store, name) for name in ("one", "two")]
    for number, workspace in enumerate((*pair, *pair)):
        await add_endpoint(store, workspace, f"https://{number}.example.com/")
    for number in range(40):
        workspace = chance.choice(pair)
        ids = [f"{number}-{n}" for n in range(chance.choice((1, 3, 90)))]
        item = Ingested(workspace.seq, [NewEvent(each, "message.sent", b"x" * number) for each in ids], True, number)
        if chance.random() < 0.5:
            await store.write(ACCEPT.of(item))
        else:
            await store.write(lambda db, item=item: events.accept(db, item))  # type: ignore[misc]
        await store.write(lambda db: _do_something(db, chance))
        recounted = await store.read(lambda db: dict(db.execute(RECOUNTED).fetchall()))
        assert recounted == await store.read(workspaces.log_bytes), number
    counted = await store.write(lambda db: {each.seq: workspaces.log_bytes_of(db, each.seq) for each in pair})
    assert recounted == counted == dict(await store.read(lambda db: db.execute(COUNTED).fetchall()))


async def test_counting_large_events_reads_none_of_their_bodies(store: Store) -> None:
    """Else it holds the writer for 70 ms with 256 events of 200 kB each."""
    workspace = await add_workspace(store)
    item = Ingested(workspace.seq, [NewEvent(f"e{n}", "message.sent", bytes(200_000)) for n in range(100)], True, 1)

    def took(run: Callable[[], object]) -> float:
        began = time.thread_time()
        run()
        return time.thread_time() - began

    accepting = await store.write(lambda db: took(lambda: events.accept(db, item)))
    counting = await store.write(lambda db: took(lambda: workspaces.log_bytes_of(db, workspace.seq)))
    assert {workspace.seq: 100 * 200_200} == await store.read(workspaces.log_bytes)
    assert counting < accepting / 10


def _ingested(workspace: Workspace, *ids: str) -> Ingested:
    return Ingested(workspace.seq, [NewEvent(each, "message.sent", b"{}") for each in ids], True, 1)


def _remove_newest(db: Db) -> None:
    db.execute("DELETE FROM deliveries WHERE seq = (SELECT max(seq) FROM deliveries)")
    db.execute(
        "DELETE FROM events WHERE seq = (SELECT max(seq) FROM events) "
        "AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event_seq = events.seq)"
    )


def _do_something(db: Db, chance: random.Random) -> None:
    newest = deliveries.newest_seq(db)
    what = chance.randrange(5)
    if what == 0:
        _remove_newest(db)
    elif what == 1:
        some = chance.sample(range(1, newest + 1), min(newest, 30))
        db.executemany("DELETE FROM deliveries WHERE seq = ?", [(seq,) for seq in some])
    elif what == 2:
        db.execute("UPDATE events SET body = NULL WHERE seq % 7 = ?", (chance.randrange(7),))
    elif what == 3:
        deliveries.replay(db, range(max(1, newest - 20), newest), 5)
    else:
        wanted = deliveries.reserve(db, Backfill(1, 1, ("*",), 0, None, paused=False), 50, 5)
        rows = db.execute("SELECT seq FROM events WHERE workspace_seq = 1 AND body IS NOT NULL LIMIT 20").fetchall()
        deliveries.backfill(db, wanted, [seq for (seq,) in rows])
