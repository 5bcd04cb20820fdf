"""The audit trail: every change with who made it, every refused secret, and who may see what of it."""

from __future__ import annotations

from pathlib import Path

from tests.support.api import Api, running_api
from tests.support.reader import Browser
from webhookd.admin.audit import REFUSED_SECONDS
from webhookd.config import Config, Retention
from webhookd.web.router import ROUTES


async def entries(api: Api, token: str = "admin") -> list[tuple[str, ...]]:
    """What the trail says, oldest first: action, on what, outcome, workspace."""
    found = (await api.get("/v1/audit", token=token)).json["data"]
    return [(one["action"], one["target"], one["outcome"], one["workspace"]) for one in found][::-1]


async def test_each_change_is_in_the_trail(api: Api) -> None:
    """What was made has its id, what was refused its code, a revealed key stands there; reading and events don't."""
    await api.post("/v1/workspaces", {"id": "acme"})
    body = {"url": "https://a.example/", "event_types": ["*"]}
    made = (await api.post("/v1/workspaces/acme/endpoints", body)).json["id"]
    await api.post("/v1/workspaces/acme/endpoints", body)
    await api.get(f"/v1/workspaces/acme/endpoints/{made}/signing-key")
    await api.get("/v1/workspaces/acme/endpoints")
    await api.post("/v1/events", {"event_type": "message.sent"})
    path = "/v1/workspaces/acme/endpoints"
    assert [
        ("make_workspace", "/v1/workspaces/acme", "done", None),
        ("make_endpoint", f"{path}/{made}", "done", "acme"),
        ("make_endpoint", path, "endpoint_exists", "acme"),
        ("reveal_signing_key", f"{path}/{made}/signing-key", "done", "acme"),
    ] == await entries(api)
    (first, *_) = (await api.get("/v1/audit?limit=1")).json["data"]
    assert ("tok_admin", None, "127.0.0.1") == (first["token_id"], first["session_id"], first["address"])


def test_every_changing_route_is_one_of_an_admin() -> None:
    """So that the guard writes it down; only events are posted by others."""
    assert ["post_events"] == [
        each.handler.__name__ for each in ROUTES if each.method != "GET" and each.scope != "admin"
    ]


async def test_a_bound_token_sees_its_workspace_alone(api: Api) -> None:
    """Not that of others, nor a later one of the same name, nor who was refused."""
    for name in ("acme", "other"):
        await api.post("/v1/workspaces", {"id": name})
        await api.call("PATCH", f"/v1/workspaces/{name}", {"name": name.upper()})
    await api.get("/v1/status", token="wrong")
    _, secret = await api.app.services.tokens.add("admin", "acme")
    assert [("change_workspace", "/v1/workspaces/acme", "done", "acme")] == await entries(api, secret)
    await api.call("DELETE", "/v1/workspaces/acme")
    await api.post("/v1/workspaces", {"id": "acme"})
    _, successor = await api.app.services.tokens.add("admin", "acme")
    assert [] == await entries(api, successor)


async def test_refused_secrets_are_counted_all_and_written_down_now_and_then(api: Api) -> None:
    """By calls and at the sign-in alike; a call without a secret is none."""
    for _ in range(5):
        await api.get("/v1/endpoints", token="wrong")
    await api.get("/v1/endpoints", token=None)
    await Browser(api).sign_in("wrong")
    assert [("authenticate", "/v1/endpoints", "unauthorized", None)] == await entries(api)
    assert b"webhookd_auth_failures_total 6.0" in (await api.get("/metrics")).body
    await api.engine.clock.advance(REFUSED_SECONDS)
    await Browser(api).sign_in("wrong")
    assert 2 == len(await entries(api))


async def test_changes_on_the_page_name_the_session(api: Api) -> None:
    """Disabled there: the token that signed in, and the session."""
    endpoint = await api.engine.endpoint("https://a.example/")
    browser = Browser(api)
    await browser.sign_in(api.admin_token)
    await browser.send_form(f"/webhooks/{endpoint.id}/disable", {}, "/webhooks")
    (entry,) = (await api.get("/v1/audit")).json["data"]
    assert ("page", f"/webhooks/{endpoint.id}/disable", "done", "default", "tok_admin") == tuple(
        entry[name] for name in ("action", "target", "outcome", "workspace", "token_id")
    )
    assert entry["session_id"].startswith("ses_")


async def test_the_trail_has_its_own_retention(tmp_path: Path) -> None:
    """Events may be gone long before; what is older than `audit_days` goes."""
    async with running_api(tmp_path, Config(retention=Retention(max_age_days=1, audit_days=10))) as api:
        await api.post("/v1/workspaces", {"id": "acme"})
        for days, left in ((9, 1), (2, 0)):
            api.engine.clock.jump_wall(days * 86_400)
            await api.app.retention.sweep()
            assert left == len(await entries(api))
