"""Reading the event log: deliveries, newest first, filtered, in pages.

What a delivery's state *reads* as is derived here and nowhere else: a row that waits is `held` while its endpoint
gets nothing, and `skipped` or `cancelled` from the moment of the mark, before the row itself has followed.

A search finds numbers first: among the newest rows, then in one *range* after the other (the rows of one endpoint in
one of the table's states, which an index holds in order with what is searched by); then it reads the rows of a page.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import orjson

from webhookd.models import DeliveryState, DeliveryView
from webhookd.store import malformed, time_index
from webhookd.store.connection import Late
from webhookd.store.deliveries import BACKFILL, DELIVERED, TEST
from webhookd.store.delivery_log.log_filter import (
    STATE,
    WAITING,
    LogFilter,
    Range,
    conditions,
    in_range,
    newest_first,
    ranges,
)
from webhookd.store.delivery_log.reading import matching, text_condition, with_known_id

# How many of the newest rows are looked through before the ranges are: a millisecond's worth.
NEWEST_ROWS = 2000
# How many rows are read at a time where an answer's status or a text is searched for: some milliseconds' worth.
READ_ROWS = 1000
_AFTER_ALL = 2**63 - 1
# How many numbers a search looks through before it asks whether it is late: some milliseconds' worth.
WINDOW_ROWS = 100_000
# With more ranges than this in a window, its rows are looked through in the order of the table: as fast, and stoppable.
MANY_PLACES = 300
# What is written at a moment was dated before it, by as long as its commit took.
COMMIT_MS = 5_000
# A quiet workspace may have to look past the rows of busy ones.
ROWS_PER_CHANGE = 20

_MARKED = "d.state = 0 AND (e.deleted_at IS NOT NULL OR d.seq <= e.skipped_upto)"
_SELECT = (
    f"SELECT d.seq, w.seq, w.id, e.seq, e.id, coalesce(v.id, ''), d.event_type, {STATE} AS reads_as, d.replay_of, "
    # Only what will really be attempted has a next attempt; what a mark ended was finished by the mark.
    f"d.kind, d.accepted_at, CASE WHEN {STATE} = 'pending' THEN d.next_attempt_at END, "
    f"CASE WHEN {_MARKED} THEN coalesce(e.deleted_at, e.updated_at) ELSE d.finished_at END, "
    "d.attempt_count, CASE WHEN d.attempt_count > 0 THEN coalesce(d.final_attempt, "
    "(SELECT record FROM attempts a WHERE a.delivery_seq = d.seq ORDER BY a.seq DESC LIMIT 1)) END, d.sequence "
    "FROM deliveries d JOIN endpoints e ON e.seq = d.endpoint_seq LEFT JOIN events v ON v.seq = d.event_seq "
    "JOIN workspaces w ON w.seq = e.workspace_seq"
)
_SCAN = f"SELECT d.seq, {STATE} AS reads_as FROM deliveries d CROSS JOIN endpoints e ON e.seq = d.endpoint_seq"
_SAME = "FROM deliveries o WHERE o.event_seq = d.event_seq AND o.endpoint_seq = d.endpoint_seq"
# Of several deliveries of the filter that nothing delivered since, the oldest is sent again.
_REPEATED = (
    f"EXISTS (SELECT 1 {_SAME} AND o.seq < d.seq AND (:state IS NULL OR {STATE.replace('d.', 'o.')} = :state) "
    "AND o.accepted_at >= :since_ms AND o.accepted_at < :until_ms AND o.seq >= coalesce("
    f"(SELECT max(seq) {_SAME} AND o.state = {DELIVERED} AND o.seq <= :upto_seq), 0))"
)
_LEFT_OUT = (
    f"SELECT d.seq, d.size, CASE WHEN d.kind = {TEST} THEN 'test' WHEN e.deleted_at IS NOT NULL THEN 'gone' "
    "WHEN d.state = 0 AND d.seq > e.skipped_upto THEN 'waiting' "
    "WHEN e.state <> 'active' OR :paused THEN 'not_active' WHEN v.body IS NULL THEN 'pruned' "
    f"WHEN :once AND {_REPEATED} THEN 'repeated' "
    f"WHEN EXISTS (SELECT 1 {_SAME} AND o.state = 0 AND o.seq > e.skipped_upto) THEN 'waiting' "
    f"WHEN EXISTS (SELECT 1 {_SAME} AND o.state = {DELIVERED} AND o.seq > d.seq) THEN 'delivered_since' END "
    "FROM deliveries d JOIN endpoints e ON e.seq = d.endpoint_seq LEFT JOIN events v ON v.seq = d.event_seq "
    "WHERE d.seq IN (SELECT value FROM json_each(:seqs)) ORDER BY d.seq"
)
_CHANGED_ACCEPTED = (  # a test is dated by its start, but is in the log from its end on
    f"SELECT d.seq, CASE WHEN d.kind = {TEST} THEN d.finished_at ELSE d.accepted_at END, e.workspace_seq "
    "FROM deliveries d CROSS JOIN endpoints e ON e.seq = d.endpoint_seq ORDER BY d.seq DESC"
)
_CHANGED_FAILED = "SELECT delivery_seq, ended_at, workspace_seq FROM attempts ORDER BY seq DESC"
_CHANGED_SUCCEEDED = (
    "SELECT seq, finished_at, ? FROM deliveries INDEXED BY deliveries_log "
    f"WHERE endpoint_seq = ? AND state = {DELIVERED} AND state <> 0 AND kind <> {TEST} ORDER BY seq DESC"
)


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """Let all reads see the same state of the table, so that a row doesn't change between search and display."""
    db.execute("SAVEPOINT snapshot")
    try:
        yield
    finally:
        db.execute("RELEASE snapshot")


def page(db: sqlite3.Connection, wanted: LogFilter, *, before_seq: int | None, limit: int) -> list[DeliveryView]:
    """Up to `limit` deliveries, newest first, older than `before_seq`, however long the search takes."""
    return search(db, wanted, before_seq=before_seq, limit=limit, late=None)[0]


def search(
    db: sqlite3.Connection, wanted: LogFilter, *, before_seq: int | None, limit: int, late: Late | None
) -> tuple[list[DeliveryView], int | None]:
    """`page` that stops when it is `late`; returns as well the number before which a stopped search has to go on."""
    before = _AFTER_ALL if before_seq is None else before_seq
    with snapshot(db):
        wanted = with_known_id(db, wanted)
        find = _read if wanted.reads_rows and wanted.event_id is None else _find
        found, stopped_at = find(db, wanted, before, limit, late)
        return views(db, found, paused=wanted.paused), stopped_at


def _find(
    db: sqlite3.Connection, wanted: LogFilter, before_seq: int, limit: int, late: Late | None
) -> tuple[list[int], int | None]:
    """The newest matches by what indexes answer, and where a stopped search goes on."""
    if wanted.event_id is not None:
        ids = _of_event(db, wanted, before_seq, -1 if wanted.reads_rows else limit)
        return matching(db, wanted, ids)[:limit], None
    found: list[int] = []
    if late is not None and wanted.may_be_frequent and wanted.until_ms is None:
        # Most pages end here, before anything is asked about each endpoint.
        lowest = _newest_before(db, before_seq) - NEWEST_ROWS
        found = _scan(db, wanted, "d.seq > :after_seq", {"after_seq": lowest}, before_seq, limit)
        if len(found) == limit:
            return found, None
        before_seq = lowest + 1
    for number, (after, upto, places) in enumerate(_windows(db, wanted, before_seq, small=late is not None)):
        if len(found) == limit:
            break
        if number and late is not None and late():  # one window at least, or it never ends
            return found, upto
        if late is not None and len(places) > MANY_PLACES:
            more, stopped_at = _walk(db, wanted, "d.seq > :after_seq", {}, (after, upto), limit - len(found), late)
            found += more
            if stopped_at is not None:
                return found, stopped_at
        else:
            found += _newest(db, wanted, after, upto, places, limit - len(found))
    return found, None


def _read(
    db: sqlite3.Connection, wanted: LogFilter, before_seq: int, limit: int, late: Late | None
) -> tuple[list[int], int | None]:
    """The newest matches where rows have to be read: what indexes find, sifted, portion by portion."""
    if wanted.text is not None and wanted == LogFilter(
        wanted.workspace_seq, wanted.paused, since_ms=wanted.since_ms, until_ms=wanted.until_ms, text=wanted.text
    ):
        return _scan_text(db, wanted, before_seq, limit, late)
    found: list[int] = []
    while True:
        candidates, stopped_at = _find(db, wanted, before_seq, READ_ROWS, late)
        found += matching(db, wanted, candidates)
        if len(found) >= limit:
            return found[:limit], None
        if len(candidates) < READ_ROWS:
            return found, stopped_at
        before_seq = candidates[-1]
        if late is not None and late():
            return found, before_seq


def _scan_text(
    db: sqlite3.Connection, wanted: LogFilter, before_seq: int, limit: int, late: Late | None
) -> tuple[list[int], int | None]:
    """The same where nothing but a text and times narrow it down: five times as fast in the order of the table."""
    found: list[int] = []
    condition, values = text_condition(wanted.text or "")
    where = f"d.seq > :after_seq AND {condition}"
    for after, upto, _ in _windows(db, wanted, before_seq, small=True):
        more, stopped_at = _walk(db, wanted, where, values, (after, upto), limit - len(found), late)
        found += more
        if len(found) == limit or stopped_at is not None:
            return found, stopped_at
    return found, None


def _walk(
    db: sqlite3.Connection,
    wanted: LogFilter,
    where: str,
    values: dict[str, Any],
    window: tuple[int, int],
    limit: int,
    late: Late | None,
) -> tuple[list[int], int | None]:
    """The newest matches of a window, portion by portion in the order of the table, and where it stopped if late."""
    after, upto = window
    found: list[int] = []
    while upto - 1 > after:
        lowest = max(after, upto - 1 - READ_ROWS)
        found += _scan(db, wanted, where, values | {"after_seq": lowest}, upto, limit - len(found))
        upto = lowest + 1
        if len(found) == limit:
            break
        if late is not None and late():
            return found, upto
    return found, None


def _windows(
    db: sqlite3.Connection, wanted: LogFilter, before_seq: int, *, small: bool
) -> Iterator[tuple[int, int, list[Range]]]:
    """Where to look, newest first: numbers, both excluded, and the ranges that may have some of them."""
    newest = _newest_before(db, before_seq)
    for after, before in time_index.between(db, "deliveries", wanted.since_ms, wanted.until_ms):
        upto = min(before, newest + 1)
        places = list(ranges(db, wanted, after, upto)) if upto - 1 > after else []
        while upto - 1 > after:
            begin = after
            if small:
                # Rows of other workspaces are passed over: a quiet one's few rows are found at once.
                places, last = newest_first(db, places, after, upto)
                upto = last + 1
                begin = max(after, last - WINDOW_ROWS)
            if upto - 1 > begin:
                yield begin, upto, places
            upto = begin + 1


def _newest_before(db: sqlite3.Connection, before_seq: int) -> int:
    rows = db.execute("SELECT coalesce(max(seq), 0) FROM deliveries WHERE seq < ?", (before_seq,)).fetchall()
    return int(rows[0][0])


def reach(db: sqlite3.Connection) -> tuple[int | None, int | None]:
    """When the oldest and the newest delivery of the log were accepted, of whatever workspace; None without any."""
    sql = "SELECT (SELECT accepted_at FROM deliveries ORDER BY seq {} LIMIT 1)"
    oldest, newest = (db.execute(sql.format(order)).fetchall()[0][0] for order in ("", "DESC"))
    return oldest, newest


def neighbours(db: sqlite3.Connection, wanted: LogFilter, seq: int) -> tuple[int | None, int | None]:
    """The numbers of the deliveries of a filter just before and just after `seq`; None where there is none."""
    older: list[int] = []
    newer: list[int] = []
    for each in ranges(db, wanted, 0, _AFTER_ALL):
        older += in_range(db, wanted, each, each.after_seq, min(seq, each.before_seq), "1 ORDER BY d.seq DESC", 1)
        newer += in_range(db, wanted, each, max(seq, each.after_seq), each.before_seq, "1 ORDER BY d.seq", 1)
    return max(older, default=None), min(newer, default=None)


def get(db: sqlite3.Connection, workspace_seq: int, seq: int, *, paused: bool) -> DeliveryView | None:
    """One delivery of a workspace, or None."""
    sql = f"{_SELECT} WHERE d.seq = :seq AND e.workspace_seq = :workspace_seq"
    rows = db.execute(sql, {"seq": seq, "workspace_seq": workspace_seq, "paused": paused}).fetchall()
    return _view(rows[0]) if rows else None


def views(db: sqlite3.Connection, seqs: list[int], *, paused: bool) -> list[DeliveryView]:
    """The deliveries with these numbers, newest first."""
    sql = f"{_SELECT} WHERE d.seq IN (SELECT value FROM json_each(:seqs)) ORDER BY d.seq DESC"
    return [_view(row) for row in db.execute(sql, {"seqs": orjson.dumps(seqs).decode(), "paused": paused}).fetchall()]


def finished_matching(
    db: sqlite3.Connection, wanted: LogFilter, *, after_seq: int, limit: int, late: Late
) -> tuple[list[int], int | None]:
    """The next finished deliveries of the filter, oldest first, until it is `late`; tests are left out.

    Returns their numbers, and after which number to go on; None when there are no more.
    """
    if wanted.event_id is not None:  # few, so all at once
        still = f"d.seq > :after_seq AND d.kind <> {TEST}"
        return sorted(_of_event(db, wanted, _AFTER_ALL, -1, where=still, after_seq=after_seq)), None
    found: list[int] = []
    with snapshot(db):
        for first, upto in time_index.windows(
            db, "deliveries", wanted.since_ms, wanted.until_ms, after_seq=after_seq, rows=WINDOW_ROWS
        ):
            found += _finished_between(db, wanted, first, upto, limit - len(found))
            if len(found) == limit or late():
                return found, found[-1] if len(found) == limit else upto - 1
    return found, None


def left_out(
    db: sqlite3.Connection, wanted: LogFilter, seqs: Sequence[int], *, once: bool
) -> list[tuple[int, int, str | None]]:
    """Each delivery's number, its size, and why a replay of the filter leaves it out (None: it doesn't).

    An event goes out again to an endpoint unless it was delivered there since or waits there already; `once`: and not
    twice in this replay.
    """
    values = {
        "seqs": orjson.dumps(list(seqs)).decode(),
        "paused": wanted.paused,
        "once": once,
        "state": wanted.state,
        "since_ms": wanted.since_ms or 0,
        "until_ms": _AFTER_ALL if wanted.until_ms is None else wanted.until_ms,
        "upto_seq": _AFTER_ALL if wanted.upto_seq is None else wanted.upto_seq,
    }
    return db.execute(_LEFT_OUT, values).fetchall()


def _finished_between(
    db: sqlite3.Connection, wanted: LogFilter, after_seq: int, before_seq: int, limit: int
) -> list[int]:
    found: list[int] = []
    for each in ranges(db, wanted, after_seq, before_seq):
        if each.reads_as in WAITING:
            continue
        before = min(each.before_seq, found[-1]) if len(found) == limit else each.before_seq
        rows = in_range(db, wanted, each, each.after_seq, before, f"d.kind <> {TEST} ORDER BY d.seq", limit)
        found = sorted(found + rows)[:limit]
    return found


def _newest(
    db: sqlite3.Connection, wanted: LogFilter, after_seq: int, before_seq: int, places: list[Range], limit: int
) -> list[int]:
    """The newest matches between two numbers (both excluded)."""
    found: list[int] = []
    if wanted.may_be_frequent:
        lowest = max(after_seq, before_seq - 1 - NEWEST_ROWS)
        found = _scan(db, wanted, "d.seq > :after_seq", {"after_seq": lowest}, before_seq, limit)
        before_seq = lowest + 1
    for each in places if len(found) < limit else ():
        after = max(after_seq, each.after_seq, found[-1] if len(found) == limit else 0)
        rows = in_range(db, wanted, each, after, min(before_seq, each.before_seq), "1 ORDER BY d.seq DESC", limit)
        found = sorted(found + rows, reverse=True)[:limit]
    return found


def _of_event(
    db: sqlite3.Connection, wanted: LogFilter, before_seq: int, limit: int, *, where: str = "1", after_seq: int = 0
) -> list[int]:
    own = f"d.event_seq = (SELECT seq FROM events WHERE workspace_seq = :workspace_seq AND id = :event_id) AND {where}"
    return _scan(db, wanted, own, {"event_id": wanted.event_id, "after_seq": after_seq}, before_seq, limit)


def _scan(
    db: sqlite3.Connection, wanted: LogFilter, where: str, values: dict[str, Any], before_seq: int, limit: int
) -> list[int]:
    """Look through few rows, row by row."""
    where_own, common = conditions(wanted)
    for condition, name, value in (
        ("d.endpoint_seq = :endpoint_seq", "endpoint_seq", wanted.endpoint_seq),
        ("reads_as = :state", "state", DeliveryState.PENDING if wanted.retrying else wanted.state),
        ("d.state <> :not_state", "not_state", None if wanted.may_be_delivered else DELIVERED),
    ):
        if value is not None:
            where_own.append(condition)
            common[name] = value
    common |= {"workspace_seq": wanted.workspace_seq, "paused": wanted.paused, "before_seq": before_seq}
    sql = (
        f"{_SCAN} WHERE e.workspace_seq = :workspace_seq AND {where} AND d.seq < :before_seq"
        f"{''.join(f' AND {condition}' for condition in where_own)} ORDER BY d.seq DESC LIMIT :limit"
    )
    return [row[0] for row in db.execute(sql, common | values | {"limit": limit}).fetchall()]


def changed_since(db: sqlite3.Connection, wanted: LogFilter, since_ms: int, limit: int) -> list[DeliveryView] | None:
    """The deliveries of the filter that changed at `since_ms` or later, in the order of their acceptance.

    None if that is too much to look through: more than `limit` deliveries, or `ROWS_PER_CHANGE` times as many rows.
    """
    changed: set[int] = set()
    with snapshot(db), closing(_changed(db, wanted.workspace_seq, since_ms - COMMIT_MS)) as rows:
        for number, (seq, of_workspace) in enumerate(rows):
            if of_workspace == wanted.workspace_seq:
                changed.add(seq)
            if len(changed) > limit or number >= limit * ROWS_PER_CHANGE:
                return None
        found = views(db, sorted(changed), paused=wanted.paused)
    return [view for view in reversed(found) if wanted.matches(view)]


def _changed(db: sqlite3.Connection, workspace_seq: int, since_ms: int) -> Generator[tuple[int, int], None, None]:
    """The number and the workspace of each delivery that changed, more than once if it changed more than once."""
    for sql in (_CHANGED_ACCEPTED, _CHANGED_FAILED):
        yield from _newest_changes(db, sql, (), since_ms)
    endpoints = db.execute("SELECT seq FROM endpoints WHERE workspace_seq = ?", (workspace_seq,)).fetchall()
    for (endpoint_seq,) in endpoints:
        yield from _newest_changes(db, _CHANGED_SUCCEEDED, (workspace_seq, endpoint_seq), since_ms)


def _newest_changes(
    db: sqlite3.Connection, sql: str, values: tuple[int, ...], since_ms: int
) -> Generator[tuple[int, int], None, None]:
    with closing(db.execute(sql, values)) as rows:
        for seq, at_ms, of_workspace in rows:  # each row is looked up when its turn comes
            if at_ms < since_ms:
                return
            yield seq, of_workspace


def _view(row: tuple[Any, ...]) -> DeliveryView:
    values = list(row)
    values[7] = DeliveryState(values[7])
    values[14] = malformed.attempt(values[14]) if values[14] is not None else None
    values[9:10] = values[9] == TEST, values[9] == BACKFILL
    return DeliveryView(*values)
