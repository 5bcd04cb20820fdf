"""The log in a browser: rows change where they stand, new ones wait behind a button; dragging filters by time."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Open, Receiver, Site, exchanged, painted, until, waits_for_the_button
from webhookd.models import NewEvent


async def test_scrolled_down_nothing_slides(opened: Open, site: Site, receiver: Receiver) -> None:
    """A button says how many are new, and leads to them; at the top nothing slides either."""
    page = await opened(viewport={"width": 1000, "height": 500})
    await site.endpoint()
    ids = [f"old-{number}" for number in range(30)]
    await site.send(*ids)
    await until(lambda: len(receiver.delivered) == 30)
    await page.goto(f"{site.url}/log")
    row = page.get_by_role("row").filter(has_text="old-10")
    await expect(row.get_by_text("Delivered")).to_be_visible(timeout=15_000)
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
    await expect(page.get_by_text("new-1", exact=True)).to_be_visible()
    await site.send("new-5")
    await expect(button).to_have_text("1 new ↑")
    await expect(page.get_by_text("new-5")).to_have_count(0)
    await button.click()
    await expect(page.get_by_text("new-5")).to_be_visible()


async def test_a_row_changes_where_it_stands(opened: Open, site: Site, receiver: Receiver) -> None:
    """Its state and its last answer follow; one that no longer matches the filter is faint; the whole row is a link."""
    page = await opened()
    await site.endpoint()
    receiver.answer = lambda _: 503
    await site.send("slow")
    await page.goto(f"{site.url}/log?state=retrying")
    row = page.get_by_role("row").filter(has_text="slow")
    await expect(row.get_by_text("503")).to_be_visible()
    receiver.answer = lambda _: 200
    await expect(row).to_have_class("left")
    await page.goto(f"{site.url}/log")
    await expect(row.get_by_text("Delivered")).to_be_visible()
    await row.locator(".tries").click(force=True)
    await expect(page.get_by_text("Delivered: the receiver has it.")).to_be_visible()


async def test_dragging_over_the_histogram_filters_by_time(opened: Open, site: Site, receiver: Receiver) -> None:
    """What is under the pointer is told, a stretch becomes the filter, arrows go from bar to bar, Enter follows one;
    also while live updates replace the histogram under the pointer."""
    page = await opened()
    await site.endpoint()
    await site.send("one", "two")
    await until(lambda: len(receiver.delivered) == 2)
    await page.goto(f"{site.url}/log")
    await painted(page)
    told, dragged, tip = re.compile(r"deliveries: \d, failed: 0"), page.locator(".dragged"), page.locator(".tip")
    box = await page.locator("#histogram svg").evaluate("each => each.getBoundingClientRect().toJSON()")
    y = box["y"] + box["height"] / 2
    await page.locator("a.bar").last.hover()
    await expect(tip).to_have_text(told)
    async with exchanged(page, "histogram"):
        await site.send("three")
    assert [True] == [bool(told.search(each)) for each in await tip.all_inner_texts()]
    await page.mouse.move(box["x"] + box["width"] * 0.5, y)
    await page.mouse.down()
    await page.mouse.move(box["x"] + box["width"] * 0.9, y, steps=3)
    await site.send("four")
    await waits_for_the_button(page)
    assert box["width"] * 0.35 < await dragged.evaluate("each => each.offsetWidth") < box["width"] * 0.45
    await page.mouse.move(box["x"] + box["width"] - 1, y, steps=3)
    assert box["width"] * 0.45 < await dragged.evaluate("each => each.offsetWidth")
    await page.mouse.up()
    await page.wait_for_url("**/log?since=*&until=*")
    await expect(page.get_by_text("two", exact=True)).to_be_visible()
    await page.locator("a.bar").last.focus()
    await expect(tip).to_have_text(told)
    await page.keyboard.press("Home")
    await page.keyboard.press("Enter")
    await page.wait_for_load_state()
    await expect(page.get_by_text("two", exact=True)).to_be_visible()


async def test_a_click_lands_though_the_page_changes_under_it(opened: Open, site: Site, receiver: Receiver) -> None:
    """What is pressed is there until the button is let go; then the page is brought up to date."""
    page = await opened()
    await site.endpoint(description="Orders")
    await site.send("one")
    await until(lambda: len(receiver.delivered) == 1)
    await page.goto(f"{site.url}/log")
    await painted(page)
    await page.locator("a.bar").last.hover()
    await page.mouse.down()
    await site.send("two")
    await waits_for_the_button(page)
    await page.mouse.up()
    await page.wait_for_url("**/log?since=*&until=*")


async def test_on_a_phone_the_filter_is_folded(opened: Open, site: Site) -> None:
    """A button unfolds it, with a script and without; how much is set stands on it."""
    for script in (True, False):
        page = await opened(script=script, viewport={"width": 390, "height": 800})
        await page.goto(f"{site.url}/log?state=held")
        await expect(page.get_by_label("Search in IDs and bodies")).to_be_hidden()
        await page.get_by_text("Filter (1)").click()
        await page.get_by_label("Search in IDs and bodies").fill("nothing")
        await page.get_by_role("button", name="Search").click()
        await expect(page.get_by_text("Filter (2)")).to_be_visible()


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
    await page.locator("#new-rows").click()
    await expect(page.get_by_text("new", exact=True)).to_be_visible()
    await expect(page.get_by_text("old", exact=True)).to_have_count(0)
    for _ in range(4):
        await onwards.click()
        await page.wait_for_load_state()
        if await page.get_by_text("old", exact=True).count():
            break
    await expect(page.get_by_text("old", exact=True)).to_be_visible()
    await expect(onwards).to_have_count(0)
