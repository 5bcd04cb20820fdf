"""The rights of tokens while their workspace is deleted, and after another of the same name was made."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api, head, running_api, wire
from tests.support.engine import engine
from webhookd.errors import ApiError
from webhookd.store import credentials

FIRST_VERSION = Path(__file__).parents[1] / "store" / "frozen" / "version_1.sql"


@pytest.fixture
async def api(tmp_path: Path) -> Any:
    async with running_api(tmp_path) as running:
        await running.app.services.workspaces.create("acme")
        yield running


@pytest.mark.parametrize("what", ["token", "endpoint", "event", "change"])
async def test_what_is_made_while_its_workspace_goes_is_not_made(api: Api, what: str) -> None:
    """Both were begun while it was there; whether it still is, is asked in the transaction itself."""
    services = api.app.services
    workspace = api.app.registry.workspace("acme")
    making: Any = {
        "token": lambda: services.tokens.add("admin", "acme"),
        "endpoint": lambda: services.endpoints.create("acme", url="https://a.example/", event_types=["*"]),
        "event": lambda: api.engine.send("a", workspace="acme"),
        "change": lambda: services.workspaces.change("acme", name="changed"),
    }[what]
    gone, made = await asyncio.gather(services.workspaces.delete("acme"), making(), return_exceptions=True)
    assert gone is None and isinstance(made, ApiError) and made.code == "not_found"
    for table, column in (("tokens", "workspace_seq"), ("endpoints", "workspace_seq"), ("events", "workspace_seq")):
        sql = f"SELECT count(*) FROM {table} WHERE {column} = ?"
        assert [(0,)] == await api.app.store.read(lambda db, s=sql: db.execute(s, (workspace.seq,)).fetchall())  # type: ignore[misc]


async def test_a_token_whose_workspace_row_is_missing_is_none(tmp_path: Path) -> None:
    """Written around the checks, even: the row goes with its workspace, and no NULL ever means every workspace."""
    async with engine(tmp_path) as e:
        workspace = await e.app.services.workspaces.create("acme")
        _, secret = await e.app.services.tokens.add("admin", "acme")
    with closing(sqlite3.connect(tmp_path / "webhookd.db", isolation_level=None)) as db:
        with pytest.raises(sqlite3.IntegrityError):
            db.execute("UPDATE tokens SET workspace_seq = NULL WHERE workspace_seq IS NOT NULL")
        db.execute("DELETE FROM workspaces WHERE seq = ?", (workspace.seq,))  # foreign keys are off here
    async with engine(tmp_path) as e:
        with pytest.raises(ApiError, match="doesn't know"):
            e.app.services.tokens.check(secret)


async def test_the_migration_drops_tokens_that_survived_their_workspace(tmp_path: Path) -> None:
    """Bound to a deleted workspace, or to one whose row is gone: neither becomes a global admin; the others stay."""
    with closing(sqlite3.connect(tmp_path / "webhookd.db", isolation_level=None)) as db:
        db.executescript(FIRST_VERSION.read_text("utf-8"))
        db.execute(
            "INSERT INTO workspaces (seq, id, name, plan, notify, created_at, plan_changed_at, deleted_at) "
            "VALUES (7, 'acme', 'Acme', 'advanced', '[]', 1, 1, 2)"
        )
        for name, seq in (("deleted", 7), ("gone", 99), ("default", 1), ("unbound", None)):
            values = (f"tok_{name}", seq, name.encode())
            db.execute("INSERT INTO tokens VALUES (?, 'admin', ?, ?, '', 1)", values)
    async with engine(tmp_path) as e:
        tokens = await e.app.store.read(credentials.tokens_by_secret)
        kept = {each.id: each.workspace_seq for each in tokens.values() if each.note != "made at the first start"}
        assert {"tok_default": 1, "tok_unbound": None} == kept


@pytest.mark.parametrize("who", ["bound", "unbound"])
async def test_a_request_never_meets_the_successor_of_its_workspace(api: Api, who: str) -> None:
    """Its body comes after the workspace was deleted and made again: the change is for the one that is gone."""
    services = api.app.services
    _, secret = await services.tokens.add("admin", "acme" if who == "bound" else None)
    body = b'{"name":"theirs"}'
    async with wire(api.port) as client:
        given = {"Authorization": f"Bearer {secret}", "Content-Length": str(len(body))}
        client.send(head(api, "PATCH", "/v1/workspaces/acme", **{k.replace("-", "_"): v for k, v in given.items()}))
        await client.sent()
        await asyncio.sleep(0.1)
        await services.workspaces.delete("acme")
        await services.workspaces.create("acme", name="successor")
        client.send(body)
        assert 404 == (await client.answer())[0]
    assert "successor" == api.app.registry.workspace("acme").name
    assert 401 == (await api.get("/v1/workspaces/acme", token=secret)).status or who == "unbound"


async def test_a_successor_does_not_inherit_the_failures(api: Api) -> None:
    """The failure budget belongs to the workspace, not to its name."""
    api.engine.network.answer = lambda url, webhook_id: 500
    endpoint = await api.engine.endpoint("https://a.example/", workspace="acme")
    window = api.app.watchdog._window(endpoint.workspace_seq)
    await api.engine.send("a", workspace="acme")
    await api.engine.quiet()
    assert 1 == api.app.watchdog.view("acme").failures
    await api.app.services.endpoints.delete("acme", endpoint.id)
    await api.app.services.workspaces.delete("acme")
    made = await api.app.services.workspaces.create("acme")
    assert window is not api.app.watchdog._window(made.seq)


async def test_a_bound_admin_changes_neither_plan_nor_who_is_notified(api: Api) -> None:
    """It may take addresses away; an admin of the whole daemon may do all of it."""
    _, secret = await api.app.services.tokens.add("admin", "acme")
    path = "/v1/workspaces/acme"
    for changes, expected in (
        ({"plan": "starter"}, (403, "forbidden")),
        ({"name": "Acme", "plan": "enterprise"}, (403, "forbidden")),
        ({"notify": ["new@example.com"]}, (409, "mail_disabled")),  # by a link in a mail alone
    ):
        refused = await api.call("PATCH", path, changes, token=secret)
        assert expected == (refused.status, refused.code)
        assert ("acme", "advanced", ()) == tuple(
            getattr(api.app.registry.workspace("acme"), name) for name in ("name", "plan", "notify")
        )
    assert 200 == (await api.call("PATCH", path, {"notify": ["a@example.com", "b@example.com"]})).status
    assert 200 == (await api.call("PATCH", path, {"notify": ["b@example.com"], "name": "B"}, token=secret)).status
    assert ("b@example.com",) == api.app.registry.workspace("acme").notify
    assert 200 == (await api.call("PATCH", path, {"plan": "advanced"}, token=secret)).status  # as it is already
    assert 200 == (await api.call("PATCH", path, {"plan": "starter"})).status
