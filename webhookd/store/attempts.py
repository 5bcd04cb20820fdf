"""Failed attempts in the table: the log of each, and what the failure budget is rebuilt from.

A success is written into its delivery's own row (one update); only failures need a row of their own.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from webhookd.models import Json
from webhookd.store import malformed


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
