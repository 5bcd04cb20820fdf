"""Workspaces in the table."""

from __future__ import annotations

import sqlite3

import orjson

from webhookd.errors import ApiError
from webhookd.models import Workspace
from webhookd.store import malformed

# What a row takes beside an event's body, about; the triggers of the migration 0006 count the same.
EVENT_BYTES = 200
DELIVERY_BYTES = 400

_COLUMNS = "seq, id, name, plan, notify, created_at, plan_changed_at"


def load(db: sqlite3.Connection) -> list[Workspace]:
    """Every workspace that wasn't deleted, oldest first."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM workspaces WHERE deleted_at IS NULL ORDER BY seq").fetchall()
    return [_workspace(row) for row in rows]


def require(db: sqlite3.Connection, seq: int) -> None:
    """ApiError `not_found` unless there is a workspace with this number, asked in the transaction that relies on it."""
    if not db.execute("SELECT 1 FROM workspaces WHERE seq = ? AND deleted_at IS NULL", (seq,)).fetchall():
        raise ApiError("not_found", "The workspace was deleted just now.")


def log_bytes(db: sqlite3.Connection) -> dict[int, int]:
    """About how many bytes the log of each workspace takes, by number; also of those deleted whose rows are there."""
    return dict(db.execute("SELECT seq, log_bytes FROM workspaces WHERE log_bytes > 0").fetchall())


def log_bytes_of(db: sqlite3.Connection, seq: int) -> int:
    """About how many bytes the log of one workspace takes."""
    rows = db.execute("SELECT log_bytes FROM workspaces WHERE seq = ?", (seq,)).fetchall()
    return rows[0][0] if rows else 0


def insert(
    db: sqlite3.Connection, *, workspace_id: str, name: str, plan: str, notify: tuple[str, ...], now_ms: int
) -> Workspace:
    """Add a workspace; IntegrityError where one with this id exists."""
    row = db.execute(
        "INSERT INTO workspaces (id, name, plan, notify, created_at, plan_changed_at) VALUES (?, ?, ?, ?, ?, ?) "
        f"RETURNING {_COLUMNS}",
        (workspace_id, name, plan, orjson.dumps(notify).decode(), now_ms, now_ms),
    ).fetchall()[0]
    return _workspace(row)


def update(db: sqlite3.Connection, workspace: Workspace) -> Workspace:
    """Write the fields of a workspace that can change.  ApiError `not_found` if it was deleted."""
    require(db, workspace.seq)
    db.execute(
        "UPDATE workspaces SET name = ?, plan = ?, notify = ?, plan_changed_at = ? WHERE seq = ?",
        (
            workspace.name,
            workspace.plan,
            orjson.dumps(workspace.notify).decode(),
            workspace.plan_changed_at_ms,
            workspace.seq,
        ),
    )
    return workspace


def delete(db: sqlite3.Connection, seq: int, now_ms: int) -> None:
    """Mark it deleted and delete its tokens; its log goes in small steps later (`retention`).  ApiError `not_found`."""
    require(db, seq)
    db.execute("UPDATE workspaces SET deleted_at = ? WHERE seq = ?", (now_ms, seq))
    db.execute("DELETE FROM tokens WHERE workspace_seq = ?", (seq,))


def _workspace(row: tuple[int, str, str, str, str, int, int]) -> Workspace:
    seq, workspace_id, name, plan, notify, created_at, plan_changed_at = row
    where = f"notify of workspace {workspace_id}"
    notices: tuple[str, ...] = malformed.column(notify, tuple[str, ...], (), where=where)
    return Workspace(seq, workspace_id, name, plan, notices, created_at, plan_changed_at)
