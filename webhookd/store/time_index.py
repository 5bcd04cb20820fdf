"""Where a time lies among the numbers of the log.

Times go forward with numbers, so a bisection finds where a time begins.  Only a clock that is set back breaks that:
`Store.add` then begins a new *segment* of the log, recorded in `clock_steps`.  Within a segment a date may be up to
`SLACK_MS` behind (a test is dated by its start), so the bisection is that much wider on both sides.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator

import orjson

SLACK_MS = 30_000
_END = 2**63 - 1
# The dated tables, and the column that has where a segment begins in each.
_TABLES = {"deliveries": "delivery_seq", "events": "event_seq"}
_LATER = "coalesce(d.seq >= high OR d.{dated} >= at, 1)"
# A bisection for each of `times`, all of them one statement: each one of its own waits for the interpreter's lock.
_CUTS = (
    "WITH RECURSIVE cut(at, low, high) AS (SELECT value, :low, :high FROM json_each(:times) UNION ALL "
    f"SELECT at, iif({_LATER}, low, d.seq + 1), iif({_LATER}, (low + high) / 2, high) FROM cut LEFT JOIN {{table}} d "
    "ON d.seq = (SELECT seq FROM {table} WHERE seq >= (low + high) / 2 ORDER BY seq LIMIT 1) WHERE low < high) "
    "SELECT at, low FROM cut WHERE low >= high"
)


class TimeIndex:
    """Knows whether rows to be added are dated before those that are there.  Times are milliseconds since 1970."""

    def __init__(self, newest_ms: int) -> None:
        """`newest_ms`: how the newest row is dated; any before it may be dated up to the slack later."""
        self._latest_ms = newest_ms + SLACK_MS
        self._last_ms = newest_ms

    def goes_back(self, at_ms: int) -> bool:
        """Whether rows dated `at_ms` begin a new segment: then `add_clock_step` belongs into their transaction."""
        self._last_ms = at_ms
        if at_ms < self._latest_ms - SLACK_MS:
            return True
        self._latest_ms = max(self._latest_ms, at_ms)
        return False

    def stepped_back(self, at_ms: int) -> None:
        """The new segment that begins with `at_ms` is durable."""
        self._latest_ms = max(at_ms, self._last_ms)


def newest_ms(db: sqlite3.Connection) -> int:
    """How the newest row of the log is dated; 0 when there is none."""
    rows = [db.execute(f"SELECT accepted_at FROM {table} ORDER BY seq DESC LIMIT 1").fetchall() for table in _TABLES]
    return max((found[0][0] for found in rows if found), default=0)


def add_clock_step(db: sqlite3.Connection) -> None:
    """Rows to come are dated earlier than those that are there: begin a new segment after these."""
    db.execute(
        "INSERT INTO clock_steps SELECT (SELECT coalesce(max(seq), 0) FROM deliveries), "
        "(SELECT coalesce(max(seq), 0) FROM events)"
    )
    # Remove segments of which nothing is left, so that a clock that is always set back can't fill the table.
    db.execute(
        "DELETE FROM clock_steps WHERE rowid < (SELECT max(rowid) FROM clock_steps "
        "WHERE delivery_seq < (SELECT coalesce(min(seq), 0) FROM deliveries) "
        "AND event_seq < (SELECT coalesce(min(seq), 0) FROM events))"
    )


def between(db: sqlite3.Connection, table: str, since_ms: int | None, until_ms: int | None) -> list[tuple[int, int]]:
    """Where rows of `deliveries` or `events` in the time range can be, newest first: numbers, both excluded.

    None is an open end.  Rows outside of the range may be among them: by the slack, and where the table is older than
    `clock_steps`.
    """
    if since_ms is None and until_ms is None:
        return [(0, _END)]

    steps = [row[0] for row in db.execute(f"SELECT {_TABLES[table]} FROM clock_steps ORDER BY rowid").fetchall()]
    ranges = [(0, steps[0] + 1)] if steps[0] else []
    for after, upto in zip(steps, [*steps[1:], None], strict=True):
        before = _END if upto is None else upto + 1
        newest = db.execute(f"SELECT coalesce(max(seq), 0) FROM {table} WHERE seq < ?", (before,)).fetchall()[0][0]
        first_ms = None if since_ms is None else since_ms - SLACK_MS
        last_ms = None if until_ms is None else until_ms + SLACK_MS
        times_ms = [at_ms for at_ms in (first_ms, last_ms) if at_ms is not None]
        found = cuts(db, table, "accepted_at", times_ms, after + 1, newest + 1)
        first = after if first_ms is None else found[first_ms] - 1
        last = before if last_ms is None else found[last_ms]
        if first + 1 < last:
            ranges.append((first, last))
    return ranges[::-1]


def windows(
    db: sqlite3.Connection, table: str, since_ms: int | None, until_ms: int | None, *, after_seq: int, rows: int
) -> Iterator[tuple[int, int]]:
    """`between` after a number, oldest first, in windows of so many numbers (both ends excluded)."""
    newest = db.execute(f"SELECT coalesce(max(seq), 0) FROM {table}").fetchall()[0][0]
    for after, before in reversed(between(db, table, since_ms, until_ms)):
        first, last = max(after, after_seq), min(before, newest + 1)
        while first + 1 < last:
            upto = min(first + rows + 1, last)
            yield first, upto
            first = upto - 1


def cuts(
    db: sqlite3.Connection, table: str, dated: str, times_ms: Iterable[int], low: int, high: int
) -> dict[int, int]:
    """`first_since` for each of the times, where the rows are all of a table's and dated by the column `dated`."""
    values = {"times": orjson.dumps(list(times_ms)).decode(), "low": low, "high": high}
    return dict(db.execute(_CUTS.format(table=table, dated=dated), values).fetchall())


def first_since(look: Callable[[int], tuple[int, int] | None], at_ms: int, low: int, high: int) -> int:
    """From which number on rows are dated `at_ms` or later; `look` finds number and date of the first row from one."""
    while low < high:
        middle = (low + high) // 2
        found = look(middle)
        if found is None or found[0] >= high or found[1] >= at_ms:
            high = middle
        else:
            low = found[0] + 1
    return low
