"""Configuration of a partition as it stands elsewhere: read for the cluster, and made so here when it is taken over."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import msgspec
import orjson

from webhookd.models import Endpoint, Portal, SessionView, Workspace
from webhookd.store import credentials, endpoints, workspaces

Db = sqlite3.Connection
Item = Mapping[str, Any]

# What is a number of this database, or of its own doing, is left out.
_LOCAL = ("seq", "workspace_seq", "skipped_upto", "forgiven_upto", "deleted_at_ms", "malformed", "pending")
_WORKSPACE_FIELDS = tuple(field.name for field in fields(Workspace) if field.name not in _LOCAL)
# msgspec looks a class up at its first use and keeps what it has found half-way: two writers' threads that came to
# that at the same moment (two partitions being taken over) ended the process with a segmentation fault.
msgspec.json.Decoder(Endpoint)
_ENDPOINT_FIELDS = tuple(field.name for field in fields(Endpoint) if field.name not in _LOCAL)


def workspace_item(workspace: Workspace) -> dict[str, Any]:
    """A workspace for the cluster."""
    return {name: getattr(workspace, name) for name in _WORKSPACE_FIELDS}


def workspace_of(item: Item) -> Workspace:
    """A workspace of its item, without a number here; fields that another version doesn't know are left out."""
    given = {name: item[name] for name in _WORKSPACE_FIELDS if name in item}
    return Workspace(0, **given | {"notify": tuple(item["notify"])})


def endpoint_item(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint for the cluster, its secrets plain."""
    # An earlier order holds up to numbers of this database; elsewhere nothing waits by it.
    endpoint = replace(endpoint, ordering=replace(endpoint.ordering, barriers=()))
    return {name: getattr(endpoint, name) for name in _ENDPOINT_FIELDS}


def put_workspaces(db: Db, items: Sequence[Item], now_ms: int) -> dict[str, int]:
    """Make the workspaces those of `items`; returns their numbers by their ids."""
    wanted = {item["id"]: item for item in items}
    for there in workspaces.load(db):
        item = wanted.get(there.id)
        if item is None or item["created_at_ms"] != there.created_at_ms:  # deleted, or deleted and made again
            for endpoint in endpoints.load(db):
                if endpoint.workspace_seq == there.seq:
                    endpoints.delete(db, endpoint.seq, now_ms)
            workspaces.delete(db, there.seq, now_ms)
    there_now = {each.id: each for each in workspaces.load(db)}
    for item in items:
        known = there_now.get(item["id"])
        if known is None:
            known = workspaces.insert(
                db, workspace_id=item["id"], name="", plan="", notify=(), now_ms=item["created_at_ms"]
            )
        there_now[item["id"]] = workspaces.update(db, replace(workspace_of(item), seq=known.seq))
    return {name: each.seq for name, each in there_now.items()}


def put_endpoints(db: Db, items: Sequence[Item], workspace_seqs: Mapping[str, int], now_ms: int) -> None:
    """Make the endpoints those of `items`, with their states; what waits for one that is gone is cancelled."""
    wanted = {item["id"] for item in items}
    there = {each.id: each for each in endpoints.load(db)}
    for endpoint in there.values():
        if endpoint.id not in wanted:
            endpoints.delete(db, endpoint.seq, now_ms)
    for item in items:
        workspace_seq = workspace_seqs.get(item["workspace"])
        if workspace_seq is None:
            continue  # its workspace was deleted, and this not yet
        known = there.get(item["id"])
        seq = known.seq if known is not None else 0
        endpoint = _endpoint(item, seq, workspace_seq)
        if known is None:
            endpoint = endpoints.insert(db, endpoint)
        else:
            endpoints.update(db, endpoint)
        db.execute(
            "UPDATE endpoints SET state = ?, disabled_reason = ?, disabled_at = ?, disabled_message = ? WHERE seq = ?",
            (
                endpoint.state,
                endpoint.disabled_reason,
                endpoint.disabled_at_ms,
                endpoint.disabled_message,
                endpoint.seq,
            ),
        )


def _endpoint(item: Item, seq: int, workspace_seq: int) -> Endpoint:
    """An endpoint of its item; fields that another version doesn't know are left out, or have their defaults."""
    given = {name: item[name] for name in _ENDPOINT_FIELDS if name in item}
    local = {"seq": seq, "workspace_seq": workspace_seq, "skipped_upto": 0, "forgiven_upto": 0, "deleted_at_ms": None}
    return msgspec.convert(given | local, Endpoint)


def token_items(db: Db) -> dict[str, dict[str, Any]]:
    """All tokens by their ids; `workspace` None is an unbound one."""
    return {
        token.id: {
            "id": token.id,
            "scope": token.scope,
            "workspace": token.workspace,
            "secret_sha256": digest.hex(),
            "note": token.note,
            "created_at_ms": token.created_at_ms,
            "expires_at_ms": token.expires_at_ms,
        }
        for digest, token in credentials.tokens_by_secret(db).items()
    }


def put_tokens(
    db: Db, items: Collection[Item], workspace_seqs: Mapping[str, int], *, unbound_only: bool = False
) -> None:
    """Make the tokens those of `items`, as far as their workspaces are here, beside the two of the machine's files.

    `unbound_only`: those bound to a workspace stay as they are.
    """
    ids = orjson.dumps([item["id"] for item in items]).decode()
    db.execute(
        "DELETE FROM tokens WHERE id NOT IN (SELECT value FROM json_each(?)) "
        "AND id NOT IN ('tok_admin', 'tok_ingest') AND (unbound = 1 OR NOT ?)",
        (ids, unbound_only),
    )
    for item in items:
        workspace_seq = None if item["workspace"] is None else workspace_seqs.get(item["workspace"])
        if item["workspace"] is None or workspace_seq is not None:
            credentials.put_token(
                db,
                token_id=item["id"],
                scope=item["scope"],
                workspace_seq=workspace_seq,
                secret_sha256=bytes.fromhex(item["secret_sha256"]),
                note=item["note"],
                now_ms=item["created_at_ms"],
                expires_at_ms=item["expires_at_ms"],
            )


_SESSION = (
    *("secret_sha256", "token_sha256", "id", "token_id", "address", "created_at", "expires_at", "last_used_at"),
    *("workspace", "read_only", "language", "return_url", "token_workspace"),
)


def session_items(db: Db) -> dict[str, dict[str, Any]]:
    """All sessions of the page by their ids, their secrets hashed.

    `workspace` is that of a session of the portal, `token_workspace` that which its token is bound to.
    """
    of = {"workspace": "w.id", "token_workspace": "o.id"}
    columns = ", ".join(of.get(name, f"s.{name}") for name in _SESSION)
    rows = db.execute(
        f"SELECT {columns} FROM sessions s LEFT JOIN workspaces w ON w.seq = s.workspace_seq "
        "LEFT JOIN tokens t ON t.id = s.token_id LEFT JOIN workspaces o ON o.seq = t.workspace_seq"
    ).fetchall()
    return {row[2]: dict(zip(_SESSION, (row[0].hex(), row[1].hex(), *row[2:]), strict=True)) for row in rows}


def put_sessions(db: Db, items: Collection[Item]) -> None:
    """Make the sessions those of `items`, as far as their tokens and workspaces are here."""
    ids = orjson.dumps([item["id"] for item in items]).decode()
    db.execute("DELETE FROM sessions WHERE id NOT IN (SELECT value FROM json_each(?))", (ids,))
    there = {each for (each,) in db.execute("SELECT id FROM sessions").fetchall()}
    seqs = {each.id: each.seq for each in workspaces.load(db)}
    for item in items:
        named = item["workspace"]
        if item["id"] in there or (named is not None and named not in seqs):
            continue
        times = (item["created_at"], item["last_used_at"], item["expires_at"])
        view = SessionView(item["id"], item["token_id"], None, item["address"], *times)
        if named is not None:
            portal = Portal(seqs[named], bool(item["read_only"]), item["language"], item["return_url"])
            view = replace(view, portal=portal)
        digests = (bytes.fromhex(item["secret_sha256"]), bytes.fromhex(item["token_sha256"]))
        credentials.put_session(db, view, secret_sha256=digests[0], token_sha256=digests[1])


_LINK = ("code_sha256", "token_sha256", "token_id", "read_only", "language", "return_url", "created_at", "expires_at")
_CONFIRMATION = ("code_sha256", "address", "asked_at", "expires_at", "done")


def link_items(db: Db) -> dict[str, dict[str, Any]]:
    """The unused links into the portal, by the hash of their codes."""
    return _of_workspaces(db, "portal_links", _LINK)


def confirmation_items(db: Db) -> dict[str, dict[str, Any]]:
    """The addresses that were asked to confirm, by the hash of their codes."""
    return _of_workspaces(db, "confirmations", _CONFIRMATION)


def _of_workspaces(db: Db, table: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    columns = ", ".join(f"hex(t.{name})" if name.endswith("sha256") else f"t.{name}" for name in names)
    rows = db.execute(f"SELECT w.id, {columns} FROM {table} t JOIN workspaces w ON w.seq = t.workspace_seq").fetchall()
    return {row[1]: {"workspace": row[0]} | dict(zip(names, row[1:], strict=True)) for row in rows}


def put_links(db: Db, items: Collection[Item]) -> None:
    """Make the links into the portal those of `items`, as far as their tokens and workspaces are here."""
    there = {each for (each,) in db.execute("SELECT id FROM tokens").fetchall()}
    _put_of_workspaces(db, "portal_links", _LINK, [item for item in items if item["token_id"] in there])


def put_confirmations(db: Db, items: Collection[Item]) -> None:
    """Make the addresses that have yet to confirm those of `items`."""
    _put_of_workspaces(db, "confirmations", _CONFIRMATION, items)


def _put_of_workspaces(db: Db, table: str, names: Sequence[str], items: Collection[Item]) -> None:
    seqs = {each.id: each.seq for each in workspaces.load(db)}
    db.execute(f"DELETE FROM {table}")
    db.executemany(
        f"INSERT INTO {table} (workspace_seq, {', '.join(names)}) VALUES (?{', ?' * len(names)})",
        [
            (seqs[item["workspace"]], *(_unhexed(name, item[name]) for name in names))
            for item in items
            if item["workspace"] in seqs
        ],
    )


def _unhexed(name: str, value: Any) -> Any:
    return bytes.fromhex(value) if name.endswith("sha256") else value


def shared_there(db: Db) -> tuple[set[str], set[str]]:
    """The ids of the unbound tokens and of the sessions that are here."""
    tokens = db.execute("SELECT id FROM tokens WHERE unbound = 1").fetchall()
    return {each for (each,) in tokens}, {each for (each,) in db.execute("SELECT id FROM sessions").fetchall()}


def encoded(item: Item) -> bytes:
    """An item as its bytes in the cluster, the same for the same item."""
    return msgspec.json.encode(item, order="sorted")
