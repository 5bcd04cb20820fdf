"""How many deliveries of a filter were accepted when: what is drawn above the log.

What is rare is counted, in the index; of what is frequent a sample is looked at, so that a million rows take no longer
than some ten thousand.  Which numbers are in it depends on nothing but their distance, so that a chart which moves on
with time doesn't flicker.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass, replace

from webhookd.models import DeliveryState
from webhookd.store import time_index
from webhookd.store.deliveries import CANCELLED, DELIVERED, DROPPED, EXPIRED, SKIPPED
from webhookd.store.delivery_log.log_filter import READS_AS, STATE, LogFilter, conditions

# How many index entries are counted one by one, of failed deliveries and of all others; some milliseconds' worth.
COUNTED_ROWS = 5_000
# At most so many rows are looked at instead, at least half as many.
SAMPLES = 2048

_FAILED = (DROPPED, EXPIRED)
_OWN = "e.workspace_seq = :workspace_seq AND (:endpoint_seq IS NULL OR e.seq = :endpoint_seq)"
_ROWS = (
    "FROM endpoints e CROSS JOIN deliveries d INDEXED BY deliveries_{index} ON {state} AND d.endpoint_seq = e.seq "
    f"WHERE {_OWN} AND d.seq > :after_seq AND d.seq < :before_seq LIMIT :counted"
)
_COUNT = (
    "SELECT bar, sum(matches) FROM "
    f"(SELECT (d.accepted_at - :since_ms) / :width_ms AS bar, {{where}} AS matches {_ROWS}) GROUP BY bar"
)
# Looking at no more than the index's order takes a fifth of the time, and mostly finds that there are too many.
_COUNTABLE = f"SELECT count(*) < :counted FROM (SELECT 1 {_ROWS})"
_SAMPLE = (
    "WITH RECURSIVE p(n) AS (VALUES (:after_seq / :step) UNION ALL SELECT n + 1 FROM p WHERE n < :before_seq / :step) "
    f"SELECT (d.accepted_at - :since_ms) / :width_ms AS bar, d.state IN {_FAILED}, count(*) * :step "
    # Multiplicative hashing: spread evenly, and in step with nothing that repeats in the rows.
    "FROM p CROSS JOIN deliveries d ON d.seq = (SELECT seq FROM deliveries WHERE seq < (n + 1) * :step "
    "AND seq >= n * :step + (n * 2654435761 % 4294967296) * :step / 4294967296 ORDER BY seq LIMIT 1) "
    f"CROSS JOIN endpoints e ON e.seq = d.endpoint_seq WHERE {_OWN} AND {{where}} GROUP BY 1, 2"
)


@dataclass(frozen=True, slots=True)
class Bar:
    """Deliveries accepted in one span of time, and how many of them were dropped or expired."""

    since_ms: int
    total: int
    failed: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bars of equal width, oldest first.  Not `exact`: some were estimated from a sample."""

    width_ms: int
    bars: tuple[Bar, ...]
    exact: bool


def histogram(db: sqlite3.Connection, wanted: LogFilter, *, since_ms: int, width_ms: int, count: int) -> Histogram:
    """`count` bars from `since_ms` on, of a filter's deliveries; its event, status and text are left aside."""
    wanted = replace(wanted, since_ms=since_ms, until_ms=since_ms + width_ms * count)
    newest = db.execute("SELECT coalesce(max(seq), 0) FROM deliveries").fetchall()[0][0]
    failed, others, exact = Counter[int](), Counter[int](), True
    for after_seq, before_seq in time_index.between(db, "deliveries", wanted.since_ms, wanted.until_ms):
        part = _Part(db, wanted, width_ms, after_seq, min(before_seq, newest + 1))
        for bars, counted, is_failed in ((failed, part.failed(), True), (others, part.others(), False)):
            exact = exact and counted is not None
            bars.update(part.sampled(failed=is_failed) if counted is None else counted)
    found = [Bar(since_ms + width_ms * n, failed[n] + others[n], failed[n]) for n in range(count)]
    return Histogram(width_ms, tuple(found), exact)


class _Part:
    """The rows between two numbers, where times only go forward."""

    def __init__(
        self, db: sqlite3.Connection, wanted: LogFilter, width_ms: int, after_seq: int, before_seq: int
    ) -> None:
        self._db = db
        self._wanted = wanted
        self._sample: list[tuple[int, int, int]] | None = None
        where, values = conditions(wanted)
        self._where = " AND ".join(where)
        if wanted.state is not None or wanted.retrying:
            self._where += f" AND {STATE} = :state"
        self._values = values | {
            "workspace_seq": wanted.workspace_seq,
            "endpoint_seq": wanted.endpoint_seq,
            "paused": wanted.paused,
            "state": DeliveryState.PENDING if wanted.retrying else wanted.state,
            "width_ms": width_ms,
            "after_seq": after_seq,
            "before_seq": before_seq,
            "step": 2 ** max(0, ((before_seq - after_seq) // SAMPLES).bit_length()),
        }

    def failed(self) -> Counter[int] | None:
        """How many failed, by bar; None if that are too many to count."""
        return self._count_finished(DROPPED, EXPIRED)

    def others(self) -> Counter[int] | None:
        """How many did not."""
        finished = self._count_finished(DELIVERED, SKIPPED, CANCELLED)
        if finished is None:
            return None
        retrying = ("retrying", "d.state = 0 AND d.attempt_count > 0")
        waiting = self._count(*(retrying if self._wanted.retrying else ("waiting", "d.state = 0")))
        return None if waiting is None else finished + waiting

    def sampled(self, *, failed: bool) -> Counter[int]:
        """The same for either, by a sample."""
        if self._sample is None:
            self._sample = self._db.execute(_SAMPLE.format(where=self._where), self._values).fetchall()
        return Counter({bar: count for bar, is_failed, count in self._sample if is_failed == failed})

    def _count_finished(self, *states: int) -> Counter[int] | None:
        wanted = [str(state) for state in states if self._wanted.state in (None, READS_AS[state])]
        if not wanted or self._wanted.retrying:
            return Counter()
        return self._count("log", f"d.state IN ({', '.join(wanted)}) AND d.state <> 0")

    def _count(self, index: str, state: str) -> Counter[int] | None:
        values = self._values | {"counted": COUNTED_ROWS}
        if not self._db.execute(_COUNTABLE.format(index=index, state=state), values).fetchall()[0][0]:
            return None
        rows = self._db.execute(_COUNT.format(index=index, state=state, where=self._where), values).fetchall()
        return Counter(dict(rows))
