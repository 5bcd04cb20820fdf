"""Deliveries in the table: what waits, the outcome of each attempt, what follows a mark."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from typing import Any

import orjson
from msgspec import Struct

from webhookd.models import EVERY_TYPE, QueuedDelivery
from webhookd.store import time_index
from webhookd.store.batch import BatchKind, packed
from webhookd.store.connection import Late

# The table's numbers for the states that are written; `held` is derived (`delivery_log`).
PENDING, DELIVERED, DROPPED, EXPIRED, SKIPPED, CANCELLED = range(6)
# The table's numbers for where a delivery comes from.
ORDINARY, REPLAY, TEST, BACKFILL = range(4)
# How many numbers of events a backfill looks through before it asks whether it is late: some milliseconds' worth.
WINDOW_EVENTS = 100_000
EVERYTHING = 2**63 - 1  # upto no number
# The newest number given, in SQL; what was deleted or set aside is counted (migration 0018).
NEWEST_EVENT = "max(coalesce((SELECT max(seq) FROM events), 0), (SELECT event_seq FROM counted))"
NEWEST = "max(coalesce((SELECT max(seq) FROM deliveries), 0), (SELECT delivery_seq FROM counted))"
# A workspace's events that have a body, between two numbers (both excluded); the newest aren't in `event_log` yet.
LOGGED = (
    "(SELECT event_seq AS seq, accepted_at, type FROM event_log WHERE workspace_seq = :workspace_seq "
    "AND event_seq > :after_seq AND event_seq < :before_seq UNION ALL SELECT seq, accepted_at, type FROM events "
    "NOT INDEXED WHERE workspace_seq = :workspace_seq AND body IS NOT NULL "
    "AND seq > max(:after_seq, (SELECT event_seq FROM counted)) AND seq < :before_seq)"
)

_QUEUED = (
    # A lost event has no body: the consumer quarantines the delivery.
    "SELECT d.seq, d.endpoint_seq, coalesce(v.id, ''), d.event_type, {body}, d.size, d.accepted_at, d.replay_of, "
    # Only a queue's head waits for a time; the reason is in the record of its last attempt.
    "d.attempt_count, d.tries, d.next_attempt_at, CASE WHEN d.next_attempt_at IS NOT NULL THEN (SELECT CASE WHEN "
    "json_valid(CAST(a.record AS TEXT)) THEN CAST(a.record AS TEXT)->>'reason' = 'local' END "
    "FROM attempts a WHERE a.delivery_seq = d.seq ORDER BY a.seq DESC LIMIT 1) END, "
    f"d.kind = {BACKFILL}, v.trace, d.lane_hash, d.sequence, {{previous}} "
    "FROM deliveries d {hint} LEFT JOIN events v ON v.seq = d.event_seq"
)
# The hash of the key of event `v` for the endpoint of `d`.
_HASH = (
    "(SELECT lane_hash(e.ordering->>'key', v.body) FROM endpoints e WHERE e.seq = d.endpoint_seq "
    "AND e.ordering->>'key' IS NOT NULL)"
)
_BACKFILL_LEFT_OUT = (
    "SELECT v.seq, length(v.body), CASE WHEN e.deleted_at IS NOT NULL THEN 'gone' WHEN EXISTS (SELECT 1 "
    "FROM deliveries d WHERE d.event_seq = v.seq AND d.endpoint_seq = e.seq) THEN 'already_had' "
    # What was skipped meanwhile, together with what is yet to come, was so by a person who disabled it first.
    "WHEN e.state <> 'active' OR :paused OR e.skipped_upto > :after_seq THEN 'not_active' "
    "WHEN v.body IS NULL THEN 'pruned' WHEN e.filters <> '' AND NOT wants(e.filters, v.type, v.body) "
    "THEN 'filtered' END FROM events v CROSS JOIN endpoints e ON e.seq = :endpoint_seq "
    "WHERE v.seq IN (SELECT value FROM json_each(:seqs)) ORDER BY v.seq"
)
_PAGE = (
    _QUEUED.format(body="CASE WHEN d.size <= ? THEN v.body END", previous="NULL", hint="INDEXED BY deliveries_waiting")
    + " WHERE d.endpoint_seq = ? AND d.state = 0 AND d.seq > ? AND d.seq <= ? ORDER BY d.seq LIMIT ?"
)
_LANE_PAGE = (
    _QUEUED.format(
        body="CASE WHEN d.size <= ? THEN v.body END",
        previous="(SELECT pv.id FROM deliveries p INDEXED BY deliveries_lanes JOIN events pv ON pv.seq = p.event_seq "
        "WHERE p.endpoint_seq = d.endpoint_seq AND p.lane_hash = d.lane_hash AND p.seq < d.seq "
        "ORDER BY p.seq DESC LIMIT 1)",
        hint="INDEXED BY deliveries_lanes_waiting",
    )
    + " WHERE d.endpoint_seq = ? AND d.lane_hash = ? AND d.state = 0 AND d.seq > ? AND d.seq <= ? "
    "ORDER BY d.seq LIMIT ?"
)
# Each row of the array is [number, attempts, time, offset, length].
_DELIVERED_TOGETHER = (
    f"UPDATE deliveries SET state = {DELIVERED}, attempt_count = j.value->>1, tries = tries + 1, "
    "next_attempt_at = NULL, finished_at = j.value->>2, "
    "final_attempt = substr(NEW.delivered_blobs, j.value->>3, j.value->>4) "
    "FROM json_each(NEW.delivered_rows) j WHERE deliveries.seq = j.value->>0 AND deliveries.state = 0; "
    "SELECT RAISE(ABORT, 'one no longer waited') WHERE changes() <> json_array_length(NEW.delivered_rows)"
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for one endpoint: how many deliveries, their bytes, the number of the newest; how many by hash."""

    endpoint_seq: int
    count: int
    size: int
    newest_seq: int
    by_hash: dict[int, int] = field(default_factory=dict)


def waiting(db: sqlite3.Connection) -> list[Waiting]:
    """What waits for each living endpoint, marks taken into account; one pass over the index of what waits.

    Grouped by the endpoints' own column, which the pass is ordered by: otherwise SQLite sorts all that waits in memory.
    """
    rows = db.execute(
        "SELECT e.seq, e.skipped_upto, e.ordering, count(*), CAST(total(d.size) AS INTEGER), max(d.seq) "
        "FROM endpoints e CROSS JOIN deliveries d INDEXED BY deliveries_waiting "
        "WHERE e.deleted_at IS NULL AND d.endpoint_seq = e.seq AND d.state = 0 AND d.seq > e.skipped_upto "
        "GROUP BY e.seq"
    ).fetchall()
    return [
        Waiting(seq, count, size, newest_seq, waiting_by_hash(db, seq, upto) if ordering != "null" else {})
        for seq, upto, ordering, count, size, newest_seq in rows
    ]


def page(
    db: sqlite3.Connection,
    endpoint_seq: int,
    after_seq: int,
    limit: int,
    inline_bytes: int,
    *,
    upto_seq: int = EVERYTHING,
    lane_hash: int | None = None,
) -> list[QueuedDelivery]:
    """The next `limit` deliveries that wait for an endpoint, in order; without bodies larger than `inline_bytes`.

    `lane_hash`: only those of the lane, each with the event before it there, whatever became of that.
    """
    if lane_hash is None:
        rows = db.execute(_PAGE, (inline_bytes, endpoint_seq, after_seq, upto_seq, limit)).fetchall()
    else:
        values = (inline_bytes, endpoint_seq, lane_hash, after_seq, upto_seq, limit)
        rows = db.execute(_LANE_PAGE, values).fetchall()
    return [_queued(row) for row in rows]


def _queued(row: tuple[Any, ...]) -> QueuedDelivery:
    values = (*row[:-6], bool(row[-6]), bool(row[-5]), *row[-4:])
    return QueuedDelivery(*values)


def waiting_by_hash(db: sqlite3.Connection, endpoint_seq: int, after_seq: int) -> dict[int, int]:
    """How many deliveries of each hash wait for an endpoint, without those that have none."""
    rows = db.execute(
        "SELECT lane_hash, count(*) FROM deliveries INDEXED BY deliveries_lanes_waiting "
        "WHERE endpoint_seq = ? AND lane_hash IS NOT NULL AND state = 0 AND seq > ? GROUP BY lane_hash",
        (endpoint_seq, after_seq),
    ).fetchall()
    return dict(rows)


def body(db: sqlite3.Connection, seq: int) -> bytes | None:
    """The body of a delivery's event; None where there is none any more, which should never be."""
    sql = "SELECT v.body FROM deliveries d JOIN events v ON v.seq = d.event_seq WHERE d.seq = ?"
    rows = db.execute(sql, (seq,)).fetchall()
    return rows[0][0] if rows else None


def quarantine(db: sqlite3.Connection, seq: int, now_ms: int) -> None:
    """End a delivery that can't be sent, because its row is malformed."""
    db.execute(f"UPDATE deliveries SET state = {EXPIRED}, finished_at = ? WHERE seq = ? AND state = 0", (now_ms, seq))


def oldest_waiting(db: sqlite3.Connection, endpoint_seq: int, after_seq: int) -> tuple[int, int, int | None] | None:
    """`(seq, accepted_at, next_attempt_at)` of the first delivery that waits for an endpoint, or None."""
    rows = db.execute(
        "SELECT seq, accepted_at, next_attempt_at FROM deliveries INDEXED BY deliveries_waiting "
        "WHERE endpoint_seq = ? AND state = 0 AND seq > ? ORDER BY seq LIMIT 1",
        (endpoint_seq, after_seq),
    ).fetchall()
    return rows[0] if rows else None


def oldest_of_size(db: sqlite3.Connection, endpoint_seq: int, after_seq: int, size: int, limit: int) -> int:
    """How many of the oldest waiting deliveries make up at least `size` bytes; at most `limit`."""
    rows = _oldest(db, "size", endpoint_seq, after_seq, limit)
    total = 0
    for number, (each,) in enumerate(rows, start=1):
        total += each
        if total >= size:
            return number
    return len(rows)


def oldest_before(db: sqlite3.Connection, endpoint_seq: int, after_seq: int, before_ms: int, limit: int) -> int:
    """How many of the oldest waiting deliveries were accepted at `before_ms` or earlier; at most `limit`."""
    rows = _oldest(db, "accepted_at", endpoint_seq, after_seq, limit)
    return sum(1 for _ in takewhile(lambda row: row[0] <= before_ms, rows))


def _oldest(db: sqlite3.Connection, column: str, endpoint_seq: int, after_seq: int, limit: int) -> list[tuple[int]]:
    return db.execute(
        f"SELECT {column} FROM deliveries INDEXED BY deliveries_waiting WHERE endpoint_seq = ? AND state = 0 "
        "AND seq > ? ORDER BY seq LIMIT ?",
        (endpoint_seq, after_seq, limit),
    ).fetchall()


def newest_seq(db: sqlite3.Connection) -> int:
    """The number of the newest delivery, 0 if there is none."""
    number: int = db.execute("SELECT coalesce(max(seq), 0) FROM deliveries").fetchall()[0][0]
    return number


class Success(Struct, frozen=True, gc=False):
    """An attempt that delivered: how many attempts there were with it, and its record as JSON."""

    seq: int
    attempt_count: int
    record: bytes
    now_ms: int


def delivered(db: sqlite3.Connection, item: Success) -> bool:
    """Record a success; False if the delivery was cancelled or expired under way, which it overrides."""
    sql = (
        f"UPDATE deliveries SET state = {DELIVERED}, attempt_count = ?, tries = tries + 1, next_attempt_at = NULL, "
        "finished_at = ?, final_attempt = ? WHERE seq = ?"
    )
    values = (item.attempt_count, item.now_ms, item.record, item.seq)
    if db.execute(f"{sql} AND state = 0", values).rowcount:
        return True
    db.execute(sql, values)
    return False


RECORD_SUCCESS = BatchKind(
    "delivered",
    delivered,
    lambda items: packed(((item.seq, item.attempt_count, item.now_ms), item.record) for item in items),
    _DELIVERED_TOGETHER,
    read=lambda db, items: None,
    results=lambda items, read: [True] * len(items),  # all waited, else they would have gone one by one
)


def failed(
    db: sqlite3.Connection, seq: int, *, attempt_count: int, tries: int, next_attempt_at_ms: int | None, now_ms: int
) -> bool:
    """Record a failed attempt; without a next one it is dropped.  False if the delivery no longer waited."""
    state, finished = (DROPPED, now_ms) if next_attempt_at_ms is None else (PENDING, None)
    updated = db.execute(
        "UPDATE deliveries SET state = ?, attempt_count = ?, tries = ?, next_attempt_at = ?, finished_at = ? "
        "WHERE seq = ? AND state = 0",
        (state, attempt_count, tries, next_attempt_at_ms, finished, seq),
    ).rowcount
    if not updated:
        db.execute("UPDATE deliveries SET attempt_count = ? WHERE seq = ?", (attempt_count, seq))
    return bool(updated)


def first_drop(db: sqlite3.Connection, endpoint_seq: int, seq: int) -> bool:
    """Whether a drop is the endpoint's first, or the first since it delivered something; tests apart."""
    rows = "FROM deliveries INDEXED BY deliveries_log WHERE endpoint_seq = ?1 AND state <> 0 AND kind <> 2 AND state ="
    return not db.execute(
        f"SELECT 1 {rows} {DROPPED} AND seq <> ?2 "
        f"AND seq > coalesce((SELECT seq {rows} {DELIVERED} ORDER BY seq DESC LIMIT 1), 0) LIMIT 1",
        (endpoint_seq, seq),
    ).fetchall()


def finish_some(
    db: sqlite3.Connection, endpoint_seq: int, *, state: int, upto_seq: int, after_seq: int, limit: int, now_ms: int
) -> list[tuple[int, int, int | None]]:
    """Finish an endpoint's oldest waiting deliveries, at most `limit`; returns `(seq, size, lane_hash)` of each."""
    return db.execute(
        "UPDATE deliveries SET state = ?, finished_at = ?, next_attempt_at = NULL WHERE seq IN "
        "(SELECT seq FROM deliveries INDEXED BY deliveries_waiting WHERE endpoint_seq = ? AND state = 0 "
        "AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?) RETURNING seq, size, lane_hash",
        (state, now_ms, endpoint_seq, after_seq, upto_seq, limit),
    ).fetchall()


def marked(db: sqlite3.Connection) -> list[tuple[int, int, int]]:
    """`(endpoint_seq, upto_seq, state)` of endpoints with rows that have yet to follow a mark; skipped ones first."""
    waits = (
        "EXISTS (SELECT 1 FROM deliveries d INDEXED BY deliveries_waiting WHERE d.endpoint_seq = e.seq AND d.state = 0"
    )
    return db.execute(
        f"SELECT e.seq, e.skipped_upto, {SKIPPED} FROM endpoints e "
        f"WHERE e.skipped_upto > 0 AND {waits} AND d.seq <= e.skipped_upto) UNION ALL "
        f"SELECT e.seq, 9223372036854775807, {CANCELLED} FROM endpoints e "
        f"WHERE e.deleted_at IS NOT NULL AND {waits}) ORDER BY 3"
    ).fetchall()


def replay(db: sqlite3.Connection, seqs: Iterable[int], now_ms: int) -> list[QueuedDelivery]:
    """Queue past deliveries that have a body again, in the order given; returned without their bodies."""
    having_body = (
        "SELECT d.seq FROM json_each(?) j CROSS JOIN deliveries d ON d.seq = j.value "
        "JOIN events v ON v.seq = d.event_seq WHERE v.body IS NOT NULL ORDER BY j.key"
    )
    chosen = [seq for (seq,) in db.execute(having_body, (orjson.dumps(list(seqs)).decode(),)).fetchall()]
    first = db.execute(f"SELECT {NEWEST} + 1").fetchall()[0][0]
    db.execute(
        "INSERT INTO deliveries "
        "(seq, event_seq, endpoint_seq, event_type, kind, size, replay_of, accepted_at, lane_hash) "
        f"SELECT ? + j.key, d.event_seq, d.endpoint_seq, d.event_type, {REPLAY}, d.size, d.seq, ?, {_HASH} "
        "FROM json_each(?) j CROSS JOIN deliveries d ON d.seq = j.value JOIN events v ON v.seq = d.event_seq",
        (first, now_ms, orjson.dumps(chosen).decode()),
    )
    return _just_queued(db, first, len(chosen))


@dataclass(frozen=True, slots=True)
class Backfill:
    """Past events of `event_types` for one endpoint, up to the event `upto_seq`; `until_ms` excluded.

    Their deliveries get the `capacity` numbers after `after_seq`, which were set aside (`reserve`).
    """

    workspace_seq: int
    endpoint_seq: int
    event_types: tuple[str, ...]
    since_ms: int
    until_ms: int | None
    paused: bool
    upto_seq: int = 2**63 - 1
    after_seq: int = 2**63 - 1
    capacity: int = 0
    at_ms: int = 0  # when they were, which dates them


def reserve(db: sqlite3.Connection, wanted: Backfill, capacity: int, now_ms: int) -> Backfill:
    """Set the next `capacity` numbers aside: what is accepted from now on comes after these."""
    upto_seq, after_seq = db.execute(f"SELECT {NEWEST_EVENT}, {NEWEST}").fetchall()[0]
    db.execute("UPDATE counted SET delivery_seq = ?", (after_seq + capacity,))
    return replace(wanted, upto_seq=upto_seq, after_seq=after_seq, capacity=capacity, at_ms=now_ms)


def to_backfill(
    db: sqlite3.Connection, wanted: Backfill, *, after_seq: int, limit: int, late: Late
) -> tuple[list[int], int | None]:
    """The next events of a backfill, oldest first, until it is `late`; tests are left out.

    Returns their numbers, and after which number to go on; None when there are no more.
    """
    sql = (
        f"SELECT v.seq FROM {LOGGED} v WHERE v.seq <= :upto_seq AND v.accepted_at >= :since_ms "
        "AND (:until_ms IS NULL OR v.accepted_at < :until_ms) "
        f"AND EXISTS (SELECT 1 FROM json_each(:types) WHERE value IN (v.type, '{EVERY_TYPE}')) "
        f"AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event_seq = v.seq AND d.kind = {TEST}) "
        "ORDER BY v.seq LIMIT :limit"
    )
    values = asdict(wanted) | {"types": orjson.dumps(wanted.event_types).decode()}
    del values["event_types"]
    found: list[int] = []
    for first, upto in time_index.windows(
        db, "events", wanted.since_ms, wanted.until_ms, after_seq=after_seq, rows=WINDOW_EVENTS
    ):
        here = {"after_seq": first, "before_seq": upto, "limit": limit - len(found)}
        found += [row[0] for row in db.execute(sql, values | here).fetchall()]
        if len(found) == limit or late():
            return found, found[-1] if len(found) == limit else upto - 1
    return found, None


def backfill_left_out(
    db: sqlite3.Connection, wanted: Backfill, event_seqs: Sequence[int]
) -> list[tuple[int, int, str | None]]:
    """Each event's number, its size, and why the backfill leaves it out (None: it doesn't)."""
    values = {name: getattr(wanted, name) for name in ("endpoint_seq", "paused", "after_seq")}
    return db.execute(_BACKFILL_LEFT_OUT, values | {"seqs": orjson.dumps(list(event_seqs)).decode()}).fetchall()


def backfill(db: sqlite3.Connection, wanted: Backfill, event_seqs: Sequence[int]) -> list[QueuedDelivery]:
    """Queue past events for an endpoint, in the order given; returned without their bodies."""
    last = "SELECT coalesce(max(seq), ?1) FROM deliveries WHERE seq > ?1 AND seq <= ?2"
    first = db.execute(last, (wanted.after_seq, wanted.after_seq + wanted.capacity)).fetchall()[0][0] + 1
    db.executemany(
        "INSERT INTO deliveries (seq, event_seq, endpoint_seq, event_type, kind, size, accepted_at, lane_hash) "
        f"SELECT ?, v.seq, d.endpoint_seq, v.type, {BACKFILL}, length(v.body), ?, {_HASH} "
        "FROM events v CROSS JOIN (SELECT ? AS endpoint_seq) d WHERE v.seq = ?",
        [(seq, wanted.at_ms, wanted.endpoint_seq, event_seq) for seq, event_seq in enumerate(event_seqs, first)],
    )
    return _just_queued(db, first, len(event_seqs))


def _just_queued(db: sqlite3.Connection, first: int, count: int) -> list[QueuedDelivery]:
    """`count` deliveries from the number `first` on, without their bodies."""
    rows = _QUEUED.format(body="NULL", previous="NULL", hint="") + " WHERE d.seq >= ? AND d.seq < ? ORDER BY d.seq"
    return [_queued(row) for row in db.execute(rows, (first, first + count)).fetchall()]
