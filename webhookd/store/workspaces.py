"""Workspaces in the table."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace

import orjson

from webhookd.errors import ApiError
from webhookd.models import LANGUAGES, PendingAddress, Workspace
from webhookd.store import malformed

# What a row takes beside an event's body, about; the triggers of the migrations 0018 and 0021 count the same.
EVENT_BYTES = 200
DELIVERY_BYTES = 400

HOUR_MS = 3_600_000

# What isn't counted in `log_bytes` yet: some hundred rows at most.
_UNCOUNTED = (
    f"SELECT workspace_seq AS seq, {EVENT_BYTES} + coalesce(length(body), 0) AS bytes FROM events "
    "WHERE seq > (SELECT event_seq FROM counted) UNION ALL "
    f"SELECT e.workspace_seq, {DELIVERY_BYTES} FROM deliveries d NOT INDEXED CROSS JOIN endpoints e "
    "ON e.seq = d.endpoint_seq WHERE d.seq > (SELECT delivery_seq FROM counted)"
)
_COLUMNS = "seq, id, name, plan, notify, created_at, plan_changed_at, language"


def load(db: sqlite3.Connection) -> list[Workspace]:
    """Every workspace that wasn't deleted, oldest first."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM workspaces WHERE deleted_at IS NULL ORDER BY seq").fetchall()
    pending: defaultdict[int, list[PendingAddress]] = defaultdict(list)
    for seq, *asked in db.execute(
        "SELECT workspace_seq, address, expires_at FROM confirmations WHERE done = 0 ORDER BY asked_at, address"
    ).fetchall():
        pending[seq].append(PendingAddress(*asked))
    return [replace(each, pending=tuple(pending[each.seq])) for each in map(_workspace, rows)]


def require(db: sqlite3.Connection, seq: int) -> None:
    """ApiError `not_found` unless there is a workspace with this number, asked in the transaction that relies on it."""
    if not db.execute("SELECT 1 FROM workspaces WHERE seq = ? AND deleted_at IS NULL", (seq,)).fetchall():
        raise ApiError("not_found", "The workspace was deleted just now.")


def log_bytes(db: sqlite3.Connection) -> dict[int, int]:
    """About how many bytes the log of each workspace takes, by number; also of those deleted whose rows are there."""
    every = f"SELECT seq, log_bytes AS bytes FROM workspaces WHERE log_bytes > 0 UNION ALL {_UNCOUNTED}"
    return dict(db.execute(f"SELECT seq, sum(bytes) FROM ({every}) GROUP BY seq").fetchall())


def log_bytes_of(db: sqlite3.Connection, seq: int) -> int:
    """About how many bytes the log of one workspace takes; for the writer, as it counts every row first."""
    for table, counted in (("events", "event_seq"), ("deliveries", "delivery_seq")):
        newest = f"(SELECT max(seq) FROM {table})"
        db.execute(f"UPDATE counted SET {counted} = {newest} WHERE {counted} < {newest}")
    rows = db.execute("SELECT log_bytes FROM workspaces WHERE seq = ?", (seq,)).fetchall()
    return rows[0][0] if rows else 0


def insert(
    db: sqlite3.Connection,
    *,
    workspace_id: str,
    name: str,
    plan: str,
    notify: tuple[str, ...],
    language: str = LANGUAGES[0],
    now_ms: int,
) -> Workspace:
    """Add a workspace; IntegrityError where one with this id exists."""
    row = db.execute(
        "INSERT INTO workspaces (id, name, plan, notify, created_at, plan_changed_at, language) "
        f"VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING {_COLUMNS}",
        (workspace_id, name, plan, orjson.dumps(notify).decode(), now_ms, now_ms, language),
    ).fetchall()[0]
    return _workspace(row)


def update(db: sqlite3.Connection, workspace: Workspace) -> Workspace:
    """Write the fields of a workspace that can change.  ApiError `not_found` if it was deleted."""
    require(db, workspace.seq)
    db.execute(
        "UPDATE workspaces SET name = ?, plan = ?, notify = ?, plan_changed_at = ?, language = ? WHERE seq = ?",
        (
            workspace.name,
            workspace.plan,
            orjson.dumps(workspace.notify).decode(),
            workspace.plan_changed_at_ms,
            workspace.language,
            workspace.seq,
        ),
    )
    return workspace


def ask_to_confirm(
    db: sqlite3.Connection, workspace: Workspace, codes: Mapping[bytes, PendingAddress], *, most: int, now_ms: int
) -> Workspace:
    """Add addresses that have yet to confirm, by the hash of each one's code; at most `most` in an hour.

    Raises ApiError: `not_found` (the workspace), `rate_limited`.
    """
    require(db, workspace.seq)
    db.execute("DELETE FROM confirmations WHERE expires_at <= ?", (now_ms,))
    asked = "SELECT asked_at FROM confirmations WHERE workspace_seq = ? AND asked_at > ? ORDER BY asked_at"
    times = db.execute(asked, (workspace.seq, now_ms - HOUR_MS)).fetchall()
    if len(times) + len(codes) > most:
        wait_ms = times[0][0] + HOUR_MS - now_ms if times else HOUR_MS
        message = f"The workspace asks for more than {most} confirmations by mail in an hour (mail.max_per_hour)."
        raise ApiError("rate_limited", message, retry_after_seconds=-(-wait_ms // 1000))
    db.executemany(
        "INSERT INTO confirmations (code_sha256, workspace_seq, address, asked_at, expires_at) VALUES (?, ?, ?, ?, ?)",
        [(code, workspace.seq, each.address, now_ms, each.expires_at_ms) for code, each in codes.items()],
    )
    return replace(workspace, pending=(*workspace.pending_at(now_ms), *codes.values()))


def withdraw(db: sqlite3.Connection, workspace: Workspace, addresses: Collection[str]) -> Workspace:
    """Let these addresses confirm nothing any more."""
    for address in addresses:
        sql = "UPDATE confirmations SET done = 1 WHERE workspace_seq = ? AND address = ?"
        db.execute(sql, (workspace.seq, address))
    return replace(workspace, pending=tuple(each for each in workspace.pending if each.address not in addresses))


def to_confirm(db: sqlite3.Connection, code_sha256: bytes, now_ms: int) -> tuple[int, str] | None:
    """The workspace's number and the address of a code that still works, else None."""
    rows = db.execute(
        "SELECT c.workspace_seq, c.address FROM confirmations c JOIN workspaces w ON w.seq = c.workspace_seq "
        "WHERE c.code_sha256 = ? AND c.done = 0 AND c.expires_at > ? AND w.deleted_at IS NULL",
        (code_sha256, now_ms),
    ).fetchall()
    return rows[0] if rows else None


def delete(db: sqlite3.Connection, seq: int, now_ms: int) -> None:
    """Mark it deleted: its tokens, sessions and links go, its log in small steps later.  ApiError `not_found`."""
    require(db, seq)
    db.execute("UPDATE workspaces SET deleted_at = ? WHERE seq = ?", (now_ms, seq))
    db.execute("DELETE FROM tokens WHERE workspace_seq = ?", (seq,))
    for table in ("confirmations", "portal_links", "sessions"):
        db.execute(f"DELETE FROM {table} WHERE workspace_seq = ?", (seq,))


def _workspace(row: tuple[int, str, str, str, str, int, int, str]) -> Workspace:
    seq, workspace_id, name, plan, notify, created_at, plan_changed_at, language = row
    where = f"notify of workspace {workspace_id}"
    notices: tuple[str, ...] = malformed.column(notify, tuple[str, ...], (), where=where)
    return Workspace(seq, workspace_id, name, plan, notices, created_at, plan_changed_at, language)
