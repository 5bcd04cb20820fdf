"""Retention: what goes, what stays, and that it goes in small steps.  On real SQLite files, with the writer at work."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.clock import START_WALL_MS, ManualClock
from tests.support.stores import accept, add_endpoint, add_test, add_workspace, fail, open_store
from webhookd.config import Budget, Config, Limits
from webhookd.config import Retention as Settings
from webhookd.errors import ApiError
from webhookd.models import Endpoint, NewEvent, QueuedDelivery, Workspace
from webhookd.retention import LOOK_AGAIN_SECONDS, SWEEP_SECONDS, Pace, Retention, equal_share
from webhookd.store import attempts, deliveries, endpoints, events, outbox, retention, workspaces
from webhookd.store.deliveries import Success
from webhookd.store.events import Ingested
from webhookd.store.store import Store

DAY_MS = 86_400_000
BODY = b'{"event_type":"message.sent"}'
LARGE = b'{"event_type":"message.sent","x":"' + b"x" * 20_000 + b'"}'


@dataclass
class Bench:
    """A store with a workspace and an endpoint, a clock held by hand, and Retention over them."""

    store: Store
    clock: ManualClock
    config: Config
    retention: Retention
    workspace: Workspace
    endpoint: Endpoint

    async def accept(self, *ids: str, days_ago: float = 0, body: bytes = BODY) -> list[QueuedDelivery]:
        now_ms = self.clock.wall_ms() - round(days_ago * DAY_MS)
        return await accept(self.store, self.workspace, *ids, now_ms=now_ms, body=body)

    async def deliver(self, queued: list[QueuedDelivery]) -> None:
        now_ms = self.clock.wall_ms()

        def command(db: sqlite3.Connection) -> None:
            for each in queued:
                deliveries.delivered(db, Success(each.seq, 1, b"{}", now_ms))

        await self.store.write(command)

    async def fail(self, queued: QueuedDelivery, *, minutes_ago: float, counted: bool = True) -> None:
        now_ms = self.clock.wall_ms() - round(minutes_ago * 60_000)
        await fail(self.store, queued, counted=counted, record=b"{}", now_ms=now_ms)

    async def delivered(self, *ids: str, days_ago: float, body: bytes = BODY) -> None:
        await self.deliver(await self.accept(*ids, days_ago=days_ago, body=body))

    async def kept(self) -> list[str]:
        return [row[0] for row in await self.rows("SELECT id FROM events WHERE body IS NOT NULL ORDER BY seq")]

    async def remembered(self) -> list[str]:
        return [row[0] for row in await self.rows("SELECT id FROM events WHERE body IS NULL ORDER BY seq")]

    async def counts(self) -> dict[str, int]:
        tables = ("events", "deliveries", "attempts")
        return {table: (await self.rows(f"SELECT count(*) FROM {table}"))[0][0] for table in tables}

    async def rows(self, sql: str) -> list[Any]:
        return await self.store.read(lambda db: db.execute(sql).fetchall())


@asynccontextmanager
async def bench(folder: Path, **settings: Any) -> AsyncIterator[Bench]:
    async with open_store(folder) as store:
        clock = ManualClock()
        workspace = await add_workspace(store, now_ms=clock.wall_ms())
        endpoint = await add_endpoint(store, workspace)
        config = Config(retention=Settings(**settings))
        made = Bench(store, clock, config, Retention(store, clock, lambda: made.config), workspace, endpoint)
        yield made


async def test_old_events_go_with_all_that_belongs_to_them(tmp_path: Path) -> None:
    """Past `max_age_days` an event goes, with its deliveries and attempts if it has any; younger ones stay."""
    async with bench(tmp_path) as b:
        alone = [NewEvent("without subscriber", "message.sent", BODY)]
        at_ms = b.clock.wall_ms() - 31 * DAY_MS
        await b.store.write(lambda db: events.accept(db, Ingested(b.workspace.seq, alone, False, at_ms)))
        await b.delivered("old", days_ago=30.01)
        await b.fail((await b.accept("dropped", days_ago=30.01))[0], minutes_ago=40_000)
        await b.delivered("young", days_ago=29.99)
        swept = await b.retention.sweep()
        assert (3, 2) == (swept.events, swept.deliveries)
        assert {"events": 1, "deliveries": 1, "attempts": 0} == await b.counts()
        assert ["young"] == await b.kept()


async def test_what_waits_never_goes(tmp_path: Path) -> None:
    """Waiting, held or waiting again by a replay: an event stays whole, however old or large the file is."""
    async with bench(tmp_path, max_size_mb=0.001) as b:
        await b.accept("waiting", days_ago=400)
        queued = await b.accept("replayed", days_ago=400)
        await b.deliver(queued)
        await b.store.write(lambda db: deliveries.replay(db, [queued[0].seq], b.clock.wall_ms()))
        await b.delivered("done", days_ago=400)
        assert 1 == (await b.retention.sweep()).events
        assert ["waiting", "replayed"] == await b.kept()
        assert 3 == (await b.counts())["deliveries"]


async def test_what_waited_goes_once_it_is_finished(tmp_path: Path) -> None:
    """Events that were passed over are looked at again after a while, not by every sweep."""
    async with bench(tmp_path) as b:
        queued = await b.accept("waiting", days_ago=31)
        await b.delivered("done", days_ago=31)
        assert 1 == (await b.retention.sweep()).events
        await b.deliver(queued)
        assert 0 == (await b.retention.sweep()).events
        await b.clock.advance(LOOK_AGAIN_SECONDS)
        assert 1 == (await b.retention.sweep()).events
        assert [] == await b.kept()


async def test_a_million_waiting_events_are_not_looked_at_by_every_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place up to which all was looked at is kept: the next sweep reads one page, not everything."""
    async with bench(tmp_path) as b:
        await b.accept(*(f"w{n}" for n in range(2500)), days_ago=31)
        looks: list[int] = []
        examine = retention.examine

        def counting(*args: Any, after_seq: int, **more: Any) -> retention.Examined:
            looks.append(after_seq)
            return examine(*args, after_seq=after_seq, **more)

        monkeypatch.setattr(retention, "examine", counting)
        await b.retention.sweep()
        assert [0, 500, 1000, 1500, 2000, 2500] == looks
        await b.delivered("later", days_ago=31)
        looks.clear()
        assert 1 == (await b.retention.sweep()).events
        assert [2500] == looks


async def test_failures_that_count_stay(tmp_path: Path) -> None:
    """While a failure counts against the budget its event stays, even with a retention shorter than the window."""
    async with bench(tmp_path, max_age_days=0.001, idempotency_hours=0.001) as b:
        counts, old, uncounted = await b.accept("counts", "old", "uncounted", days_ago=1)
        await b.fail(counts, minutes_ago=29)
        await b.fail(old, minutes_ago=31)
        await b.fail(uncounted, minutes_ago=29, counted=False)
        assert 2 == (await b.retention.sweep()).events
        assert ["counts"] == await b.kept()
        since_ms = b.clock.wall_ms() - 1_800_000
        assert 1 == len(await b.store.read(lambda db: attempts.counted_since(db, since_ms, b.clock.wall_ms())))


async def test_a_longer_window_keeps_failures_longer(tmp_path: Path) -> None:
    """The window is the one configured."""
    async with bench(tmp_path, max_age_days=0.001) as b:
        b.config = Config(retention=b.config.retention, budget=Budget(window_seconds=86_400))
        await b.fail((await b.accept("counts", days_ago=1))[0], minutes_ago=1439)
        assert 0 == (await b.retention.sweep()).events


async def test_forgiven_failures_dont_keep_their_event(tmp_path: Path) -> None:
    """A failure from before its endpoint was enabled, or of a deleted one, no longer counts."""
    async with bench(tmp_path, max_age_days=0.001) as b:
        await b.fail((await b.accept("forgiven", days_ago=1))[0], minutes_ago=1)
        await b.store.write(lambda db: endpoints.enable(db, b.endpoint.seq, skip_held=False, now_ms=b.clock.wall_ms()))
        assert 1 == (await b.retention.sweep()).events
        await b.fail((await b.accept("deleted", days_ago=1))[0], minutes_ago=1)
        await b.store.write(lambda db: endpoints.delete(db, b.endpoint.seq, b.clock.wall_ms()))
        assert 1 == (await b.retention.sweep()).events


async def test_a_deleted_endpoint_keeps_what_may_be_in_flight(tmp_path: Path) -> None:
    """What waited for a deleted endpoint goes once no attempt can be under way; then the endpoint's row goes."""
    async with bench(tmp_path) as b:
        await b.accept("cancelled", days_ago=31)
        await b.store.write(lambda db: endpoints.delete(db, b.endpoint.seq, b.clock.wall_ms()))
        assert 0 == (await b.retention.sweep()).events
        await b.clock.advance(LOOK_AGAIN_SECONDS)
        assert 1 == (await b.retention.sweep()).events
        assert [] == await b.rows("SELECT * FROM endpoints")


async def test_a_deleted_endpoint_stays_while_the_log_names_it(tmp_path: Path) -> None:
    """Its deliveries can be looked up until they are pruned."""
    async with bench(tmp_path) as b:
        await b.delivered("young", days_ago=1)
        await b.store.write(lambda db: endpoints.delete(db, b.endpoint.seq, b.clock.wall_ms()))
        await b.clock.advance(LOOK_AGAIN_SECONDS)
        await b.retention.sweep()
        assert [(b.endpoint.seq,)] == await b.rows("SELECT seq FROM endpoints")


async def test_an_id_is_remembered_longer_than_its_event(tmp_path: Path) -> None:
    """For `idempotency_hours` the id tells a duplicate from a conflict; then it may come again."""
    async with bench(tmp_path, max_age_days=1) as b:
        await b.delivered("known", days_ago=2)
        assert 1 == (await b.retention.sweep()).events
        assert (["known"], []) == (await b.remembered(), await b.kept())

        async def again(body: bytes) -> tuple[bool, bool]:
            new = NewEvent("known", "message.sent", body)
            accepted = await b.store.write(
                lambda db: events.accept(db, Ingested(b.workspace.seq, [new], True, b.clock.wall_ms()))
            )
            return accepted[0].duplicate, accepted[0].conflict

        assert ((True, False), (False, True)) == (await again(BODY), await again(b"{}"))
        await b.clock.advance(86_400 - 60)
        await b.retention.sweep()
        assert ["known"] == await b.remembered()
        await b.clock.advance(120)
        await b.retention.sweep()
        assert [] == await b.remembered()
        assert (False, False) == await again(b"{}")


async def test_by_size_the_oldest_go_whatever_their_age(tmp_path: Path) -> None:
    """Past `max_size_mb` the oldest finished events go until the rest fits, no more; the file becomes smaller."""
    async with bench(tmp_path, max_size_mb=4) as b:
        await b.accept("waiting", days_ago=0.2, body=LARGE)
        await b.delivered(*(f"e{n}" for n in range(400)), days_ago=0.1, body=LARGE)
        before = await b.store.read(retention.file_size)
        swept = await b.retention.sweep()
        after = await b.store.read(retention.file_size)
        kept = await b.kept()
        assert 8_000_000 < before.bytes and before.bytes - after.bytes == swept.bytes
        assert 3.9 * 2**20 < after.used_bytes <= after.bytes <= 4 * 2**20
        assert ["waiting", *(f"e{n}" for n in range(swept.events, 400))] == kept
        assert 400 - swept.events > 130
        assert 0 == (await b.retention.sweep()).events


async def in_another(b: Bench, count: int, *, finished: bool) -> Workspace:
    """Another workspace with large events."""
    other = await add_workspace(b.store, "noisy", now_ms=b.clock.wall_ms())
    await add_endpoint(b.store, other)
    queued = await accept(b.store, other, *(f"n{n}" for n in range(count)), now_ms=b.clock.wall_ms(), body=LARGE)
    if finished:
        await b.deliver(queued)
    return other


@pytest.mark.parametrize("finished", [True, False])
async def test_by_size_the_workspace_that_uses_most_goes_first(tmp_path: Path, *, finished: bool) -> None:
    """Younger events of a large log go before older ones of a small one, which loses nothing even where they can't."""
    async with bench(tmp_path, max_size_mb=4) as b:
        small = [f"s{number}" for number in range(20)]
        await b.delivered(*small, days_ago=3, body=LARGE)
        await in_another(b, 400, finished=finished)
        swept = await b.retention.sweep()
        assert small == (await b.kept())[:20]
        used = (await b.store.read(retention.file_size)).used_bytes
        assert (used <= 4 * 2**20) is finished
        assert (swept.events > 200) is finished


async def test_logs_as_large_as_each_other_are_shortened_alike(tmp_path: Path) -> None:
    """Each keeps about its share."""
    async with bench(tmp_path, max_size_mb=4) as b:
        await b.delivered(*(f"m{number}" for number in range(200)), days_ago=3, body=LARGE)
        await in_another(b, 200, finished=True)
        await b.retention.sweep()
        sizes = await b.store.read(workspaces.log_bytes)
        assert abs(sizes[1] - sizes[2]) < 3 * len(LARGE)


async def test_a_log_over_its_quota_is_shortened_alone(tmp_path: Path) -> None:
    """To nine tenths of it, oldest first; another workspace's log stays as it is."""
    async with bench(tmp_path) as b:
        b.config = Config(retention=b.config.retention, limits=Limits(log_mb_per_workspace=2))
        await b.delivered("mine", days_ago=20)
        other = await in_another(b, 200, finished=True)
        await b.retention.sweep()
        sizes = await b.store.read(workspaces.log_bytes)
        assert 1.75 * 2**20 < sizes[other.seq] <= 1.8 * 2**20
        kept = await b.kept()
        assert ["mine", "n199"] == [kept[0], kept[-1]]


async def test_remembered_ids_count_and_the_oldest_go_by_quota(tmp_path: Path) -> None:
    """Not those of the last hour; then the workspace is over its quota, and refuses events after a second."""
    async with bench(tmp_path, max_age_days=0.01) as b:
        b.config = Config(retention=b.config.retention, limits=Limits(log_mb_per_workspace=0.01))
        ids = [f"i{number}" for number in range(100)]
        await b.delivered(*ids, days_ago=0.5)
        await b.retention.sweep()
        assert ids[-40:] == await b.remembered()
        assert not b.retention.over_quota(b.workspace.seq)
        await b.delivered(*(f"young{number}" for number in range(60)), days_ago=0.02)
        await b.retention.sweep()
        assert [f"young{number}" for number in range(60)] == await b.remembered()
        waiting = asyncio.create_task(b.retention.wait_for_space(b.workspace.seq))
        await b.clock.until_waiters(1)
        await b.clock.advance(1)
        with pytest.raises(ApiError, match="allowed are 0") as refused:
            await waiting
        assert ("workspace_full", 507) == (refused.value.code, refused.value.status)


async def test_every_row_counts_while_it_is_there(tmp_path: Path) -> None:
    """Events, deliveries, attempts, tests and replays, by what the migration says; at last nothing."""
    async with bench(tmp_path, max_age_days=0.5, idempotency_hours=0.001) as b:
        queued = await b.accept("done", "failed", "waiting", days_ago=1)
        assert {1: 3 * (200 + len(BODY) + 400)} == await b.store.read(workspaces.log_bytes)
        await b.deliver(queued[:1])
        await b.fail(queued[1], minutes_ago=1)
        await b.store.write(lambda db: deliveries.replay(db, [queued[0].seq], b.clock.wall_ms()))
        await add_test(b.store, b.endpoint, delivered=False)
        counted = await b.store.read(workspaces.log_bytes)
        events_and_deliveries = 4 * 200 + 3 * len(BODY) + 2 + 5 * 400
        assert {1: events_and_deliveries + 100 + 2} == counted
        await b.store.write(lambda db: endpoints.delete(db, b.endpoint.seq, b.clock.wall_ms()))
        await b.clock.advance(3600)
        await b.retention.sweep()
        assert {} == await b.store.read(workspaces.log_bytes)


async def test_the_migration_counts_what_is_there(tmp_path: Path) -> None:
    """In a database of the first version: four events of 29 bytes, each with a delivery."""
    with contextlib.closing(sqlite3.connect(tmp_path / "webhookd.db")) as old:
        old.executescript((Path(__file__).parent / "store" / "frozen" / "version_1.sql").read_text("utf-8"))
    async with open_store(tmp_path) as store:
        assert {1: 4 * (200 + 29 + 400)} == await store.read(workspaces.log_bytes)


@pytest.mark.parametrize(
    ("sizes", "total", "share"),
    [([6, 1, 9], 10, 4.5), ([5, 5], 4, 2), ([1, 2], 9, math.inf), ([], 0, math.inf)],
)
def test_an_equal_share_leaves_the_small_ones_as_they_are(sizes: list[int], total: int, share: float) -> None:
    """What they don't use the larger ones have."""
    assert share == equal_share(sizes, total)


async def test_free_space_inside_is_kept_for_new_events(tmp_path: Path) -> None:
    """Below the allowed size the file isn't made smaller for a few free pages: new events take them."""
    async with bench(tmp_path) as b:
        await b.delivered(*(f"e{n}" for n in range(100)), days_ago=31, body=LARGE)
        swept = await b.retention.sweep()
        size = await b.store.read(retention.file_size)
        assert (100, 0) == (swept.events, swept.bytes)
        assert 1_000_000 < size.free_bytes


async def test_steps_are_small(tmp_path: Path) -> None:
    """Each step is a command of its own, of at most 200 events, and the writer rests between two."""
    async with bench(tmp_path) as b:
        await b.delivered(*(f"e{n}" for n in range(1000)), days_ago=31)
        steps: list[int] = []
        write = b.store.write

        async def counting(command: Any, **more: Any) -> Any:
            before = (await b.counts())["events"]
            result = await write(command, **more)
            steps.append(before - (await b.counts())["events"])
            return result

        b.store.write = counting  # type: ignore[assignment]  # looks on, changes nothing
        assert 1000 == (await b.retention.sweep()).events
        assert [200] * 5 == [step for step in steps if step]


async def test_a_slow_disk_makes_the_steps_smaller(tmp_path: Path) -> None:
    """When its time is over a step ends early, and the next goes on where it ended."""
    async with bench(tmp_path) as b:
        await b.delivered(*(f"e{n}" for n in range(10)), days_ago=31)
        seqs = [row[0] for row in await b.rows("SELECT seq FROM events ORDER BY seq")]
        terms = b.retention._terms()
        step = await b.store.write(lambda db: retention.prune(db, seqs, terms, out_of_time=lambda: True))
        assert (1, 1, 1) == (step.done, step.events, step.deliveries)
        assert 9 == (await b.retention.sweep()).events


async def test_an_event_with_many_deliveries_goes_in_several_steps(tmp_path: Path) -> None:
    """A fan-out larger than a step is taken apart, the event's row last."""
    async with bench(tmp_path) as b:
        piece = retention.PIECE_ROWS
        for n in range(4 * piece + 1):
            await add_endpoint(b.store, b.workspace, f"https://example.com/{n}")
        await b.delivered("wide", days_ago=31)
        seq = (await b.rows("SELECT seq FROM events"))[0][0]
        terms = b.retention._terms()
        late = iter([False, True])
        step = await b.store.write(lambda db: retention.prune(db, [seq], terms, out_of_time=lambda: next(late)))
        assert (0, 0, 2 * piece) == (step.done, step.events, step.deliveries)
        swept = await b.retention.sweep()
        assert (1, 2 * piece + 2) == (swept.events, swept.deliveries)
        assert {"events": 0, "deliveries": 0, "attempts": 0} == await b.counts()


def test_the_pace_slows_after_what_was_slow() -> None:
    """Half as much after more than 10 ms, a quarter more after less than 5 ms, within its bounds."""
    pace = Pace(8, least=1, most=10)
    sizes = []
    for milliseconds in (11, 7, 4, 4, 11, 11, 11, 11):
        pace.took(milliseconds / 1000)
        sizes.append(pace.at_a_time)
    assert [4, 4, 5, 6.25, 3.125, 1.5625, 1, 1] == sizes
    for _ in range(20):
        pace.took(0.001)
    assert 10 == pace.at_a_time


async def test_it_makes_small_checkpoints_between_its_steps(tmp_path: Path) -> None:
    """Most of what the steps wrote is in the file before SQLite would have put it there: 4 steps, then a checkpoint."""
    async with bench(tmp_path) as b:
        await b.delivered(*(f"e{n}" for n in range(2000)), days_ago=31)
        file = tmp_path / "webhookd.db"
        empty, checkpoints = file.stat().st_size, []
        checkpoint = b.store.writer.checkpoint

        async def counting() -> float:
            took = await checkpoint()
            checkpoints.append(file.stat().st_size)
            return took

        b.store.writer.checkpoint = counting  # type: ignore[method-assign]  # looks on, changes nothing
        assert 2000 == (await b.retention.sweep()).events
        assert checkpoints and empty < checkpoints[0]


async def test_a_replay_in_the_last_moment_keeps_the_event(tmp_path: Path) -> None:
    """What the reader found prunable is judged again by the writer."""
    async with bench(tmp_path) as b:
        queued = await b.accept("replayed", days_ago=31)
        await b.deliver(queued)
        terms = b.retention._terms()
        found = await b.store.read(lambda db: retention.examine(db, terms, after_seq=0))
        await b.store.write(lambda db: deliveries.replay(db, [queued[0].seq], b.clock.wall_ms()))
        step = await b.store.write(lambda db: retention.prune(db, found.prunable, terms, out_of_time=lambda: False))
        assert (1, 0) == (step.done, step.events)
        assert ["replayed"] == await b.kept()


async def test_a_deleted_workspace_goes_whatever_its_age(tmp_path: Path) -> None:
    """Its events, remembered ids, notices, endpoints and at last its own row; others keep theirs."""
    async with bench(tmp_path) as b:
        other = await add_workspace(b.store, "acme", now_ms=b.clock.wall_ms())
        endpoint = await add_endpoint(b.store, other, "https://acme.example/")
        await b.delivered("mine", days_ago=0)
        now_ms = b.clock.wall_ms()
        await accept(b.store, other, *(f"e{n}" for n in range(600)), now_ms=now_ms)

        def gone(db: sqlite3.Connection) -> None:
            outbox.insert(db, workspace_seq=other.seq, kind="x", message_id="<1@x>", payload={}, now_ms=now_ms)
            endpoints.delete(db, endpoint.seq, now_ms)
            workspaces.delete(db, other.seq, now_ms)

        await b.store.write(gone)
        assert 0 == (await b.retention.sweep()).events
        await b.clock.advance(601)
        swept = await b.retention.sweep()
        assert (600, 600) == (swept.events, swept.deliveries)
        assert ["mine"] == await b.kept()
        for table in ("workspaces", "endpoints"):
            assert 1 == (await b.rows(f"SELECT count(*) FROM {table}"))[0][0]
        assert [] == await b.rows("SELECT * FROM outbox")


async def test_a_stamp_of_the_future_stops_nothing(tmp_path: Path) -> None:
    """Events accepted while the clock was wrong stay, and don't keep the old ones behind them."""
    async with bench(tmp_path) as b:
        await b.delivered("future", days_ago=-400)
        await b.delivered("old", days_ago=31)
        assert 1 == (await b.retention.sweep()).events
        assert ["future"] == await b.kept()


async def test_a_clock_far_in_the_past_removes_nothing(tmp_path: Path) -> None:
    """A machine that starts in 1970 keeps its log."""
    async with bench(tmp_path) as b:
        await b.delivered("a", "b", days_ago=31)
        b.clock.jump_wall(-START_WALL_MS / 1000)
        assert 0 == (await b.retention.sweep()).events


async def test_closed_notices_are_forgotten_with_the_log(tmp_path: Path) -> None:
    """A notice goes `max_age_days` after it was closed; one that waits stays."""
    async with bench(tmp_path) as b:
        for number in (1, 2):
            await b.store.write(
                lambda db, n=number: outbox.insert(
                    db, workspace_seq=1, kind="x", message_id=f"<{n}@x>", payload={}, now_ms=b.clock.wall_ms()
                )
            )
        await b.store.write(lambda db: outbox.close(db, 1, error=None, now_ms=b.clock.wall_ms()))
        await b.clock.advance(31 * 86_400)
        await b.retention.sweep()
        assert [("<2@x>",)] == await b.rows("SELECT message_id FROM outbox")


async def test_it_sweeps_once_a_minute(tmp_path: Path) -> None:
    """The root task sweeps at the start, and again every minute, for ever."""
    async with bench(tmp_path) as b:
        await b.delivered("first", days_ago=31)
        running = asyncio.create_task(b.retention.run())
        await b.clock.until_waiters(1)
        assert [] == await b.kept()
        await b.delivered("second", days_ago=31)
        await b.clock.advance(SWEEP_SECONDS - 1)
        assert ["second"] == await b.kept()
        await b.clock.advance(1)
        await b.clock.until_waiters(1)
        assert [] == await b.kept()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_a_full_disk_doesnt_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the writer refuses, the next sweep tries again."""
    async with bench(tmp_path) as b:
        await b.delivered("old", days_ago=31)

        def full(*_: Any, **__: Any) -> None:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorname = "SQLITE_FULL"
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(retention, "prune", full)
            running = asyncio.create_task(b.retention.run())
            await b.clock.until_waiters(1)
            assert b.store.writer.full and ["old"] == await b.kept()
        await b.clock.advance(SWEEP_SECONDS)
        await b.clock.until_waiters(1)
        assert [] == await b.kept()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
