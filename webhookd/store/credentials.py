"""API tokens and the page's sessions that they open (hashed, never the secret itself), and what was done with them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple

from webhookd.models import AuditEntry, AuditFilter, SessionView, Token
from webhookd.store import workspaces


def put_token(
    db: sqlite3.Connection,
    *,
    token_id: str,
    scope: str,
    workspace_seq: int | None,
    secret_sha256: bytes,
    note: str,
    now_ms: int,
    expires_at_ms: int | None = None,
) -> None:
    """Add a token, or give the one with this id another secret (its file was replaced).

    `workspace_seq` None makes an unbound one.  ApiError `not_found` if the workspace was deleted.
    """
    if workspace_seq is not None:
        workspaces.require(db, workspace_seq)
    db.execute(
        "INSERT INTO tokens (id, scope, unbound, workspace_seq, secret_sha256, note, created_at, expires_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET secret_sha256 = excluded.secret_sha256",
        (token_id, scope, workspace_seq is None, workspace_seq, secret_sha256, note, now_ms, expires_at_ms),
    )


def tokens_by_secret(db: sqlite3.Connection) -> dict[bytes, Token]:
    """All tokens by the SHA-256 of their secret; one whose workspace is gone is none."""
    rows = db.execute(
        "SELECT t.secret_sha256, t.id, t.scope, w.id, w.seq, t.created_at, t.note, t.expires_at, t.last_used_at "
        "FROM tokens t LEFT JOIN workspaces w ON w.seq = t.workspace_seq AND w.deleted_at IS NULL "
        "WHERE t.unbound = 1 OR w.seq IS NOT NULL"
    ).fetchall()
    return {row[0]: Token(*row[1:]) for row in rows}


def delete_token(db: sqlite3.Connection, token_id: str) -> bool:
    """Revoke a token; False if there is none with this id."""
    return db.execute("DELETE FROM tokens WHERE id = ?", (token_id,)).rowcount == 1


def put_last_used(db: sqlite3.Connection, at_ms: Mapping[str, int]) -> None:
    """Note when tokens and sessions, by their ids, were last used (ms since 1970)."""
    for table in ("tokens", "sessions"):
        db.executemany(f"UPDATE {table} SET last_used_at = ?2 WHERE id = ?1", at_ms.items())


def put_session(db: sqlite3.Connection, session: SessionView, *, secret_sha256: bytes, token_sha256: bytes) -> None:
    """Add a session of the token with this hash, if there is one, and remove those that have ended."""
    db.execute("DELETE FROM sessions WHERE expires_at <= ?", (session.created_at_ms,))
    db.execute(
        "INSERT INTO sessions "
        "(secret_sha256, id, token_id, token_sha256, address, created_at, last_used_at, expires_at) "
        "SELECT ?1, ?2, id, ?3, ?4, ?5, ?6, ?7 FROM tokens WHERE secret_sha256 = ?3",
        (
            secret_sha256,
            session.id,
            token_sha256,
            session.address,
            session.created_at_ms,
            session.last_used_at_ms,
            session.expires_at_ms,
        ),
    )


def find_session(db: sqlite3.Connection, secret_sha256: bytes) -> tuple[SessionView, bytes] | None:
    """A session by its cookie's hash, with the hash of its token's secret; ended ones may still be there."""
    rows = db.execute(f"SELECT {_SESSION}, s.token_sha256 FROM {_SESSIONS} WHERE s.secret_sha256 = ?", (secret_sha256,))
    return next(((SessionView(*row[:-1]), row[-1]) for row in rows.fetchall()), None)


def sessions(db: sqlite3.Connection, *, workspace_seq: int | None, token_id: str | None) -> list[SessionView]:
    """The sessions, oldest first, of a workspace's tokens or of one token if named; ended ones may still be there."""
    rows = db.execute(
        f"SELECT {_SESSION} FROM {_SESSIONS} "
        "WHERE (?1 IS NULL OR t.workspace_seq = ?1) AND (?2 IS NULL OR t.id = ?2) ORDER BY s.id",
        (workspace_seq, token_id),
    ).fetchall()
    return [SessionView(*row) for row in rows]


def delete_sessions(db: sqlite3.Connection, session_ids: Iterable[str]) -> None:
    """End sessions."""
    db.executemany("DELETE FROM sessions WHERE id = ?", [(each,) for each in session_ids])


_SESSION = "s.id, s.token_id, w.id, s.address, s.created_at, s.last_used_at, s.expires_at"
_SESSIONS = "sessions s JOIN tokens t ON t.id = s.token_id LEFT JOIN workspaces w ON w.seq = t.workspace_seq"
AUDIT_WINDOW_ROWS = 20_000
_AUDIT_FILTERS = {
    "who": ":who IN (token_id, session_id, address)",
    "what": "(:what IN (action, outcome) OR instr(target, :what))",
    "since_ms": "at >= :since_ms",
    "until_ms": "at < :until_ms",
}
_AUDIT = "at, workspace_seq, workspace, token_id, session_id, address, action, target, outcome"


def insert_audit(db: sqlite3.Connection, entry: AuditEntry) -> None:
    """Add an entry to the audit trail."""
    values = astuple(entry)[1:]
    db.execute(f"INSERT INTO audit ({_AUDIT}) VALUES ({', '.join('?' for _ in values)})", values)


def audit_page(
    db: sqlite3.Connection, wanted: AuditFilter, *, before_seq: int | None, limit: int
) -> tuple[list[AuditEntry], int | None]:
    """The newest entries of a filter before `before_seq`, and where the next page begins; None at the end.

    It looks at `AUDIT_WINDOW_ROWS` at most, so a page of a rare match is short, or empty, and the next goes on.
    """
    values = {**asdict(wanted), "before": before_seq or 2**63 - 1, "limit": limit + 1, "window": AUDIT_WINDOW_ROWS}
    where = "seq < :before" + ("" if wanted.workspace_seq is None else " AND workspace_seq = :workspace_seq")
    ((looked_at, oldest),) = db.execute(
        f"SELECT count(*), min(seq) FROM (SELECT seq FROM audit WHERE {where} ORDER BY seq DESC LIMIT :window)", values
    ).fetchall()
    conditions = "".join(f" AND {sql}" for name, sql in _AUDIT_FILTERS.items() if values[name] is not None)
    rows = db.execute(
        f"SELECT seq, {_AUDIT} FROM audit WHERE {where} AND seq >= :oldest{conditions} ORDER BY seq DESC LIMIT :limit",
        {**values, "oldest": oldest},
    ).fetchall()
    found = [AuditEntry(*row) for row in rows[:limit]]
    if len(rows) > limit:
        return found, found[-1].seq
    return found, oldest if looked_at == AUDIT_WINDOW_ROWS else None


def forget_audit(db: sqlite3.Connection, *, before_ms: int, limit: int) -> int:
    """Remove entries that are too old, `limit` at most; returns how many."""
    return db.execute(
        "DELETE FROM audit WHERE seq IN (SELECT seq FROM audit WHERE at < ? LIMIT ?)", (before_ms, limit)
    ).rowcount
