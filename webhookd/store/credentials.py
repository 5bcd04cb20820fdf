"""API tokens and the page's sessions that they open (hashed, never the secret itself), and what was done with them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, replace

from webhookd.models import AuditEntry, AuditFilter, Portal, SessionView, Token
from webhookd.store import workspaces

SESSIONS_PER_TOKEN = 100
PORTAL_LINKS_PER_WORKSPACE = 100


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


def put_session(
    db: sqlite3.Connection, session: SessionView, *, secret_sha256: bytes, token_sha256: bytes
) -> list[str]:
    """Add a session of the token with this hash, if there is one, and remove those that have ended.

    Beyond `SESSIONS_PER_TOKEN` the token's least used ones end for it, or the portal's of its workspace; returns
    their ids.
    """
    portal = session.portal or Portal(0)
    portal_seq = session.portal.workspace_seq if session.portal else None
    db.execute("DELETE FROM sessions WHERE expires_at <= ?", (session.created_at_ms,))
    db.execute(
        "INSERT INTO sessions "
        "(secret_sha256, id, token_id, token_sha256, address, created_at, last_used_at, expires_at, "
        "workspace_seq, read_only, language, return_url) "
        "SELECT ?1, ?2, id, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11 FROM tokens WHERE secret_sha256 = ?3",
        (
            secret_sha256,
            session.id,
            token_sha256,
            session.address,
            session.created_at_ms,
            session.last_used_at_ms,
            session.expires_at_ms,
            portal_seq,
            portal.read_only,
            portal.language,
            portal.return_url,
        ),
    )
    ended = db.execute(
        "SELECT id FROM sessions WHERE token_id = ? AND workspace_seq IS ? "
        "ORDER BY last_used_at DESC, id DESC LIMIT -1 OFFSET ?",
        (session.token_id, portal_seq, SESSIONS_PER_TOKEN),
    ).fetchall()
    delete_sessions(db, [each for (each,) in ended])
    return [each for (each,) in ended]


def find_sessions(
    db: sqlite3.Connection,
    *,
    secret_sha256: bytes | None = None,
    workspace_seq: int | None = None,
    token_id: str | None = None,
) -> list[tuple[SessionView, bytes]]:
    """Sessions, oldest first, each with the hash of its token's secret at sign-in; ended ones may still be there.

    All, or the one with this cookie, hashed, or those in one workspace alone, or those of one token but the portal's.
    """
    rows = db.execute(
        "SELECT s.id, s.token_id, w.id, s.address, s.created_at, s.last_used_at, s.expires_at, s.token_sha256, "
        "s.workspace_seq, s.read_only, s.language, s.return_url "
        "FROM sessions s JOIN tokens t ON t.id = s.token_id "
        "LEFT JOIN workspaces w ON w.seq = coalesce(s.workspace_seq, t.workspace_seq) "
        + ("WHERE s.secret_sha256 = :secret_sha256" if secret_sha256 is not None else "")
        + ("WHERE coalesce(s.workspace_seq, t.workspace_seq) = :workspace_seq" if workspace_seq is not None else "")
        + ("WHERE t.id = :token_id AND s.workspace_seq IS NULL" if token_id is not None else "")
        + " ORDER BY s.id",
        {"secret_sha256": secret_sha256, "workspace_seq": workspace_seq, "token_id": token_id},
    ).fetchall()
    return [
        (replace(SessionView(*row[:7]), portal=None if row[8] is None else _portal(row[8:])), row[7]) for row in rows
    ]


def _portal(row: tuple[int, int, str, str]) -> Portal:
    return Portal(row[0], bool(row[1]), row[2], row[3])


def put_portal_link(
    db: sqlite3.Connection, portal: Portal, *, code_sha256: bytes, token: Token, now_ms: int, expires_at_ms: int
) -> bool:
    """Add a link into the portal; False if its token was revoked.  ApiError `not_found` if the workspace was deleted.

    Of the unused ones of a workspace the oldest beyond `PORTAL_LINKS_PER_WORKSPACE` go.
    """
    workspaces.require(db, portal.workspace_seq)
    db.execute("DELETE FROM portal_links WHERE expires_at <= ?", (now_ms,))
    made = db.execute(
        "INSERT INTO portal_links SELECT ?, id, secret_sha256, ?, ?, ?, ?, ?, ? FROM tokens WHERE id = ?",
        (code_sha256, *astuple(portal), now_ms, expires_at_ms, token.id),
    ).rowcount
    db.execute(
        "DELETE FROM portal_links WHERE code_sha256 IN (SELECT code_sha256 FROM portal_links WHERE workspace_seq = ? "
        "ORDER BY created_at DESC LIMIT -1 OFFSET ?)",
        (portal.workspace_seq, PORTAL_LINKS_PER_WORKSPACE),
    )
    return made == 1


def find_portal_link(db: sqlite3.Connection, code_sha256: bytes, now_ms: int) -> tuple[Portal, bytes] | None:
    """What an unused link gives, and the hash of its token's secret; None if there is no such link."""
    rows = db.execute(
        "SELECT workspace_seq, read_only, language, return_url, token_sha256 FROM portal_links "
        "WHERE code_sha256 = ? AND expires_at > ?",
        (code_sha256, now_ms),
    ).fetchall()
    return (_portal(rows[0][:4]), rows[0][4]) if rows else None


def use_portal_link(db: sqlite3.Connection, code_sha256: bytes) -> bool:
    """Use a link up; False if it was used, withdrawn or deleted with its workspace meanwhile."""
    return db.execute("DELETE FROM portal_links WHERE code_sha256 = ?", (code_sha256,)).rowcount == 1


def delete_sessions(db: sqlite3.Connection, session_ids: Iterable[str]) -> None:
    """End sessions."""
    db.executemany("DELETE FROM sessions WHERE id = ?", [(each,) for each in session_ids])


AUDIT_WINDOW_ROWS = 20_000
AUDIT_ROWS_MAX = 100_000
AUDIT_PRUNE_EVERY = 100
_AUDIT_FILTERS = {
    "who": ":who IN (token_id, session_id, address)",
    "what": "(:what IN (action, outcome) OR instr(target, :what))",
    "since_ms": "at >= :since_ms",
    "until_ms": "at < :until_ms",
}
_AUDIT = "at, workspace_seq, workspace, token_id, session_id, address, action, target, outcome"


def insert_audit(db: sqlite3.Connection, entry: AuditEntry) -> None:
    """Add an entry to the audit trail, and now and then remove the oldest of a workspace, or of unknown callers.

    They have `AUDIT_ROWS_MAX` each: nobody can fill the disk with what is refused or changed to and fro.
    """
    values = astuple(entry)[1:]
    seq = db.execute(f"INSERT INTO audit ({_AUDIT}) VALUES ({', '.join('?' for _ in values)})", values).lastrowid
    unknown = entry.token_id is None and entry.workspace_seq is None
    whose = "token_id IS NULL AND workspace_seq IS NULL" if unknown else "workspace_seq = ?1"
    if (seq or 0) % AUDIT_PRUNE_EVERY == 0 and (unknown or entry.workspace_seq is not None):
        db.execute(
            f"DELETE FROM audit WHERE {whose} AND seq <= "
            f"(SELECT seq FROM audit WHERE {whose} ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
            (entry.workspace_seq, AUDIT_ROWS_MAX),
        )


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
