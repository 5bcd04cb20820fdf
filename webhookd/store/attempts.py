"""Attempts in the table: the log of each failure, what the failure budget is rebuilt from, how an endpoint did lately.

A success is written into its delivery's own row (one update); only failures need a row of their own.  Deliveries of an
endpoint finish in the order of their numbers, and attempts are numbered as they end; so a bisection in an index finds
where a span of time begins, and rows are counted in the index alone.  Where an endpoint orders by key the former is
nearly so, which is enough for a chart.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from webhookd.models import Json
from webhookd.store import malformed
from webhookd.store.time_index import first_since

# Enough for a median that can be believed, few enough that a day of 24 spans stays in the milliseconds.
SAMPLED = 12

_DELIVERED = "FROM deliveries INDEXED BY deliveries_log WHERE endpoint_seq = :endpoint_seq AND state = 1 AND state <> 0"
_FAILED = "FROM attempts INDEXED BY attempts_by_endpoint WHERE endpoint_seq = :endpoint_seq"


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
    """One span of time: from when (milliseconds since 1970), what came of the attempts, how long some of them took."""

    since_ms: int
    delivered: int
    failed: int
    durations_ms: tuple[float, ...]


def spans(db: sqlite3.Connection, endpoint_seq: int, *, since_ms: int, until_ms: int, count: int) -> list[Span]:
    """The time from `since_ms` to `until_ms` in `count` equal spans, oldest first."""
    width_ms = (until_ms - since_ms) / count
    bounds_ms = [since_ms + round(width_ms * number) for number in range(count + 1)]
    delivered = _Series(db, endpoint_seq, _DELIVERED, "finished_at", "final_attempt", bounds_ms)
    failed = _Series(db, endpoint_seq, _FAILED, "ended_at", "record", bounds_ms)
    return [
        Span(
            bounds_ms[number],
            delivered.count(number),
            failed.count(number),
            (*delivered.durations_ms(number), *failed.durations_ms(number)),
        )
        for number in range(count)
    ]


def dropped_since(db: sqlite3.Connection, endpoint_seq: int, since_ms: int) -> int:
    """How many events of an endpoint were dropped at `since_ms` or later; tests apart."""
    if db.execute("SELECT 1 FROM sequences WHERE endpoint_seq = ?", (endpoint_seq,)).fetchall():
        return _dropped_by_key(db, endpoint_seq, since_ms)
    rows = "FROM deliveries INDEXED BY deliveries_log WHERE endpoint_seq = ? AND state = 2 AND state <> 0"
    newest = db.execute(f"SELECT max(seq) {rows}", (endpoint_seq,)).fetchall()[0][0]
    if newest is None:
        return 0

    def look(seq: int) -> tuple[int, int] | None:
        sql = f"SELECT seq, finished_at {rows} AND seq >= ? ORDER BY seq LIMIT 1"
        found = db.execute(sql, (endpoint_seq, seq)).fetchall()
        return found[0] if found else None

    first = first_since(look, since_ms, 0, newest + 1)
    counted: int = db.execute(f"SELECT count(*) {rows} AND seq >= ? AND kind <> 2", (endpoint_seq, first)).fetchall()[
        0
    ][0]
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


class _Series:
    """One of the two tables, cut at the bounds."""

    def __init__(
        self, db: sqlite3.Connection, endpoint_seq: int, source: str, ended: str, record: str, bounds_ms: list[int]
    ) -> None:
        self._db = db
        self._values = {"endpoint_seq": endpoint_seq}
        self._source = source
        self._record = record
        at = f"SELECT seq, {ended} {source} AND seq >= :seq ORDER BY seq LIMIT 1"

        def look(seq: int) -> tuple[int, int] | None:
            """The first row from `seq` on: its number, and when it ended."""
            rows = db.execute(at, {**self._values, "seq": seq}).fetchall()
            return rows[0] if rows else None

        newest = db.execute(f"SELECT max(seq) {source}", self._values).fetchall()[0][0] or 0
        self._cuts: list[int] = []
        for at_ms in bounds_ms:
            self._cuts.append(first_since(look, at_ms, self._cuts[-1] if self._cuts else 0, newest + 1))

    def count(self, number: int) -> int:
        """How many rows a span has."""
        counted: int = self._ask("SELECT count(*)", number, "")[0][0]
        return counted

    def durations_ms(self, number: int) -> list[float]:
        """How long the newest few of a span took."""
        rows = self._ask(f"SELECT {self._record}", number, f"ORDER BY seq DESC LIMIT {SAMPLED}")
        return [float(malformed.attempt(record).get("duration_ms", 0)) for (record,) in rows if record is not None]

    def _ask(self, what: str, number: int, rest: str) -> list[tuple[Any]]:
        begin, end = self._cuts[number], self._cuts[number + 1]
        if begin == end:
            return [(0,)] if not rest else []
        sql = f"{what} {self._source} AND seq >= :begin AND seq < :end {rest}"
        return self._db.execute(sql, {**self._values, "begin": begin, "end": end}).fetchall()
