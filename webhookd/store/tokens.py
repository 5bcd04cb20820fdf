"""API tokens in the table: hashed, never the secret itself."""

from __future__ import annotations

import sqlite3

from webhookd.models import Token

_SELECT = (
    "SELECT t.id, t.scope, w.id, t.created_at, t.note FROM tokens t LEFT JOIN workspaces w ON w.seq = t.workspace_seq"
)


def put(
    db: sqlite3.Connection,
    *,
    token_id: str,
    scope: str,
    workspace_seq: int | None,
    secret_sha256: bytes,
    note: str,
    now_ms: int,
) -> None:
    """Add a token, or give the one with this id another secret (its file was replaced)."""
    db.execute(
        "INSERT INTO tokens (id, scope, workspace_seq, secret_sha256, note, created_at) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET secret_sha256 = excluded.secret_sha256",
        (token_id, scope, workspace_seq, secret_sha256, note, now_ms),
    )


def load(db: sqlite3.Connection) -> list[Token]:
    """All tokens, oldest first."""
    return [Token(*row) for row in db.execute(f"{_SELECT} ORDER BY t.created_at, t.id").fetchall()]


def by_secret(db: sqlite3.Connection) -> dict[bytes, Token]:
    """All tokens by the SHA-256 of their secret."""
    rows = db.execute(f"SELECT s.secret_sha256, q.* FROM ({_SELECT}) q JOIN tokens s ON s.id = q.id").fetchall()
    return {row[0]: Token(*row[1:]) for row in rows}


def delete(db: sqlite3.Connection, token_id: str) -> bool:
    """Revoke a token; False if there is none with this id."""
    return db.execute("DELETE FROM tokens WHERE id = ?", (token_id,)).rowcount == 1
