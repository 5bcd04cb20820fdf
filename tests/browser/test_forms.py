"""Forms in a browser: what another change left is never overwritten unseen, and F5 does nothing twice."""

from __future__ import annotations

from msgspec.structs import replace
from playwright.async_api import expect

from tests.browser.conftest import CONFIG, Open, Site
from webhookd.config import Events, ExtraType
from webhookd.models import Endpoint


def now(site: Site, endpoint: Endpoint) -> Endpoint:
    return site.app.registry.endpoint("default", endpoint.id)


async def test_a_form_that_another_change_overtook_is_refused_with_both_values(opened: Open, site: Site) -> None:
    """Nothing is saved; the reader sees what changed, and can save again."""
    page = await opened()
    administration = site.app.services.endpoints
    endpoint = await administration.create(
        "default", url=site.receiver.url, event_types=["*"], headers={"Authorization": "Bearer one"}
    )
    await page.goto(f"{site.url}/webhooks/{endpoint.id}/edit")
    await page.get_by_label("Description").fill("Orders")
    changed = await administration.change(
        "default",
        endpoint.id,
        {"url": site.receiver.url + "/new", "event_types": ["message.sent"], "headers": {"Authorization": "two"}},
    )
    await page.get_by_role("button", name="Save").click()
    conflicts = page.locator("#conflicts")
    await expect(conflicts).to_contain_text(f"Your form: {site.receiver.url} The webhook now: {changed.url}")
    await expect(conflicts).to_contain_text("Your form: Every event The webhook now: message.sent")
    await expect(conflicts).not_to_contain_text("Orders")
    assert changed == now(site, endpoint)
    await page.get_by_label("URL", exact=True).fill(changed.url)
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("heading", name="Orders", level=1)).to_be_visible()
    saved = now(site, endpoint)
    assert (changed.url, "Orders", (("Authorization", "two"),)) == (saved.url, saved.description, saved.headers)


async def test_a_type_that_the_configuration_lost_is_shown_and_kept(opened: Open, site: Site) -> None:
    """An edit of the description keeps it, a test sends it, and it can be taken away."""
    site.app.reload(replace(CONFIG, events=Events(types={"order.paid": ExtraType(label="Order Paid")})))
    endpoint = await site.app.services.endpoints.create(
        "default", url=site.receiver.url, event_types=["order.paid", "message.sent"]
    )
    site.app.reload(CONFIG)
    page = await opened()
    await page.goto(f"{site.url}/webhooks/{endpoint.id}/edit")
    await expect(page.get_by_label("order.paid")).to_be_checked()
    await expect(page.get_by_text("The configuration no longer has this type.")).to_be_visible()
    await page.get_by_label("Description").fill("Orders")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("heading", name="Orders", level=1)).to_be_visible()
    assert ("message.sent", "order.paid") == now(site, endpoint).event_types
    await page.get_by_label("Event type").select_option("order.paid")
    await page.get_by_role("button", name="Send test").last.click()
    await expect(page.get_by_text("The test was delivered.")).to_be_visible()
    await expect(page.get_by_text("order.paid").first).to_be_visible()
    await page.goto(f"{site.url}/webhooks/{endpoint.id}/edit")
    await page.get_by_label("order.paid").uncheck()
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("Saved.")).to_be_visible()
    assert ("message.sent",) == now(site, endpoint).event_types


async def test_reloading_after_a_form_does_nothing_twice(opened: Open, site: Site) -> None:
    """F5 after *Add* and after *Make a new key*: one endpoint, one rotation, and the key is still there to copy."""
    page = await opened()
    await page.goto(f"{site.url}/webhooks/new")
    await page.get_by_label("URL", exact=True).fill(site.receiver.url)
    await page.get_by_label("New Incoming Message").check()
    await page.get_by_role("button", name="Add webhook").click()
    key = page.locator("#signing-key")
    first = await key.inner_text()
    await page.reload()
    assert first == await key.inner_text()
    (endpoint,) = site.app.registry.endpoints("default")
    assert first == endpoint.signing_key
    await page.goto(f"{site.url}/webhooks/{endpoint.id}/key")
    await page.get_by_role("button", name="Make a new key").click()
    second = await key.inner_text()
    await page.reload()
    await page.reload()
    assert second == await key.inner_text()
    rotated = now(site, endpoint)
    assert (second, [first]) == (rotated.signing_key, [each.key for each in rotated.previous_keys])
    await expect(page.get_by_text("Your new signing key")).to_be_visible()
    await page.goto(f"{site.url}/webhooks/{endpoint.id}/key")
    await expect(key).to_have_count(0)


async def test_backfill_says_how_many_before_it_sends(opened: Open, site: Site) -> None:
    """Beside *Replay dropped*: since when, a count, what is left out and why; then they are sent."""
    page = await opened()
    await site.send("a", "b")
    endpoint = await site.endpoint()
    await site.send("c")
    await page.goto(f"{site.url}/webhooks/{endpoint.id}")
    await page.get_by_role("link", name="Backfill…").click()
    await page.get_by_label("From").fill("2026-01-01T00:00:00")
    await page.get_by_role("button", name="Count").click()
    await expect(page.get_by_text("2 events will be sent.")).to_be_visible()
    await expect(page.get_by_text("The webhook had it already: 1")).to_be_visible()
    await page.get_by_role("button", name="Send 2").click()
    await expect(page.get_by_text("2 past events were queued.")).to_be_visible()
    await expect(page.get_by_text("Backfill", exact=True).first).to_be_visible()
    await site.receiver.until(3)
    assert (["a", "b"], ["c", "a", "b"]) == (site.receiver.with_header("x-webhook-backfill"), site.receiver.ids("hook"))
