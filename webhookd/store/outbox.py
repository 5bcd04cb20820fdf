"""Mail that waits to be sent, each row written in the transaction of its cause."""

from __future__ import annotations

import sqlite3

import orjson

from webhookd.model import Json


def insert(
    db: sqlite3.Connection, *, workspace_seq: int, kind: str, message_id: str, payload: Json, now_ms: int
) -> None:
    """Queue a mail.  `payload` holds the facts that it tells; its Message-ID is fixed here, once."""
    db.execute(
        "INSERT INTO outbox (workspace_seq, kind, created_at, message_id, payload) VALUES (?, ?, ?, ?, ?)",
        (workspace_seq, kind, now_ms, message_id, orjson.dumps(payload).decode()),
    )
