"""Where a time lies in the log: found by bisection, whatever the machine's clock did, and after a migration."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.stores import add_endpoint, add_workspace, open_store
from webhookd.models import NewEvent, Workspace
from webhookd.store import delivery_log, events, time_index
from webhookd.store.delivery_log.log_filter import LogFilter
from webhookd.store.events import Ingested
from webhookd.store.store import Store

FIRST_VERSION = Path(__file__).parent / "frozen" / "version_1.sql"
SLACK = time_index.SLACK_MS


async def accept(store: Store, workspace: Workspace, event_id: str, at_ms: int) -> None:
    new = [NewEvent(event_id, "message.sent", b"{}")]
    await store.add(
        at_ms, lambda db: events.accept(db, Ingested(workspace.seq, new, True, at_ms)), workspace_seq=workspace.seq
    )


async def dated(store: Store, workspace: Workspace, since_ms: int | None, until_ms: int | None) -> list[str]:
    """The ids that the log of deliveries has in the span; that of events has to agree."""
    wanted = LogFilter(workspace.seq, paused=False, since_ms=since_ms, until_ms=until_ms)
    found = await store.read(lambda db: delivery_log.page(db, wanted, before_seq=None, limit=1000))
    listed, _ = await store.search(
        workspace.seq,
        lambda db, late: events.page(
            db,
            workspace.seq,
            event_type=None,
            since_ms=since_ms,
            until_ms=until_ms,
            before_seq=None,
            limit=1000,
            late=late,
        ),
    )
    ids = [view.event_id for view in found]
    assert ids == [view.id for view in listed]
    return ids


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
async def test_every_span_has_what_is_dated_in_it(tmp_path: Path, seed: int) -> None:
    """A clock set back and forth, restarts between: each span holds just the rows whose own time lies in it."""
    chance = random.Random(seed)
    now_ms, times = 10_000_000, {}
    workspace = None
    for start in range(3):
        async with open_store(tmp_path) as store:
            if workspace is None:
                workspace = await add_workspace(store)
                await add_endpoint(store, workspace)
            for number in range(40):
                now_ms += chance.choice([0, 1, 500, 40_000, -1, -SLACK + 1, -SLACK - 1, -3_600_000, 3_600_000])
                times[f"e-{start}-{number}"] = now_ms
                await accept(store, workspace, f"e-{start}-{number}", now_ms)
            marks = [None, *chance.sample(sorted(times.values()), 12), 0, 10**12]
            for since_ms in marks:
                for until_ms in marks:
                    expected = [
                        id_
                        for id_, at_ms in times.items()
                        if (since_ms is None or at_ms >= since_ms) and (until_ms is None or at_ms < until_ms)
                    ]
                    assert expected[::-1] == await dated(store, workspace, since_ms, until_ms)


async def test_a_span_is_found_without_walking_to_it(tmp_path: Path) -> None:
    """Of ten thousand rows, a second apart, a minute's span leaves only the slack's worth to be looked at."""
    async with open_store(tmp_path) as store:
        workspace = await add_workspace(store)
        await add_endpoint(store, workspace)
        new = [[NewEvent(f"e{number}", "message.sent", b"{}")] for number in range(10_000)]

        def fill(db: sqlite3.Connection) -> None:
            for number, each in enumerate(new):
                events.accept(db, Ingested(workspace.seq, each, True, number * 1000))

        await store.add(0, fill, workspace_seq=1)
        for table in ("deliveries", "events"):
            spans = await store.read(lambda db, t=table: time_index.between(db, t, 5_000_000, 5_060_000))  # type: ignore[misc]
            assert 1 == len(spans)
            assert 60 <= spans[0][1] - spans[0][0] - 1 <= 60 + 2 * SLACK / 1000 + 2


def test_all_cuts_in_one_statement_are_those_one_by_one() -> None:
    """With gaps in the numbers and rows of the same time; before the first, after the last, in an empty table."""
    chance = random.Random(5)
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE t (seq INTEGER PRIMARY KEY, dated INTEGER)")

    def look(seq: int) -> tuple[int, int] | None:
        rows = db.execute("SELECT seq, dated FROM t WHERE seq >= ? ORDER BY seq LIMIT 1", (seq,)).fetchall()
        return rows[0] if rows else None

    for count in (0, 1, 200):
        numbers = sorted(chance.sample(range(1, 1000), count))
        rows = zip(numbers, sorted(chance.randrange(100) for _ in numbers), strict=True)
        db.execute("DELETE FROM t")
        db.executemany("INSERT INTO t VALUES (?, ?)", rows)
        for low, high in ((0, (numbers or [0])[-1] + 1), (300, 600), (7, 7)):
            times_ms = [-5, *range(0, 100, 7), 500]
            expected = {at_ms: time_index.first_since(look, at_ms, low, high) for at_ms in times_ms}
            assert expected == time_index.cuts(db, "t", "dated", times_ms, low, high)
    db.close()


async def test_a_clock_set_back_is_remembered_once(tmp_path: Path) -> None:
    """One new segment per step back, not one per row after it; segments that were pruned are removed."""

    async def steps(store: Store) -> int:
        sql = "SELECT count(*) FROM clock_steps"
        return int(await store.read(lambda db: db.execute(sql).fetchall()[0][0]))

    async with open_store(tmp_path) as store:
        workspace = await add_workspace(store)
        await add_endpoint(store, workspace)
        for number, at_ms in enumerate((10**9, 10**9 + 5, 10**6, 10**6 + 1, 10**6 + 2)):
            await accept(store, workspace, f"e{number}", at_ms)
        assert 2 == await steps(store)
        await store.write(lambda db: db.execute("DELETE FROM deliveries WHERE seq < 5"))
        await store.write(lambda db: db.execute("DELETE FROM events WHERE seq < 5"))
        await accept(store, workspace, "last", 10)
        assert 2 == await steps(store)
        assert ["last"] == await dated(store, workspace, None, 11)


async def test_a_search_that_times_out_returns_where_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given up after its first window; going on from there finds everything, in order, once."""
    monkeypatch.setattr(delivery_log, "WINDOW_ROWS", 10)
    monkeypatch.setattr(delivery_log, "NEWEST_ROWS", 3)
    async with open_store(tmp_path) as store:
        workspace = await add_workspace(store)
        await add_endpoint(store, workspace)
        for number in range(95):
            await accept(store, workspace, f"e{number}", number)
        wanted = LogFilter(workspace.seq, paused=False)
        for rare in (wanted, replace(wanted, event_type="message.received"), replace(wanted, until_ms=20)):
            expected = [
                view.seq
                for view in await store.read(lambda db, w=rare: delivery_log.page(db, w, before_seq=None, limit=99))  # type: ignore[misc]
            ]
            found: list[int] = []
            before_seq: int | None = None
            for _ in range(200):
                rows, stopped_at = await store.read(
                    lambda db, w=rare, b=before_seq: delivery_log.search(  # type: ignore[misc]
                        db, w, before_seq=b, limit=7, late=lambda: True
                    )
                )
                found += [view.seq for view in rows]
                if stopped_at is None and len(rows) < 7:
                    break
                before_seq = rows[-1].seq if len(rows) == 7 else stopped_at
            assert expected == found


async def test_a_database_of_the_first_version_is_migrated(tmp_path: Path) -> None:
    """The frozen one: its rows, whose clock was set back, are found by their times, and so are those to come."""
    path = tmp_path / "webhookd.db"
    old = sqlite3.connect(path)
    old.executescript(FIRST_VERSION.read_text("utf-8"))
    old.close()
    async with open_store(tmp_path) as store:
        workspace = Workspace(
            seq=1, id="default", name="Default", plan="advanced", notify=(), created_at_ms=1000, plan_changed_at_ms=1000
        )
        await accept(store, workspace, "new", 4000)
        assert ["new", "old-4", "old-3"] == await dated(store, workspace, None, 5000)
        assert ["old-2"] == await dated(store, workspace, 5500, None)
