"""*Help* shows the manual to everybody, in the page's own frame and policy."""

from __future__ import annotations

import re

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
        assert 200 == page.status and '<article lang="en">' in shown
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


TRANSLATED = [each for each in manual.TOPICS if manual.language_of(each, "vi") == "vi"]


@pytest.mark.parametrize("topic", TRANSLATED)
def test_a_page_in_vietnamese_says_all_that_the_english_one_does(topic: str) -> None:
    """The same headings, rows, commands, programs and links, and what stands in the code's own words."""
    english, vietnamese = (manual.read(topic, language) for language in ("en", "vi"))
    for pattern in (
        r"(?m)^#+ ",
        r"(?m)^\|",
        r"(?m)^(?:- |\d\. )",
        r"(?m)^ {4,}.*$",
        r"\]\((?:\.\./)*([^)]+)\)",
        r"`[^`]+`",
    ):
        found = [sorted(re.findall(pattern, text)) for text in (english, vietnamese)]
        assert found[0] == found[1], pattern


async def test_help_is_in_the_readers_language_where_it_is_written(api: Api) -> None:
    """With the English page's anchors; what is English alone says so."""
    assert {"sending", "receiving", "filters-and-ordering", "portal"} == set(TRANSLATED)
    visitor = Browser(api)
    shown = (await visitor.get("/help/receiving", Accept_Language="vi")).body.decode()
    assert '<article lang="vi">' in shown and "Nhận webhook" in shown and 'id="when-a-receiver-fails"' in shown
    assert 'href="/help/behaviour#failure-budget"' in shown
    assert "chỉ có bằng tiếng Anh" in (await visitor.get("/help/api", Accept_Language="vi")).body.decode()


async def test_the_portal_has_the_pages_for_receivers(api: Api) -> None:
    """And no link to the others."""
    visitor = Browser(api)
    shown = (await visitor.get("/portal/help/receiving")).body.decode()
    assert 'href="/portal/event-types"' in shown and "/help/api" not in shown and 'href="/help' not in shown
    assert 404 == (await visitor.get("/portal/help/security")).status


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
