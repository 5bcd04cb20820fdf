"""Accepting events: the event and its deliveries in one transaction, each id once."""

from __future__ import annotations

import hashlib
import itertools
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import orjson
from msgspec import Struct

from webhookd.models import Accepted, EventView, NewEvent, QueuedDelivery
from webhookd.store import time_index, workspaces
from webhookd.store.batch import ROW_BYTES, BatchKind, packed
from webhookd.store.connection import Late
from webhookd.store.deliveries import DELIVERED, DROPPED, LOGGED, NEWEST, NEWEST_EVENT, TEST

_INSERT_EVENT = (
    "INSERT INTO events (seq, workspace_seq, id, type, accepted_at, body, trace) "
    f"VALUES ({NEWEST_EVENT} + 1, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (workspace_seq, id) DO NOTHING"
)
# In the order of the endpoints' numbers; an endpoint that wants this type and `*` has only one of the two rows.
_INSERT_DELIVERIES = (
    "INSERT INTO deliveries (seq, event_seq, endpoint_seq, event_type, size, accepted_at, lane_hash) "
    f"SELECT {NEWEST} + row_number() OVER (ORDER BY endpoint_seq), ?1, endpoint_seq, ?2, ?3, ?4, "
    "CASE WHEN order_key IS NOT NULL THEN lane_hash(order_key, ?6) END "
    "FROM subscriptions WHERE workspace_seq = ?5 AND event_type IN (?2, '*') "
    "AND (filter IS NULL OR coalesce(json_extract(?7, '$.\"' || filter || '\"'), "
    "wants((SELECT e.filters FROM endpoints e WHERE e.seq = endpoint_seq), ?2, ?6))) "
    "ORDER BY endpoint_seq RETURNING seq, endpoint_seq, lane_hash"
)
# The same for many events, each row of the array being [workspace, id, type, time, whether to deliver, trace, facts,
# offset, length].  A fact that is missing, because the endpoint was just changed, is found here: it takes Python, and
# so the interpreter's lock.
# Their numbers are the next ones, in the array's order.
_TOGETHER = (
    "SELECT RAISE(ABORT, 'workspace') FROM json_each(NEW.accepted_rows) j WHERE NOT EXISTS "
    "(SELECT 1 FROM workspaces w WHERE w.seq = j.value->>0 AND w.deleted_at IS NULL); "
    "INSERT INTO events (seq, workspace_seq, id, type, accepted_at, body, trace) "
    f"SELECT {NEWEST_EVENT} + 1 + j.key, "
    "j.value->>0, j.value->>1, j.value->>2, j.value->>3, substr(NEW.accepted_blobs, j.value->>7, j.value->>8), "
    "j.value->>5 "
    "FROM json_each(NEW.accepted_rows) j; "
    "INSERT INTO deliveries (seq, event_seq, endpoint_seq, event_type, size, accepted_at, lane_hash) "
    f"SELECT {NEWEST} + row_number() OVER (ORDER BY j.key, s.endpoint_seq), "
    "(SELECT max(seq) FROM events) - json_array_length(NEW.accepted_rows) + 1 + j.key, "
    "s.endpoint_seq, j.value->>2, j.value->>8, j.value->>3, CASE WHEN s.order_key IS NOT NULL THEN "
    "coalesce(json_extract(j.value, '$[6].\"' || s.order_key || '\"'), "
    "lane_hash(s.order_key, substr(NEW.accepted_blobs, j.value->>7, j.value->>8))) END "
    "FROM json_each(NEW.accepted_rows) j "
    "CROSS JOIN subscriptions s ON s.workspace_seq = j.value->>0 AND s.event_type IN (j.value->>2, '*') "
    "AND (s.filter IS NULL OR coalesce(json_extract(j.value, '$[6].\"' || s.filter || '\"'), "
    "wants((SELECT e.filters FROM endpoints e WHERE e.seq = s.endpoint_seq), j.value->>2, "
    "substr(NEW.accepted_blobs, j.value->>7, j.value->>8)))) "
    "WHERE j.value->>4 ORDER BY j.key, s.endpoint_seq"
)
# The deliveries of the last `?1` events, which are counted from 0.  One row for all: every row that is fetched waits
# once more for the interpreter's lock.
_ADDED = (
    "SELECT json_group_array(CASE WHEN d.lane_hash IS NULL THEN json_array(d.seq, d.event_seq - first, d.endpoint_seq) "
    "ELSE json_array(d.seq, d.event_seq - first, d.endpoint_seq, d.lane_hash, d.sequence) END) "
    "FROM (SELECT max(seq) - ?1 + 1 AS first FROM events) "
    "CROSS JOIN deliveries d INDEXED BY deliveries_by_event ON d.event_seq >= first"
)
# How many events a search looks through before it asks whether it is late: some milliseconds' worth.
WINDOW_EVENTS = 20_000
_VIEW = (
    "SELECT v.seq, w.id, v.id, v.type, v.accepted_at, v.body FROM events v JOIN workspaces w ON w.seq = v.workspace_seq"
)


class Ingested(Struct, frozen=True, gc=False):
    """Events of one request: accepted in their order, each with a delivery per subscriber unless not `deliver`.

    `delivery_count`: how many deliveries that makes, as far as is known, for the size of the batch.  `trace`: see
    `rules.trace_context`.  `body_facts`: of each event's body, as far as endpoints need it: the hash of its key by
    the key's path, and by the id of filters whether it passes (1 or 0).
    """

    workspace_seq: int
    events: Sequence[NewEvent]
    deliver: bool
    now_ms: int
    delivery_count: int = 0
    trace: str | None = None
    body_facts: Sequence[dict[str, int] | None] = ()


def accept(db: sqlite3.Connection, item: Ingested) -> list[Accepted]:
    """Add the events in their order; one with a known id adds nothing: a duplicate (same bytes) or a conflict."""
    workspaces.require(db, item.workspace_seq)
    return [_accept_one(db, item, event, facts) for event, facts in zip_longest(item.events, item.body_facts)]


def _accept_one(db: sqlite3.Connection, item: Ingested, event: NewEvent, facts: dict[str, int] | None) -> Accepted:
    cursor = db.execute(_INSERT_EVENT, (item.workspace_seq, event.id, event.type, item.now_ms, event.body, item.trace))
    if cursor.rowcount == 0:
        return _known(db, item.workspace_seq, event)
    if not item.deliver:
        return Accepted(event.id, 0)
    known_facts = orjson.dumps(facts).decode() if facts else None
    values = (cursor.lastrowid, event.type, len(event.body), item.now_ms, item.workspace_seq, event.body, known_facts)
    rows = db.execute(_INSERT_DELIVERIES, values).fetchall()
    return _accepted_with(item, event, [_with_sequence(db, row) for row in rows])


def add_deliveries(
    db: sqlite3.Connection,
    item: Ingested,
    event: NewEvent,
    endpoint_ids: Iterable[str],
    waits: Callable[[str, int | None], bool],
) -> Sequence[QueuedDelivery]:
    """Queue an event that was accepted for endpoints, whatever they ask for, as far as it `waits` for them.

    `waits` is given the endpoint's id, and the hash of the event's key where the endpoint orders by one.
    """
    found = db.execute(
        "SELECT v.seq, e.seq, e.id, (SELECT lane_hash(s.order_key, ?3) FROM subscriptions s "
        "WHERE s.endpoint_seq = e.seq AND s.order_key IS NOT NULL LIMIT 1) FROM events v JOIN endpoints e "
        "ON e.workspace_seq = v.workspace_seq AND e.deleted_at IS NULL WHERE v.workspace_seq = ?1 AND v.id = ?2 "
        "AND e.id IN (SELECT value FROM json_each(?4)) ORDER BY e.seq",
        (item.workspace_seq, event.id, event.body, orjson.dumps(list(endpoint_ids)).decode()),
    ).fetchall()
    rows = [
        db.execute(
            "INSERT INTO deliveries (event_seq, endpoint_seq, event_type, size, accepted_at, lane_hash) "
            "VALUES (?, ?, ?, ?, ?, ?) RETURNING seq, endpoint_seq, lane_hash",
            (event_seq, endpoint_seq, event.type, len(event.body), item.now_ms, lane_hash),
        ).fetchall()[0]
        for event_seq, endpoint_seq, endpoint_id, lane_hash in found
        if waits(endpoint_id, lane_hash)
    ]
    return _accepted_with(item, event, [_with_sequence(db, row) for row in rows]).queued


def _with_sequence(db: sqlite3.Connection, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A trigger numbers a delivery that goes by key: `RETURNING` doesn't see it."""
    if row[2] is None:
        return row[:2]
    return (*row, *db.execute("SELECT sequence FROM deliveries WHERE seq = ?", row[:1]).fetchall()[0])


def _accepted_with(item: Ingested, event: NewEvent, rows: Sequence[tuple[int, ...]]) -> Accepted:
    """`rows`: number and endpoint of each delivery that the event got; hash and sequence where it goes by key."""
    queued = tuple(
        QueuedDelivery(
            row[0],
            row[1],
            event.id,
            event.type,
            event.body,
            len(event.body),
            item.now_ms,
            trace=item.trace,
            lane_hash=row[2] if len(row) > 2 else None,
            sequence=row[3] if len(row) > 2 else None,
        )
        for row in rows
    )
    return Accepted(event.id, len(queued), queued=queued)


def _pack(items: Sequence[Ingested]) -> tuple[str, bytes]:
    return packed(
        ((item.workspace_seq, event.id, event.type, item.now_ms, int(item.deliver), item.trace, facts), event.body)
        for item in items
        for event, facts in zip_longest(item.events, item.body_facts)
    )


def _added(db: sqlite3.Connection, items: Sequence[Ingested]) -> str:
    added: str = db.execute(_ADDED, (sum(len(item.events) for item in items),)).fetchall()[0][0]
    return added


def _accepted(items: Sequence[Ingested], added: str) -> list[list[Accepted]]:
    """The results of `items`, none of them known before, with the deliveries that they added."""
    rows: defaultdict[int, list[tuple[int, ...]]] = defaultdict(list)
    for seq, index, *more in orjson.loads(added):
        rows[index].append((seq, *more))
    index = itertools.count()
    return [[_accepted_with(item, event, rows.get(next(index), ())) for event in item.events] for item in items]


def _size(item: Ingested) -> int:
    return len(item.events) + item.delivery_count + sum(len(event.body) // ROW_BYTES for event in item.events)


ACCEPT = BatchKind("accepted", accept, _pack, _TOGETHER, _added, _accepted, _size)


def _known(db: sqlite3.Connection, workspace_seq: int, event: NewEvent) -> Accepted:
    seq, body, body_sha256 = db.execute(
        "SELECT seq, body, body_sha256 FROM events WHERE workspace_seq = ? AND id = ?", (workspace_seq, event.id)
    ).fetchall()[0]
    same = body == event.body if body is not None else body_sha256 == hashlib.sha256(event.body).digest()
    if not same:
        return Accepted(event.id, 0, conflict=True)
    count = db.execute("SELECT count(*) FROM deliveries WHERE event_seq = ? AND kind = 0", (seq,)).fetchall()[0][0]
    return Accepted(event.id, count, duplicate=True)


def insert_test(
    db: sqlite3.Connection,
    *,
    workspace_seq: int,
    endpoint_seq: int,
    event_id: str,
    event_type: str,
    body: bytes,
    delivered: bool,
    record: bytes,
    started_at_ms: int,
    now_ms: int,
) -> int:
    """Add a test event and its finished delivery; returns the delivery's number."""
    event_seq = db.execute(
        "INSERT INTO events (seq, workspace_seq, id, type, accepted_at, body) "
        f"VALUES ({NEWEST_EVENT} + 1, ?, ?, ?, ?, ?)",
        (workspace_seq, event_id, event_type, started_at_ms, body),
    ).lastrowid
    state = DELIVERED if delivered else DROPPED
    seq = db.execute(
        "INSERT INTO deliveries (seq, event_seq, endpoint_seq, event_type, state, kind, size, accepted_at, "
        "attempt_count, tries, finished_at, final_attempt) "
        f"VALUES ({NEWEST} + 1, ?, ?, ?, ?, ?, ?, ?, 1, 1, ?, ?)",
        (event_seq, endpoint_seq, event_type, state, TEST, len(body), started_at_ms, now_ms, record),
    ).lastrowid
    assert seq is not None
    return seq


def get(db: sqlite3.Connection, workspace_seq: int, event_id: str) -> EventView | None:
    """The event with this id, or None."""
    rows = db.execute(f"{_VIEW} WHERE v.workspace_seq = ? AND v.id = ?", (workspace_seq, event_id)).fetchall()
    return EventView(*rows[0]) if rows else None


def page(
    db: sqlite3.Connection,
    workspace_seq: int,
    *,
    event_type: str | None,
    since_ms: int | None,
    until_ms: int | None,
    before_seq: int | None,
    limit: int,
    late: Late,
) -> tuple[list[EventView], int | None]:
    """Up to `limit` events of the log, newest first, older than `before_seq`, until it is `late`; without their bodies.

    Returns as well the number before which to go on if it stopped because it was late, else None.
    """
    conditions: list[str] = []
    values: dict[str, int | str] = {"workspace_seq": workspace_seq}
    for condition, name, value in (
        ("type = :type", "type", event_type),
        ("accepted_at >= :since_ms", "since_ms", since_ms),
        ("accepted_at < :until_ms", "until_ms", until_ms),
    ):
        if value is not None:
            conditions.append(condition)
            values[name] = value
    sql = (
        f"{_VIEW.replace('v.body', 'NULL')} WHERE v.seq IN (SELECT seq FROM {LOGGED} "
        f"WHERE {' AND '.join(conditions) or '1'} ORDER BY seq DESC LIMIT :limit) ORDER BY v.seq DESC"
    )
    found: list[EventView] = []
    looked = False
    for after, before in time_index.between(db, "events", since_ms, until_ms):
        upto = before if before_seq is None else min(before, before_seq)
        for first, last in _windows(db, workspace_seq, after, upto) if conditions else [(after, upto)]:
            if looked and late():  # one window at least, or it never ends
                return found, last
            here = {"after_seq": first, "before_seq": last, "limit": limit - len(found)}
            rows = db.execute(sql, values | here).fetchall()
            found += [EventView(*row) for row in rows]
            if len(found) == limit:
                return found, None
            looked = True
    return found, None


def _windows(db: sqlite3.Connection, workspace_seq: int, after_seq: int, before_seq: int) -> Iterator[tuple[int, int]]:
    """Where to look, newest first: numbers, both excluded, each time with so many of the workspace's own events."""
    sql = f"SELECT seq FROM {LOGGED} ORDER BY seq DESC LIMIT 1 OFFSET {WINDOW_EVENTS - 1}"
    values = {"workspace_seq": workspace_seq, "after_seq": after_seq}
    while rows := db.execute(sql, values | {"before_seq": before_seq}).fetchall():
        yield rows[0][0] - 1, before_seq
        before_seq = rows[0][0]
    yield after_seq, before_seq
