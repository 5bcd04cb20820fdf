"""The portal: a link of the product signs in to one workspace's webhooks and log, and to nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Answer, Api, running_api
from tests.support.reader import FORM, Browser
from webhookd.config import Config, Listen
from webhookd.models import NewEvent
from webhookd.rules.ids import delivery_id
from webhookd.web.ui import routes

LINKS = "/v1/workspaces/acme/portal-links"
SITE = "https://hooks.example.com"
PRODUCT = "https://app.example.com"
HTTPS = {"Host": "hooks.example.com", "Origin": SITE}


@pytest.fixture
async def acme(api: Api) -> Api:
    await api.app.services.workspaces.create("acme", name="Acme")
    return api


async def enter(api: Api, browser: Browser | None = None, **fields: Any) -> Browser:
    """A browser that came in by a fresh link."""
    browser = browser or Browser(api)
    entered = await use(browser, (await api.call("POST", LINKS, fields)).json["url"])
    assert (303, "/portal/webhooks") == (entered.status, entered.headers["Location"])
    return browser


async def use(browser: Browser, url: str, **headers: str) -> Answer:
    return await browser.send_form("/portal", {"secret": url.partition("#")[2]}, "/portal", **headers)


async def test_a_link_signs_in_once_to_its_workspace(acme: Api) -> None:
    """It shows that workspace under the product's terms: its language, the way back; used again, it is refused."""
    made = await acme.call("POST", LINKS, {"language": "vi", "return_url": f"{PRODUCT}/settings"})
    assert (201, "2026-01-01T00:10:00.000Z") == (made.status, made.json["expires_at"])
    browser = Browser(acme)
    assert 303 == (await use(browser, made.json["url"])).status
    await acme.engine.endpoint("https://elsewhere.example/", workspace="default")
    await acme.engine.endpoint("https://acme.example/", workspace="acme")
    shown = (await browser.get("/portal/webhooks?workspace=default")).body.decode()
    assert 'lang="vi"' in shown and "acme.example" in shown and "elsewhere.example" not in shown
    assert f'<a href="{PRODUCT}/settings" target="_top">' in shown
    assert not re.findall(r'href="/(?!portal/|static/)', shown) and not re.findall(r'action="/(?!portal/)', shown)
    assert 403 == (await use(Browser(acme), made.json["url"])).status


async def test_a_link_ends(acme: Api) -> None:
    """After its time, with its token, with its workspace: and never meets the workspace's successor."""
    services, clock = acme.app.services, acme.engine.clock
    late, withdrawn, orphan = [(await acme.call("POST", LINKS, {"expires_in_seconds": 5})).json["url"] for _ in "123"]
    await clock.advance(6)
    assert 403 == (await use(Browser(acme), late)).status
    token, secret = await services.tokens.add("admin", None)
    withdrawn = (await acme.call("POST", LINKS, {}, token=secret)).json["url"]
    theirs, ours = Browser(acme), await enter(acme)
    await use(theirs, (await acme.call("POST", LINKS, {}, token=secret)).json["url"])
    assert 200 == (await theirs.get("/portal/webhooks")).status
    await services.tokens.revoke(token.id)
    assert 403 == (await use(Browser(acme), withdrawn)).status
    assert "/portal" == (await theirs.get("/portal/webhooks")).headers["Location"]
    orphan = (await acme.call("POST", LINKS, {})).json["url"]
    assert 200 == (await ours.get("/portal/webhooks")).status
    await services.workspaces.delete("acme")
    await services.workspaces.create("acme")
    assert "/portal" == (await ours.get("/portal/webhooks")).headers["Location"]
    assert 403 == (await use(Browser(acme), orphan)).status
    assert [] == (await acme.get("/v1/sessions")).json["data"]


async def test_the_portal_has_nothing_else(acme: Api) -> None:
    """No other page, no other workspace's ids, no API: each address of the page, with the cookies of the portal."""
    elsewhere = await acme.engine.endpoint("https://elsewhere.example/", workspace="default")
    event = NewEvent("m-1", "message.sent", b'{"event_type":"message.sent"}')
    accepted = await acme.app.services.ingest.accept("default", [event])
    browser = await enter(acme)
    proof = re.findall(r'name="proof" value="(\w+)"', (await browser.get("/portal/webhooks")).body.decode())[0]
    names = {"endpoint": elsewhere.id, "delivery": delivery_id(accepted[0].queued[0].seq), "workspace": "default"}
    opened = set()
    for method, path, _ in routes._SIGNED_IN:
        target = path.format(token="tok_admin", session="ses_1", **names)
        fields = {"proof": proof, "held": "skip"} if method == "POST" else None
        sent = {"Content-Type": FORM, "Origin": acme.url} if fields else {}
        if "/stream" in path:
            continue
        without = await browser.ask(method, target, sent, fields)
        assert without.status in (303, 403), path
        if without.status == 303:
            assert without.headers["Location"].startswith("/sign-in"), path
        within = await browser.ask(method, f"/portal{target}", sent, fields)
        if within.status != 404:
            opened.add(path)
    assert opened == {"/webhooks", "/webhooks/new", "/log", "/log/replay", "/event-types"}
    assert "active" == acme.app.registry.endpoint("default", elsewhere.id).state
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    for path in ("/v1/workspaces/acme/endpoints", "/v1/tokens", "/metrics"):
        assert 401 == (await acme.call("GET", path, token=None, headers={"Cookie": cookie})).status
    stolen = Browser(acme, {"webhookd_session": browser.cookies["webhookd_portal_session"]})
    assert 303 == (await stolen.get("/webhooks")).status


async def test_read_only_changes_nothing(acme: Api) -> None:
    """Every form and every page that leads to one is refused; the others are shown, without their buttons."""
    endpoint = await acme.engine.endpoint("https://acme.example/", workspace="acme")
    browser = await enter(acme, read_only=True)
    pages = [f"/portal{path.format(endpoint=endpoint.id)}" for path in ("/webhooks", "/webhooks/{endpoint}", "/log")]
    shown = [await browser.get(path) for path in (*pages, f"/portal/webhooks/{endpoint.id}/key", "/portal/event-types")]
    assert {200} == {each.status for each in shown}
    for each in shown:
        forms = re.findall(r'<form method="post" action="([^"]+)"|formaction="([^"]+)', each.body.decode())
        assert {("/portal/language", "")} == set(forms)
        assert not re.findall(r'href="[^"]*/(new|edit|enable|delete|backfill|replay)\b', each.body.decode())
    proof = re.findall(r'name="proof" value="(\w+)"', shown[0].body.decode())[0]
    for method, path, _ in routes._SIGNED_IN:
        if path.startswith("/webhooks/") and (
            method == "POST" or path.endswith(("/new", "/edit", "/enable", "/delete"))
        ):
            target = f"/portal{path.format(endpoint=endpoint.id)}"
            fields = {"proof": proof} if method == "POST" else None
            sent = {"Content-Type": FORM, "Origin": acme.url} if fields else {}
            assert 403 == (await browser.ask(method, target, sent, fields)).status, path
    assert endpoint == acme.app.registry.endpoint("acme", endpoint.id)


async def test_what_is_done_there_is_in_the_audit_trail(acme: Api) -> None:
    """The link, the sign-in and each change: with the token that made the link, and the session."""
    endpoint = await acme.engine.endpoint("https://acme.example/", workspace="acme")
    browser = await enter(acme)
    path = f"/portal/webhooks/{endpoint.id}"
    assert 303 == (await browser.send_form(f"{path}/disable", {}, path)).status
    (session,) = (await acme.get("/v1/sessions")).json["data"]
    assert ("acme", True, False) == (session["workspace"], session["portal"], session["read_only"])
    entries = (await acme.get("/v1/audit?limit=10")).json["data"]
    done = {
        each["action"]: (each["workspace"], each["token_id"], each["session_id"], each["target"]) for each in entries
    }
    assert ("acme", "tok_admin", None, LINKS) == done["make_portal_link"]
    assert ("acme", "tok_admin", session["id"], "/portal") == done["sign_in_to_portal"]
    assert ("acme", "tok_admin", session["id"], f"{path}/disable") == done["page"]


async def test_only_the_portal_may_be_framed_and_only_by_those_named(tmp_path: Path) -> None:
    """There its cookies go into frames of other sites, a jar for each; everywhere else nothing has changed."""
    listen = Listen(public_url=SITE, frame_ancestors=(PRODUCT,))
    async with running_api(tmp_path, Config(listen=listen)) as api:
        await api.app.services.workspaces.create("acme")
        browser, url = Browser(api), (await api.call("POST", LINKS, {})).json["url"]
        assert url.startswith(f"{SITE}/portal#")
        shown = await browser.get("/portal", Host="hooks.example.com")
        proof = re.findall(r'name="proof" value="(\w+)"', shown.body.decode())[0]
        entered = await browser.post("/portal", {"secret": url.partition("#")[2], "proof": proof}, **HTTPS)
        assert 303 == entered.status
        cookies = [*shown.headers.getall("Set-Cookie"), *entered.headers.getall("Set-Cookie")]
        for cookie in cookies:
            assert cookie.startswith("__Host-webhookd_portal_")
            assert {"Secure", "HttpOnly", "SameSite=None", "Partitioned", "Path=/"} <= set(cookie.split("; "))
        page = await browser.get("/portal/webhooks")
        for answer in (shown, page, await browser.get("/portal/nothing")):
            if answer.status != 404:
                assert answer.headers["Content-Security-Policy"].endswith(f"frame-ancestors {PRODUCT}")
                assert "X-Frame-Options" not in answer.headers
        outside = await browser.get("/sign-in")
        assert outside.headers["Content-Security-Policy"].endswith("frame-ancestors 'none'")
        assert "DENY" == outside.headers["X-Frame-Options"]
        assert all("SameSite=None" not in each for each in outside.headers.getall("Set-Cookie"))


@pytest.mark.parametrize(
    "fields",
    [
        {"expires_in_seconds": 0},
        {"expires_in_seconds": 604_801},
        {"language": "fr"},
        {"read_only": "yes"},
        {"return_url": "javascript:alert(1)"},
        {"return_url": "https://user:pw@app.example.com/"},
        {"return_url": "//app.example.com"},
        {"return_url": "https://app.example.com/\n"},
        {"return_url": "https://app.example.com/" + "x" * 2048},
        {"returns": "x"},
    ],
    ids=str,
)
async def test_a_malformed_link_is_refused(acme: Api, fields: dict[str, Any]) -> None:
    """With the field's name."""
    refused = await acme.call("POST", LINKS, fields)
    assert 422 == refused.status and next(iter(fields)) in refused.json["error"]["message"]


async def test_a_second_link_replaces_the_session(acme: Api) -> None:
    """As signing in does; the portal's sessions are none of those that end for a token's own."""
    browser = await enter(acme)
    reader = Browser(acme)
    await reader.sign_in(acme.admin_token)
    await enter(acme, browser)
    listed = (await acme.get("/v1/sessions")).json["data"]
    assert [False, True] == sorted(each["portal"] for each in listed)
    assert 200 == (await reader.get("/webhooks")).status
    assert "ses_" in (await reader.get("/access")).body.decode()
    assert listed[-1]["id"] not in (await reader.get("/access")).body.decode() or not listed[-1]["portal"]
