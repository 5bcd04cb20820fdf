"""What changed in the log since a moment: for a live stream that goes on after a pause that nobody remembers.

Each kind of change has an order in the table by which it is found from its newest end: deliveries are numbered as they
are accepted, failed attempts as they are recorded, and each endpoint's successes come in the order of its queue.  So
the look goes back only as far as the moment, whatever lies before it.  It is complete unless the wall clock was set
back meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing

from webhookd.models import DeliveryView
from webhookd.store import delivery_log
from webhookd.store.deliveries import DELIVERED, TEST
from webhookd.store.delivery_log import LogFilter

# What is written at a moment was dated before it, by as long as its commit took.
COMMIT_MS = 5_000
# A quiet workspace may have to look past the rows of busy ones.
ROWS_PER_DELIVERY = 20

_ACCEPTED = (  # a test is dated by its start, but put into the log when it is over
    f"SELECT d.seq, CASE WHEN d.kind = {TEST} THEN d.finished_at ELSE d.accepted_at END, e.workspace_seq "
    "FROM deliveries d CROSS JOIN endpoints e ON e.seq = d.endpoint_seq ORDER BY d.seq DESC"
)
_FAILED = "SELECT delivery_seq, ended_at, workspace_seq FROM attempts ORDER BY seq DESC"
_SUCCEEDED = (
    "SELECT seq, finished_at, ? FROM deliveries INDEXED BY deliveries_log "
    f"WHERE endpoint_seq = ? AND state = {DELIVERED} AND state <> 0 AND kind <> {TEST} ORDER BY seq DESC"
)


def since(db: sqlite3.Connection, wanted: LogFilter, since_ms: int, limit: int) -> list[DeliveryView] | None:
    """The deliveries of the filter that changed at `since_ms` or later, in the order of their acceptance.

    None if that is too much to look through: more than `limit` deliveries, or `ROWS_PER_DELIVERY` times as many rows.
    """
    changed: set[int] = set()
    with delivery_log.one_moment(db), closing(_changed(db, wanted.workspace_seq, since_ms - COMMIT_MS)) as rows:
        for number, (seq, of_workspace) in enumerate(rows):
            if of_workspace == wanted.workspace_seq:
                changed.add(seq)
            if len(changed) > limit or number >= limit * ROWS_PER_DELIVERY:
                return None
        found = delivery_log.views(db, sorted(changed), paused=wanted.paused)
    return [view for view in reversed(found) if wanted.matches(view)]


def _changed(db: sqlite3.Connection, workspace_seq: int, since_ms: int) -> Generator[tuple[int, int], None, None]:
    """The number and the workspace of each delivery that changed, more than once if it changed more than once."""
    for sql in (_ACCEPTED, _FAILED):
        yield from _newest(db, sql, (), since_ms)
    endpoints = db.execute("SELECT seq FROM endpoints WHERE workspace_seq = ?", (workspace_seq,)).fetchall()
    for (endpoint_seq,) in endpoints:
        yield from _newest(db, _SUCCEEDED, (workspace_seq, endpoint_seq), since_ms)


def _newest(
    db: sqlite3.Connection, sql: str, values: tuple[int, ...], since_ms: int
) -> Generator[tuple[int, int], None, None]:
    with closing(db.execute(sql, values)) as rows:
        for seq, at_ms, of_workspace in rows:  # each row is looked up when its turn comes
            if at_ms < since_ms:
                return
            yield seq, of_workspace
