"""The whole story of a webhook in a browser, with and without JavaScript: added, tested, failing, repaired."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import Open, Site, until
from tests.support.receiver import Receiver

IDS = [f"evt-{number}" for number in range(6)]


class Reader:
    """Somebody in front of the page; without a script the page is loaded again by hand to see what is new."""

    def __init__(self, page: Page, *, script: bool) -> None:
        self.page = page
        self.script = script

    async def sees(self, text: str, within: str = "main") -> None:
        place = self.page.locator(within).get_by_text(text).first
        if self.script:
            await expect(place).to_be_visible(timeout=15_000)
            return
        for _ in range(50):
            if await place.is_visible():
                return
            await self.page.wait_for_timeout(100)
            await self.page.reload()
        raise AssertionError(f"{text!r} never came")

    async def press(self, name: str) -> None:
        await self.page.get_by_role("button", name=name, exact=True).first.click()

    async def follow(self, name: str) -> None:
        await self.page.get_by_role("link", name=name, exact=True).first.click()


@pytest.mark.parametrize("script", [True, False], ids=["with JavaScript", "without JavaScript"])
async def test_a_webhook_from_its_first_day_to_its_replay(
    opened: Open, site: Site, receiver: Receiver, script: bool
) -> None:
    """Sign in, add, test, fail, retry, auto-disabled, repair, enable, held events in order, find in the log, replay."""
    page = await opened(script=script)
    reader = Reader(page, script=script)
    await add(reader, receiver)
    await send_a_failing_test(reader, receiver)
    await watch_it_fail(reader, site, receiver)
    await mend_and_enable(reader, receiver)
    await find_and_replay(reader, receiver)


async def add(reader: Reader, receiver: Receiver) -> None:
    page = reader.page
    await reader.sees("Send events to your systems")
    await reader.follow("Connect")
    await page.get_by_label("URL", exact=True).fill(receiver.url)
    await page.get_by_label("Description").fill("Orders")
    await page.get_by_label("New Incoming Message").check()
    await page.get_by_label("Conversation Closed").check()
    await reader.press("Add webhook")
    await reader.sees("Your new signing key")
    assert (await page.locator("#signing-key").inner_text()).startswith("whsec_")
    await reader.follow("Done")
    await expect(page.get_by_role("heading", name="Orders", level=1)).to_be_visible()


async def send_a_failing_test(reader: Reader, receiver: Receiver) -> None:
    page = reader.page
    receiver.answer, receiver.body = lambda _: 503, b'{"error": "the database is <b>down</b>"}'
    await page.get_by_label("Event type").select_option("message.received")
    await page.get_by_role("button", name="Send test").last.click()
    await reader.sees("The test failed; below is what came back.")
    await reader.sees("The receiver answered 503; 200 was expected.")
    await reader.sees('"error": "the database is <b>down</b>"')
    await reader.follow("Orders")


async def watch_it_fail(reader: Reader, site: Site, receiver: Receiver) -> None:
    """Four attempts of the first event, two of the second: the sixth failure is past the budget of five."""
    await site.send(*IDS)
    await reader.sees("Disabled automatically at")
    await reader.sees("More than 5 attempts failed in 30 minutes in this workspace")
    await reader.sees("5 events are held for it, in order.")
    await reader.sees("6 of 5")
    assert [*[IDS[0]] * 4, *[IDS[1]] * 2] == [each.id for each in receiver.received if not each.id.startswith("test_")]


async def mend_and_enable(reader: Reader, receiver: Receiver) -> None:
    receiver.answer, receiver.body = lambda _: 200, b'{"ok":true}'
    await reader.follow("Enable")
    await reader.sees("5 events wait. What should happen to them?")
    assert await reader.page.get_by_label("Deliver what waits").is_checked()
    await reader.press("Enable")
    await reader.sees("Enabled: the 5 events that waited are on their way.")
    await until(lambda: len(receiver.delivered) == 5)
    assert IDS[1:] == receiver.delivered
    await reader.sees("Active", "#head")
    await reader.sees("0 of 5", "#budget")


async def find_and_replay(reader: Reader, receiver: Receiver) -> None:
    page = reader.page
    await page.get_by_role("navigation", name="Main").get_by_role("link", name="Event log").click()
    await page.get_by_role("combobox", name="State").select_option("dropped")
    await reader.press("Search")
    row = page.get_by_role("row").filter(has_text=IDS[0])
    await expect(row.get_by_text("Dropped")).to_be_visible()
    await row.get_by_role("link").first.click()
    await reader.sees("4 attempts")
    await reader.press("Replay")
    await reader.sees("Queued again; this is the new delivery.")
    await reader.sees("Delivered: the receiver has it.")
    assert [IDS[0]] == receiver.with_header("x-webhook-replay")
    assert IDS[0] == receiver.delivered[-1]
