"""How an endpoint did, found by bisection: the same as counting every row."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from webhookd.store import attempts
from webhookd.store.store import Db, Store

HOUR_MS = 3_600_000


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[sqlite3.Connection]:
    store = await Store.open(tmp_path / "webhookd.db")
    await store.close()
    connection = sqlite3.connect(tmp_path / "webhookd.db")
    yield connection
    connection.close()


def deliver(db: Db, endpoint_seq: int, finished_ms: int, duration_ms: float = 5.0, *, state: int = 1) -> None:
    db.execute("INSERT OR IGNORE INTO events (seq, workspace_seq, id, type, accepted_at) VALUES (1, 1, 'e', 't', 0)")
    db.execute(
        "INSERT INTO deliveries (event_seq, endpoint_seq, event_type, state, size, accepted_at, finished_at, "
        "final_attempt) VALUES (1, ?, 't', ?, 1, 0, ?, ?)",
        (endpoint_seq, state, finished_ms, orjson.dumps({"duration_ms": duration_ms})),
    )


def fail(db: Db, endpoint_seq: int, ended_ms: int, duration_ms: float = 7.0) -> None:
    db.execute(
        "INSERT INTO attempts (delivery_seq, endpoint_seq, workspace_seq, ended_at, counted, record) "
        "VALUES (1, ?, 1, ?, 1, ?)",
        (endpoint_seq, ended_ms, orjson.dumps({"duration_ms": duration_ms})),
    )


def test_spans_count_what_ended_in_them_and_nothing_else(db: sqlite3.Connection) -> None:
    """Random times in order, two endpoints mixed, states that aren't deliveries among them."""
    chance = random.Random(4)
    times = sorted(chance.randrange(0, 3 * HOUR_MS) for _ in range(2000))
    wanted: list[list[int]] = [[0, 0] for _ in range(60)]
    for at in times:
        endpoint, failed = chance.choice((7, 8)), chance.random() < 0.2
        if failed:
            fail(db, endpoint, at)
        else:
            deliver(db, endpoint, at, state=chance.choice((1, 1, 1, 2)))
            if db.execute("SELECT state FROM deliveries ORDER BY seq DESC LIMIT 1").fetchone()[0] != 1:
                continue
        if endpoint == 7 and HOUR_MS <= at < 2 * HOUR_MS:
            wanted[(at - HOUR_MS) * 60 // HOUR_MS][failed] += 1
    found = attempts.spans(db, 7, since_ms=HOUR_MS, until_ms=2 * HOUR_MS, count=60)
    assert wanted == [[span.delivered, span.failed] for span in found]
    assert [HOUR_MS + number * 60_000 for number in range(60)] == [span.since_ms for span in found]


def test_durations_are_of_the_newest_few(db: sqlite3.Connection) -> None:
    """At most so many of each kind are read, however many there are."""
    for number in range(100):
        deliver(db, 1, 1000 + number, float(number))
    fail(db, 1, 1500, 99.5)
    (span,) = attempts.spans(db, 1, since_ms=0, until_ms=10_000, count=1)
    assert (100, 1) == (span.delivered, span.failed)
    assert (*[float(number) for number in range(99, 99 - attempts.SAMPLED, -1)], 99.5) == span.durations_ms


def test_an_endpoint_without_a_past_has_empty_spans(db: sqlite3.Connection) -> None:
    """Nothing counted, nothing read, nothing failed."""
    found = attempts.spans(db, 1, since_ms=0, until_ms=HOUR_MS, count=3)
    assert [(0, 0, ())] * 3 == [(span.delivered, span.failed, span.durations_ms) for span in found]
