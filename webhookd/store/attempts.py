"""Attempts in the table: the log of each failure, what the failure budget is rebuilt from, how an endpoint did lately.

A success is written into its delivery's own row (one update); only failures need a row of their own.  Deliveries are
numbered as they are accepted, attempts as they end: a bisection finds where a span of time begins, once for all
endpoints, and rows are counted in an index alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import orjson

from webhookd.models import Endpoint, Json
from webhookd.rules.ids import RANDOM_BYTES, uuid7
from webhookd.store import malformed, time_index
from webhookd.store.connection import Late
from webhookd.store.time_index import first_since

# Enough for a median that can be believed, few enough that a week of 84 spans stays in the milliseconds.
SAMPLED = 8
# How many rows of a span are counted one by one, of each kind; of more, the number is estimated by how close together
# the first of them are.  For a webhook's own page, and for its row in a table of many.
COUNTED = 1000
TALLIED = 200
# A test ends at most so long after it was named.
TEST_MS = 600_000

_DELIVERED = "FROM deliveries INDEXED BY deliveries_log WHERE endpoint_seq = :endpoint_seq AND state = 1 AND state <> 0"
_FAILED = "FROM attempts INDEXED BY attempts_by_endpoint WHERE endpoint_seq = :endpoint_seq"
_DATED = {"deliveries": "accepted_at", "attempts": "ended_at"}


def _count(source: str, column: int = 0) -> str:
    """How many rows a window has, of any number: the index is read for `:most` of them, which stand for the rest."""
    begin, end = (f"json_extract(value, '$[{place}]')" for place in (column, column + 1))
    rows = f"SELECT seq {source} AND seq >= {begin} AND seq < {end} ORDER BY seq LIMIT :most"
    return (
        f"(SELECT CASE WHEN n < :most THEN n ELSE n * ({end} - {begin}) / (last - {begin} + 1) END "
        f"FROM (SELECT count(*) AS n, max(seq) AS last FROM ({rows})))"
    )


_GIVEN_UP = _DELIVERED.replace("state = 1", "state = {}")
_WAITS = (
    "FROM deliveries INDEXED BY deliveries_waiting "
    "WHERE endpoint_seq = :endpoint_seq AND state = 0 AND seq > :skipped_upto"
)
# The windows of numbers go in as JSON, so that all of an endpoint is one statement.
_COUNTS = (
    f"SELECT {_count(_DELIVERED)}, {_count(_GIVEN_UP.format(2))} + {_count(_GIVEN_UP.format(3))}, {_count(_WAITS)} "
    "FROM json_each(:windows)"
)
_FAILURES = f"SELECT {_count(_FAILED)} FROM json_each(:windows)"
# Tests are found by their ids, which begin with their time (`delivery/test_event.py`): one range of the events' index.
_FAILED_TESTS = (
    "SELECT count(*) FROM events v CROSS JOIN deliveries d INDEXED BY deliveries_by_event ON d.event_seq = v.seq "
    "WHERE v.workspace_seq = :workspace_seq AND v.id >= :first_id AND v.id < 'test_g' "
    "AND d.endpoint_seq = :endpoint_seq AND d.state = 2 AND d.kind = 2 AND d.seq >= :first_seq"
)
_TALLY = f"SELECT {_count(_DELIVERED)}, {_count(_FAILED, 2)} FROM json_each(:windows)"


@dataclass(frozen=True, slots=True)
class RecordedFailure:
    """A counted failure as the table has it: the window is rebuilt from these after a start."""

    workspace_seq: int
    endpoint_seq: int
    ended_at_ms: int


def insert(
    db: sqlite3.Connection,
    *,
    delivery_seq: int,
    endpoint_seq: int,
    workspace_seq: int,
    ended_at_ms: int,
    counted: bool,
    record: bytes,
) -> None:
    """Add a failed attempt; `record` is its JSON as the API shows it."""
    db.execute(
        "INSERT INTO attempts (delivery_seq, endpoint_seq, workspace_seq, ended_at, counted, record) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (delivery_seq, endpoint_seq, workspace_seq, ended_at_ms, counted, record),
    )


def of_delivery(db: sqlite3.Connection, delivery_seq: int) -> list[Json]:
    """All attempts of a delivery, in order."""
    failures = db.execute("SELECT record FROM attempts WHERE delivery_seq = ? ORDER BY seq", (delivery_seq,)).fetchall()
    final = db.execute(
        "SELECT final_attempt FROM deliveries WHERE seq = ? AND final_attempt IS NOT NULL", (delivery_seq,)
    ).fetchall()
    return [malformed.attempt(record) for (record,) in failures + final]


def last_of_endpoint(db: sqlite3.Connection, endpoint_seq: int) -> Json | None:
    """The newest attempt of an endpoint, failed or not, or None."""
    rows = db.execute(
        "SELECT record FROM (SELECT record FROM attempts WHERE endpoint_seq = ?1 ORDER BY seq DESC LIMIT 1) UNION ALL "
        "SELECT final_attempt FROM (SELECT final_attempt FROM deliveries INDEXED BY deliveries_log "
        "WHERE endpoint_seq = ?1 AND state = 1 AND state <> 0 AND kind <> 2 ORDER BY seq DESC LIMIT 1)",
        (endpoint_seq,),
    ).fetchall()
    records: list[Json] = [malformed.attempt(record) for (record,) in rows]
    return max(records, key=lambda record: str(record.get("started_at")), default=None)


def recent_failures(db: sqlite3.Connection, endpoint_seq: int, limit: int) -> list[Json]:
    """The newest failed attempts of an endpoint, newest first."""
    rows = db.execute(
        "SELECT record FROM attempts WHERE endpoint_seq = ? ORDER BY seq DESC LIMIT ?", (endpoint_seq, limit)
    ).fetchall()
    return [malformed.attempt(record) for (record,) in rows]


def failed_deliveries(db: sqlite3.Connection, endpoint_seq: int, limit: int) -> list[int]:
    """The deliveries of the newest failed attempts of an endpoint, by number: up to `limit`, from 8 times as many."""
    rows = db.execute(
        "SELECT DISTINCT delivery_seq FROM (SELECT delivery_seq FROM attempts INDEXED BY attempts_by_endpoint "
        "WHERE endpoint_seq = ?1 ORDER BY seq DESC LIMIT ?2 * 8) LIMIT ?2",
        (endpoint_seq, limit),
    ).fetchall()
    return [seq for (seq,) in rows]


def counted_since(db: sqlite3.Connection, since_ms: int, until_ms: int) -> list[RecordedFailure]:
    """Failures that ended in `since_ms < ended ≤ until_ms` and still count: not forgiven, endpoint not deleted."""
    rows = db.execute(
        "SELECT a.workspace_seq, a.endpoint_seq, a.ended_at FROM attempts a INDEXED BY attempts_counted "
        "JOIN endpoints e ON e.seq = a.endpoint_seq "
        "WHERE a.counted = 1 AND a.ended_at > ? AND a.ended_at <= ? AND e.deleted_at IS NULL "
        "AND a.seq > e.forgiven_upto ORDER BY a.seq",
        (since_ms, until_ms),
    ).fetchall()
    return [RecordedFailure(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class Span:
    """One span of time, in milliseconds since 1970, and what of an endpoint falls into it.

    Deliveries are counted where they were accepted, by what became of them; `failed` were dropped or expired.  Numbers
    from `COUNTED` on are estimates.
    Durations are samples: of what was delivered, and of the failed attempts.
    """

    since_ms: int
    until_ms: int
    delivered: int
    failed: int
    waiting: int
    failed_attempts: int
    durations_ms: tuple[float, ...]
    failed_ms: tuple[float, ...]

    @property
    def exact(self) -> bool:
        """Whether nothing of it was estimated."""
        return max(self.delivered, self.failed, self.waiting, self.failed_attempts) < COUNTED


def spans(db: sqlite3.Connection, endpoint: Endpoint, bounds_ms: Sequence[int]) -> list[Span]:
    """The spans between the bounds, oldest first; the last has no end but now."""
    windows, tries = _windows(db, "deliveries", bounds_ms), _windows(db, "attempts", bounds_ms)
    values: dict[str, Any] = {"endpoint_seq": endpoint.seq, "skipped_upto": endpoint.skipped_upto, "most": COUNTED}
    counts = db.execute(_COUNTS, {**values, "windows": orjson.dumps(windows).decode()}).fetchall()
    failures = db.execute(_FAILURES, {**values, "windows": orjson.dumps(tries).decode()}).fetchall()
    found: list[Span] = []
    for number, (delivered, failed, waiting) in enumerate(counts):
        durations = _durations_ms(db, "final_attempt", _DELIVERED, values, windows[number]) if delivered else ()
        (failed_attempts,) = failures[number]
        failed_ms = _durations_ms(db, "record", _FAILED, values, tries[number]) if failed_attempts else ()
        since_ms, until_ms = bounds_ms[number : number + 2]
        found.append(Span(since_ms, until_ms, delivered, failed, waiting, failed_attempts, durations, failed_ms))
    return found


def tallies(
    db: sqlite3.Connection, endpoint_seqs: Iterable[int], bounds_ms: Sequence[int], late: Late
) -> dict[int, list[tuple[int, int]]]:
    """How much was delivered and how many attempts failed, by endpoint and span; when late, of fewer endpoints.

    Numbers from `TALLIED` on are estimates.
    """
    windows, tries = _windows(db, "deliveries", bounds_ms), _windows(db, "attempts", bounds_ms)
    both = orjson.dumps([[*one, *other] for one, other in zip(windows, tries, strict=True)]).decode()
    found: dict[int, list[tuple[int, int]]] = {}
    for endpoint_seq in endpoint_seqs:
        values = {"endpoint_seq": endpoint_seq, "windows": both, "most": TALLIED}
        found[endpoint_seq] = db.execute(_TALLY, values).fetchall()
        if late():
            break
    return found


def _windows(db: sqlite3.Connection, table: str, bounds_ms: Sequence[int]) -> list[tuple[int, int]]:
    """Between which numbers of a table each span lies (the second excluded); off where a clock was set back."""
    end = (db.execute(f"SELECT max(seq) FROM {table}").fetchall()[0][0] or 0) + 1
    found = time_index.cuts(db, table, _DATED[table], bounds_ms[:-1], 0, end)
    return list(pairwise([*accumulate((found[at_ms] for at_ms in bounds_ms[:-1]), max), end]))


def _durations_ms(
    db: sqlite3.Connection, record: str, source: str, values: dict[str, Any], window: tuple[int, int]
) -> tuple[float, ...]:
    """How long the newest few of a window took."""
    rows = db.execute(
        f"SELECT {record} {source} AND seq >= :begin AND seq < :end ORDER BY seq DESC LIMIT {SAMPLED}",
        {**values, "begin": window[0], "end": window[1]},
    ).fetchall()
    return tuple(float(malformed.attempt(kept).get("duration_ms", 0)) for (kept,) in rows if kept is not None)


def dropped_since(db: sqlite3.Connection, endpoint: Endpoint, since_ms: int) -> int:
    """How many events of an endpoint were dropped at `since_ms` or later; tests apart."""
    if db.execute("SELECT 1 FROM sequences WHERE endpoint_seq = ?", (endpoint.seq,)).fetchall():
        return _dropped_by_key(db, endpoint.seq, since_ms)
    rows = "FROM deliveries INDEXED BY deliveries_log WHERE endpoint_seq = ? AND state = 2 AND state <> 0"
    newest = db.execute(f"SELECT seq, finished_at {rows} ORDER BY seq DESC LIMIT 1", (endpoint.seq,)).fetchall()
    if not newest or newest[0][1] < since_ms:
        return 0

    def look(seq: int) -> tuple[int, int] | None:
        sql = f"SELECT seq, finished_at {rows} AND seq >= ? ORDER BY seq LIMIT 1"
        found = db.execute(sql, (endpoint.seq, seq)).fetchall()
        return found[0] if found else None

    first = first_since(look, since_ms, 0, newest[0][0] + 1)
    # In the index alone, which doesn't say what was a test: those are few, and have ids of their own.
    dropped: int = db.execute(f"SELECT count(*) {rows} AND seq >= ?", (endpoint.seq, first)).fetchall()[0][0]
    return dropped - _failed_tests(db, endpoint, first, since_ms)


def _failed_tests(db: sqlite3.Connection, endpoint: Endpoint, first_seq: int, since_ms: int) -> int:
    """How many of an endpoint's drops from a delivery on were tests, none of which began long before `since_ms`."""
    values = {
        "workspace_seq": endpoint.workspace_seq,
        "endpoint_seq": endpoint.seq,
        "first_seq": first_seq,
        "first_id": f"test_{uuid7(max(0, since_ms - TEST_MS), bytes(RANDOM_BYTES))[:13]}",
    }
    counted: int = db.execute(_FAILED_TESTS, values).fetchall()[0][0]
    return counted


def _dropped_by_key(db: sqlite3.Connection, endpoint_seq: int, since_ms: int) -> int:
    """The same where lanes finish beside each other: by the failures since then, which are in the order of time."""

    def look(seq: int) -> tuple[int, int] | None:
        rows = db.execute(f"SELECT seq, ended_at {_FAILED} AND seq >= :seq ORDER BY seq LIMIT 1", values | {"seq": seq})
        return next(iter(rows.fetchall()), None)

    values = {"endpoint_seq": endpoint_seq}
    newest = db.execute(f"SELECT coalesce(max(seq), 0) {_FAILED}", values).fetchall()[0][0]
    first = first_since(look, since_ms, 0, newest + 1)
    counted: int = db.execute(
        "SELECT count(DISTINCT d.seq) FROM attempts a INDEXED BY attempts_by_endpoint CROSS JOIN deliveries d "
        "ON d.seq = a.delivery_seq WHERE a.endpoint_seq = ? AND a.seq >= ? AND d.state = 2 AND d.kind <> 2 "
        "AND d.finished_at >= ?",
        (endpoint_seq, first, since_ms),
    ).fetchall()[0][0]
    return counted
