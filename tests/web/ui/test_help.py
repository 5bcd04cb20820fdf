"""*Help* shows the manual to everybody, in the page's own frame and policy."""

from __future__ import annotations

import pytest

from tests.support.api import Api
from tests.support.reader import Browser
from webhookd import manual


async def test_a_visitor_reads_every_topic(api: Api) -> None:
    """Linked from the header and the contents, without signing in; the language of the text is named."""
    visitor = Browser(api)
    assert 'href="/help"' in (await visitor.get("/sign-in")).body.decode()
    contents = (await visitor.get("/help")).body.decode()
    for topic in manual.TOPICS:
        assert f'href="/help/{topic}"' in contents
        page = await visitor.get(f"/help/{topic}")
        shown = page.body.decode()
        assert 200 == page.status and 'class="manual" lang="en"' in shown
        assert f'href="/help/{topic}" aria-current="page"' in shown
        assert "script-src 'self'" in page.headers["Content-Security-Policy"]


async def test_links_and_tables_are_fit_for_the_page(api: Api) -> None:
    """Between pages by /help/…, to files of the repository not at all; what is wide scrolls; headings have anchors."""
    shown = (await Browser(api).get("/help/receiving")).body.decode()
    assert 'href="/help/api#the-signed-request"' in shown and 'id="when-a-receiver-fails"' in shown
    assert "<code>receive.py</code>" in shown and "etc/recipes" not in shown
    assert '<div class="scroll" tabindex="0"><table>' in shown and '<pre tabindex="0">' in shown


async def test_a_reader_who_is_signed_in_keeps_the_navigation(api: Api) -> None:
    """The rest of the page stays one click away; other workspaces too."""
    browser = Browser(api)
    await browser.sign_in(api.admin_token)
    await api.app.services.workspaces.create("acme")
    shown = (await browser.get("/help/sending?workspace=acme")).body.decode()
    assert 'href="/log?workspace=acme"' in shown and 'href="/help/receiving?workspace=acme"' in shown


@pytest.mark.parametrize(
    "path", ["/help/nothing", "/help/..%2fapi", "/help/images/nothing.png", "/help/images/a%2fb.png"]
)
async def test_what_is_not_there_is_a_404(api: Api, path: str) -> None:
    """No file but the manual's can be named."""
    assert 404 == (await Browser(api).get(path)).status


async def test_pictures_are_served(api: Api) -> None:
    """As PNG."""
    answer = await Browser(api).get("/help/images/page.png")
    assert (200, "image/png") == (answer.status, answer.headers["Content-Type"])
    assert answer.body.startswith(b"\x89PNG")
