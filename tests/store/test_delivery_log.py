"""The event log as it is read: filters, pages, derived states, and that no search walks through what is wide."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest

from tests.support.stores import accept, add_endpoint, add_test, add_workspace, deliver, fail
from webhookd.models import DeliveryState, DeliveryView, Endpoint, EndpointState, QueuedDelivery, Workspace
from webhookd.store import attempts, deliveries, delivery_log, endpoints, events
from webhookd.store.connection import Late
from webhookd.store.delivery_log.log_filter import WAITING, LogFilter
from webhookd.store.store import Store

S = DeliveryState
# What may be read from end to end, because it is always short.
NARROW_SCANS = ("SCAN json_each VIRTUAL TABLE INDEX 1:", "SCAN clock_steps", "SCAN counted")


def never() -> bool:
    return False


@dataclass
class Log:
    """A store with a workspace, and short words for what is done to it."""

    store: Store
    workspace: Workspace
    clock_ms: int = 1_000

    async def accept(self, event_id: str, event_type: str = "message.sent") -> list[QueuedDelivery]:
        self.clock_ms += 1
        return await accept(
            self.store, self.workspace, event_id, now_ms=self.clock_ms, body=b"{}", event_type=event_type
        )

    async def deliver(self, seq: int, number: int = 1) -> None:
        self.clock_ms += 1
        record = orjson.dumps({"number": number, "outcome": "delivered"})
        await deliver(self.store, seq, number=number, record=record, now_ms=self.clock_ms)

    async def fail(self, delivery: QueuedDelivery, number: int = 1, *, again_in_ms: int | None = None) -> None:
        self.clock_ms += 1
        next_ms = None if again_in_ms is None else self.clock_ms + again_in_ms
        record = orjson.dumps({"number": number, "outcome": "failed"})
        await fail(self.store, delivery, number=number, next_ms=next_ms, record=record, now_ms=self.clock_ms)

    async def finish(self, endpoint: Endpoint, state: int, upto_seq: int = 2**62) -> None:
        await self.store.write(
            lambda db: deliveries.finish_some(
                db, endpoint.seq, state=state, upto_seq=upto_seq, after_seq=0, limit=500, now_ms=self.clock_ms
            )
        )

    def filter(self, *, paused: bool = False) -> LogFilter:
        return LogFilter(self.workspace.seq, paused)

    async def page(self, wanted: LogFilter, *, before: int | None = None, limit: int = 500) -> list[DeliveryView]:
        return await self.store.read(lambda db: delivery_log.page(db, wanted, before_seq=before, limit=limit))

    async def late_pages(self, wanted: LogFilter) -> list[DeliveryView]:
        """What is found in pages of seven by searches that are always late."""
        found: list[DeliveryView] = []
        before: int | None = None
        while True:
            rows, stopped_at = await self.store.read(
                lambda db, before=before: delivery_log.search(  # type: ignore[misc]
                    db, wanted, before_seq=before, limit=7, late=lambda: True
                )
            )
            found += rows
            before = rows[-1].seq if len(rows) == 7 else stopped_at
            if before is None:
                return found

    async def finished(
        self, wanted: LogFilter, *, after_seq: int = 0, limit: int = 9, late: Late = never
    ) -> tuple[list[int], int | None]:
        return await self.store.read(
            lambda db: delivery_log.finished_matching(db, wanted, after_seq=after_seq, limit=limit, late=late)
        )

    async def all_finished(self, wanted: LogFilter, late: Late = never) -> tuple[list[int], int]:
        """What `finished` finds in steps of five, and in how many steps."""
        found: list[int] = []
        go_on: int | None = 0
        steps = 0
        while go_on is not None:
            step, go_on = await self.finished(wanted, after_seq=go_on, limit=5, late=late)
            found, steps = found + step, steps + 1
        return found, steps

    async def events(self, **given: Any) -> tuple[list[str], int | None]:
        """The ids of a page of events, and where the next one goes on."""
        values = {"event_type": None, "since_ms": None, "until_ms": None, "before_seq": None, "limit": 9, "late": never}
        found, before = await self.store.read(lambda db: events.page(db, self.workspace.seq, **(values | given)))
        assert all(event.body is None for event in found)
        return [event.id for event in found], before

    async def states(self, *, paused: bool = False) -> list[DeliveryState]:
        return [view.state for view in await self.page(self.filter(paused=paused))][::-1]


@pytest.fixture
async def log(store: Store) -> Log:
    return Log(store, await add_workspace(store))


async def disable(log: Log, endpoint: Endpoint) -> None:
    await log.store.write(
        lambda db: endpoints.disable(
            db, [endpoint.seq], state=EndpointState.DISABLED, reason="person", message="", now_ms=log.clock_ms
        )
    )


async def enable(log: Log, endpoint: Endpoint, *, skip_held: bool = False) -> None:
    await log.store.write(lambda db: endpoints.enable(db, endpoint.seq, skip_held=skip_held, now_ms=log.clock_ms))


async def test_a_delivery_is_shown_with_what_is_known_of_it(log: Log) -> None:
    """A fresh delivery has its ids, its type and its time, and no attempt."""
    endpoint = await add_endpoint(log.store, log.workspace)
    (delivery,) = await log.accept("a", "contact.created")
    assert await log.page(log.filter()) == [
        DeliveryView(
            seq=delivery.seq,
            workspace_seq=log.workspace.seq,
            workspace="default",
            endpoint_seq=endpoint.seq,
            endpoint_id=endpoint.id,
            event_id="a",
            event_type="contact.created",
            state=S.PENDING,
            replay_of=None,
            is_test=False,
            is_backfill=False,
            accepted_at_ms=delivery.accepted_at_ms,
            next_attempt_at_ms=None,
            finished_at_ms=None,
            attempt_count=0,
            last_attempt=None,
        )
    ]


async def test_the_last_attempt_is_the_newest_whatever_came_of_it(log: Log) -> None:
    """A failed attempt is shown until a delivered one follows; all of them are listed in order."""
    await add_endpoint(log.store, log.workspace)
    (delivery,) = await log.accept("a")
    await log.fail(delivery, 1, again_in_ms=30_000)
    (waiting,) = await log.page(log.filter())
    expected = (S.PENDING, 1, {"number": 1, "outcome": "failed"}, log.clock_ms + 30_000)
    assert expected == (waiting.state, waiting.attempt_count, waiting.last_attempt, waiting.next_attempt_at_ms)
    await log.deliver(delivery.seq, 2)
    (done,) = await log.page(log.filter())
    assert (S.DELIVERED, 2, {"number": 2, "outcome": "delivered"}) == (
        done.state,
        done.attempt_count,
        done.last_attempt,
    )
    assert done.finished_at_ms == log.clock_ms and done.next_attempt_at_ms is None
    numbers = [one["number"] for one in await log.store.read(lambda db: attempts.of_delivery(db, delivery.seq))]
    assert [1, 2] == numbers


async def test_what_waits_reads_held_while_its_endpoint_gets_nothing(log: Log) -> None:
    """Disabled by a person or paused by the plan: the same rows read as held, and no next attempt is promised."""
    endpoint = await add_endpoint(log.store, log.workspace)
    (first,) = await log.accept("a")
    await log.accept("b")
    await log.fail(first, again_in_ms=30_000)
    assert [S.PENDING, S.PENDING] == await log.states()
    assert [S.HELD, S.HELD] == await log.states(paused=True)
    await disable(log, endpoint)
    assert [S.HELD, S.HELD] == await log.states()
    assert [None, None] == [view.next_attempt_at_ms for view in await log.page(log.filter())]
    assert [] == await log.page(replace(log.filter(), state=S.PENDING))


async def test_what_was_skipped_reads_so_before_its_rows_have_followed(log: Log) -> None:
    """The mark decides at once; what comes after it is pending."""
    endpoint = await add_endpoint(log.store, log.workspace)
    (first,) = await log.accept("a")
    await disable(log, endpoint)
    await enable(log, endpoint, skip_held=True)
    await log.accept("b")
    assert [S.SKIPPED, S.PENDING] == await log.states()
    (skipped,) = await log.page(replace(log.filter(), state=S.SKIPPED))
    assert first.seq == skipped.seq and skipped.finished_at_ms is not None
    await log.finish(endpoint, deliveries.SKIPPED, upto_seq=first.seq)
    assert [S.SKIPPED, S.PENDING] == await log.states()


async def test_what_waits_for_a_deleted_endpoint_reads_cancelled(log: Log) -> None:
    """Deleting cancels by its mark; what was skipped before didn't wait any more and stays skipped."""
    endpoint = await add_endpoint(log.store, log.workspace)
    await log.accept("a")
    await disable(log, endpoint)
    await enable(log, endpoint, skip_held=True)
    await log.accept("b")
    await log.store.write(lambda db: endpoints.delete(db, endpoint.seq, log.clock_ms))
    assert [S.SKIPPED, S.CANCELLED] == await log.states()
    for state, expected in ((S.CANCELLED, ["b"]), (S.SKIPPED, ["a"])):
        found = await log.page(replace(log.filter(), state=state, endpoint_seq=endpoint.seq))
        assert expected == [view.event_id for view in found]


async def test_each_workspace_has_a_log_of_its_own(log: Log) -> None:
    """Neither the list nor a single look shows another workspace's deliveries."""
    await add_endpoint(log.store, log.workspace)
    (delivery,) = await log.accept("a")
    other = await add_workspace(log.store, "other")
    await add_endpoint(log.store, other)
    assert [] == await log.page(LogFilter(other.seq, paused=False))
    assert None is await log.store.read(lambda db: delivery_log.get(db, other.seq, delivery.seq, paused=False))
    own = await log.store.read(lambda db: delivery_log.get(db, log.workspace.seq, delivery.seq, paused=False))
    assert own is not None and own.seq == delivery.seq


async def test_a_test_is_in_the_log_and_is_not_replayed(log: Log) -> None:
    """It is marked as a test; a replay of all that was dropped leaves it out."""
    endpoint = await add_endpoint(log.store, log.workspace)
    await add_test(log.store, endpoint, delivered=False)
    (view,) = await log.page(replace(log.filter(), state=S.DROPPED, event_type="message.sent"))
    assert view.is_test and view.event_id == "test_1"
    assert ([], None) == await log.finished(log.filter())


async def history(log: Log, *, count: int = 120) -> list[DeliveryView]:
    """A log of many kinds over four endpoints, two of them in odd states; returns all of it as the table shows it."""
    chance = random.Random(7)
    four = [await add_endpoint(log.store, log.workspace, f"https://e{n}.example/") for n in range(4)]
    other = await add_workspace(log.store, "other")
    stranger = await add_endpoint(log.store, other)
    for number in range(count):
        await log.accept(f"e{number}", chance.choice(["message.sent", "contact.created", "comment.created"]))
        if number == count // 2:
            await disable(log, four[2])
            await enable(log, four[2], skip_held=True)
    everything = await log.page(log.filter())
    assert stranger.id not in {view.endpoint_id for view in everything}
    for view in everything:
        kind = chance.randrange(5)
        queued = QueuedDelivery(view.seq, view.endpoint_seq, view.event_id, view.event_type, None, 2, 0)
        if view.endpoint_seq != four[2].seq and kind == 0:
            await log.deliver(view.seq)
        elif view.endpoint_seq != four[2].seq and kind == 1:
            await log.fail(queued)
    await log.finish(four[0], deliveries.EXPIRED, upto_seq=everything[-count].seq)
    await disable(log, four[1])
    await log.store.write(lambda db: endpoints.delete(db, four[3].seq, log.clock_ms))
    return await log.page(log.filter())


FILTERS: list[dict[str, Any]] = [
    {},
    *({"state": state} for state in S),
    {"event_type": "comment.created"},
    {"event_type": "nothing.such"},
    {"event_id": "e17"},
    {"event_id": "e17", "state": S.HELD},
    {"endpoint_seq": 0},
    {"endpoint_seq": 1, "state": S.HELD, "event_type": "message.sent"},
    {"endpoint_seq": 2, "state": S.SKIPPED},
    {"endpoint_seq": 3},
    {"since_ms": 40},
    {"until_ms": 40},
    {"since_ms": 30, "until_ms": 60, "state": S.DELIVERED},
    {"since_ms": 119, "until_ms": 119},
]


@pytest.mark.parametrize("newest_rows", [delivery_log.NEWEST_ROWS, 25], ids=["newest", "ranges"])
async def test_every_filter_finds_what_a_look_at_every_row_finds(
    log: Log, monkeypatch: pytest.MonkeyPatch, newest_rows: int
) -> None:
    """In pages of seven, over the newest rows and over the ranges behind them, nothing is missing or twice."""
    monkeypatch.setattr(delivery_log, "NEWEST_ROWS", newest_rows)
    monkeypatch.setattr(delivery_log, "WINDOW_ROWS", 2 * newest_rows)
    monkeypatch.setattr(delivery_log, "READ_ROWS", 10)
    monkeypatch.setattr(delivery_log, "MANY_PLACES", 6)  # some filters have more, others fewer
    everything = await history(log)
    assert {*S} == {view.state for view in everything} | {S.PENDING}
    seqs = sorted({view.endpoint_seq for view in everything})
    times = sorted({view.accepted_at_ms for view in everything})
    places = {"endpoint_seq": seqs, "since_ms": times, "until_ms": times}
    for given in FILTERS:
        wanted = replace(log.filter(), **{name: places[name][v] if name in places else v for name, v in given.items()})
        expected = [view for view in everything if wanted.matches(view)]
        found: list[DeliveryView] = []
        for _ in range(len(expected) + 1):
            more = await log.page(wanted, before=found[-1].seq if found else None, limit=7)
            found += more
            if len(more) < 7:
                break
        assert expected == found, given
        if newest_rows == 25:
            assert expected == await log.late_pages(wanted), given


@pytest.mark.parametrize("state", [S.DELIVERED, S.DROPPED, S.SKIPPED, S.EXPIRED, None])
async def test_replaying_takes_what_is_finished_oldest_first(log: Log, state: S | None) -> None:
    """In steps; what a mark skipped is finished already, what waits isn't."""
    everything = await history(log)
    expected = [view.seq for view in reversed(everything) if view.state not in WAITING and state in (None, view.state)]
    found, _ = await log.all_finished(replace(log.filter(), state=state))
    assert expected and expected == found


async def test_a_replays_search_that_is_late_goes_on_where_it_stopped(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks at one window at a time; in the end it has found the same."""
    await history(log)
    monkeypatch.setattr(delivery_log, "WINDOW_ROWS", 7)
    for wanted in (log.filter(), replace(log.filter(), state=S.DROPPED), replace(log.filter(), event_type="none")):
        expected, _ = await log.finished(wanted, limit=500)
        found, steps = await log.all_finished(wanted, late=lambda: True)
        assert expected == found and steps > 120 / 7 - 1


async def test_a_late_list_of_events_goes_on_where_it_stopped(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at one window of the workspace's own events at a time, and finds each once, in order."""
    monkeypatch.setattr(events, "WINDOW_EVENTS", 4)
    loud = await add_workspace(log.store, "loud")
    for number in range(30):
        await log.accept(f"e{number}", "message.sent" if number % 10 == 5 else "contact.created")
        await accept(log.store, loud, f"l{number}", now_ms=log.clock_ms)
    found: list[str] = []
    before_seq, steps = None, 0
    while steps == 0 or before_seq is not None:
        page, before_seq = await log.events(event_type="message.sent", before_seq=before_seq, late=lambda: True)
        found, steps = found + page, steps + 1
    assert ["e25", "e15", "e5"] == found
    assert 7 <= steps <= 9


async def test_a_replay_leaves_out_what_has_lost_its_body(log: Log) -> None:
    """A pruned event can't be sent again."""
    await add_endpoint(log.store, log.workspace)
    for event_id in ("a", "b"):
        (delivery,) = await log.accept(event_id)
        await log.fail(delivery)
    await log.store.write(lambda db: db.execute("UPDATE events SET body = NULL WHERE id = 'a'"))
    seqs, _ = await log.finished(log.filter())
    rows = await log.store.read(lambda db: delivery_log.left_out(db, log.filter(), seqs, once=True))
    assert [(delivery.seq - 1, "pruned"), (delivery.seq, None)] == [(seq, reason) for seq, _, reason in rows]


async def test_no_search_walks_through_wide_rows(log: Log) -> None:
    """SQLite's own plan: every search of deliveries or events goes by an index or a range of row numbers."""
    endpoint = await add_endpoint(log.store, log.workspace)
    await log.accept("a")
    statements: list[str] = []

    def ask(db: sqlite3.Connection) -> list[str]:
        db.set_trace_callback(statements.append)
        for each in (
            log.filter(),
            replace(log.filter(), event_type="x", since_ms=1, until_ms=2),
            replace(log.filter(), endpoint_seq=endpoint.seq, event_type="x", since_ms=1, until_ms=2),
            replace(log.filter(), event_id="a"),
        ):
            for state in (None, *S):
                delivery_log.page(db, replace(each, state=state), before_seq=None, limit=5)
                delivery_log.finished_matching(db, replace(each, state=state), after_seq=0, limit=5, late=never)
        span = {"since_ms": 1, "until_ms": 2, "before_seq": None}
        events.page(db, log.workspace.seq, event_type="x", **span, limit=5, late=never)
        db.set_trace_callback(None)
        questions = {sql for sql in statements if sql.startswith("SELECT")}
        return [row[3] for sql in questions for row in db.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()]

    plans = await log.store.read(ask)
    scans = {step for step in plans if step.startswith("SCAN") and step not in NARROW_SCANS}
    assert set() == scans
    assert any("deliveries_log" in step for step in plans) and any("event_log" in step for step in plans)


async def test_the_newest_page_asks_nothing_of_each_endpoint(log: Log) -> None:
    """However many there are; a search for what isn't there asks one question about all of them."""
    for number in range(20):
        await add_endpoint(log.store, log.workspace, f"https://e{number}.example/")
    await log.accept("a")
    asked: list[str] = []

    def ask(db: sqlite3.Connection, wanted: LogFilter, limit: int) -> int:
        asked.clear()
        db.set_trace_callback(asked.append)
        delivery_log.search(db, wanted, before_seq=None, limit=limit, late=never)
        db.set_trace_callback(None)
        return len(asked)

    assert 6 > await log.store.read(lambda db: ask(db, log.filter(), 5))
    assert 12 > await log.store.read(lambda db: ask(db, replace(log.filter(), event_type="none"), 5))


async def test_events_are_listed_newest_first_without_their_bodies(log: Log) -> None:
    """By type and time, in pages; one whose body was pruned is no longer in the log."""
    for number in range(6):
        await log.accept(f"e{number}", "message.sent" if number % 2 else "contact.created")
    await log.store.write(lambda db: db.execute("UPDATE events SET body = NULL WHERE id = 'e5'"))

    for given, expected in (
        ({}, ["e4", "e3", "e2", "e1", "e0"]),
        ({"event_type": "contact.created"}, ["e4", "e2", "e0"]),
        ({"since_ms": 1_003, "until_ms": 1_005}, ["e3", "e2"]),
        ({"limit": 2}, ["e4", "e3"]),
        ({"before_seq": 4}, ["e2", "e1", "e0"]),
    ):
        found, _ = await log.events(**given)
        assert expected == found


@pytest.mark.parametrize("state", [S.DROPPED, S.HELD, S.EXPIRED])
async def test_a_quiet_workspaces_rows_do_not_depend_on_a_loud_one(
    log: Log, monkeypatch: pytest.MonkeyPatch, state: S
) -> None:
    """Seven rows behind many of another workspace are found in the first window, with no time left for a second."""
    monkeypatch.setattr(delivery_log, "WINDOW_ROWS", 20)
    monkeypatch.setattr(delivery_log, "NEWEST_ROWS", 5)
    endpoint = await add_endpoint(log.store, log.workspace)
    quiet = [(await log.accept(f"q{number}"))[0] for number in range(7)]
    if state is S.DROPPED:
        for each in quiet:
            await log.fail(each)
    else:
        await disable(log, endpoint)
        if state is S.EXPIRED:
            await log.finish(endpoint, deliveries.EXPIRED)
    loud = await add_workspace(log.store, "loud")
    await add_endpoint(log.store, loud)
    await accept(log.store, loud, *[f"l{number}" for number in range(200)], now_ms=5_000)
    found, stopped_at = await log.store.read(
        lambda db: delivery_log.search(
            db, replace(log.filter(), state=state), before_seq=None, limit=50, late=lambda: True
        )
    )
    assert ([each.seq for each in reversed(quiet)], None) == ([view.seq for view in found], stopped_at)
