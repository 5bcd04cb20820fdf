"""Endpoints in the table, with their subscriptions and the marks that stand for many rows at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from sys import intern
from typing import Any

import msgspec

from webhookd.models import MALFORMED, STRICT, Barrier, Endpoint, EndpointState, Ordering, PreviousKey
from webhookd.rules.filters import compiled, is_filters
from webhookd.rules.ordering import HASHES, is_ordering
from webhookd.rules.signing import is_body_key, is_key
from webhookd.rules.urls import normal_form, parse_url
from webhookd.store.malformed import column

# Encrypted where there is a database key: `connection` gives each connection the functions for it.
_SECRETS = ("headers", "signing_key", "previous_keys", "x_webhook_signature_key")
_COLUMNS = (
    "e.seq, e.id, e.workspace_seq, w.id, e.url, e.event_types, e.description, e.success, {}, {}, {}, "
    "e.x_webhook_signature, {}, e.state, e.disabled_reason, e.disabled_at, e.disabled_message, "
    "e.skipped_upto, e.forgiven_upto, e.created_at, e.updated_at, e.deleted_at, e.ordering, e.filters, e.selected_at"
).format(*(f"decrypted(e.{name}, '{name} ' || e.id)" for name in _SECRETS))
_PLAIN = ("url", "event_types", "description", "success", "x_webhook_signature", "ordering", "filters", "selected_at")
# What a person can change, by column.
_VALUES = {name: f":{name}" for name in _PLAIN} | {name: f"encrypted(:{name}, '{name} ' || :id)" for name in _SECRETS}
_HASHES = str(list(range(HASHES)))
_NONE = Ordering(None, 0)
BARRIERS_MAX = 8
_FROM = "FROM endpoints e JOIN workspaces w ON w.seq = e.workspace_seq"


def load(db: sqlite3.Connection) -> list[Endpoint]:
    """Every endpoint of a living workspace that wasn't deleted, oldest first."""
    # Row by row: thousands of rows beside the endpoints made of them would stay in the process' memory.
    rows = db.execute(f"SELECT {_COLUMNS} {_FROM} WHERE e.deleted_at IS NULL ORDER BY e.seq")
    return [_endpoint(row) for row in rows]


def deleted(db: sqlite3.Connection, workspace_seq: int, limit: int) -> list[Endpoint]:
    """A workspace's deleted endpoints that the log still has deliveries of, the last one deleted first."""
    rows = db.execute(
        f"SELECT {_COLUMNS} {_FROM} WHERE e.workspace_seq = ? AND e.deleted_at IS NOT NULL "
        "ORDER BY e.deleted_at DESC, e.seq DESC LIMIT ?",
        (workspace_seq, limit),
    ).fetchall()
    return [_endpoint(row) for row in rows]


def get(db: sqlite3.Connection, seq: int) -> Endpoint:
    """The endpoint with this number, deleted or not."""
    return _endpoint(db.execute(f"SELECT {_COLUMNS} {_FROM} WHERE e.seq = ?", (seq,)).fetchall()[0])


def count(db: sqlite3.Connection, workspace_seq: int) -> int:
    """How many endpoints a workspace has."""
    sql = "SELECT count(*) FROM endpoints WHERE workspace_seq = ? AND deleted_at IS NULL"
    number: int = db.execute(sql, (workspace_seq,)).fetchall()[0][0]
    return number


def id_of_url(db: sqlite3.Connection, workspace_seq: int, url: str, *, beside: str = "") -> str | None:
    """The id of the workspace's endpoint with this URL, compared in normal form, or None; `beside` is left out."""
    wanted = parse_url(url)
    # All that may be equal begin with the same site, so `endpoints_by_url` finds them.
    sql = (
        "SELECT id, url FROM endpoints WHERE workspace_seq = ?1 AND url >= ?2 AND url < ?2 || char(0x10ffff) "
        "AND deleted_at IS NULL AND id <> ?3"
    )
    for found, its_url in db.execute(sql, (workspace_seq, wanted.site, beside)).fetchall():
        if normal_form(its_url) == wanted.normal_form:
            return str(found)
    return None


def seq_of_id(db: sqlite3.Connection, workspace_seq: int, endpoint_id: str) -> int | None:
    """The number of a workspace's endpoint, deleted or not: the log outlives it.  None if there never was one."""
    sql = "SELECT seq FROM endpoints WHERE workspace_seq = ? AND id = ?"
    rows = db.execute(sql, (workspace_seq, endpoint_id)).fetchall()
    return rows[0][0] if rows else None


def insert(db: sqlite3.Connection, endpoint: Endpoint) -> Endpoint:
    """Add an endpoint and its subscriptions; returns it with the number that it got."""
    cursor = db.execute(
        f"INSERT INTO endpoints (id, workspace_seq, {', '.join(_VALUES)}, state, created_at, updated_at) "
        f"VALUES (:id, :workspace_seq, {', '.join(_VALUES.values())}, :state, :created_at, :updated_at)",
        _settings(endpoint)
        | {
            "workspace_seq": endpoint.workspace_seq,
            "state": endpoint.state,
            "created_at": endpoint.created_at_ms,
            "updated_at": endpoint.updated_at_ms,
        },
    )
    assert cursor.lastrowid is not None
    added = replace(endpoint, seq=cursor.lastrowid)
    _subscribe(db, added)
    return added


def update(db: sqlite3.Connection, endpoint: Endpoint) -> Endpoint:
    """Write what a person can change of an endpoint: not its state, which has functions of its own."""
    changes = ", ".join(f"{name} = {value}" for name, value in _VALUES.items())
    endpoint = replace(endpoint, ordering=_after_barriers(db, endpoint))
    db.execute(
        f"UPDATE endpoints SET {changes}, updated_at = :updated_at WHERE seq = :seq",
        _settings(endpoint) | {"updated_at": endpoint.updated_at_ms, "seq": endpoint.seq},
    )
    _subscribe(db, endpoint)
    return get(db, endpoint.seq)


def _after_barriers(db: sqlite3.Connection, endpoint: Endpoint) -> Ordering:
    """The endpoint's new order, behind what waits by another key than its own."""
    before, new = get(db, endpoint.seq).ordering, endpoint.ordering
    if new.key == before.key:
        return replace(new, barriers=before.barriers)
    waiting = (
        "FROM deliveries INDEXED BY deliveries_waiting WHERE endpoint_seq = ?1 AND state = 0 AND seq > "
        "(SELECT skipped_upto FROM endpoints WHERE seq = ?1) ORDER BY seq"
    )
    ends = [db.execute(f"SELECT seq {waiting}{end} LIMIT 1", (endpoint.seq,)).fetchall() for end in ("", " DESC")]
    if not ends[0]:
        return replace(new, barriers=())
    (first,), (last,) = ends[0][0], ends[1][0]
    barriers = (*(each for each in before.barriers if each.upto_seq >= first), Barrier(last, before.key is not None))
    # One by one is right for any keys.
    return replace(new, barriers=barriers if len(barriers) <= BARRIERS_MAX else (Barrier(last, keyed=False),))


def disable(
    db: sqlite3.Connection,
    seqs: Iterable[int],
    *,
    state: EndpointState,
    reason: str | None,
    message: str | None,
    now_ms: int,
) -> list[Endpoint]:
    """Stop endpoints, each only if it is active or goes from `auto_disabled` to `disabled`; returns those changed."""
    changed = []
    from_states = (EndpointState.ACTIVE,) if state is EndpointState.AUTO_DISABLED else tuple(EndpointState)
    for seq in seqs:
        before = get(db, seq)
        if before.deleted_at_ms is not None or before.state not in from_states or before.state is state:
            continue
        # Auto-disabled, and now disabled by a person: its events are held since the former.
        held_since_ms = before.disabled_at_ms if before.state is EndpointState.AUTO_DISABLED else now_ms
        db.execute(
            "UPDATE endpoints SET state = ?, disabled_reason = ?, disabled_at = ?, disabled_message = ?, "
            "updated_at = ? WHERE seq = ?",
            (state, reason, held_since_ms, message, now_ms, seq),
        )
        changed.append(get(db, seq))
    return changed


def enable(db: sqlite3.Connection, seq: int, *, skip_held: bool, now_ms: int) -> Endpoint:
    """Make it active, its schedule anew, its failures forgotten; with `skip_held` what waits now is marked skipped."""
    db.execute(
        "UPDATE endpoints SET state = 'active', disabled_reason = NULL, disabled_at = NULL, disabled_message = NULL, "
        "updated_at = ?, forgiven_upto = (SELECT coalesce(max(seq), 0) FROM attempts) WHERE seq = ?",
        (now_ms, seq),
    )
    if skip_held:
        db.execute(
            "UPDATE endpoints SET skipped_upto = max(skipped_upto, (SELECT coalesce(max(seq), 0) FROM deliveries "
            "INDEXED BY deliveries_waiting WHERE endpoint_seq = ?1 AND state = 0)) WHERE seq = ?1",
            (seq,),
        )
    # Only the first of a lane was tried.
    waits = "state = 0 AND seq > (SELECT skipped_upto FROM endpoints WHERE seq = ?1)"
    db.execute(
        "UPDATE deliveries SET tries = 0, next_attempt_at = NULL WHERE seq IN (SELECT min(seq) FROM deliveries "
        f"INDEXED BY deliveries_waiting WHERE endpoint_seq = ?1 AND {waits} UNION ALL "
        "SELECT (SELECT min(seq) FROM deliveries INDEXED BY deliveries_lanes_waiting "
        f"WHERE endpoint_seq = ?1 AND lane_hash = j.value AND {waits}) FROM json_each(?2) j) "
        "AND (tries > 0 OR next_attempt_at IS NOT NULL)",
        (seq, _HASHES),
    )
    return get(db, seq)


def add_held_notice(db: sqlite3.Connection, seq: int, kind: str, held_since_ms: int) -> bool:
    """Note that there is a notice of events held since then, `expiring` or `expired`; False if there was one before.

    After that of a loss comes no warning.
    """
    unless = "" if kind == "expired" else " AND expired_told IS NOT ?1"
    sql = f"UPDATE endpoints SET {kind}_told = ?1 WHERE seq = ?2 AND {kind}_told IS NOT ?1{unless}"
    return bool(db.execute(sql, (held_since_ms, seq)).rowcount)


def delete(db: sqlite3.Connection, seq: int, now_ms: int) -> None:
    """Mark it deleted, which cancels everything that waits for it; the rows follow in small steps."""
    db.execute("DELETE FROM subscriptions WHERE endpoint_seq = ?", (seq,))
    db.execute("UPDATE endpoints SET deleted_at = ?, updated_at = ? WHERE seq = ?", (now_ms, now_ms, seq))


def _subscribe(db: sqlite3.Connection, endpoint: Endpoint) -> None:
    db.execute("DELETE FROM subscriptions WHERE endpoint_seq = ?", (endpoint.seq,))
    filter_id = compiled(endpoint.filters).id if endpoint.filters else None
    db.executemany(
        "INSERT INTO subscriptions (workspace_seq, event_type, endpoint_seq, order_key, filter) VALUES (?, ?, ?, ?, ?)",
        [
            (endpoint.workspace_seq, each, endpoint.seq, endpoint.ordering.key, filter_id)
            for each in endpoint.event_types
        ],
    )


def _settings(endpoint: Endpoint) -> dict[str, Any]:
    """The values of `_VALUES`."""
    as_json = ("event_types", "headers", "previous_keys", "x_webhook_signature_key")
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "description": endpoint.description,
        "success": endpoint.success,
        "signing_key": endpoint.signing_key,
        "x_webhook_signature": endpoint.x_webhook_signature,
        "filters": endpoint.filters,
        "selected_at": endpoint.selected_at_ms,
        "ordering": "null" if endpoint.ordering == STRICT else msgspec.json.encode(endpoint.ordering).decode(),
        **{name: msgspec.json.encode(getattr(endpoint, name)).decode() for name in as_json},
    }


def encrypting_keys(db: sqlite3.Connection) -> set[str]:
    """The names of the keys that values are encrypted by, "" for plain ones."""
    rows = db.execute(
        f"SELECT DISTINCT {' UNION SELECT DISTINCT '.join(f'key_name({name}) FROM endpoints' for name in _SECRETS)}"
    )
    return {name for (name,) in rows.fetchall()}


def renew_encryption(db: sqlite3.Connection, after_seq: int, limit: int) -> int:
    """Encrypt the secrets of the next `limit` endpoints by the first key, or make them plain without one.

    Returns the number of the last of them, 0 if there was none.
    """
    changes = ", ".join(f"{name} = renewed({name}, '{name} ' || id)" for name in _SECRETS)
    rows = db.execute("SELECT seq FROM endpoints WHERE seq > ? ORDER BY seq LIMIT ?", (after_seq, limit)).fetchall()
    if not rows:
        return 0
    db.execute(f"UPDATE endpoints SET {changes} WHERE seq > ? AND seq <= ?", (after_seq, rows[-1][0]))
    return int(rows[-1][0])


def _is_clean(text: str) -> bool:
    return text.isascii() and text.isprintable()


def quarantine(db: sqlite3.Connection, seq: int, message: str, now_ms: int) -> Endpoint:
    """Disable an endpoint whose row is malformed; the malformed columns stay as they are until they are set again."""
    db.execute(
        "UPDATE endpoints SET state = 'disabled', disabled_reason = ?, disabled_at = coalesce(disabled_at, ?), "
        "disabled_message = ?, updated_at = ? WHERE seq = ?",
        (MALFORMED, now_ms, message, now_ms, seq),
    )
    return get(db, seq)


def _endpoint(row: tuple[Any, ...]) -> Endpoint:
    """An endpoint of its row; what can't be read is empty, named in `malformed`, and stops the endpoint."""
    values = list(row)
    where = "{} of endpoint " + values[1]
    types = column(values[5], tuple[str, ...], (), where=where.format("event_types"))
    headers = column(values[8], tuple[tuple[str, str], ...], (("", ""),), where=where.format("headers"))
    keys = column(values[10], tuple[PreviousKey, ...], (PreviousKey("", 0),), where=where.format("previous_keys"))
    body_key: str | None = column(values[12], str | None, "", where=where.format("x_webhook_signature_key"))  # type: ignore[arg-type]
    ordering = STRICT if values[22] == "null" else column(values[22], Ordering, _NONE, where=where.format("ordering"))
    malformed = {
        "event_types": not types,
        "headers": not all(name and _is_clean(name + value) for name, value in headers),
        "signing_key": not all(map(is_key, (values[9], *(each.key for each in keys)))),
        "x_webhook_signature_key": body_key is not None and not is_body_key(body_key),
        "state": values[13] not in set(EndpointState),
        "ordering": not is_ordering(ordering),
        "filters": not is_filters(values[23]),
    }
    values[3], values[7] = intern(values[3]), intern(values[7])  # thousands have the same
    values[5] = tuple(map(intern, types))
    values[8] = () if malformed["headers"] else headers
    values[10] = () if malformed["signing_key"] else keys
    values[11] = bool(values[11])
    values[12] = None if malformed["x_webhook_signature_key"] else body_key
    values[13] = EndpointState.DISABLED if malformed["state"] else EndpointState(values[13])
    values[22] = STRICT if malformed["ordering"] else ordering
    values[23] = "" if malformed["filters"] else intern(values[23])
    values.append(tuple(name for name, wrong in malformed.items() if wrong))
    return Endpoint(*values)
