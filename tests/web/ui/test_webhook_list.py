"""The table of webhooks when there are many, and what a webhook's page says first."""

from __future__ import annotations

import html
import re

import pytest

from tests.support.api import Api
from tests.support.reader import Browser
from webhookd.config import Budget, Config
from webhookd.models import Endpoint

NAMES = ("Zebra", "Apple", "Mango", "Kiwi", "Fig", "Plum", "Pear", "Lime", "Date")


@pytest.fixture
def config() -> Config:
    return Config(budget=Budget(limit=5))


@pytest.fixture
async def nine(api: Api) -> list[Endpoint]:
    """Nine webhooks: Mango is auto-disabled with three events held, Kiwi was disabled by a person and holds one."""
    made = [
        await api.app.services.endpoints.create(
            "default",
            url=f"https://{name.lower()}.example/hook",
            event_types=["call.ended" if name != "Mango" else "message.received"],
            description=name,
        )
        for name in NAMES
    ]
    api.engine.network.answer = lambda url, webhook_id: 503 if "mango" in url else 200
    await api.engine.send("e0", "e1", "e2", "e3", event_type="message.received")
    await api.engine.advance(240)
    await api.engine.app.services.endpoints.disable("default", made[3].id)
    await api.engine.send("c0", event_type="call.ended")
    await api.engine.quiet()
    return made


async def shown(browser: Browser, path: str) -> str:
    answer = await browser.get(path)
    assert 200 == answer.status
    return html.unescape(answer.body.decode())


async def names(browser: Browser, path: str) -> list[str]:
    return re.findall(r'<a class="name"[^>]*><bdi[^>]*>([^<]+)<', await shown(browser, path))


def words(page: str, begin: str) -> str:
    found = re.search(rf"<[^>]*{begin}.*?</(?:div|section)>", page, re.DOTALL)
    assert found is not None
    return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split())


async def test_stopped_ones_come_first_and_a_banner_counts_them(browser: Browser, nine: list[Endpoint]) -> None:
    """Auto-disabled, then disabled, then the rest; the banner has links to them, the row a button."""
    page = await shown(browser, "/webhooks")
    assert ["Mango", "Kiwi", "Zebra"] == (await names(browser, "/webhooks"))[:3]
    assert "2 webhooks are stopped, 4 events held: Mango , Kiwi" == words(page, 'class="note bad stopped"')
    assert f'<a href="/webhooks/{nine[2].id}">' in page
    assert f'<a class="button main small" href="/webhooks/{nine[2].id}/enable">Enable<' in page
    assert page.count('<svg class="spark"') == 8  # of the last 24 hours; Kiwi had nothing sent
    assert "0% of 6 attempts succeeded in the last 24 hours" in page
    assert re.search(r"<th[^>]*>Actions</th>", page)


async def test_search_filter_sort_and_pages_are_in_the_address(
    browser: Browser, nine: list[Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All by the server; what an address can't mean reads as if it weren't there."""
    assert ["Mango"] == await names(browser, "/webhooks?q=MANGO.example")
    assert ["Mango"] == await names(browser, f"/webhooks?q={nine[2].id}")
    assert ["Mango", "Kiwi"] == await names(browser, "/webhooks?state=stopped")
    assert ["Mango"] == await names(browser, "/webhooks?state=auto_disabled")
    assert ["Mango"] == await names(browser, "/webhooks?state=failing")
    assert ["Kiwi"] == await names(browser, "/webhooks?state=disabled&sort=name")
    assert 7 == len(await names(browser, "/webhooks?state=active"))
    assert sorted(NAMES) == await names(browser, "/webhooks?sort=name")
    assert list(NAMES[::-1]) == await names(browser, "/webhooks?sort=newest")
    assert ["Mango", "Kiwi"] == (await names(browser, "/webhooks?sort=waiting"))[:2]
    assert "Mango" == (await names(browser, "/webhooks?sort=failures"))[0]
    assert "No webhook matches." in await shown(browser, "/webhooks?q=nothing+like+it")
    monkeypatch.setattr("webhookd.web.ui.webhook_list.PAGE_ROWS", 4)
    seen: list[str] = []
    path = "/webhooks?sort=name"
    while path:
        page = await shown(browser, path)
        seen += await names(browser, path)
        onwards = re.search(r'rel="next" href="([^"]+)"', page)
        path = onwards[1] if onwards else ""
    assert sorted(NAMES) == seen and "9–9 of 9" in page
    for odd in ("page=99", "page=-1", "page=x", "state=x", "sort=x", "page=1000000000000"):
        assert 200 == (await browser.get(f"/webhooks?{odd}")).status


async def test_a_script_that_keeps_up_gets_the_rows_that_changed(browser: Browser, nine: list[Endpoint]) -> None:
    """Of the rows that it names, with the banner and the budget; no more."""
    page = await shown(browser, f"/webhooks?only={nine[0].id},ep_gone")
    assert [f"row-{nine[0].id}"] == re.findall(r'<tr[^>]* id="([^"]+)"', page)
    assert 'id="stopped"' in page and 'id="budget"' in page and "<header" not in page
    assert [] == await names(browser, "/webhooks?only=")


async def test_enable_is_one_click_where_nothing_is_held(api: Api, browser: Browser, nine: list[Endpoint]) -> None:
    """Otherwise the button leads to the choice; enabling from the table returns to it."""
    await api.app.services.endpoints.disable("default", nine[2].id)
    await api.app.services.endpoints.enable("default", nine[3].id)
    await api.app.services.endpoints.disable("default", nine[0].id)
    path = f"/webhooks/{nine[0].id}/enable"
    assert f'<button class="main small" form="change" formaction="{path}" ' in await shown(browser, "/webhooks")
    answer = await browser.send_form(path, {"then": "list"}, "/webhooks")
    assert (303, "/webhooks?said=enabled") == (answer.status, answer.headers["Location"])


async def test_a_webhooks_page_says_the_reason_first_and_once(browser: Browser, nine: list[Endpoint]) -> None:
    """Before everything else, in words; what failed stands before what only waits."""
    page = await shown(browser, f"/webhooks/{nine[2].id}")
    assert 1 == page.count("The receiver answered 503; 200 was expected.")
    assert page.index("The receiver answered 503") < page.index('id="health"') < page.index('id="recent"')
    rows = re.findall(r'<bdi class="id">(e\d)</bdi>.*?<td[^>]*class="tries[^>]*>(\d+)<', page, re.DOTALL)
    assert [("e1", "2"), ("e0", "4"), ("e3", "0"), ("e2", "0")] == rows


async def test_a_bar_of_the_chart_leads_to_its_deliveries(browser: Browser, nine: list[Endpoint]) -> None:
    """Each span with anything is a link to the log of just that time; so without a script too."""
    for reach, name in (("hour", "1 hour"), ("day", "24 hours"), ("week", "7 days"), ("year", "24 hours")):
        page = await shown(browser, f"/webhooks/{nine[2].id}?range={reach}")
        found: list[str] = []
        for link in re.findall(r'<a class="bar" href="([^"]+)"', page):
            found += re.findall(r'<bdi class="id">(\w+)</bdi></div>', await shown(browser, link))
        assert ["e0", "e1", "e2", "e3"] == sorted(found)
        assert [name] == re.findall(r'aria-current="true">([^<]+)</a>\s*(?:<a|</nav>\s*</figcaption>)', page)[-1:]


async def test_a_failed_test_is_red_and_offers_another(api: Api, browser: Browser, nine: list[Endpoint]) -> None:
    """On the delivery's page, and in the dialog of *Enable*, which it returns to."""
    path = f"/webhooks/{nine[2].id}"
    answer = await browser.send_form(f"{path}/test", {"event_type": "call.ended"}, path)
    page = await shown(browser, answer.headers["Location"])
    assert '<p class="note bad" role="alert">The test failed' in page
    assert re.search(rf'action="{path}/test".*?value="call.ended".*?Send another', page, re.DOTALL)
    answer = await browser.send_form(f"{path}/test", {"then": "enable"}, f"{path}/enable")
    assert answer.headers["Location"].startswith(f"{path}/enable?said=tested_failed&test=dlv_")
    page = await shown(browser, answer.headers["Location"])
    assert "Send another" in page and '<p class="note bad" role="alert">' in page and ">What came back</a>" in page
    api.engine.network.answer = lambda url, webhook_id: 200
    answer = await browser.send_form(f"{path}/test", {"then": "enable"}, f"{path}/enable")
    assert '<p class="note good" role="status">The test was delivered.' in await shown(
        browser, answer.headers["Location"]
    )
