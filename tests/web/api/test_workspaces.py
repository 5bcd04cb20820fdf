"""Workspaces and budgets over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.api import Api, running_api
from webhookd.config import Budget, Config, Delivery, Plans
from webhookd.web.api.schemas import BudgetSchema, WorkspaceSchema
from webhookd.web.api.workspaces import WorkspaceListSchema

URL = "https://hooks.example/in"
NOW = "2026-01-01T00:00:00.000Z"
DEFAULT = {
    "id": "default", "name": "Default", "plan": "advanced", "webhooks": True, "notify": [], "pending_notify": [],
    "language": "en", "created_at": NOW,
}  # fmt: skip


async def test_default_is_there_from_the_start(api: Api) -> None:
    """It is always there and can't be deleted."""
    assert {"data": [DEFAULT], "next": None} == (await api.get("/v1/workspaces")).json
    refused = await api.call("DELETE", "/v1/workspaces/default")
    assert (409, "workspace_in_use") == (refused.status, refused.code)


async def test_a_workspace_is_made_changed_and_deleted(api: Api) -> None:
    """201 with all of it, PATCH changes what is given, 204 and gone."""
    made = await api.post("/v1/workspaces", {"id": "acme"})
    msgspec.convert(made.json, WorkspaceSchema)
    assert (201, DEFAULT | {"id": "acme", "name": "acme"}) == (made.status, made.json)
    fields = {
        "name": "ACME Ltd",
        "plan": "growth",
        "notify": ["ops@acme.example", "cto@acme.example"],
        "language": "vi",
    }
    changed = await api.call("PATCH", "/v1/workspaces/acme", fields)
    expected = fields | {"id": "acme", "webhooks": False, "pending_notify": [], "created_at": NOW}
    assert (200, expected) == (changed.status, changed.json)
    assert expected == (await api.call("PATCH", "/v1/workspaces/acme", {})).json
    expected |= {"notify": []}
    assert expected == (await api.call("PATCH", "/v1/workspaces/acme", {"notify": []})).json
    assert expected == (await api.get("/v1/workspaces/acme")).json
    deleted = await api.call("DELETE", "/v1/workspaces/acme")
    assert (204, b"") == (deleted.status, deleted.body)
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/endpoints"), ("GET", "/budget")):
        assert 404 == (await api.call(method, f"/v1/workspaces/acme{path}")).status
    assert [DEFAULT] == (await api.get("/v1/workspaces")).json["data"]


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({}, 422, "invalid_field", "id"),
        ({"id": ""}, 422, "invalid_field", "id"),
        ({"id": "Acme"}, 422, "invalid_field", "id"),
        ({"id": "-acme"}, 422, "invalid_field", "id"),
        ({"id": "a/b"}, 422, "invalid_field", "id"),
        ({"id": "a\n"}, 422, "invalid_field", "id"),
        ({"id": "x" * 64}, 422, "invalid_field", "id"),
        ({"id": 7}, 422, "invalid_field", "id"),
        ({"id": "acme", "plan": "advance"}, 422, "invalid_field", "plan"),
        ({"id": "acme", "name": " "}, 422, "invalid_field", "name"),
        ({"id": "acme", "notify": "ops@acme.example"}, 422, "invalid_field", "notify"),
        ({"id": "acme", "notify": ["a@b\r\nBcc: c@d"]}, 422, "invalid_field", "notify"),
        ({"id": "acme", "notify": ["ops@acme.example"] * 21}, 422, "invalid_field", "notify"),
        ({"id": "acme", "slug": "x"}, 422, "unknown_field", None),
        ({"id": "default"}, 409, "workspace_exists", None),
    ],
)
async def test_what_cannot_be_a_workspace_is_refused(
    api: Api, body: dict[str, Any], status: int, code: str, field: str | None
) -> None:
    """With the code and the field, and nothing made."""
    answer = await api.post("/v1/workspaces", body)
    assert (status, code) == (answer.status, answer.code)
    assert field == answer.json["error"]["details"].get("field")
    assert [DEFAULT] == (await api.get("/v1/workspaces")).json["data"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"plan": "none"}, "invalid_field"),
        ({"name": None}, "invalid_field"),
        ({"notify": [""]}, "invalid_field"),
        ({"id": "other"}, "unknown_field"),
    ],
)
async def test_a_wrong_change_is_refused(api: Api, body: dict[str, Any], code: str) -> None:
    """422, and the workspace stays as it was."""
    answer = await api.call("PATCH", "/v1/workspaces/default", body)
    assert (422, code) == (answer.status, answer.code)
    assert DEFAULT == (await api.get("/v1/workspaces/default")).json


async def test_workspaces_are_listed_in_pages_oldest_first(api: Api) -> None:
    """`next` leads on until it is null."""
    for number in range(4):
        await api.post("/v1/workspaces", {"id": f"w{number}"})
    found, cursor = [], ""
    for _ in range(3):
        page = (await api.get(f"/v1/workspaces?limit=2&cursor={cursor}")).json
        msgspec.convert(page, WorkspaceListSchema)
        found += [one["id"] for one in page["data"]]
        cursor = page["next"]
    assert ["default", "w0", "w1", "w2", "w3"] == found and cursor is None


async def test_a_workspace_with_endpoints_stays(api: Api) -> None:
    """409 until the last endpoint is deleted; its id may be used again then, and begins anew."""
    await api.post("/v1/workspaces", {"id": "acme"})
    endpoint = await api.engine.endpoint(URL, workspace="acme")
    await api.engine.send("a", workspace="acme")
    await api.engine.quiet()
    refused = await api.call("DELETE", "/v1/workspaces/acme")
    assert (409, "workspace_in_use") == (refused.status, refused.code)
    await api.call("DELETE", f"/v1/workspaces/acme/endpoints/{endpoint.id}")
    assert 204 == (await api.call("DELETE", "/v1/workspaces/acme")).status
    assert 201 == (await api.post("/v1/workspaces", {"id": "acme"})).status
    assert [] == (await api.get("/v1/workspaces/acme/deliveries")).json["data"]


async def test_the_plan_decides_whether_webhooks_go_out(tmp_path: Path) -> None:
    """`webhooks` says it; what waits goes out when the plan returns."""
    config = Config(plans=Plans(order=("free", "paid"), webhooks_from="paid"))
    async with running_api(tmp_path, config) as api:
        await api.engine.endpoint(URL)
        default = (await api.get("/v1/workspaces/default")).json
        assert ("paid", True) == (default["plan"], default["webhooks"])
        api.engine.network.answer = lambda url, webhook_id: 500
        await api.engine.send("a")
        await api.engine.quiet()
        free = await api.call("PATCH", "/v1/workspaces/default", {"plan": "free"})
        assert ("free", False) == (free.json["plan"], free.json["webhooks"])
        await api.engine.advance(100)
        assert ["a"] == api.engine.network.ids(URL)
        api.engine.network.answer = lambda url, webhook_id: 200
        await api.call("PATCH", "/v1/workspaces/default", {"plan": "paid"})
        await api.engine.advance(100)
        assert ["a", "a"] == api.engine.network.ids(URL)


async def test_a_token_of_a_workspace_sees_and_changes_that_alone(api: Api) -> None:
    """It lists its own, may change it, makes and deletes none; it ends with its workspace."""
    await api.post("/v1/workspaces", {"id": "acme"})
    _, secret = await api.app.services.tokens.add("admin", "acme")
    assert ["acme"] == [one["id"] for one in (await api.get("/v1/workspaces", token=secret)).json["data"]]
    assert 200 == (await api.get("/v1/workspaces/acme", token=secret)).status
    changed = await api.call("PATCH", "/v1/workspaces/acme", {"name": "A"}, token=secret)
    assert (200, "A") == (changed.status, changed.json["name"])
    for method, path, body in (
        ("GET", "/v1/workspaces/default", None),
        ("PATCH", "/v1/workspaces/default", {"name": "mine"}),
        ("DELETE", "/v1/workspaces/default", None),
        ("DELETE", "/v1/workspaces/acme", None),
        ("POST", "/v1/workspaces", {"id": "more"}),
        ("GET", "/v1/budget", None),
    ):
        answer = await api.call(method, path, body, token=secret)
        assert (403, "forbidden") == (answer.status, answer.code), (method, path)
    assert 200 == (await api.get("/v1/workspaces/acme/budget", token=secret)).status
    await api.call("DELETE", "/v1/workspaces/acme")
    assert 401 == (await api.get("/v1/workspaces", token=secret)).status


async def test_the_budget_says_how_much_is_spent_and_by_whom(tmp_path: Path) -> None:
    """The count, each endpoint's share, when the oldest failure leaves, and until when it is spent."""
    config = Config(budget=Budget(limit=3, window_seconds=600), delivery=Delivery(retry_seconds=()))
    async with running_api(tmp_path, config) as api:
        empty = {"limit": 3, "window_seconds": 600, "failures": 0, "by_endpoint": {}}
        empty |= {"oldest_expires_at": None, "spent_until": None}
        answer = await api.get("/v1/budget")
        msgspec.convert(answer.json, BudgetSchema)
        assert (200, empty) == (answer.status, answer.json)
        first, second = await api.engine.endpoint(URL), await api.engine.endpoint(f"{URL}/2")
        api.engine.network.answer = lambda url, webhook_id: 500 if url == URL or webhook_id == "b" else 200
        await api.engine.send("a")
        await api.engine.advance(60)
        spent = (await api.get("/v1/budget")).json
        assert (
            empty | {"failures": 1, "by_endpoint": {first.id: 1}, "oldest_expires_at": "2026-01-01T00:10:00.000Z"}
            == spent
        )
        await api.engine.send("b")
        await api.engine.quiet()
        spent = (await api.get("/v1/workspaces/default/budget")).json
        assert (
            empty
            | {
                "failures": 3,
                "by_endpoint": {first.id: 2, second.id: 1},
                "oldest_expires_at": "2026-01-01T00:10:00.000Z",
                "spent_until": "2026-01-01T00:10:00.000Z",
            }
            == spent
        )
        await api.engine.advance(540)
        later = (await api.get("/v1/budget")).json
        assert (2, None) == (later["failures"], later["spent_until"])
        await api.call("DELETE", f"/v1/endpoints/{first.id}")
        assert {second.id: 1} == (await api.get("/v1/budget")).json["by_endpoint"]


async def test_a_window_of_a_fraction_of_a_second_is_reported_as_one(tmp_path: Path) -> None:
    """Whole seconds are a whole number, others are not rounded."""
    async with running_api(tmp_path, Config(budget=Budget(window_seconds=1.5))) as api:
        assert b'"window_seconds":1.5,' in (await api.get("/v1/budget")).body
