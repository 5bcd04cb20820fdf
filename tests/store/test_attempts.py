"""How an endpoint did, found by bisection: the same as counting every row."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from tests.support.database import new_database
from tests.support.stores import new_endpoint
from webhookd.rules.ids import uuid7
from webhookd.store import attempts, events
from webhookd.store.store import Db

HOUR_MS = 3_600_000
MINUTE_MS = 60_000
NAMES = {1: "delivered", 2: "failed", 3: "failed", 0: "waiting"}
ENDPOINT = new_endpoint(seq=7, skipped_upto=3)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[sqlite3.Connection]:
    await new_database(tmp_path / "webhookd.db")
    connection = sqlite3.connect(tmp_path / "webhookd.db")
    yield connection
    connection.close()


def deliver(db: Db, endpoint_seq: int, accepted_ms: int, duration_ms: float = 5.0, *, state: int = 1) -> None:
    db.execute("INSERT OR IGNORE INTO events (seq, workspace_seq, id, type, accepted_at) VALUES (1, 1, 'e', 't', 0)")
    db.execute(
        "INSERT INTO deliveries (event_seq, endpoint_seq, event_type, state, size, accepted_at, finished_at, "
        "final_attempt) VALUES (1, ?, 't', ?, 1, ?, ?, ?)",
        (
            endpoint_seq,
            state,
            accepted_ms,
            accepted_ms + 1 if state else None,
            orjson.dumps({"duration_ms": duration_ms}),
        ),
    )


def fail(db: Db, endpoint_seq: int, ended_ms: int, duration_ms: float = 7.0, *, delivery_seq: int = 1) -> None:
    db.execute(
        "INSERT INTO attempts (delivery_seq, endpoint_seq, workspace_seq, ended_at, counted, record) "
        "VALUES (?, ?, 1, ?, 1, ?)",
        (delivery_seq, endpoint_seq, ended_ms, orjson.dumps({"duration_ms": duration_ms})),
    )


def test_spans_count_what_was_accepted_in_them_and_nothing_else(db: sqlite3.Connection) -> None:
    """Random times in order, two endpoints mixed, every state; what was skipped doesn't wait."""
    chance = random.Random(4)
    wanted = [{"delivered": 0, "failed": 0, "waiting": 0, "failed_attempts": 0} for _ in range(60)]
    for number, at in enumerate(sorted(chance.randrange(0, 2 * HOUR_MS) for _ in range(2000))):
        endpoint_seq, failed = chance.choice((7, 8)), number > 5 and chance.random() < 0.2
        state = 0 if number < 3 else chance.choice((1, 1, 1, 2, 3, 4, 5, 0))
        if failed:
            fail(db, endpoint_seq, at)
        else:
            deliver(db, endpoint_seq, at, state=state)
        counted = "failed_attempts" if failed else NAMES.get(state)
        if endpoint_seq == 7 and at >= HOUR_MS and counted:
            wanted[(at - HOUR_MS) // MINUTE_MS][counted] += 1
    bounds_ms = [HOUR_MS + number * MINUTE_MS for number in range(61)]
    found = attempts.spans(db, ENDPOINT, bounds_ms)
    assert wanted == [{name: getattr(span, name) for name in each} for each, span in zip(wanted, found, strict=True)]
    assert bounds_ms == [*(span.since_ms for span in found), found[-1].until_ms]
    tallies = attempts.tallies(db, [7, 8], bounds_ms, lambda: False)
    assert [(span.delivered, span.failed_attempts) for span in found] == tallies[7]
    assert tallies[7] != tallies[8]


def test_a_late_page_has_some_of_its_endpoints(db: sqlite3.Connection) -> None:
    """One at least, so that a page that is always late isn't always empty."""
    assert {1: [(0, 0)]} == attempts.tallies(db, [1, 2, 3], [0, HOUR_MS], lambda: True)


@pytest.fixture
def many(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> sqlite3.Connection:
    """An hour of two endpoints' deliveries and failures, in which 50 of a kind are many."""
    monkeypatch.setattr(attempts, "COUNTED", 50)
    monkeypatch.setattr(attempts, "TALLIED", 50)
    for number in range(2000):
        deliver(db, 7 if number % 4 else 8, HOUR_MS + number * 1800, state=2 if number % 400 == 1 else 1)
        if number % 5 == 0:
            fail(db, 7 if number % 10 else 8, HOUR_MS + number * 1800)
    return db


def test_of_many_the_number_is_estimated(many: sqlite3.Connection) -> None:
    """By the first of them, however many they are; few are counted, and say so."""
    bounds_ms = [HOUR_MS, 2 * HOUR_MS]
    (span,) = attempts.spans(many, ENDPOINT, bounds_ms)
    for wanted, found in ((1495, span.delivered), (200, span.failed_attempts)):
        assert abs(found - wanted) < wanted / 20
    assert (5, False) == (span.failed, span.exact)
    assert {7: [(span.delivered, span.failed_attempts)]} == attempts.tallies(many, [7], bounds_ms, lambda: False)
    (rare,) = attempts.spans(many, ENDPOINT, [2 * HOUR_MS - 72_000, 2 * HOUR_MS])
    assert (30, True) == (rare.delivered, rare.exact)


def test_what_is_many_costs_no_more_than_what_is_few(many: sqlite3.Connection) -> None:
    """A span of ten times as many deliveries takes hardly more steps of SQLite's machine."""

    def steps(begin_ms: int) -> int:
        taken: list[int] = []
        many.set_progress_handler(lambda: taken.append(1), 10)
        attempts.tallies(many, [7, 8], [begin_ms, 2 * HOUR_MS], lambda: False)
        return len(taken)

    assert steps(HOUR_MS) < 1.5 * steps(2 * HOUR_MS - 360_000)


def test_drops_are_counted_in_the_index_alone_and_tests_are_not(db: sqlite3.Connection) -> None:
    """Tests are left out, whenever they ended; another endpoint's too."""
    now_ms = 1_800_000_000_000
    for number in range(40):
        deliver(db, 7, now_ms - 40 + number, state=2)
    for number, endpoint_seq, at_ms in ((1, 7, now_ms - 30_000), (2, 7, now_ms + 5), (3, 8, now_ms + 6)):
        events.insert_test(
            db,
            workspace_seq=1,
            endpoint_seq=endpoint_seq,
            event_id=f"test_{uuid7(at_ms, bytes([number] * 10))}",
            event_type="t",
            body=b"{}",
            delivered=False,
            record=b"{}",
            started_at_ms=at_ms,
            now_ms=now_ms + 7,
        )
    asked: list[str] = []
    db.set_trace_callback(asked.append)
    found = [attempts.dropped_since(db, ENDPOINT, now_ms - since) for since in (50, 20, 0, -2, -100)]
    db.set_trace_callback(None)
    assert [40, 21, 1, 0, 0] == found
    counting = [sql for sql in asked if sql.startswith("SELECT count(*) FROM deliveries")]
    plans = [db.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()[0][3] for sql in counting]
    assert plans and all("USING COVERING INDEX deliveries_log" in plan for plan in plans)


def test_durations_are_of_the_newest_few(db: sqlite3.Connection) -> None:
    """At most so many of each kind are read, however many there are."""
    for number in range(100):
        deliver(db, 7, 1000 + number, float(number))
    fail(db, 7, 1500, 99.5)
    (span,) = attempts.spans(db, ENDPOINT, [0, 10_000])
    assert (100, 1) == (span.delivered, span.failed_attempts)
    assert tuple(float(number) for number in range(99, 99 - attempts.SAMPLED, -1)) == span.durations_ms
    assert (99.5,) == span.failed_ms


def test_an_endpoint_without_a_past_has_empty_spans(db: sqlite3.Connection) -> None:
    """Nothing counted, nothing read, nothing failed."""
    for span in attempts.spans(db, ENDPOINT, [0, MINUTE_MS, HOUR_MS]):
        assert (0, 0, 0, 0, (), ()) == tuple(getattr(span, name) for name in attempts.Span.__slots__[2:])


def test_the_deliveries_of_the_newest_failures(db: sqlite3.Connection) -> None:
    """Each once, however often it failed."""
    for delivery_seq in (1, 2, 2, 2, 3):
        fail(db, 7, 5, delivery_seq=delivery_seq)
    assert {2, 3} == set(attempts.failed_deliveries(db, 7, 2)) and [] == attempts.failed_deliveries(db, 8, 2)
