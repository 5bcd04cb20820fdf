"""Events of a partition's stream: applied once, in its order, together with the sequence that they came with.

A *position* names an event in the stream: `POSITIONS` times the sequence of its message, and its place in that batch.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

import orjson
from msgspec import Struct

from webhookd.errors import ApiError
from webhookd.models import Accepted
from webhookd.store import events
from webhookd.store.batch import PackedBatch
from webhookd.store.events import ACCEPT, Ingested
from webhookd.store.store import BATCH

POSITIONS = 1024
Db = sqlite3.Connection
# Whether another machine has finished a delivery: to an endpoint (its number), by the hash of its key if it orders by
# one, of the event at a position.
Finished = Callable[[int, int | None, int], bool]


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


def apply(
    db: Db, parts: Sequence[Part], upto: int, finished: Finished | None = None
) -> list[list[Accepted] | ApiError]:
    """Accept the events of `parts`, and note that the stream is applied up to `upto`, all of it in one transaction.

    A part whose workspace is gone gets an ApiError.  `finished`: after a start from the progress of another machine.
    """
    db.execute("DELETE FROM stream")
    db.execute("INSERT INTO stream VALUES (?)", (upto,))
    if finished is None and parts:
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
    return [_apply_one(db, part, finished) for part in parts]


def _apply_one(db: Db, part: Part, finished: Finished | None) -> list[Accepted] | ApiError:
    try:
        results = events.accept(db, part.ingested)
    except ApiError as error:
        return error
    for place, result in enumerate(results):
        if not result.is_new:
            continue
        position = part.position + place
        db.execute(
            "INSERT INTO stream_events SELECT seq, ? FROM events WHERE workspace_seq = ? AND id = ?",
            (position, part.ingested.workspace_seq, result.event_id),
        )
        if finished is not None and result.queued:
            results[place] = _without_finished(db, result, position, finished)
    return results


def _without_finished(db: Db, result: Accepted, position: int, finished: Finished) -> Accepted:
    gone = {each.seq for each in result.queued if finished(each.endpoint_seq, each.lane_hash, position)}
    db.executemany("DELETE FROM deliveries WHERE seq = ?", [(seq,) for seq in gone])
    left = tuple(each for each in result.queued if each.seq not in gone)
    return Accepted(result.event_id, len(left), queued=left)


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


def drop_finished(db: Db, finished: Finished, *, others: bool) -> int:
    """Remove deliveries that wait here and that another machine has finished; returns how many.

    With `others` also replays and backfills, which the stream doesn't have: they waited when this machine lost the
    partition.
    """
    removed = 0
    if others:
        removed = db.execute("DELETE FROM deliveries WHERE state = 0 AND kind <> 0").rowcount
    rows = db.execute(
        "SELECT d.seq, d.endpoint_seq, d.lane_hash, s.position FROM deliveries d "
        "CROSS JOIN stream_events s ON s.event_seq = d.event_seq WHERE d.state = 0 AND d.kind = 0"
    )
    gone = [(seq,) for seq, *where in rows if finished(*where)]
    db.executemany("DELETE FROM deliveries WHERE seq = ?", gone)
    return removed + len(gone)


def forget(db: Db) -> int:
    """Make it the database of a single daemon: without a stream; returns how many events it has."""
    db.execute("DELETE FROM stream")
    db.execute("DELETE FROM stream_events")
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


def first_waiting_events(db: Db) -> list[tuple[str, int | None, int]]:
    """The first event that waits, for each endpoint (its id) and hash of a key: its number."""
    return db.execute(
        "SELECT e.id, d.lane_hash, min(d.event_seq) FROM deliveries d JOIN endpoints e ON e.seq = d.endpoint_seq "
        "WHERE d.state = 0 AND d.kind = 0 AND e.deleted_at IS NULL AND d.seq > e.skipped_upto "
        "GROUP BY e.id, d.lane_hash"
    ).fetchall()


def waiting_replays(db: Db) -> int:
    """How many replays and backfills wait: the stream doesn't have them."""
    return int(db.execute("SELECT count(*) FROM deliveries WHERE state = 0 AND kind <> 0").fetchone()[0])
