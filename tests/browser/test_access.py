"""Every reader: keys alone suffice."""

from __future__ import annotations

from playwright.async_api import expect

from tests.browser.conftest import Open, Site


async def test_keys_alone_reach_and_close_the_actions(opened: Open, site: Site) -> None:
    """Tab to the skip link, to a row's actions, open them, leave them with Escape: the focus is where it was."""
    await site.endpoint(description="Orders")
    page = await opened()
    await page.reload()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    summary = page.locator("details.menu summary")
    for _ in range(20):
        await page.keyboard.press("Tab")
        if await summary.evaluate("element => element === document.activeElement"):
            break
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="Send test")).to_be_visible()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Disable")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("button", name="Disable")).to_be_hidden()
    await expect(summary).to_be_focused()


async def test_times_are_the_readers_and_utc_on_hover(opened: Open, site: Site) -> None:
    """In Hanoi a time reads seven hours later, its title says UTC; the filter is asked in the reader's zone too."""
    endpoint = await site.endpoint(description="Orders")
    page = await opened(timezone_id="Asia/Ho_Chi_Minh", locale="en-GB")
    await page.goto(f"{site.url}/log?since=2026-01-31T20:00:05")
    await expect(page.get_by_label("From")).to_have_value("2026-02-01T03:00:05")
    await page.get_by_role("button", name="Search").click()
    await page.wait_for_url("**/log?since=2026-01-31T20%3A00%3A05")
    await page.goto(f"{site.url}/webhooks/{endpoint.id}")
    added = page.locator("dl.list time").last
    utc, shown = await added.get_attribute("title"), await added.inner_text()
    assert utc is not None and utc.endswith(" UTC")
    assert f"{(int(utc[11:13]) + 7) % 24:02}{utc[13:19]}" in shown
    await expect(page.get_by_text("Times are in your time zone")).to_contain_text("Asia/")


async def test_without_a_script_times_are_utc_and_said_so(opened: Open, site: Site) -> None:
    """No script, no zone: UTC is shown, and the foot of the page says it."""
    await site.endpoint()
    page = await opened(script=False, timezone_id="Asia/Ho_Chi_Minh")
    await expect(page.get_by_text("Times are in UTC.")).to_be_visible()
    await page.locator("a.name").click()
    assert (await page.locator("dl.list time").last.inner_text()).endswith(" UTC")
