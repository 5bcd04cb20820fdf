"""Mail that waits to be sent, each notice written in the transaction of its cause.

Notices that come together go as one *digest*, named by the number of its first row.  Its notices, and the mail itself
with those it has yet to reach (the *envelope*), are on disk before the mail server sees a byte.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import orjson

from webhookd.models import Json

# A longer mail helps no reader; the rest goes in the next one.
DIGEST_NOTICES = 200
HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Digest:
    """Notices that go, or will go, as one mail; `first_seq` names it.  `claimed` when its notices are settled."""

    first_seq: int
    workspace_seq: int
    created_at_ms: int
    claimed: bool
    workspace: str | None = None  # its id


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to report: `payload` holds the facts."""

    kind: str
    message_id: str
    created_at_ms: int
    payload: Json


class Envelope(msgspec.Struct, frozen=True):
    """A mail ready to be sent.  `to` are those that it has yet to reach, `reached` says whether it reached any."""

    sender: str
    to: tuple[str, ...]
    message: str
    reached: bool = False


@dataclass(frozen=True, slots=True)
class Unsent:
    """What the mail server hasn't accepted yet."""

    count: int
    oldest_at_ms: int | None
    last_error: str | None


def insert(
    db: sqlite3.Connection, *, workspace_seq: int, kind: str, message_id: str, payload: Json, now_ms: int
) -> None:
    """Queue a notice.  `payload` holds its facts; its Message-ID is fixed here, once."""
    db.execute(
        "INSERT INTO outbox (workspace_seq, kind, created_at, message_id, payload) VALUES (?, ?, ?, ?, ?)",
        (workspace_seq, kind, now_ms, message_id, orjson.dumps(payload).decode()),
    )


def waiting(db: sqlite3.Connection) -> list[Digest]:
    """Every digest to send, those included that aren't claimed yet; oldest first."""
    rows = db.execute(
        "SELECT coalesce(digest_of, min(seq)), workspace_seq, min(created_at), digest_of IS NOT NULL, "
        "(SELECT id FROM workspaces w WHERE w.seq = workspace_seq) "
        "FROM outbox WHERE sent_at IS NULL GROUP BY workspace_seq, digest_of ORDER BY 1"
    ).fetchall()
    return [Digest(first_seq, seq, at, bool(claimed), workspace) for first_seq, seq, at, claimed, workspace in rows]


def claim(db: sqlite3.Connection, digest: Digest) -> None:
    """Fix which notices the digest has: all of its workspace that wait by now and aren't another digest's."""
    db.execute(
        "UPDATE outbox SET digest_of = ? WHERE seq IN (SELECT seq FROM outbox WHERE sent_at IS NULL "
        "AND digest_of IS NULL AND workspace_seq = ? ORDER BY seq LIMIT ?)",
        (digest.first_seq, digest.workspace_seq, DIGEST_NOTICES),
    )


def notices(db: sqlite3.Connection, first_seq: int) -> list[Notice]:
    """The notices of a claimed digest, oldest first."""
    cursor = db.execute(
        "SELECT kind, message_id, created_at, payload FROM outbox WHERE digest_of = ? AND sent_at IS NULL ORDER BY seq",
        (first_seq,),
    )
    return [
        Notice(kind, message_id, created_at, _without_bodies(orjson.loads(payload)))
        for kind, message_id, created_at, payload in cursor
    ]


def _without_bodies(payload: Json) -> Json:
    """`payload` without requests and responses, which are most of it and in no mail."""
    failures = payload.get("failures")
    if not isinstance(failures, list):  # a warning has their number here
        return payload
    failures = [
        {name: value for name, value in each.items() if name not in ("request", "response")} for each in failures
    ]
    return payload | {"failures": failures}


def seal(db: sqlite3.Connection, first_seq: int, envelope: Envelope) -> None:
    """Store the mail of a digest before its first try: from now on only this mail may be sent for it."""
    db.execute("UPDATE outbox SET envelope = ? WHERE seq = ?", (msgspec.json.encode(envelope).decode(), first_seq))


def envelope(db: sqlite3.Connection, first_seq: int) -> Envelope | None:
    """The sealed mail of a digest, or None."""
    rows = db.execute(
        "SELECT envelope FROM outbox WHERE seq = ? AND envelope IS NOT NULL AND sent_at IS NULL", (first_seq,)
    ).fetchall()
    return msgspec.json.decode(rows[0][0], type=Envelope) if rows else None


def reached(db: sqlite3.Connection, first_seq: int, envelope: Envelope, now_ms: int) -> None:
    """The server took the mail of a digest for a recipient; `envelope` has those that are left."""
    seal(db, first_seq, envelope)
    db.execute("UPDATE outbox SET reached_at = coalesce(reached_at, ?) WHERE seq = ?", (now_ms, first_seq))


def full_until(db: sqlite3.Connection, workspace_seqs: Iterable[int], most: int, now_ms: int) -> dict[int, int]:
    """Of these workspaces those that had `most` mails in the last hour, with when the next may go (ms since 1970)."""
    sql = "SELECT reached_at FROM outbox WHERE workspace_seq = ? AND reached_at > ? AND reached_at <= ? ORDER BY 1 DESC"
    found = {}
    for seq in workspace_seqs:
        # What is dated in the future, before the clock was set back, doesn't count.
        times = db.execute(f"{sql} LIMIT ?", (seq, now_ms - HOUR_MS, now_ms, most)).fetchall()
        if len(times) == most:
            found[seq] = times[-1][0] + HOUR_MS
    return found


def failed(db: sqlite3.Connection, first_seqs: Iterable[int], error: str) -> None:
    """Count a failed try of digests, claimed or not, with the reason."""
    db.executemany(
        "UPDATE outbox SET tried = tried + 1, last_error = ?2 WHERE sent_at IS NULL AND (digest_of = ?1 OR seq = ?1)",
        [(first_seq, error) for first_seq in first_seqs],
    )


def unseal(db: sqlite3.Connection, first_seq: int) -> None:
    """The server certainly accepted nothing: the mail may be written anew, to other recipients."""
    db.execute("UPDATE outbox SET envelope = NULL WHERE seq = ?", (first_seq,))


def release(db: sqlite3.Connection, first_seq: int) -> None:
    """`unseal`, and let notices that have come since join the digest."""
    unseal(db, first_seq)
    db.execute("UPDATE outbox SET digest_of = NULL WHERE digest_of = ? AND sent_at IS NULL", (first_seq,))


def close(db: sqlite3.Connection, first_seq: int, *, error: str | None, now_ms: int) -> int:
    """Finish a digest: sent, or with an `error` given up; returns how many notices it had."""
    return db.execute(
        "UPDATE outbox SET sent_at = ?2, envelope = NULL, last_error = ?3, tried = tried + 1 "
        "WHERE sent_at IS NULL AND (digest_of = ?1 OR seq = ?1)",
        (first_seq, now_ms, error),
    ).rowcount


def unsent(db: sqlite3.Connection) -> Unsent:
    """How many notices wait, since when, and the last error."""
    count, oldest_at_ms = db.execute("SELECT count(*), min(created_at) FROM outbox WHERE sent_at IS NULL").fetchall()[0]
    errors = db.execute(
        "SELECT last_error FROM outbox WHERE sent_at IS NULL AND last_error IS NOT NULL ORDER BY seq DESC LIMIT 1"
    ).fetchall()
    return Unsent(count, oldest_at_ms, errors[0][0] if errors else None)


def forget_closed(db: sqlite3.Connection, *, before_ms: int, limit: int) -> int:
    """Remove notices that were closed before a time, at most `limit`; returns how many."""
    return db.execute(
        "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE sent_at < ? ORDER BY seq LIMIT ?)",
        (before_ms, limit),
    ).rowcount
