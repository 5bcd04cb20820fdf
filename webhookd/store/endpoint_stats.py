"""How an endpoint did over the last hour or day: deliveries, failed attempts and their durations, per span of time.

Deliveries of an endpoint finish in the order of their numbers, and attempts are numbered as they end; so a bisection in
an index finds where a span begins, and rows are counted in the index alone.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from webhookd.store import malformed
from webhookd.store.time_index import first_since

# Enough for a median that can be believed, few enough that a day of 24 spans stays in the milliseconds.
SAMPLED = 12

_DELIVERED = "FROM deliveries INDEXED BY deliveries_log WHERE endpoint_seq = :endpoint_seq AND state = 1 AND state <> 0"
_FAILED = "FROM attempts INDEXED BY attempts_by_endpoint WHERE endpoint_seq = :endpoint_seq"


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
        return [float(malformed.attempt(record)["duration_ms"]) for (record,) in rows if record is not None]

    def _ask(self, what: str, number: int, rest: str) -> list[tuple[Any]]:
        begin, end = self._cuts[number], self._cuts[number + 1]
        if begin == end:
            return [(0,)] if not rest else []
        sql = f"{what} {self._source} AND seq >= :begin AND seq < :end {rest}"
        return self._db.execute(sql, {**self._values, "begin": begin, "end": end}).fetchall()
