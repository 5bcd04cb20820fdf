"""The audit trail: every change with who made it, every refused secret, and who may see what of it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import orjson
import pytest

from tests.support.api import Api, running_api
from tests.support.reader import Browser
from webhookd.admin.throttle import WINDOW_SECONDS
from webhookd.config import Config, Retention
from webhookd.store import credentials
from webhookd.web.api.event_types import DOCUMENT


async def entries(api: Api, token: str = "admin") -> list[tuple[str, ...]]:
    """What the trail says, oldest first: action, on what, outcome, workspace."""
    found = (await api.get("/v1/audit?limit=500", token=token)).json["data"]
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


async def test_every_call_that_may_change_something_is_in_the_trail(api: Api) -> None:
    """Of every path of the document: done or not, it has its entry.  Only accepting events is none."""
    paths = orjson.loads(api.application[DOCUMENT])["paths"]
    calls = [(method, path) for path, methods in paths.items() for method in methods if method != "get"]
    unnamed = []
    for method, path in calls:
        before = len(await entries(api))
        await api.call(method.upper(), re.sub(r"\{\w+\}", "default", path), {})
        after = await entries(api)
        action, target, *_ = after[-1] if after else ("", "")
        if len(after) != before + 1 or not paths[path][method]["operationId"].startswith(action):
            unnamed.append((method, path, action, target))
    assert ["/v1/events", "/v1/workspaces/{workspace}/events"] == sorted(path for _, path, *_ in unnamed)


async def test_every_form_of_the_page_is_in_the_trail(api: Api) -> None:
    """Of every address that takes a form, with the session: signing in too, and a form that another site sent."""
    token, secret = await api.app.services.tokens.add("admin", None)
    routes = api.application.router.routes()
    posts = [each.resource.canonical for each in routes if each.method == "POST" and each.resource is not None]
    forms = [path for path in posts if not path.startswith("/v1/")]
    assert len(forms) > 10
    opened = set()
    for path in forms:
        shown_at = "/portal" if path.startswith("/portal") else "/sign-in"
        answer = await Browser(api).send_form(re.sub(r"\{\w+\}", "nothing", path), {}, shown_at)
        if answer.headers.get("Location") not in ("/sign-in", "/portal"):
            opened.add(path)
    # Without a session: a refused secret and a confirmed address have entries of their own, a language is a cookie.
    assert {"/sign-in", "/language", "/confirm-address", "/portal", "/portal/language"} == opened
    browser = Browser(api)
    forms = [path for path in forms if not path.startswith("/portal")]  # these have their own sessions
    for path in sorted(forms, key=lambda path: path.startswith("/sign-")):
        target = re.sub(r"\{\w+\}", "nothing", path)
        if not browser.cookies.get("webhookd_session"):
            await browser.sign_in(secret)
            shown = (await browser.get("/access")).body.decode()
        proof = re.findall(r'name="proof" value="([0-9a-f]+)"', shown)[0]
        for headers in ({"Origin": "https://evil.example"}, {}):
            await browser.post(target, {"proof": proof, "secret": secret}, **headers)
        if path.startswith("/sign-"):
            browser.cookies.clear()
    found = (await api.get("/v1/audit?limit=500")).json["data"]
    for path in forms:
        target = re.sub(r"\{\w+\}", "nothing", path)
        mine = [each for each in found if each["token_id"] == token.id and each["target"] == target]
        outcomes = [each["outcome"] for each in mine if each["action"] == "page" and each["session_id"]]
        assert (path, 2, "forbidden") == (path, len(outcomes), outcomes[-1])


async def test_the_entry_names_what_was_made_on_the_page(api: Api) -> None:
    """The new webhook's own address, the new delivery's, and a replay with its filter."""
    browser = Browser(api)
    await browser.sign_in(api.admin_token)
    fields = {"url": "https://a.example/hook", "every_type": "yes", "success": "200", "description": "", "headers": ""}
    await browser.send_form("/webhooks/new", fields, "/webhooks/new")
    (endpoint,) = api.app.registry.endpoints("default")
    await browser.send_form(f"/log/replay?endpoint={endpoint.id}&state=dropped", {}, "/webhooks")
    targets = [target for action, target, outcome, _ in await entries(api) if (action, outcome) == ("page", "done")]
    assert [f"/webhooks/{endpoint.id}", f"/log/replay?endpoint={endpoint.id}&state=dropped"] == targets


async def test_a_token_that_reaches_for_more_is_in_the_trail(api: Api) -> None:
    """Another workspace, another scope: with its token, once a minute; guessing at paths that aren't there as well."""
    await api.post("/v1/workspaces", {"id": "acme"})
    bound, secret = await api.app.services.tokens.add("admin", "acme")
    for path in ("/v1/endpoints", "/v1/tokens"):
        assert 403 == (await api.get(path, token=secret)).status
    assert 403 == (await api.get("/v1/endpoints", token="ingest")).status
    assert 401 == (await api.get("/v1/nothing", token="wrong")).status
    assert [
        ("authenticate", "/v1/endpoints", "forbidden", "acme"),
        ("authenticate", "/v1/endpoints", "forbidden", None),
        ("authenticate", "/v1/nothing", "unauthorized", None),
    ] == (await entries(api))[1:]
    assert [bound.id] == [each["token_id"] for each in (await api.get("/v1/audit", token=secret)).json["data"]]


async def test_the_trail_is_searched_by_who_what_and_when(api: Api) -> None:
    """By token, session or address; action, outcome or part of the path; time; page after page."""
    for n in range(5):
        await api.post("/v1/workspaces", {"id": f"acme-{n}"})
        await api.engine.clock.advance(60)
    await api.get("/v1/status", token="wrong")

    async def found(query: str) -> list[str]:
        targets, cursor = [], ""
        for _ in range(9):
            page = (await api.get(f"/v1/audit?limit=2&{query}{cursor}")).json
            targets += [each["target"].rpartition("/")[2] for each in page["data"]]
            if page["next"] is None:
                return targets
            cursor = f"&cursor={page['next']}"
        raise AssertionError(targets)

    every = [f"acme-{n}" for n in (4, 3, 2, 1, 0)]
    first = (await api.get("/v1/audit?what=acme-1")).json["data"][0]["at"]
    assert every == await found("who=tok_admin")
    assert ["status", *every] == await found("who=127.0.0.1")
    assert ["status"] == await found("what=unauthorized")
    assert every == await found("what=make_workspace")
    assert ["acme-3"] == await found("what=acme-3")
    assert every[:4] == await found(f"since={first}&who=tok_admin")
    assert every[4:] == await found(f"until={first}")
    assert [] == await found("who=nobody")
    assert 422 == (await api.get("/v1/audit?since=yesterday")).status


async def test_a_rare_match_is_found_page_by_page(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """One page looks at so many entries and no more; `next` leads on until the end."""
    monkeypatch.setattr(credentials, "AUDIT_WINDOW_ROWS", 3)
    for n in range(10):
        await api.post("/v1/workspaces", {"id": f"acme-{n}"})
    pages, cursor = [], ""
    for _ in range(9):
        page = (await api.get(f"/v1/audit?what=acme-0{cursor}")).json
        pages.append(len(page["data"]))
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert [0, 0, 0, 1] == pages


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
    await api.engine.clock.advance(WINDOW_SECONDS)
    await Browser(api).sign_in("wrong")
    assert 2 == len(await entries(api))


async def test_changes_on_the_page_name_the_session(api: Api) -> None:
    """Disabled there: the token that signed in, and the session."""
    endpoint = await api.engine.endpoint("https://a.example/")
    browser = Browser(api)
    await browser.sign_in(api.admin_token)
    await browser.send_form(f"/webhooks/{endpoint.id}/disable", {}, "/webhooks")
    entry, signed_in = (await api.get("/v1/audit")).json["data"]
    assert ("sign_in", "/sign-in", "done", entry["session_id"]) == tuple(
        signed_in[name] for name in ("action", "target", "outcome", "session_id")
    )
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


async def test_nobody_fills_the_disk_with_the_trail(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace has so many entries, unknown callers as well; they push out nothing of others."""
    monkeypatch.setattr(credentials, "AUDIT_ROWS_MAX", 20)
    monkeypatch.setattr(credentials, "AUDIT_PRUNE_EVERY", 10)
    for name in ("acme", "other"):
        await api.post("/v1/workspaces", {"id": name})
        await api.call("PATCH", f"/v1/workspaces/{name}", {"name": "x"})
    _, secret = await api.app.services.tokens.add("admin", "acme")
    for _ in range(50):
        await api.call("PATCH", "/v1/workspaces/acme", {"name": "x"}, token=secret)
    for n in range(50):
        await api.app.services.audit.refused(f"192.0.2.{n}", "/v1/status")
    found = Counter((action, workspace) for action, _, _, workspace in await entries(api))
    assert (2, 1) == (found["make_workspace", None], found["change_workspace", "other"])
    assert 20 <= found["change_workspace", "acme"] <= 30 and 20 <= found["authenticate", None] <= 30


async def test_no_secret_of_an_address_is_kept(api: Api) -> None:
    """Somebody's script may put one there: the trail has paths, and of a query what the page itself made."""
    browser = Browser(api)
    await browser.sign_in(api.admin_token)
    await browser.send_form("/access/tokens?token=whk_admin_secret", {"scope": "x"}, "/access")
    await api.get("/v1/status?token=whk_admin_secret", token="wrong")
    await api.post("/v1/workspaces?token=whk_admin_secret", {})
    assert b"whk_admin_secret" not in (await api.get("/v1/audit")).body
