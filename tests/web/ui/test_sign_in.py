"""Signing in to the page, and what a change has to bring before it is made."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.support.api import Api, running_api
from tests.support.reader import Browser
from webhookd.admin.sessions import CODE_SECONDS
from webhookd.admin.throttle import REFUSED_MAX, WINDOW_SECONDS
from webhookd.config import Config, Listen, Sessions


def code_of(link: str) -> str:
    return link.partition("#")[2]


async def test_a_token_signs_in_and_the_cookie_is_hidden_from_scripts(api: Api) -> None:
    """The admin token opens the page; the cookie is HttpOnly, SameSite=Lax, for twelve hours, not the token itself."""
    browser = Browser(api)
    answer = await browser.sign_in(api.admin_token)
    assert (303, "/webhooks") == (answer.status, answer.headers["Location"])
    cookie = next(each for each in answer.headers.getall("Set-Cookie") if each.startswith("webhookd_session="))
    assert {"HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=43200"} <= {part.strip() for part in cookie.split(";")}
    assert api.admin_token not in cookie
    assert 200 == (await browser.get("/webhooks")).status


async def test_the_cookie_is_for_https_alone_where_the_page_is_reached_by_it(tmp_path: Path) -> None:
    """`public_url` with https makes the cookie Secure, and its origin is one of ours; the link leads there."""
    config = Config(listen=Listen(public_url="https://hooks.example.com/"))
    async with running_api(tmp_path, config) as api:
        browser = Browser(api)
        shown = (await browser.get("/sign-in")).body.decode()
        proof = re.findall(r'name="proof" value="([0-9a-f]+)"', shown)[0]
        fields = {"proof": proof, "secret": api.admin_token}
        answer = await browser.post("/sign-in", fields, Origin="https://hooks.example.com")
        cookies = answer.headers.getall("Set-Cookie")
        assert all(each.startswith("__Host-") and "Secure" in each and "Path=/" in each for each in cookies)
        assert 200 == (await browser.get("/webhooks")).status
        link = (await api.post("/v1/sign-in-links")).json["url"]
        assert link.startswith("https://hooks.example.com/sign-in#")


async def test_a_link_works_once_and_for_ten_minutes(api: Api) -> None:
    """A code is 128 bits, spent by its first use, worthless after ten minutes."""
    answer = await api.post("/v1/sign-in-links")
    assert 201 == answer.status
    code = answer.json["url"].partition("#")[2]
    assert 22 == len(code)
    assert 303 == (await Browser(api).sign_in(code)).status
    assert 403 == (await Browser(api).sign_in(code)).status
    late = code_of((await api.post("/v1/sign-in-links")).json["url"])
    await api.engine.clock.advance(CODE_SECONDS)
    assert 403 == (await Browser(api).sign_in(late)).status


async def test_a_link_is_for_admins_alone(api: Api) -> None:
    """No token, no link; an ingest token, no link; and neither it nor an observe token signs in."""
    assert 401 == (await api.post("/v1/sign-in-links", token=None)).status
    assert 403 == (await api.post("/v1/sign-in-links", token="ingest")).status
    _, observe = await api.app.services.tokens.add("observe", None)
    for secret in (api.ingest_token, observe, "", "x" * 2000):
        assert 403 == (await Browser(api).sign_in(secret)).status


async def test_a_session_ends_unused_with_its_token_and_at_sign_out(api: Api, browser: Browser) -> None:
    """Each of the three ends it; the cookie alone is worth nothing then."""
    token, secret = await api.app.services.tokens.add("admin", None)
    revoked, left = Browser(api), Browser(api)
    await revoked.sign_in(secret)
    await left.sign_in(api.admin_token)
    cookie = left.cookies["webhookd_session"]
    await left.send_form("/sign-out", {}, "/webhooks")
    left.cookies["webhookd_session"] = cookie
    assert 303 == (await left.get("/webhooks")).status
    await api.app.services.tokens.revoke(token.id)
    assert 303 == (await revoked.get("/webhooks")).status
    assert 200 == (await browser.get("/webhooks")).status
    await api.engine.clock.leap(Config().sessions.idle_minutes * 60)
    assert "/sign-in?then=%2Fwebhooks" == (await browser.get("/webhooks")).headers["Location"]


async def test_a_session_has_an_idle_and_an_absolute_limit(tmp_path: Path) -> None:
    """Clicks keep it, what the page fetches by itself doesn't; nothing keeps it past the absolute one, nor a reload."""
    limits = Sessions(idle_minutes=30, max_hours=2)
    async with running_api(tmp_path, Config(sessions=limits)) as api:
        clicks, watches = Browser(api), Browser(api)
        for browser in (clicks, watches):
            await browser.sign_in(api.admin_token)
        for _ in range(2):
            await api.engine.clock.leap(20 * 60)
            assert 200 == (await clicks.get("/webhooks", Sec_Fetch_Mode="navigate")).status
            last = await watches.get("/webhooks", Sec_Fetch_Mode="cors")
        assert 303 == last.status
    async with running_api(tmp_path, Config(sessions=limits)) as api:
        clicks.api = api
        await api.engine.clock.leap(40 * 60)  # where the other one ended
        assert 200 == (await clicks.get("/webhooks")).status
        api.app.reload(Config(sessions=Sessions(idle_minutes=30, max_hours=0.5)))
        assert 303 == (await clicks.get("/webhooks")).status
        api.app.reload(Config(sessions=Sessions(idle_minutes=1440, max_hours=720)))
        assert 200 == (await clicks.get("/webhooks")).status
        await api.engine.clock.leap(80 * 60)
        assert 303 == (await clicks.get("/webhooks")).status


async def test_a_session_outlives_a_restart_and_is_kept_hashed(tmp_path: Path) -> None:
    """The same cookie works on the same state directory; the database doesn't hold it."""
    async with running_api(tmp_path) as api:
        browser = Browser(api)
        await browser.sign_in(api.admin_token)
    assert browser.cookies["webhookd_session"].encode() not in (tmp_path / "webhookd.db").read_bytes()
    async with running_api(tmp_path) as api:
        browser.api = api
        assert 200 == (await browser.get("/webhooks")).status


async def test_a_bound_token_sees_its_workspace_alone(api: Api) -> None:
    """Signed in with acme's token: acme, whatever the address says; no switch; others' endpoints are not found."""
    await api.app.services.workspaces.create("acme", name="Acme")
    mine = await api.engine.endpoint("https://acme.example/hook", workspace="acme")
    other = await api.engine.endpoint("https://default.example/hook")
    _, secret = await api.app.services.tokens.add("admin", "acme")
    link = (await api.post("/v1/sign-in-links", token=secret)).json["url"]
    browser = Browser(api)
    await browser.sign_in(code_of(link))
    for path in ("/webhooks", "/webhooks?workspace=default"):
        shown = (await browser.get(path)).body.decode()
        assert "acme.example" in shown and "default.example" not in shown and "<select" not in shown
    assert 200 == (await browser.get(f"/webhooks/{mine.id}")).status
    assert 404 == (await browser.get(f"/webhooks/{other.id}?workspace=default")).status
    assert 404 == (await browser.get(f"/workspaces/default/endpoints/{other.id}")).status
    assert 404 == (await browser.send_form(f"/webhooks/{other.id}/disable", {}, "/webhooks")).status


async def test_a_switch_appears_with_the_second_workspace(api: Api, browser: Browser) -> None:
    """One workspace, no switch; two, a switch, and the address carries the choice."""
    assert b'id="workspace"' not in (await browser.get("/webhooks")).body
    await api.app.services.workspaces.create("acme", name="Acme")
    shown = (await browser.get("/webhooks?workspace=acme")).body.decode()
    assert '<option value="acme" selected>' in shown and "/webhooks/new?workspace=acme" in shown
    assert 404 == (await browser.get("/webhooks?workspace=nobody")).status


async def test_guessing_is_throttled_and_forgotten(api: Api) -> None:
    """After ten wrong tries in a minute the next one waits; the right token signs in whatever others tried."""
    browser = Browser(api)
    for _ in range(REFUSED_MAX):
        assert 403 == (await browser.sign_in("wrong")).status
    assert 429 == (await browser.sign_in("wrong")).status
    assert 303 == (await Browser(api).sign_in(api.admin_token)).status
    await api.engine.clock.advance(WINDOW_SECONDS)
    assert 403 == (await browser.sign_in("wrong")).status


@pytest.mark.parametrize(
    ("public_url", "host", "forwarded", "origin", "ok"),
    [
        ("", "", "", "http://{host}", True),
        ("", "", "", "https://{host}", False),
        ("", "", "https", "https://{host}", True),
        ("", "", "https", "http://{host}", False),
        ("https://hooks.example.com", "hooks.example.com", "", "https://hooks.example.com", True),
        ("https://hooks.example.com:443/", "hooks.example.com", "", "https://hooks.example.com", True),
        ("https://hooks.example.com", "hooks.example.com", "", "http://hooks.example.com", False),
        ("https://hooks.example.com", "hooks.example.com", "http", "http://hooks.example.com", False),
    ],
)
async def test_the_scheme_belongs_to_the_origin(
    tmp_path: Path, public_url: str, host: str, forwarded: str, origin: str, *, ok: bool
) -> None:
    """A page that was brought over http is another site than ours over https."""
    async with running_api(tmp_path, Config(listen=Listen(public_url=public_url))) as api:
        given = {"Origin": origin.format(host=f"127.0.0.1:{api.port}"), "Host": host, "X_Forwarded_Proto": forwarded}
        answer = await Browser(api).send_form("/language", {"language": "en"}, "/sign-in", **given)
        assert (303 if ok else 403) == answer.status


async def test_a_change_without_its_proof_is_not_made(api: Api, browser: Browser) -> None:
    """No hidden field, a wrong one, or another session's: 403; JSON in place of a form: 415."""
    endpoint = await api.engine.endpoint("https://example.com/hook")
    other = Browser(api)
    await other.sign_in(api.admin_token)
    shown = (await other.get("/webhooks")).body.decode()
    others = re.findall(r'name="proof" value="([0-9a-f]+)"', shown)[0]
    path = f"/webhooks/{endpoint.id}/disable"
    for fields in ({}, {"proof": "0" * 64}, {"proof": others}, {"proof": "é"}):
        assert 403 == (await browser.post(path, fields)).status
    assert 415 == (await browser.post(path, {}, Content_Type="application/json")).status
    assert api.app.registry.endpoint("default", endpoint.id).active


async def test_nothing_is_shown_or_done_without_a_session(api: Api) -> None:
    """Every address but the sign-in leads there, with the way back; a way back to elsewhere is not taken."""
    browser = Browser(api)
    for path in ("/webhooks", "/log?state=dropped", "/log/stream", "/settings/integrations"):
        answer = await browser.get(path)
        assert (303, True) == (answer.status, answer.headers["Location"].startswith("/sign-in?then=%2F"))
    for then, leads_to in (
        ("/log?state=dropped", "/log?state=dropped"),
        ("//evil.example", "/webhooks"),
        ("/\\evil.example", "/webhooks"),
        ("https://evil.example", "/webhooks"),
        ("/\nevil", "/webhooks"),
    ):
        fields = {"secret": api.admin_token, "then": then}
        answer = await Browser(api).send_form("/sign-in", fields, "/sign-in")
        assert leads_to == answer.headers["Location"]


async def test_pages_say_what_a_browser_may_do_with_them(browser: Browser) -> None:
    """A policy without inline script and style, no frames, no sniffing, no keeping; files of the page may be kept."""
    for path in ("/webhooks", "/sign-in", "/webhooks/none", "/log"):
        answer = await browser.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert "no-store" == answer.headers["Cache-Control"]
        assert "nosniff" == answer.headers["X-Content-Type-Options"]
        assert "same-origin" == answer.headers["Referrer-Policy"]
        text = answer.body.decode()
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?! src=)", text)
        for file in re.findall(r'(?:href|src)="(/static/[^"]+)"', text):
            got = await browser.get(file)
            assert (200, True) == (got.status, "immutable" in got.headers["Cache-Control"])
            plain = await browser.get(file, Accept_Encoding="gzip; q=0, br")
            assert ("gzip", None) == tuple(each.headers.get("Content-Encoding") for each in (got, plain))
            assert got.body == plain.body and "Accept-Encoding" == plain.headers["Vary"]
    assert 404 == (await browser.get("/static/..%2Fpages.py")).status


async def test_the_live_stream_is_the_sessions(api: Api) -> None:
    """Signed in, what happens comes as it happens, of the own workspace alone; without a session, nothing."""
    await api.app.services.workspaces.create("acme", name="Acme")
    await api.engine.endpoint("https://example.com/hook")
    await api.engine.endpoint("https://acme.example/hook", workspace="acme")
    _, secret = await api.app.services.tokens.add("admin", "acme")
    browser = Browser(api)
    await browser.sign_in(secret)
    headers = {"Cookie": f"webhookd_session={browser.cookies['webhookd_session']}"}
    async with api.session.get(f"{api.url}/log/stream", headers=headers) as stream, asyncio.timeout(20):
        assert "text/event-stream" == stream.content_type
        await api.engine.send("of-default")
        await api.engine.send("of-acme", workspace="acme")
        seen = ""
        while "of-acme" not in seen:
            seen += (await stream.content.readany()).decode()
        assert "of-default" not in seen
