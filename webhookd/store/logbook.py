"""Reading the event log: deliveries, newest first, filtered, in pages.

What a delivery's state *reads* as is derived here and nowhere else: a row that waits is `held` while its endpoint
gets nothing, and `skipped` or `cancelled` from the moment of the mark, before the row itself has followed.
"""

from __future__ import annotations

import heapq
import sqlite3
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from webhookd.model import DeliveryState, DeliveryView
from webhookd.store.deliveries import TEST

_STATE = (
    "CASE d.state WHEN 0 THEN CASE WHEN e.deleted_at IS NOT NULL THEN 'cancelled' WHEN d.seq <= e.skipped_upto "
    "THEN 'skipped' WHEN e.state <> 'active' OR :paused THEN 'held' ELSE 'pending' END "
    "WHEN 1 THEN 'delivered' WHEN 2 THEN 'dropped' WHEN 3 THEN 'expired' WHEN 4 THEN 'skipped' ELSE 'cancelled' END"
)
# Which of the table's states can read as a state, so that an index serves; `_STATE` then decides.
_ROWS_OF = {
    DeliveryState.PENDING: (0,),
    DeliveryState.HELD: (0,),
    DeliveryState.DELIVERED: (1,),
    DeliveryState.DROPPED: (2,),
    DeliveryState.EXPIRED: (3,),
    DeliveryState.SKIPPED: (0, 4),
    DeliveryState.CANCELLED: (0, 5),
}
_SELECT = (
    f"SELECT d.seq, w.id, e.seq, e.id, v.id, v.type, {_STATE} AS reads_as, d.replay_of, d.kind, d.accepted_at, "
    "d.next_attempt_at, d.finished_at, d.attempt_count, CASE WHEN d.attempt_count > 0 THEN coalesce(d.final_attempt, "
    "(SELECT record FROM attempts a WHERE a.delivery_seq = d.seq ORDER BY a.seq DESC LIMIT 1)) END "
    "FROM deliveries d {hint} JOIN endpoints e ON e.seq = d.endpoint_seq JOIN events v ON v.seq = d.event_seq "
    "JOIN workspaces w ON w.seq = e.workspace_seq"
)


@dataclass(frozen=True, slots=True)
class LogFilter:
    """What of a workspace's log is asked for; None means any.  Times are milliseconds since 1970, `until` excluded."""

    workspace_seq: int
    paused: bool
    endpoint_seq: int | None = None
    event_type: str | None = None
    state: DeliveryState | None = None
    event_id: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    upto_seq: int | None = None


def page(db: sqlite3.Connection, wanted: LogFilter, *, before_seq: int | None, limit: int) -> list[DeliveryView]:
    """Up to `limit` deliveries, newest first, older than `before_seq`."""
    pages = [_branch(db, wanted, hint, where, before_seq, limit) for hint, where in _branches(wanted)]
    newest_first = heapq.merge(*pages, key=lambda view: -view.seq)
    return list(islice(newest_first, limit))


def get(db: sqlite3.Connection, workspace_seq: int, seq: int, *, paused: bool) -> DeliveryView | None:
    """One delivery of a workspace, or None."""
    sql = _SELECT.format(hint="") + " WHERE d.seq = :seq AND e.workspace_seq = :workspace_seq"
    values = {"seq": seq, "workspace_seq": workspace_seq, "paused": paused}
    rows = db.execute(sql, values).fetchall()
    return _view(rows[0]) if rows else None


def finished_matching(db: sqlite3.Connection, wanted: LogFilter, *, after_seq: int, limit: int) -> list[int]:
    """The next finished deliveries of the filter that can be replayed, oldest first: their numbers.

    Only those of endpoints that are active, tests left out.
    """
    conditions, values = _conditions(wanted)
    states = _ROWS_OF[wanted.state] if wanted.state else (1, 2, 3, 4, 5)
    rows = db.execute(
        f"SELECT d.seq, {_STATE} AS reads_as FROM deliveries d JOIN endpoints e ON e.seq = d.endpoint_seq "
        "JOIN events v ON v.seq = d.event_seq "
        f"WHERE {' AND '.join(conditions)} AND d.state IN ({', '.join(map(str, states))}) AND d.state <> 0 "
        f"AND d.kind <> {TEST} AND v.body IS NOT NULL AND e.state = 'active' AND e.deleted_at IS NULL "
        "AND d.seq > :after_seq ORDER BY d.seq LIMIT :limit",
        {**values, "after_seq": after_seq, "limit": limit},
    ).fetchall()
    return [row[0] for row in rows]


def _branches(wanted: LogFilter) -> list[tuple[str, str]]:
    """The index to use and the condition for it.  The endpoint's two partial indexes are read state by state."""
    states = _ROWS_OF[wanted.state] if wanted.state else (0, 1, 2, 3, 4, 5)
    if wanted.endpoint_seq is None or wanted.event_id is not None:
        return [("", f"d.state IN ({', '.join(map(str, states))})")]
    return [
        ("INDEXED BY deliveries_log", f"d.state = {state} AND d.state <> 0")  # the second says it to the partial index
        if state
        else ("INDEXED BY deliveries_waiting", "d.state = 0")
        for state in states
    ]


def _branch(
    db: sqlite3.Connection, wanted: LogFilter, hint: str, where: str, before_seq: int | None, limit: int
) -> list[DeliveryView]:
    conditions, values = _conditions(wanted)
    conditions.append(where)
    if before_seq is not None:
        conditions.append("d.seq < :before_seq")
        values["before_seq"] = before_seq
    sql = f"{_SELECT.format(hint=hint)} WHERE {' AND '.join(conditions)} ORDER BY d.seq DESC LIMIT :limit"
    return [_view(row) for row in db.execute(sql, {**values, "limit": limit}).fetchall()]


def _conditions(wanted: LogFilter) -> tuple[list[str], dict[str, Any]]:
    values: dict[str, Any] = {"workspace_seq": wanted.workspace_seq, "paused": wanted.paused}
    conditions = ["e.workspace_seq = :workspace_seq"]
    for condition, name, value in (
        ("d.endpoint_seq = :endpoint_seq", "endpoint_seq", wanted.endpoint_seq),
        ("v.type = :event_type", "event_type", wanted.event_type),
        ("v.workspace_seq = :workspace_seq AND v.id = :event_id", "event_id", wanted.event_id),
        ("d.accepted_at >= :since_ms", "since_ms", wanted.since_ms),
        ("d.accepted_at < :until_ms", "until_ms", wanted.until_ms),
        ("d.seq <= :upto_seq", "upto_seq", wanted.upto_seq),
        ("reads_as = :state", "state", wanted.state),
    ):
        if value is not None:
            conditions.append(condition)
            values[name] = value
    return conditions, values


def _view(row: tuple[Any, ...]) -> DeliveryView:
    values = list(row)
    values[6] = DeliveryState(values[6])
    values[8] = values[8] == TEST
    values[13] = orjson.loads(values[13]) if values[13] is not None else None
    return DeliveryView(*values)
