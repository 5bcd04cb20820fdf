"""Every reader, on every device: axe-core finds nothing, a phone fits it, keys alone suffice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import Open, Site, until
from webhookd.rules.ids import delivery_id

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text("utf-8")
# Everything that axe knows about WCAG 2.2 A and AA, and its own good practices.
RUN = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations.map(
  each => `${each.id}: ${each.help}: ${each.nodes.map(node => node.html).slice(0, 3).join(" | ")}`)"""
PHONE = {"viewport": {"width": 360, "height": 740}}
SETTINGS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone": PHONE,
    "Vietnamese, dark, on a phone": {**PHONE, "color_scheme": "dark", "locale": "vi-VN"},
}


async def furnish(site: Site) -> list[str]:
    """Two webhooks, one of them auto-disabled with events waiting; two workspaces; every page's address."""
    await site.app.services.workspaces.create("acme", name="Acme")
    good = await site.endpoint(description="Orders")
    bad = await site.app.services.endpoints.create(
        "default", url="http://127.0.0.1:1/nobody", event_types=["message.received"], description="Data warehouse"
    )
    await site.send(*[f"evt-{number}" for number in range(8)])
    await until(lambda: site.app.registry.endpoint("default", bad.id).state == "auto_disabled")
    await until(lambda: site.app.dispatcher.view(good.seq).waiting == 0)
    await site.app.services.endpoints.disable("default", good.id)
    await site.send("held")
    return [
        "/settings/integrations",
        "/webhooks",
        "/webhooks?workspace=acme",
        "/webhooks/new",
        f"/webhooks/{good.id}",
        f"/webhooks/{bad.id}",
        f"/webhooks/{bad.id}/edit",
        f"/webhooks/{bad.id}/key",
        f"/webhooks/{bad.id}/enable",
        f"/webhooks/{bad.id}/delete",
        "/log",
        "/log?workspace=acme",
        "/log?state=expired&since=2026-01-01T00:00",
        "/log?state=nonsense",
        f"/log/{delivery_id(1)}",
        f"/log/{delivery_id(2)}",
        f"/log/replay?endpoint={good.id}&state=delivered",
        f"/webhooks/{good.id}/backfill?since=2026-01-01T00:00:00",
        "/webhooks/ep_nothing",
        "/access",
        "/audit",
        "/audit?what=nothing&since=nonsense",
        "/event-types?type=comment.created",
        "/help",
        *(f"/help/{topic}" for topic in ("receiving", "operating", "security", "api", "cli", "installing")),
    ]


async def violations(page: Page) -> list[str]:
    await page.evaluate(AXE)
    found: list[str] = await page.evaluate(RUN)
    return found


@pytest.mark.parametrize("name", SETTINGS)
async def test_axe_finds_nothing_on_any_page(opened: Open, site: Site, name: str) -> None:
    """No violation on any page: light, dark, on a phone, in Vietnamese; and nothing is wider than the screen."""
    addresses = await furnish(site)
    page = await opened(**SETTINGS[name])
    found: dict[str, Any] = {}
    for address in addresses:
        await page.goto(site.url + address)
        if address.startswith("/log/"):  # every attempt of a delivery
            await page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        wide = await page.evaluate("document.documentElement.scrollWidth > innerWidth")
        found[address] = [*(await violations(page)), *(["wider than the screen"] if wide else [])]
    assert {} == {address: each for address, each in found.items() if each}


async def test_axe_finds_nothing_where_things_are_shown_once(opened: Open, site: Site) -> None:
    """The sign-in page with a fault, the open menu, a form with a fault, the new key: no violation."""
    page = await opened(sign_in=False)
    await page.goto(f"{site.url}/sign-in")
    assert [] == await violations(page)
    await page.get_by_label("Token or sign-in code").fill("wrong")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_be_visible()
    assert [] == await violations(page)
    await page.get_by_label("Token or sign-in code").fill(site.admin_token)
    await page.get_by_role("button", name="Sign in").click()
    assert [] == await violations(page)
    await page.goto(f"{site.url}/webhooks/new")
    await page.get_by_label("URL", exact=True).fill("ftp://example.com")
    await page.get_by_label("Every event").check()
    await page.get_by_role("button", name="Add webhook").click()
    await expect(page.get_by_role("alert")).to_be_visible()
    assert [] == await violations(page)
    await page.get_by_label("URL", exact=True).fill(site.receiver.url)
    await page.get_by_role("button", name="Add webhook").click()
    await expect(page.locator("#signing-key")).to_be_visible()
    assert [] == await violations(page)
    await page.goto(f"{site.url}/webhooks")
    await page.locator("details.menu summary").click()
    await expect(page.get_by_role("button", name="Disable")).to_be_visible()
    assert [] == await violations(page)


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
