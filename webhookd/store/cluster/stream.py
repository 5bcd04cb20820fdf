"""Events of a partition's stream: applied once, in its order, together with the sequence that they came with.

A *position* names an event in the stream: `POSITIONS` times the sequence of its message, and its place in that batch.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import orjson
from msgspec import Struct
from msgspec.structs import replace

from webhookd.errors import ApiError
from webhookd.models import Accepted
from webhookd.store import events
from webhookd.store.batch import PackedBatch
from webhookd.store.events import ACCEPT, Ingested
from webhookd.store.store import BATCH

POSITIONS = 1024
Db = sqlite3.Connection
# Events whose ids alone are known have numbers below 0, which the log never has.
_IDS_BELOW = 2**62


class Before(Protocol):
    """What another machine has done before."""

    def finished(self, endpoint_id: str | None, lane_hash: int | None, position: int) -> bool:
        """Whether a delivery is finished: to an endpoint, by the hash of its key, of the event at a position."""

    def waited_at(self, position: int) -> Sequence[str]:
        """The endpoints that an event waited for, whatever they ask for by now."""

    def numbers_at(self, position: int) -> Mapping[str, int]:
        """The number of an event's delivery, for endpoints that order by key and for which it waited first."""


class Part(Struct, frozen=True, gc=False):
    """Events of one message that follow each other, and where they stand in the stream."""

    sequence: int
    place: int
    ingested: Ingested

    @property
    def position(self) -> int:
        """That of its first event."""
        return self.sequence * POSITIONS + self.place


def applied(db: Db) -> int:
    """Up to which sequence the stream is applied; 0 at the beginning."""
    rows = db.execute("SELECT applied FROM stream").fetchall()
    return int(rows[0][0]) if rows else 0


def apply(db: Db, parts: Sequence[Part], upto: int, before: Before | None = None) -> list[list[Accepted] | ApiError]:
    """Accept the events of `parts`, and note that the stream is applied up to `upto`, all of it in one transaction.

    A part whose workspace is gone gets an ApiError.  `before`: after a start from the progress of another machine.
    """
    _set_applied(db, upto)
    if before is None and parts:
        together = PackedBatch(BATCH, [ACCEPT.of(part.ingested) for part in parts])
        if together.run(db):
            results: list[list[Accepted] | ApiError] = together.results()
            positions = [
                part.sequence * POSITIONS + part.place + at for part in parts for at in range(len(part.ingested.events))
            ]
            db.execute(
                "INSERT INTO stream_events SELECT (SELECT max(seq) FROM events) - ?1 + 1 + key, value "
                "FROM json_each(?2)",
                (len(positions), orjson.dumps(positions).decode()),
            )
            return results
    return [_apply_one(db, part, before) for part in parts]


def _set_applied(db: Db, upto: int) -> None:
    db.execute("DELETE FROM stream")
    db.execute("INSERT INTO stream VALUES (?)", (upto,))


def _apply_one(db: Db, part: Part, before: Before | None) -> list[Accepted] | ApiError:
    try:
        results = events.accept(db, part.ingested)
    except ApiError as error:
        return error
    numbered = False
    for place, result in enumerate(results):
        if not result.is_new:
            continue
        position = part.position + place
        db.execute(
            "INSERT INTO stream_events SELECT seq, ? FROM events WHERE workspace_seq = ? AND id = ?",
            (position, part.ingested.workspace_seq, result.event_id),
        )
        if before is not None and (result.queued or before.waited_at(position)):
            results[place] = _as_before(db, part.ingested, place, result, before, position)
            numbered |= _number(db, before.numbers_at(position), results[place])
    return [_numbered(db, each) for each in results] if numbered else results


def _number(db: Db, numbers: Mapping[str, int], result: Accepted) -> bool:
    """Give the delivery of an event the number that it had, and those after it the next ones: whether that was due."""
    done = False
    for endpoint_id, number in numbers.items():
        seqs = orjson.dumps([each.seq for each in result.queued]).decode()
        found = db.execute(
            "SELECT e.seq, d.seq, ?1 - d.sequence FROM endpoints e JOIN deliveries d ON d.endpoint_seq = e.seq "
            "WHERE e.id = ?2 AND d.seq IN (SELECT value FROM json_each(?3)) AND d.sequence < ?1",
            (number, endpoint_id, seqs),
        ).fetchall()
        for endpoint_seq, seq, more in found:
            db.execute(
                "UPDATE deliveries SET sequence = sequence + ? WHERE endpoint_seq = ? AND seq >= ?",
                (more, endpoint_seq, seq),
            )
            db.execute("UPDATE sequences SET newest = newest + ? WHERE endpoint_seq = ?", (more, endpoint_seq))
            done = True
    return done


def _numbered(db: Db, result: Accepted) -> Accepted:
    seqs = orjson.dumps([each.seq for each in result.queued]).decode()
    rows = db.execute("SELECT seq, sequence FROM deliveries WHERE seq IN (SELECT value FROM json_each(?))", (seqs,))
    numbers = dict(rows.fetchall())
    return replace(result, queued=tuple(replace(each, sequence=numbers[each.seq]) for each in result.queued))


def _as_before(db: Db, ingested: Ingested, place: int, result: Accepted, before: Before, position: int) -> Accepted:
    """Without what is finished, and with what waited for an endpoint that asks for something else by now."""
    endpoint_ids = dict(
        db.execute(
            "SELECT seq, id FROM endpoints WHERE seq IN (SELECT value FROM json_each(?))",
            (orjson.dumps([each.endpoint_seq for each in result.queued]).decode(),),
        ).fetchall()
    )
    gone = {
        each.seq
        for each in result.queued
        if before.finished(endpoint_ids.get(each.endpoint_seq), each.lane_hash, position)
    }
    db.executemany("DELETE FROM deliveries WHERE seq = ?", [(seq,) for seq in gone])
    left = [each for each in result.queued if each.seq not in gone]
    missing = set(before.waited_at(position)) - set(endpoint_ids.values())
    if missing:

        def waits(endpoint_id: str, lane_hash: int | None) -> bool:
            return not before.finished(endpoint_id, lane_hash, position)

        left += events.add_deliveries(db, ingested, ingested.events[place], missing, waits)
    return Accepted(result.event_id, len(left), queued=tuple(left))


def first_waiting(db: Db, endpoint_seqs: Sequence[int]) -> dict[tuple[int, int | None], int]:
    """The position of the first event of the stream that still waits, by endpoint and by the hash of its key.

    The hash is None for what goes one by one.
    """
    seqs = orjson.dumps(list(endpoint_seqs)).decode()
    rows = db.execute(
        "SELECT e.seq, NULL, (SELECT s.position FROM deliveries d INDEXED BY deliveries_waiting "
        "CROSS JOIN stream_events s ON s.event_seq = d.event_seq WHERE d.endpoint_seq = e.seq AND d.state = 0 "
        "AND d.kind = 0 AND d.seq > e.skipped_upto AND d.lane_hash IS NULL ORDER BY d.seq LIMIT 1) "
        "FROM json_each(?1) j CROSS JOIN endpoints e ON e.seq = j.value UNION ALL "
        "SELECT e.seq, d.lane_hash, min(s.position) FROM json_each(?1) j CROSS JOIN endpoints e ON e.seq = j.value "
        "CROSS JOIN deliveries d INDEXED BY deliveries_lanes_waiting ON d.endpoint_seq = e.seq AND d.state = 0 "
        "AND d.lane_hash IS NOT NULL AND d.kind = 0 AND d.seq > e.skipped_upto "
        "CROSS JOIN stream_events s ON s.event_seq = d.event_seq GROUP BY e.seq, d.lane_hash",
        (seqs,),
    ).fetchall()
    return {(seq, lane_hash): position for seq, lane_hash, position in rows if position is not None}


def lane_numbers(db: Db) -> dict[str, tuple[int, int, int]]:
    """Of each endpoint that orders by key: the newest delivery's number, position and number of the first that waits.

    The latter two are 0 where nothing waits.
    """
    rows = db.execute(
        "SELECT e.id, n.newest, coalesce(s.position, 0), coalesce(d.sequence, 0) FROM sequences n JOIN endpoints e "
        "ON e.seq = n.endpoint_seq AND e.deleted_at IS NULL LEFT JOIN deliveries d ON d.seq = "
        "(SELECT w.seq FROM deliveries w INDEXED BY deliveries_waiting WHERE w.endpoint_seq = e.seq AND w.state = 0 "
        "AND w.kind = 0 AND w.sequence IS NOT NULL AND w.seq > e.skipped_upto ORDER BY w.seq LIMIT 1) "
        "LEFT JOIN stream_events s ON s.event_seq = d.event_seq"
    ).fetchall()
    return {endpoint_id: (newest, position, number) for endpoint_id, newest, position, number in rows}


def put_lane_numbers(db: Db, numbers: Mapping[str, tuple[int, int, int]]) -> None:
    """Go on counting where another machine was, for endpoints for which nothing waits."""
    db.executemany(
        "INSERT INTO sequences SELECT seq, ?1 FROM endpoints WHERE id = ?2 AND deleted_at IS NULL "
        "ON CONFLICT (endpoint_seq) DO UPDATE SET newest = max(newest, excluded.newest)",
        [(newest, endpoint_id) for endpoint_id, (newest, position, _) in numbers.items() if not position],
    )


def waiting(db: Db, endpoint_ids: Collection[str]) -> tuple[int, dict[str, list[tuple[int, int | None]]]]:
    """The position that everything is applied up to, and of what waits up to there position and hash, by endpoint."""
    upto = (applied(db) + 1) * POSITIONS - 1
    found: dict[str, list[tuple[int, int | None]]] = {each: [] for each in endpoint_ids}
    rows = db.execute(
        "SELECT e.id, s.position, d.lane_hash FROM json_each(?) j CROSS JOIN endpoints e ON e.id = j.value "
        "AND e.deleted_at IS NULL CROSS JOIN deliveries d INDEXED BY deliveries_waiting ON d.endpoint_seq = e.seq "
        "AND d.state = 0 AND d.kind = 0 AND d.seq > e.skipped_upto "
        "CROSS JOIN stream_events s ON s.event_seq = d.event_seq AND s.position <= ? ORDER BY s.position",
        (orjson.dumps(list(endpoint_ids)).decode(), upto),
    )
    for endpoint_id, position, lane_hash in rows:
        found[endpoint_id].append((position, lane_hash))
    return upto, found


def drop_finished(db: Db, before: Before, *, others: bool) -> int:
    """Remove deliveries that wait here and that another machine has finished; returns how many.

    With `others` also replays and backfills, which the stream doesn't have: they waited when this machine lost the
    partition.
    """
    removed = 0
    if others:
        removed = db.execute("DELETE FROM deliveries WHERE state = 0 AND kind <> 0").rowcount
    rows = db.execute(
        "SELECT d.seq, e.id, d.lane_hash, s.position FROM deliveries d JOIN endpoints e ON e.seq = d.endpoint_seq "
        "CROSS JOIN stream_events s ON s.event_seq = d.event_seq WHERE d.state = 0 AND d.kind = 0"
    )
    gone = [(seq,) for seq, *where in rows if before.finished(*where)]
    db.executemany("DELETE FROM deliveries WHERE seq = ?", gone)
    return removed + len(gone)


# Ids of events that are no longer in the log


def begin_after(db: Db, after: int, upto: int) -> None:
    """Go on behind the sequence `upto`; the messages after `after` are read later, for their events' ids alone."""
    _set_applied(db, upto)
    db.execute("INSERT OR REPLACE INTO stream_gaps VALUES (?, ?)", (after, upto))


def newest_gap(db: Db) -> tuple[int, int] | None:
    """The newest messages that are yet to be read: after which sequence, and up to which."""
    rows = db.execute("SELECT after, upto FROM stream_gaps ORDER BY upto DESC LIMIT 1").fetchall()
    return rows[0] if rows else None


def narrow_gap(db: Db, after: int, upto: int) -> None:
    """Only those up to `upto` are left to be read of the gap that begins at `after`."""
    db.execute("UPDATE stream_gaps SET upto = ?2 WHERE after = ?1", (after, upto))
    db.execute("DELETE FROM stream_gaps WHERE upto <= after")


class Known(Struct, frozen=True, gc=False):
    """An event that was accepted once: where, by which id, when (ms since 1970), and the hash of its body."""

    position: int
    workspace_seq: int
    id: str
    type: str
    at_ms: int
    body_sha256: bytes


def remember(db: Db, known: Sequence[Known]) -> None:
    """Know these ids, as those of events whose bodies were pruned."""
    db.executemany(
        "INSERT OR IGNORE INTO events (seq, workspace_seq, id, type, accepted_at, body_sha256) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        [
            (each.position - _IDS_BELOW, each.workspace_seq, each.id, each.type, each.at_ms, each.body_sha256)
            for each in known
        ],
    )


# From and to a single daemon


def forget(db: Db) -> int:
    """Make it the database of a single daemon: without a stream; returns how many events it has."""
    db.execute("DELETE FROM stream")
    db.execute("DELETE FROM stream_events")
    db.execute("DELETE FROM stream_gaps")
    return int(db.execute("SELECT count(*) FROM events").fetchone()[0])


class Stored(Struct, frozen=True, gc=False):
    """An event of a single daemon's database, for the stream."""

    seq: int
    workspace: str
    id: str
    body: bytes
    trace: str | None


def stored(db: Db, after_seq: int, since_ms: int, limit: int) -> list[Stored]:
    """The next events whose ids are to be remembered, or that still wait for an endpoint, in order."""
    rows = db.execute(
        "SELECT e.seq, w.id, e.id, e.body, e.trace FROM events e JOIN workspaces w ON w.seq = e.workspace_seq "
        "WHERE e.seq > ?1 AND e.body IS NOT NULL AND w.deleted_at IS NULL AND (e.accepted_at >= ?2 OR EXISTS (SELECT 1 "
        "FROM deliveries d WHERE d.event_seq = e.seq AND d.state = 0 AND d.kind = 0)) ORDER BY e.seq LIMIT ?3",
        (after_seq, since_ms, limit),
    ).fetchall()
    return [Stored(*row) for row in rows]


def waiting_events(db: Db) -> list[tuple[str, int | None, int]]:
    """Every event that waits for an endpoint (its id), with the hash of its key, and its number, in order."""
    return db.execute(
        "SELECT e.id, d.lane_hash, d.event_seq FROM deliveries d JOIN endpoints e ON e.seq = d.endpoint_seq "
        "WHERE d.state = 0 AND d.kind = 0 AND e.deleted_at IS NULL AND d.seq > e.skipped_upto ORDER BY d.event_seq"
    ).fetchall()


def waiting_replays(db: Db) -> int:
    """How many replays and backfills wait: the stream doesn't have them."""
    return int(db.execute("SELECT count(*) FROM deliveries WHERE state = 0 AND kind <> 0").fetchone()[0])
