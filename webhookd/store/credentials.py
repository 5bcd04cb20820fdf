"""API tokens, and the page's sessions that they open: hashed, never the secret itself."""

from __future__ import annotations

import sqlite3

from webhookd.models import Token


def put_token(
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


def tokens_by_secret(db: sqlite3.Connection) -> dict[bytes, Token]:
    """All tokens by the SHA-256 of their secret."""
    rows = db.execute(
        "SELECT t.secret_sha256, t.id, t.scope, w.id, t.created_at, t.note "
        "FROM tokens t LEFT JOIN workspaces w ON w.seq = t.workspace_seq"
    ).fetchall()
    return {row[0]: Token(*row[1:]) for row in rows}


def delete_token(db: sqlite3.Connection, token_id: str) -> bool:
    """Revoke a token; False if there is none with this id."""
    return db.execute("DELETE FROM tokens WHERE id = ?", (token_id,)).rowcount == 1


def put_session(
    db: sqlite3.Connection, *, secret_sha256: bytes, token_sha256: bytes, expires_at_ms: int, now_ms: int
) -> None:
    """Add a session and remove those that have ended."""
    db.execute("DELETE FROM sessions WHERE expires_at <= ?", (now_ms,))
    db.execute(
        "INSERT INTO sessions (secret_sha256, token_sha256, expires_at) VALUES (?, ?, ?)",
        (secret_sha256, token_sha256, expires_at_ms),
    )


def find_session(db: sqlite3.Connection, secret_sha256: bytes, now_ms: int) -> tuple[bytes, int] | None:
    """A session's token, hashed, and when it ends (milliseconds since 1970); None if it has ended or never was."""
    rows = db.execute(
        "SELECT token_sha256, expires_at FROM sessions WHERE secret_sha256 = ? AND expires_at > ?",
        (secret_sha256, now_ms),
    ).fetchall()
    return rows[0] if rows else None


def delete_session(db: sqlite3.Connection, secret_sha256: bytes) -> None:
    """End a session."""
    db.execute("DELETE FROM sessions WHERE secret_sha256 = ?", (secret_sha256,))
