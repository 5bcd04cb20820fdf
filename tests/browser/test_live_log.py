"""The live log in a browser: under a reader who scrolled down nothing slides."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Open, Receiver, Site, until
from webhookd.models import NewEvent


async def test_scrolled_down_nothing_slides(opened: Open, site: Site, receiver: Receiver) -> None:
    """A button says how many are new, and leads to them; at the top the list keeps up by itself."""
    page = await opened(viewport={"width": 1000, "height": 500})
    await site.endpoint()
    ids = [f"old-{number}" for number in range(30)]
    await site.send(*ids)
    await until(lambda: len(receiver.delivered) == 30)
    await page.goto(f"{site.url}/log")
    row = page.get_by_role("row").filter(has_text="old-10")
    await expect(row.get_by_text("Delivered")).to_be_visible()
    await page.evaluate("scrollTo(0, 700)")  # not by a row: the page may be replacing it with a fresh one
    place = await row.evaluate("row => row.getBoundingClientRect().top")
    button = page.locator("#new-rows")
    await expect(button).to_be_hidden()
    await site.send("new-1", "new-2", "new-3", "new-4")
    await expect(button).to_have_text("4 new ↑")
    assert place == await row.evaluate("row => row.getBoundingClientRect().top")
    await expect(page.get_by_text("new-4")).to_have_count(0)
    await button.click()
    await expect(page.get_by_text("new-4")).to_be_visible()
    await expect(button).to_be_hidden()
    await site.send("new-5")
    await expect(page.get_by_text("new-5")).to_be_visible()
    await expect(button).to_be_hidden()


async def test_search_on_comes_and_goes_with_the_live_list(
    opened: Open, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a search no longer reaches the row that was shown, the link that reaches it is there."""
    monkeypatch.setattr("webhookd.store.delivery_log.WINDOW_ROWS", 10)
    monkeypatch.setattr("webhookd.store.delivery_log.NEWEST_ROWS", 3)
    monkeypatch.setattr("webhookd.web.ui.log.SEARCH_SECONDS", 0)
    page = await opened()
    await site.endpoint()
    await site.send("old")
    await page.goto(f"{site.url}/log?event_type=message.received")
    await expect(page.get_by_text("old", exact=True)).to_be_visible()
    onwards = page.get_by_role("link", name="Search on, further back")
    await expect(onwards).to_have_count(0)
    others = [NewEvent(f"other-{number}", "message.sent", b"{}") for number in range(25)]
    await site.app.services.ingest.accept("default", others)
    await site.send("new")
    await expect(page.get_by_text("new", exact=True)).to_be_visible()
    await expect(page.get_by_text("old", exact=True)).to_have_count(0)
    for _ in range(4):
        await onwards.click()
        await page.wait_for_load_state()
        if await page.get_by_text("old", exact=True).count():
            break
    await expect(page.get_by_text("old", exact=True)).to_be_visible()
    await expect(onwards).to_have_count(0)
