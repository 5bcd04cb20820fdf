"""The page of the audit trail: who may see what of it, how it is searched."""

from __future__ import annotations

from tests.support.api import Api
from tests.support.reader import Browser


async def trail(browser: Browser, path: str = "/audit") -> str:
    """The page without what stands around it."""
    return (await browser.get(path)).body.decode().split("<main")[1]


async def test_the_trail_on_the_page(api: Api) -> None:
    """Linked from every page; the whole of it without a bound; what strangers wrote is escaped."""
    await api.post("/v1/workspaces", {"id": "acme"})
    await api.get("/v1/status%3Cscript%3E", token="wrong")
    browser = Browser(api)
    await browser.sign_in(api.admin_token)
    assert b'href="/audit"' in (await browser.get("/webhooks")).body
    shown = await trail(browser)
    for each in ("make_workspace", "/v1/workspaces/acme", "sign_in", "unauthorized"):
        assert each in shown
    assert "<script>" not in shown and "&lt;script&gt;" in shown


async def test_it_is_searched_and_paged(api: Api) -> None:
    """Who, what, since, until; older ones behind a link that keeps the filter; a malformed time is said."""
    for n in range(60):
        await api.post("/v1/workspaces", {"id": f"acme-{n:02}"})
    browser = Browser(api)
    await browser.sign_in(api.admin_token)
    newest = await trail(browser, "/audit?who=tok_admin&what=make_workspace")
    assert "acme-59" in newest and "acme-10" in newest and "acme-09" not in newest
    older = newest.split('rel="next" href="')[1].split('"')[0].replace("&amp;", "&")
    assert "who=tok_admin" in older
    shown = await trail(browser, older)
    assert "acme-09" in shown and "acme-10" not in shown and "sign_in" not in shown
    assert "make_workspace" not in await trail(browser, "/audit?what=sign_in")
    assert "make_workspace" not in await trail(browser, "/audit?until=2020-01-01T00:00")
    assert 422 == (await browser.get("/audit?since=yesterday")).status


async def test_a_bound_reader_sees_the_own_workspace_alone(api: Api) -> None:
    """Whatever the address says."""
    for name in ("acme", "other"):
        await api.post("/v1/workspaces", {"id": name})
        await api.call("PATCH", f"/v1/workspaces/{name}", {"name": name.upper()})
    _, secret = await api.app.services.tokens.add("admin", "acme")
    browser = Browser(api)
    await browser.sign_in(secret)
    for path in ("/audit", "/audit?workspace=other", "/audit?who=tok_admin"):
        shown = await trail(browser, path)
        assert "/v1/workspaces/acme" in shown and "other" not in shown.split("</form>")[1]
