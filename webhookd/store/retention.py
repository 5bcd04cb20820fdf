"""Pruning in small steps: finished events with their deliveries and attempts.

A reader finds what may go; the writer checks each event once more, because a replay may have come in between.  An event
whose id is still needed to recognise duplicates keeps its row, with the hash of its body in place of the body.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from webhookd.store.deliveries import EVERYTHING, LOGGED

STEP_EVENTS = 200
# Rows that go between two looks at the time: an attempt may hold 16 KiB of a response.
PIECE_ROWS = 20
_EXAMINED_ROWS = 500

_REMEMBERED, _PRUNABLE, _NEEDED = range(3)
# An event is needed while a delivery of it waits, or while an attempt of it counts against the failure budget.
_IS_NEEDED = (
    "EXISTS (SELECT 1 FROM deliveries d INDEXED BY deliveries_by_event CROSS JOIN endpoints e "
    "WHERE d.event_seq = v.seq AND e.seq = d.endpoint_seq AND ("
    "(d.state = 0 AND (e.deleted_at IS NULL OR e.deleted_at >= :settled_before_ms)) OR "
    "(e.deleted_at IS NULL AND EXISTS (SELECT 1 FROM attempts a INDEXED BY attempts_by_delivery "
    "WHERE a.delivery_seq = d.seq AND a.counted = 1 AND a.ended_at >= :counted_since_ms AND a.seq > e.forgiven_upto))))"
)
_EXAMINE = (
    f"SELECT v.seq, v.accepted_at, CASE WHEN v.body IS NULL THEN {_REMEMBERED} WHEN {_IS_NEEDED} THEN {_NEEDED} "
    f"ELSE {_PRUNABLE} END FROM events v NOT INDEXED WHERE v.seq > :after_seq ORDER BY v.seq LIMIT {_EXAMINED_ROWS}"
)
_EXAMINE_ONE = _EXAMINE.replace(
    "events v NOT INDEXED WHERE v.seq > :after_seq",
    f"(SELECT seq FROM {LOGGED} ORDER BY seq LIMIT {_EXAMINED_ROWS}) f CROSS JOIN events v ON v.seq = f.seq",
)
_JUDGE = f"SELECT v.accepted_at, {_IS_NEEDED} FROM events v WHERE v.seq = :seq AND v.body IS NOT NULL"
_SOME_OF_EVENT = (
    f"(SELECT seq FROM deliveries INDEXED BY deliveries_by_event WHERE event_seq = ? ORDER BY seq LIMIT {PIECE_ROWS})"
)


@dataclass(frozen=True, slots=True)
class Terms:
    """The moments that decide, in milliseconds since 1970.

    By age go events accepted before `accepted_before_ms`.  Ids of those before `remembered_since_ms` are forgotten, and
    where a log is too large those before `ids_kept_since_ms`.  Failures since `counted_since_ms` may count.  What was
    deleted before `settled_before_ms` has no attempt in flight.
    """

    now_ms: int
    accepted_before_ms: int
    remembered_since_ms: int
    ids_kept_since_ms: int
    counted_since_ms: int
    settled_before_ms: int

    def as_parameters(self) -> dict[str, int]:
        """Those that the statements use."""
        return {"counted_since_ms": self.counted_since_ms, "settled_before_ms": self.settled_before_ms}


@dataclass(frozen=True, slots=True)
class Examined:
    """The events that may go, how far the look came, whether it `passed_over` some that may go later, or ended."""

    prunable: list[int]
    upto_seq: int
    passed_over: bool
    ended: bool


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did: how many of the given events are `done`, how many rows went, and whether that was `enough`."""

    done: int
    events: int
    deliveries: int
    enough: bool = False


@dataclass(frozen=True, slots=True)
class FileSize:
    """The database file: its bytes, and those of them that are free inside."""

    bytes: int
    free_bytes: int

    @property
    def used_bytes(self) -> int:
        """What the rows take."""
        return self.bytes - self.free_bytes


def file_size(db: sqlite3.Connection) -> FileSize:
    """The database's size as of this transaction; the file itself follows at the next checkpoint."""
    pages, free, page_bytes = (
        db.execute(f"PRAGMA {name}").fetchall()[0][0] for name in ("page_count", "freelist_count", "page_size")
    )
    return FileSize(pages * page_bytes, free * page_bytes)


def examine(db: sqlite3.Connection, terms: Terms, *, after_seq: int, workspace_seq: int | None = None) -> Examined:
    """Look at the next events after `after_seq`: of a workspace, or all until they are too young (the future apart)."""
    by_age = workspace_seq is None
    values = terms.as_parameters() | {"after_seq": after_seq}
    if workspace_seq is not None:
        values |= {"workspace_seq": workspace_seq, "before_seq": EVERYTHING}
    rows = db.execute(_EXAMINE if by_age else _EXAMINE_ONE, values).fetchall()
    prunable: list[int] = []
    passed_over = False
    upto_seq = after_seq
    for seq, accepted_at_ms, verdict in rows:
        if verdict != _REMEMBERED:
            young = by_age and accepted_at_ms >= terms.accepted_before_ms
            if young and accepted_at_ms <= terms.now_ms:
                return Examined(prunable, upto_seq, passed_over, ended=True)
            if young or verdict == _NEEDED:
                passed_over = True
            else:
                prunable.append(seq)
        upto_seq = seq
        if len(prunable) == STEP_EVENTS:
            return Examined(prunable, upto_seq, passed_over, ended=False)
    return Examined(prunable, upto_seq, passed_over, ended=len(rows) < _EXAMINED_ROWS)


def prune(
    db: sqlite3.Connection,
    seqs: Sequence[int],
    terms: Terms,
    *,
    out_of_time: Callable[[], bool],
    enough: Callable[[sqlite3.Connection], bool] | None = None,
) -> Step:
    """Remove events, the first ones of `seqs`, until it is `out_of_time` or `enough`.

    Those that are needed after all stay.  At least one event, or `PIECE_ROWS` of its deliveries, are dealt with.
    """
    events = deliveries = 0
    for done, seq in enumerate(seqs):
        if done and out_of_time():
            return Step(done, events, deliveries)
        if enough is not None and enough(db):
            return Step(done, events, deliveries, enough=True)
        rows = db.execute(_JUDGE, terms.as_parameters() | {"seq": seq}).fetchall()
        if not rows or rows[0][1]:
            continue
        removed, all_gone = _remove_deliveries(db, seq, out_of_time)
        deliveries += removed
        if not all_gone:  # the event goes with the last of them
            return Step(done, events, deliveries)
        if rows[0][0] < terms.remembered_since_ms:
            db.execute("DELETE FROM events WHERE seq = ?", (seq,))
        else:
            _keep_id_only(db, seq)
        events += 1
    return Step(len(seqs), events, deliveries)


def _remove_deliveries(db: sqlite3.Connection, event_seq: int, out_of_time: Callable[[], bool]) -> tuple[int, bool]:
    """Remove deliveries of an event with their attempts, piece by piece; returns how many, and whether it was all."""
    removed = 0
    while True:
        db.execute(f"DELETE FROM attempts WHERE delivery_seq IN {_SOME_OF_EVENT}", (event_seq,))
        piece = db.execute(f"DELETE FROM deliveries WHERE seq IN {_SOME_OF_EVENT}", (event_seq,)).rowcount
        removed += piece
        if piece < PIECE_ROWS:
            return removed, True
        if out_of_time():
            return removed, False


def _keep_id_only(db: sqlite3.Connection, seq: int) -> None:
    body = db.execute("SELECT body FROM events WHERE seq = ?", (seq,)).fetchall()[0][0]
    db.execute(
        "UPDATE events SET body = NULL, trace = NULL, body_sha256 = ? WHERE seq = ?",
        (hashlib.sha256(body).digest(), seq),
    )


def forget_ids(db: sqlite3.Connection, terms: Terms, *, out_of_time: Callable[[], bool]) -> int:
    """Remove rows that only keep an id whose time is over, until it is `out_of_time`; returns how many."""
    return _in_pieces(
        db,
        "DELETE FROM events WHERE seq IN (SELECT seq FROM events INDEXED BY events_remembered "
        f"WHERE body IS NULL AND accepted_at < ? LIMIT {PIECE_ROWS})",
        (terms.remembered_since_ms,),
        out_of_time,
    )


def forget_oldest_ids(db: sqlite3.Connection, terms: Terms, workspace_seq: int, *, stop: Callable[[], bool]) -> int:
    """Remove a workspace's oldest rows that only keep an id, those not yet due too, until `stop`; returns how many."""
    return _in_pieces(
        db,
        "DELETE FROM events WHERE seq IN (SELECT seq FROM events INDEXED BY events_remembered_by_workspace "
        f"WHERE workspace_seq = ? AND body IS NULL AND accepted_at < ? ORDER BY accepted_at LIMIT {PIECE_ROWS})",
        (workspace_seq, terms.ids_kept_since_ms),
        stop,
    )


def _in_pieces(db: sqlite3.Connection, delete: str, values: tuple[int, ...], out_of_time: Callable[[], bool]) -> int:
    """Run a statement that deletes `PIECE_ROWS`, until it finds fewer or it is `out_of_time`; returns how many went."""
    removed = 0
    while True:
        piece = db.execute(delete, values).rowcount
        removed += piece
        if piece < PIECE_ROWS or out_of_time():
            return removed


def deleted_workspaces(db: sqlite3.Connection, terms: Terms) -> list[int]:
    """Workspaces that were deleted and whose rows are still there."""
    rows = db.execute("SELECT seq FROM workspaces WHERE deleted_at < ?", (terms.settled_before_ms,)).fetchall()
    return [seq for (seq,) in rows]


def clear_workspace(db: sqlite3.Connection, workspace_seq: int, *, out_of_time: Callable[[], bool]) -> Step | None:
    """A step of removing everything of a deleted workspace, whatever its age; None when it is all gone."""
    seqs = db.execute(
        f"SELECT seq FROM events WHERE workspace_seq = ? LIMIT {STEP_EVENTS}", (workspace_seq,)
    ).fetchall()
    events = deliveries = 0
    for (seq,) in seqs:
        removed, all_gone = _remove_deliveries(db, seq, out_of_time)
        deliveries += removed
        if all_gone:
            db.execute("DELETE FROM events WHERE seq = ?", (seq,))
            events += 1
        if not all_gone or out_of_time():
            break
    if seqs or any(_remove_some(db, table, workspace_seq, out_of_time) for table in ("outbox", "endpoints")):
        return Step(events, events, deliveries)
    db.execute("DELETE FROM workspaces WHERE seq = ?", (workspace_seq,))
    return None


def _remove_some(db: sqlite3.Connection, table: str, workspace_seq: int, out_of_time: Callable[[], bool]) -> int:
    some = f"SELECT seq FROM {table} WHERE workspace_seq = ? LIMIT {PIECE_ROWS}"
    return _in_pieces(db, f"DELETE FROM {table} WHERE seq IN ({some})", (workspace_seq,), out_of_time)


def forget_endpoints(db: sqlite3.Connection, terms: Terms, *, out_of_time: Callable[[], bool]) -> int:
    """Remove deleted endpoints of which the log holds nothing, until it is `out_of_time`; returns how many."""
    return _in_pieces(
        db,
        "DELETE FROM endpoints WHERE seq IN (SELECT e.seq FROM endpoints e WHERE e.deleted_at < ? "
        "AND NOT EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_waiting "
        "WHERE endpoint_seq = e.seq AND state = 0) "
        "AND NOT EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_log "
        "WHERE endpoint_seq = e.seq AND state <> 0) "
        f"AND NOT EXISTS (SELECT 1 FROM attempts WHERE endpoint_seq = e.seq) LIMIT {PIECE_ROWS})",
        (terms.settled_before_ms,),
        out_of_time,
    )


def shrink(db: sqlite3.Connection, *, out_of_time: Callable[[], bool], until_free_bytes: int) -> FileSize:
    """Return free pages at the file's end to the file system, until no more than `until_free_bytes` is free inside."""
    size = file_size(db)
    while size.free_bytes > max(0, until_free_bytes):
        db.execute("PRAGMA incremental_vacuum(16)").fetchall()
        size = file_size(db)
        if out_of_time():
            break
    return size
