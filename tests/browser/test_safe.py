"""What strangers wrote is text on the page, whatever it looks like, and the browser runs nothing of it."""

from __future__ import annotations

from playwright.async_api import expect

from tests.browser.conftest import Open, Site, until
from webhookd.rules.ids import delivery_id

EVIL = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"


async def test_hostile_names_urls_and_bodies_show_as_text(opened: Open, site: Site) -> None:
    """A description, a URL, an event's body and an answer full of markup and marks: all seen, none run."""
    site.receiver.body = f'{{"answer": "{EVIL} \u202e\x1b[31m"}}'.encode()
    endpoint = await site.endpoint(path="?q=%3Cscript%3E<b>", description=f"\u202eevil\u2066 {EVIL}")
    await site.send("evt-1", text=f"{EVIL} \u202e")
    await until(lambda: site.app.dispatcher.view(endpoint.seq).waiting == 0)
    page = await opened()
    for address in ("/webhooks", f"/webhooks/{endpoint.id}", f"/webhooks/{endpoint.id}/edit", "/log"):
        await page.goto(site.url + address)
        assert "onerror=" in await page.locator("body").inner_html()
        assert await page.evaluate("window.hit === undefined && document.querySelector('main img') === null")
    await page.goto(f"{site.url}/webhooks/{endpoint.id}")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("‹U+202E›evil‹U+2066› <script>")
    await page.goto(f"{site.url}/log/{delivery_id(1)}")
    shown = await page.locator("main").inner_text()
    assert "‹U+202E›" in shown and "‹U+001B›[31m" in shown and "\u202e" not in shown
    assert 2 <= shown.count("<script>window.hit = 1</script>")
    assert await page.evaluate("window.hit === undefined && document.querySelector('main img') === null")


async def test_a_link_signs_in_once_and_leaves_no_trace_in_the_address(opened: Open, site: Site) -> None:
    """The code is gone from the address, and spent: the second time the page says so."""
    link = site.link()
    page = await opened(sign_in=False)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.goto(link)
    await page.wait_for_url("**/webhooks")
    assert [] == [url for url in asked if link.rpartition("#")[2] in url.partition("#")[0]]
    await page.get_by_role("button", name="Sign out").click()
    await page.goto(link)
    await expect(page.get_by_role("alert")).to_contain_text("This is neither an admin token nor a code")
    assert link.rpartition("#")[2] not in page.url


async def test_the_log_keeps_itself_up_to_date_until_paused(opened: Open, site: Site) -> None:
    """The first event appears by itself; paused, none does; resumed, what was missed waits behind a button."""
    await site.endpoint(description="Orders")
    page = await opened()
    await page.goto(f"{site.url}/log")
    await expect(page.get_by_text("No events yet")).to_be_visible()
    await site.send("evt-1")
    await expect(page.get_by_text("evt-1")).to_be_visible()
    await page.get_by_role("button", name="Pause updates").click()
    await site.send("evt-2")
    await until(lambda: "evt-2" in site.receiver.delivered)
    await page.wait_for_timeout(300)
    await expect(page.get_by_text("evt-2")).to_have_count(0)
    await page.get_by_role("button", name="Resume updates").click()
    await page.get_by_role("button", name="1 new").click()
    await expect(page.get_by_text("evt-2")).to_be_visible()
