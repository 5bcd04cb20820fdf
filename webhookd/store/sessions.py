"""Sessions of the page in the table: hashed, never the secret itself."""

from __future__ import annotations

import sqlite3


def put(db: sqlite3.Connection, *, secret_sha256: bytes, token_sha256: bytes, expires_at_ms: int, now_ms: int) -> None:
    """Add a session, and forget those that are over."""
    db.execute("DELETE FROM sessions WHERE expires_at <= ?", (now_ms,))
    db.execute(
        "INSERT INTO sessions (secret_sha256, token_sha256, expires_at) VALUES (?, ?, ?)",
        (secret_sha256, token_sha256, expires_at_ms),
    )


def find(db: sqlite3.Connection, secret_sha256: bytes, now_ms: int) -> tuple[bytes, int] | None:
    """A session's token, hashed, and when it ends (milliseconds since 1970); None if it has ended or never was."""
    rows = db.execute(
        "SELECT token_sha256, expires_at FROM sessions WHERE secret_sha256 = ? AND expires_at > ?",
        (secret_sha256, now_ms),
    ).fetchall()
    return rows[0] if rows else None


def delete(db: sqlite3.Connection, secret_sha256: bytes) -> None:
    """End a session."""
    db.execute("DELETE FROM sessions WHERE secret_sha256 = ?", (secret_sha256,))
