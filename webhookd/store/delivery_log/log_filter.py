"""What of the log is asked for, and where in the table it can be: the ranges of an index that hold it in order."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from msgspec import Struct

from webhookd.models import DeliveryState, DeliveryView
from webhookd.store.deliveries import CANCELLED, DELIVERED, DROPPED, EXPIRED, PENDING, SKIPPED

WAITING = (DeliveryState.PENDING, DeliveryState.HELD)
# What a row of deliveries `d` and its endpoint `e` reads as; `:paused`: the workspace's plan has no webhooks.
STATE = (
    "CASE d.state WHEN 0 THEN CASE WHEN d.seq <= e.skipped_upto THEN 'skipped' WHEN e.deleted_at IS NOT NULL "
    "THEN 'cancelled' WHEN e.state <> 'active' OR :paused THEN 'held' ELSE 'pending' END "
    "WHEN 1 THEN 'delivered' WHEN 2 THEN 'dropped' WHEN 3 THEN 'expired' WHEN 4 THEN 'skipped' ELSE 'cancelled' END"
)
# What each of the table's finished states reads as.
READS_AS = {
    DELIVERED: DeliveryState.DELIVERED,
    DROPPED: DeliveryState.DROPPED,
    EXPIRED: DeliveryState.EXPIRED,
    SKIPPED: DeliveryState.SKIPPED,
    CANCELLED: DeliveryState.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class LogFilter:
    """What of a workspace's log is asked for; None means any.  Times are milliseconds since 1970, `until` excluded.

    `retrying`: what failed and is tried again.  `status`: of the last answer, `404`, `4xx`, or `none` where none came.
    `text` stands in the event's id or its body.
    """

    workspace_seq: int
    paused: bool
    endpoint_seq: int | None = None
    event_type: str | None = None
    state: DeliveryState | None = None
    event_id: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    upto_seq: int | None = None
    retrying: bool = False
    status: str | None = None
    text: str | None = None

    @property
    def reads_rows(self) -> bool:
        """Whether no index answers it: rows have to be read."""
        return self.status is not None or self.text is not None

    @property
    def may_be_frequent(self) -> bool:
        """Whether the newest rows of the table may be full of it."""
        return self.endpoint_seq is None and not self.retrying

    @property
    def may_be_delivered(self) -> bool:
        """Whether a delivered one can match: its answer had a status of 2xx."""
        return self.status is None or self.status[0] == "2"

    def takes_status(self, status: int | None) -> bool:
        """Whether an answer's status is asked for; None: an attempt had no answer."""
        if status is None:
            return self.status in (None, "none")
        return self.status in (None, str(status), f"{str(status)[0]}xx")

    def matches(self, view: DeliveryView) -> bool:
        """Whether a delivery is asked for, `text` apart: a view has no body."""
        return (
            self.workspace_seq == view.workspace_seq
            and self.endpoint_seq in (None, view.endpoint_seq)
            and self.event_type in (None, view.event_type)
            and self.state in (None, view.state)
            and self.event_id in (None, view.event_id)
            and (self.since_ms is None or view.accepted_at_ms >= self.since_ms)
            and (self.until_ms is None or view.accepted_at_ms < self.until_ms)
            and (self.upto_seq is None or view.seq <= self.upto_seq)
            and (not self.retrying or (view.state is DeliveryState.PENDING and view.attempt_count > 0))
            and (self.status is None or view.last_attempt is not None)
            and (view.last_attempt is None or self.takes_status(view.last_attempt.get("status")))
        )


class Range(Struct, frozen=True, gc=False):
    """Rows of one endpoint that read as the same state, their numbers between two others (both excluded)."""

    endpoint_seq: int
    state: int
    reads_as: DeliveryState
    after_seq: int
    before_seq: int


def ranges(db: sqlite3.Connection, wanted: LogFilter, after_seq: int, before_seq: int) -> Iterator[Range]:
    """Where the deliveries of the filter can be, by workspace, endpoint and state."""
    own = "" if wanted.endpoint_seq is None else "AND seq = :endpoint_seq"
    rows = db.execute(
        "SELECT seq, state = 'active', skipped_upto, deleted_at IS NOT NULL FROM endpoints "
        f"WHERE workspace_seq = :workspace_seq {own} ORDER BY seq",
        {"workspace_seq": wanted.workspace_seq, "endpoint_seq": wanted.endpoint_seq},
    ).fetchall()
    for seq, active, skipped_upto, deleted in rows:
        for state, reads_as in READS_AS.items():
            if (
                wanted.state in (None, reads_as)
                and not wanted.retrying
                and (state != DELIVERED or wanted.may_be_delivered)
            ):
                yield Range(seq, state, reads_as, after_seq, before_seq)
        waits = DeliveryState.PENDING if active and not wanted.paused else DeliveryState.HELD
        if deleted:
            waits = DeliveryState.CANCELLED
        if wanted.state in (None, DeliveryState.SKIPPED) and not wanted.retrying and skipped_upto > after_seq:
            yield Range(seq, PENDING, DeliveryState.SKIPPED, after_seq, min(before_seq, skipped_upto + 1))
        if wanted.state in (None, waits) and (not wanted.retrying or waits is DeliveryState.PENDING):
            yield Range(seq, PENDING, waits, max(after_seq, skipped_upto), before_seq)


# An endpoint and a state as one number: a search may be of thousands, and this is read faster than JSON in JSON.
_NEWEST = (
    "SELECT value, newest FROM (SELECT value, CASE value & 7 "
    f"WHEN {PENDING} THEN (SELECT max(seq) FROM deliveries INDEXED BY deliveries_waiting WHERE state = 0 "
    "AND endpoint_seq = value >> 3 AND seq > :after_seq AND seq < :before_seq) "
    "ELSE (SELECT max(seq) FROM deliveries INDEXED BY deliveries_log WHERE state <> 0 AND state = value & 7 "
    "AND endpoint_seq = value >> 3 AND seq > :after_seq AND seq < :before_seq) END AS newest "
    "FROM json_each(:kinds)) WHERE newest IS NOT NULL ORDER BY newest DESC"
)


def newest_first(
    db: sqlite3.Connection, places: list[Range], after_seq: int, before_seq: int
) -> tuple[list[Range], int]:
    """The ranges that have rows between two numbers (both excluded), by their newest; and the newest of all."""
    kinds: dict[int, list[Range]] = {}
    for each in places:
        kinds.setdefault(each.endpoint_seq << 3 | each.state, []).append(each)
    values = {"kinds": orjson.dumps(list(kinds)).decode(), "after_seq": after_seq, "before_seq": before_seq}
    rows = db.execute(_NEWEST, values).fetchall()
    return [each for kind, _ in rows for each in kinds[kind]], rows[0][1] if rows else after_seq


def in_range(
    db: sqlite3.Connection,
    wanted: LogFilter,
    range_: Range,
    after_seq: int,
    before_seq: int,
    tail: str,
    limit: int,
) -> list[int]:
    """The numbers of a range between two others (both excluded); `tail`: further conditions, and the order."""
    where, values = conditions(wanted)
    values |= {"endpoint_seq": range_.endpoint_seq, "state": range_.state, "limit": limit}
    values |= {"after_seq": after_seq, "before_seq": before_seq}
    # SQLite uses the partial index only with the comparison with 0.
    index = "INDEXED BY deliveries_log WHERE d.state = :state AND d.state <> 0"
    if range_.state == PENDING:
        index = f"INDEXED BY deliveries_{'retrying' if wanted.retrying else 'waiting'} WHERE d.state = 0"
    sql = (
        f"SELECT d.seq FROM deliveries d {index} AND d.endpoint_seq = :endpoint_seq AND d.seq > :after_seq "
        f"AND d.seq < :before_seq{''.join(f' AND {condition}' for condition in where)} AND {tail} LIMIT :limit"
    )
    return [row[0] for row in db.execute(sql, values).fetchall()]


def conditions(wanted: LogFilter) -> tuple[list[str], dict[str, Any]]:
    """The part of the filter that a delivery's own row, and its index entry, answer."""
    found: list[str] = []
    values: dict[str, Any] = {}
    for condition, name, value in (
        ("d.event_type = :event_type", "event_type", wanted.event_type),
        ("d.accepted_at >= :since_ms", "since_ms", wanted.since_ms),
        ("d.accepted_at < :until_ms", "until_ms", wanted.until_ms),
        ("d.seq <= :upto_seq", "upto_seq", wanted.upto_seq),
    ):
        if value is not None:
            found.append(condition)
            values[name] = value
    if wanted.retrying:
        found.append("d.attempt_count > 0")
    return found, values
