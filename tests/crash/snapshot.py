"""The final database as the checker reads it: with a connection of its own, read-only, after the daemon has ended."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.crash.history import CANCELLED, PENDING, SKIPPED, DeliveryRow, EndpointRow, FailureRow, Final
from webhookd.clock import parse_rfc3339
from webhookd.models import Json
from webhookd.store.records import in_full

# Rows follow a mark in small steps; the mark is what counts.
_STATE = (
    f"CASE WHEN d.state = {PENDING} AND d.seq <= e.skipped_upto THEN {SKIPPED} "
    f"WHEN d.state = {PENDING} AND e.deleted_at IS NOT NULL THEN {CANCELLED} ELSE d.state END"
)

_DELIVERIES = (
    f"SELECT d.seq, v.id, d.endpoint_seq, {_STATE}, d.kind, d.attempt_count, d.final_attempt, v.body FROM deliveries d "
    "JOIN events v ON v.seq = d.event_seq JOIN endpoints e ON e.seq = d.endpoint_seq ORDER BY d.seq"
)


def read(path: Path) -> Final:
    """Everything of the file that is judged; AssertionError if the file itself is not sound."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        assert [("ok",)] == db.execute("PRAGMA integrity_check").fetchall()
        assert [] == db.execute("PRAGMA foreign_key_check").fetchall()
        names = {seq: url.rsplit("/", 1)[1] for seq, url in db.execute("SELECT seq, url FROM endpoints")}
        orders = {seq: json.loads(order) for seq, order in db.execute("SELECT seq, ordering FROM endpoints")}
        workspaces = dict(db.execute("SELECT seq, id FROM workspaces").fetchall())
        return Final(
            bodies=dict(db.execute("SELECT id, body FROM events").fetchall()),
            deliveries=[
                DeliveryRow(
                    seq,
                    event_id,
                    names[endpoint],
                    state,
                    kind,
                    count,
                    final and json.loads(in_full(final))["number"],
                    key=_key(orders[endpoint], body),
                )
                for seq, event_id, endpoint, state, kind, count, final, body in db.execute(_DELIVERIES)
            ],
            failures=[
                _failure(seq, delivery, names[endpoint], workspaces[workspace], ended_ms, bool(counted), record)
                for seq, delivery, endpoint, workspace, ended_ms, counted, record in db.execute(
                    "SELECT seq, delivery_seq, endpoint_seq, workspace_seq, ended_at, counted, record "
                    "FROM attempts ORDER BY seq"
                )
            ],
            endpoints={
                names[seq]: EndpointRow(
                    names[seq], state, skipped, deleted is not None, lanes=orders[seq]["lanes"] if orders[seq] else 1
                )
                for seq, state, skipped, deleted in db.execute(
                    "SELECT seq, state, skipped_upto, deleted_at FROM endpoints"
                )
            },
        )


def _key(order: Json | None, body: bytes | None) -> str:
    """What a delivery keeps its order with at an endpoint that had one order all the time."""
    if order is None or body is None:
        return ""
    value = json.loads(body)
    for name in order["key"].split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return json.dumps(value)


def _failure(
    seq: int, delivery_seq: int, endpoint: str, workspace: str, ended_ms: int, counted: bool, record: bytes
) -> FailureRow:
    shown = json.loads(record)
    assert parse_rfc3339(shown["started_at"]) <= ended_ms + 1
    return FailureRow(
        seq, delivery_seq, endpoint, workspace, ended_ms / 1000, shown["number"], shown["reason"], counted
    )
