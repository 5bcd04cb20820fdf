"""Who is signed in to the page: listed, and ended one by one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.api import Api, running_api
from tests.support.reader import Browser
from webhookd.clock import rfc3339
from webhookd.config import Config
from webhookd.store import credentials


async def test_sessions_are_listed_and_ended(api: Api) -> None:
    """With token, address, first and last use; ended at once, once; what ended by itself is listed no longer."""
    first, second = Browser(api), Browser(api)
    await first.sign_in(api.admin_token)
    await api.engine.clock.advance(60)
    await second.sign_in(api.admin_token)
    await api.engine.clock.advance(60)
    await first.get("/webhooks")
    one, other = (await api.get("/v1/sessions")).json["data"]
    now_ms = api.engine.clock.wall_ms()
    assert ("tok_admin", None, "127.0.0.1") == (one["token_id"], one["workspace"], one["address"])
    assert [rfc3339(now_ms - 120_000), rfc3339(now_ms)] == [one["created_at"], one["last_used_at"]]
    assert rfc3339(now_ms - 60_000) == other["last_used_at"]
    used = {each["id"]: each["last_used_at"] for each in (await api.get("/v1/tokens")).json["data"]}
    assert rfc3339(now_ms) == used["tok_admin"]
    assert 204 == (await api.call("DELETE", f"/v1/sessions/{one['id']}")).status
    assert (303, 200) == ((await first.get("/webhooks")).status, (await second.get("/webhooks")).status)
    assert 404 == (await api.call("DELETE", f"/v1/sessions/{one['id']}")).status
    assert [other["id"]] == [each["id"] for each in (await api.get("/v1/sessions")).json["data"]]
    await api.engine.clock.leap(Config().sessions.idle_minutes * 60)
    assert [] == (await api.get("/v1/sessions")).json["data"]
    assert 404 == (await api.call("DELETE", f"/v1/sessions/{other['id']}")).status


async def test_sessions_come_in_pages(api: Api) -> None:
    """Each once."""
    for _ in range(3):
        await Browser(api).sign_in(api.admin_token)
    page = (await api.get("/v1/sessions?limit=2")).json
    rest = (await api.get(f"/v1/sessions?limit=2&cursor={page['next']}")).json
    ids = [each["id"] for each in page["data"] + rest["data"]]
    assert (3, ids, None) == (len(set(ids)), sorted(ids), rest["next"])


async def test_a_bound_token_sees_those_of_its_workspace(api: Api) -> None:
    """And ends no other."""
    await api.post("/v1/workspaces", {"id": "acme"})
    token, secret = await api.app.services.tokens.add("admin", "acme")
    for each in (api.admin_token, secret):
        await Browser(api).sign_in(each)
        await api.engine.clock.advance(1)
    admins, own = (await api.get("/v1/sessions")).json["data"]
    assert (own["token_id"], own["workspace"]) == (token.id, "acme")
    assert [own] == (await api.get("/v1/sessions", token=secret)).json["data"]
    assert 404 == (await api.call("DELETE", f"/v1/sessions/{admins['id']}", token=secret)).status
    assert 204 == (await api.call("DELETE", f"/v1/sessions/{own['id']}", token=secret)).status
    assert [admins["id"]] == [each["id"] for each in (await api.get("/v1/sessions")).json["data"]]


async def test_an_open_live_log_ends_with_its_session(api: Api) -> None:
    """Within five seconds, as with its token."""
    browser = Browser(api)
    await browser.sign_in(api.admin_token)
    headers = {"Cookie": f"webhookd_session={browser.cookies['webhookd_session']}"}
    async with api.session.get(f"{api.url}/log/stream", headers=headers) as stream, asyncio.timeout(5):
        (one,) = (await api.get("/v1/sessions")).json["data"]
        await api.call("DELETE", f"/v1/sessions/{one['id']}")
        while await stream.content.readany():
            pass


async def test_a_session_ends_when_its_tokens_file_is_replaced(tmp_path: Path) -> None:
    """It is listed no longer either."""
    async with running_api(tmp_path) as api:
        await Browser(api).sign_in(api.admin_token)
    (tmp_path / "admin-token").write_text("another-admin-token-of-32-characters\n")
    async with running_api(tmp_path) as api:
        assert [] == (await api.get("/v1/sessions")).json["data"]


async def test_a_token_has_so_many_sessions_and_links(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least used ends for a new one; another token keeps its own, and its links."""
    monkeypatch.setattr(credentials, "SESSIONS_PER_TOKEN", 3)
    token, secret = await api.app.services.tokens.add("admin", None)
    other = Browser(api)
    await other.sign_in(api.admin_token)
    kept = (await api.post("/v1/sign-in-links")).json["url"].partition("#")[2]
    browsers = []
    for _ in range(5):
        browsers.append(Browser(api))
        await browsers[-1].sign_in(secret)
        await api.engine.clock.advance(1)
        await browsers[0].get("/webhooks")
        await api.app.last_used.write()
    assert [200, 303, 303, 200, 200] == [(await each.get("/webhooks")).status for each in browsers]
    assert 200 == (await other.get("/webhooks")).status
    codes = [(api.app.services.sessions.link("", token.id) or "").partition("#")[2] for _ in range(1100)]
    assert 303 == (await Browser(api).sign_in(kept)).status
    assert [403, 303] == [(await Browser(api).sign_in(each)).status for each in (codes[0], codes[-1])]
