"""The page of tokens and sessions."""

from __future__ import annotations

import re

from tests.support.api import Api
from tests.support.reader import Browser
from webhookd.clock import rfc3339


async def signed_in(api: Api, secret: str = "") -> Browser:
    browser = Browser(api)
    assert 303 == (await browser.sign_in(secret or api.admin_token)).status
    return browser


async def test_a_token_is_made_shown_once_and_revoked(api: Api) -> None:
    """The secret stands on the page once, in no address; reloading makes no second token; revoking ends it."""
    browser = await signed_in(api)
    at = api.engine.clock.wall_ms() + 3_600_000
    fields = {"scope": "ingest", "workspace": "", "note": "<helpdesk>", "expires": rfc3339(at)[:19]}
    made = await browser.send_form("/access/tokens", fields, "/access")
    assert (303, "/access?said=token_made") == (made.status, made.headers["Location"])
    shown = (await browser.get("/access?said=token_made")).body.decode()
    secret = re.findall(r"whk_ingest_[\w-]+", shown)[0]
    assert "&lt;helpdesk&gt;" in shown
    again = (await browser.get("/access?said=token_made")).body.decode()
    assert secret not in again and 3 == again.count('class="id">tok_')
    assert 202 == (await api.post("/v1/events", {"event_type": "message.sent"}, token=secret)).status
    (token,) = [each for each in await api.app.services.tokens.list() if each.note == "<helpdesk>"]
    assert at // 1000 == (token.expires_at_ms or 0) // 1000
    await browser.send_form(f"/access/tokens/{token.id}/revoke", {}, "/access")
    assert 401 == (await api.post("/v1/events", {"event_type": "message.sent"}, token=secret)).status
    assert 403 == (await browser.send_form("/access/tokens/tok_admin/revoke", {}, "/access")).status


async def test_a_cookie_of_somebody_else_shows_nothing(api: Api) -> None:
    """Only a secret that is one: a planted cookie must not pass for a token."""
    browser = await signed_in(api)
    browser.cookies["webhookd_shown"] = "whk_admin_planted"
    assert b"planted" not in (await browser.get("/access")).body


async def test_what_is_wrong_is_said(api: Api) -> None:
    """An end that is over, a workspace that isn't there: nothing is made."""
    browser = await signed_in(api)
    for wrong in ({"expires": "2020-01-01T00:00"}, {"expires": "soon"}, {"workspace": "nobody"}, {"scope": "root"}):
        answer = await browser.send_form("/access/tokens", {"scope": "observe", **wrong}, "/access")
        assert answer.status in (404, 422) and b'role="alert"' in answer.body
    assert 2 == len(await api.app.services.tokens.list())


async def test_a_bound_reader_has_sessions_alone(api: Api) -> None:
    """No list of tokens, none made, none revoked, none of whatever workspace."""
    await api.post("/v1/workspaces", {"id": "acme"})
    token, secret = await api.app.services.tokens.add("admin", "acme")
    browser = await signed_in(api, secret)
    shown = (await browser.get("/access")).body.decode()
    assert "tok_admin" not in shown and "ses_" in shown
    fields = {"scope": "admin", "workspace": "acme"}
    assert 403 == (await browser.send_form("/access/tokens", fields, "/access")).status
    assert 403 == (await browser.send_form(f"/access/tokens/{token.id}/revoke", {}, "/access")).status


async def test_ones_sessions_are_listed_and_ended(api: Api) -> None:
    """One, then all others; the own stays; those of another token are not seen and not ended."""
    _, other = await api.app.services.tokens.add("admin", None)
    browsers = []
    for secret in (other, "", "", ""):
        browsers.append(await signed_in(api, secret))
        await api.engine.clock.advance(1)  # so that they are listed in this order
    stranger, mine, lost, more = browsers
    sessions = await api.app.services.sessions.list()
    shown = (await mine.get("/access")).body.decode()
    assert [False, True, True, True] == [each.id in shown for each in sessions]
    assert 404 == (await mine.send_form(f"/access/sessions/{sessions[0].id}/end", {}, "/access")).status
    ended = await mine.send_form(f"/access/sessions/{sessions[2].id}/end", {}, "/access")
    assert "/access?said=sessions_ended&n=1" == ended.headers["Location"]
    assert (303, 200) == ((await lost.get("/webhooks")).status, (await more.get("/webhooks")).status)
    await mine.send_form("/access/sessions/others/end", {}, "/access")
    statuses = [(await each.get("/webhooks")).status for each in (stranger, mine, more)]
    assert [200, 200, 303] == statuses
