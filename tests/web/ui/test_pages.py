"""The pages of webhooks and of the log: what they show, and what their forms do."""

from __future__ import annotations

import base64
import html
import json
import re

import pytest

from tests.support.api import Api
from tests.support.reader import Browser
from webhookd.config import Budget, Config, Events, ExtraType
from webhookd.models import Endpoint
from webhookd.rules.event_types import BUILT_IN
from webhookd.rules.ids import delivery_id

FIELDS = {"url": "https://example.com/hook", "every_type": "yes", "success": "200"}


@pytest.fixture
def config() -> Config:
    order_paid = ExtraType(label="Order Paid", description="Money came.")
    return Config(budget=Budget(limit=5), events=Events(types={"order.paid": order_paid}))


@pytest.fixture
async def endpoint(api: Api) -> Endpoint:
    return await api.engine.endpoint("https://example.com/hook")


async def text_of(browser: Browser, path: str, **headers: str) -> str:
    body = (await browser.get(path, **headers)).body.decode()
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body.partition("<main")[2])).split())


def failing(api: Api) -> None:
    api.engine.network.answer = lambda url, webhook_id: 503


@pytest.fixture
async def auto_disabled(api: Api, endpoint: Endpoint) -> Endpoint:
    """An endpoint past a budget of five: four attempts of the first event, two of the second."""
    failing(api)
    await api.engine.send("e0", "e1", "e2", "e3")
    await api.engine.advance(240)
    return endpoint


async def test_no_webhook_yet_says_what_to_do(browser: Browser) -> None:
    """Settings › Integrations › Webhooks › Connect leads to the form; the empty log says how to fill it."""
    assert "Connect" in await text_of(browser, "/settings/integrations")
    shown = await text_of(browser, "/webhooks")
    assert "Settings Integrations Webhooks" in shown and "Connect" in shown and "Copy the signing key" in shown
    assert b'href="/webhooks/new"' in (await browser.get("/webhooks")).body
    assert "webhookd send" in await text_of(browser, "/log")


async def test_the_form_is_short(browser: Browser) -> None:
    """Every type by its name, described in the reference; what few change is folded and says what it is set to."""
    shown = await text_of(browser, "/webhooks/new")
    for words in ("New Incoming Message message.received", "Order Paid order.paid", "What each event holds"):
        assert words in shown
    assert "A contact sent a message." not in shown
    assert "Tin nhắn mới đến message.received" in await text_of(browser, "/webhooks/new", Accept_Language="vi")
    body = (await browser.get("/webhooks/new")).body.decode()
    assert re.findall(r'<details class="folded"( open)?>', body) == [""] * 6
    for words in ("What counts as delivered 200 OK only", "Headers of your own none", "a new one is made"):
        assert words in shown
    wrong = await browser.send_form("/webhooks/new", {**FIELDS, "headers": "no colon"}, "/webhooks/new")
    opened = re.findall(r'<details class="folded"( open)?>', wrong.body.decode())
    assert ["", " open", "", "", "", ""] == opened


async def test_the_reference_has_every_type_with_fields_and_sample(browser: Browser) -> None:
    """When each fires, what every field means, the sample; in the reader's language; one of the configuration too."""
    page = await text_of(browser, "/event-types")
    for kind in BUILT_IN:
        assert f"{kind.label} {kind.name} {kind.description}" in page
        assert all("".join(note.replace("`", "").split()) in "".join(page.split()) for note in kind.notes)
        assert all(f"{field.path} {field.type} {field.meaning}" in page for field in kind.fields)
        assert " ".join(json.dumps(kind.sample, indent=2, ensure_ascii=False).split()) in page
    assert "Order Paid order.paid Money came." in page
    vietnamese = await text_of(browser, "/event-types", Accept_Language="vi")
    assert "contact.tags array of strings Các thẻ của liên hệ" in vietnamese
    assert "The contact's tags" not in vietnamese
    assert 'href="/event-types"' in (await browser.get("/webhooks/new")).body.decode()


async def test_adding_shows_the_key_once(api: Api, browser: Browser) -> None:
    """Everything of the form arrives; the key is in this answer and in no page after it."""
    fields = {
        "url": " https://example.com/hook ",
        "description": "Orders",
        "event_types": ["message.received", "order.paid"],
        "success": "2xx",
        "headers": "X-Tenant: acme\r\n\r\nX-Team:  blue ",
    }
    answer = await browser.send_form("/webhooks/new", fields, "/webhooks/new")
    shown = await browser.get(answer.headers["Location"])
    (endpoint,) = api.app.registry.endpoints()
    assert ("https://example.com/hook", "Orders", "2xx") == (endpoint.url, endpoint.description, endpoint.success)
    assert ("message.received", "order.paid") == endpoint.event_types
    assert (("X-Tenant", "acme"), ("X-Team", "blue")) == endpoint.headers
    assert (303, True) == (answer.status, endpoint.signing_key in html.unescape(shown.body.decode()))
    for path in (
        answer.headers["Location"].replace(".", ".0"),
        "/webhooks",
        f"/webhooks/{endpoint.id}",
        f"/webhooks/{endpoint.id}/key",
        f"/webhooks/{endpoint.id}/edit",
    ):
        assert endpoint.signing_key not in html.unescape((await browser.get(path)).body.decode())


async def test_the_older_header_is_switched_off_and_keyed_on_the_form(
    api: Api, browser: Browser, endpoint: Endpoint
) -> None:
    """A checkbox, and the key that the receiver has: hidden, kept with ***, given up when emptied."""
    path = f"/webhooks/{endpoint.id}/edit"
    own = {"x_webhook_signature": "yes", "x_webhook_signature_key": "the receiver's"}
    for sent, expected in (
        (own, (True, "the receiver's")),
        (own | {"x_webhook_signature_key": "***"}, (True, "the receiver's")),
        ({"x_webhook_signature_key": "***"}, (False, "the receiver's")),
        ({"x_webhook_signature_key": ""}, (False, None)),
    ):
        shown = (await browser.get(path)).body.decode()
        version = re.search(r'name="version" value="([^"]+)"', shown)
        assert version and "receiver's" not in html.unescape(shown).replace("the receiver's own", "")
        assert 303 == (await browser.send_form(path, {**FIELDS, **sent, "version": version[1]}, path)).status
        now = api.app.registry.endpoint("default", endpoint.id)
        assert expected == (now.x_webhook_signature, now.x_webhook_signature_key)
        if now.x_webhook_signature_key:
            key = f"/webhooks/{endpoint.id}/key"
            report = await browser.get((await browser.send_form(key, {}, key)).headers["Location"])
            assert "the receiver's" in html.unescape(report.body.decode())
    refused = await browser.send_form("/webhooks/new", {**FIELDS, "x_webhook_signature_key": "short"}, "/webhooks/new")
    assert 422 == refused.status and 'id="x_webhook_signature_key-fault"' in refused.body.decode()


async def test_the_order_is_set_on_the_form_and_shown(api: Api, browser: Browser, endpoint: Endpoint) -> None:
    """A key and a number, or neither; the webhook's page has the lane that waits for a retry."""
    path = f"/webhooks/{endpoint.id}/edit"
    for sent, expected in (
        ({"order_key": " contact.id ", "lanes": "3"}, ("contact.id", 3)),
        ({"order_key": "contact.id"}, ("contact.id", 8)),
        ({"order_key": "", "lanes": "5"}, (None, 1)),
        ({"order_key": "contact.id", "lanes": "64"}, ("contact.id", 64)),
    ):
        version = re.search(r'name="version" value="([^"]+)"', (await browser.get(path)).body.decode())
        assert version
        assert 303 == (await browser.send_form(path, {**FIELDS, **sent, "version": version[1]}, path)).status
        ordering = api.app.registry.endpoint("default", endpoint.id).ordering
        assert expected == (ordering.key, ordering.lanes)
    failing(api)
    event = {"event_type": "contact.updated", "event_id": "e1", "contact": {"id": "Lan"}}
    assert 202 == (await api.post("/v1/events", event)).status
    await api.engine.quiet()
    shown = await text_of(browser, f"/webhooks/{endpoint.id}")
    assert "By contact.id, up to 64 requests at once" in shown
    assert "contact.id Lan waits since" in shown
    for wrong in ({"order_key": "a b"}, {"order_key": "a", "lanes": "65"}, {"order_key": "a", "lanes": "x"}):
        refused = await browser.send_form("/webhooks/new", {**FIELDS, **wrong}, "/webhooks/new")
        assert 422 == refused.status and 'id="ordering-fault"' in refused.body.decode()


async def test_revealing_the_key_is_logged(
    browser: Browser, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """*Reveal* shows it by POST alone, and the log has who looked."""
    said: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr("webhookd.log.emit", lambda event, **fields: said.append((event, fields)))
    path = f"/webhooks/{endpoint.id}/key"
    answer = await browser.get((await browser.send_form(path, {}, path)).headers["Location"])
    assert endpoint.signing_key in html.unescape(answer.body.decode())
    revealed = [fields for event, fields in said if event == "key.revealed"]
    assert [{"workspace": "default", "endpoint_id": endpoint.id, "token_id": "tok_admin"}] == revealed


async def test_rotating_shows_the_new_key_and_both_sign(api: Api, browser: Browser, endpoint: Endpoint) -> None:
    """*Make a new key*: another one is shown, the one before lasts for a day."""
    answer = await browser.send_form(f"/webhooks/{endpoint.id}/rotate-key", {}, f"/webhooks/{endpoint.id}/key")
    rotated = api.app.registry.endpoint("default", endpoint.id)
    shown_at = answer.headers["Location"]
    assert rotated.signing_key in html.unescape((await browser.get(shown_at)).body.decode())
    assert (True, endpoint.signing_key) == (rotated.signing_key != endpoint.signing_key, rotated.previous_keys[0][0])
    await api.engine.leap(601)
    assert rotated.signing_key not in html.unescape((await browser.get(shown_at)).body.decode())


@pytest.mark.parametrize(
    ("fields", "status", "field", "words"),
    [
        ({"url": "ftp://example.com"}, 422, "url", "http"),
        ({"url": "http://169.254.169.254/"}, 422, "url", "169.254"),
        ({"url": "https://taken.example/"}, 409, "url", "has an endpoint with this URL"),
        ({"url": "https://example.com/", "event_types": []}, 422, "event_types", "at least one"),
        ({"url": "https://example.com/", "event_types": ["nope"]}, 422, "event_types", "did you mean"),
        ({"url": "https://example.com/", "headers": "no colon"}, 422, "headers", "is not a header"),
        ({"url": "https://example.com/", "headers": "A: 1\nA: 2"}, 422, "headers", "twice"),
        ({"url": "https://example.com/", "headers": "\n".join(["A: 1"] * 101)}, 422, "headers", "At most 100"),
        ({"url": "https://example.com/", "headers": "Host: x"}, 422, "headers", "Host"),
        ({"url": "https://example.com/", "success": "maybe"}, 422, "success", "success is"),
        ({"url": "https://example.com/", "description": "x" * 501}, 422, "description", "500")
    ]
)  # fmt: skip
async def test_a_mistake_is_said_beside_its_field_and_nothing_typed_is_lost(
    api: Api, browser: Browser, fields: dict[str, str | list[str]], status: int, field: str, words: str
) -> None:
    """The form comes back with what was typed, the field marked, the message tied to it."""
    await api.engine.endpoint("https://taken.example/")
    sent = {"event_types": ["message.received"], "success": "200", "description": "kept <b>", **fields}
    answer = await browser.send_form("/webhooks/new", sent, "/webhooks/new")
    body = answer.body.decode()
    assert status == answer.status
    fault = re.search(rf'id="{field}-fault"><bdi>(.*?)</bdi>', body)
    assert fault is not None and words in html.unescape(fault[1])
    assert 1 == body.count(fault[1]) == body.count('role="alert"')  # said once
    assert f'value="{html.escape(str(sent["description"]))}"' in body
    assert 1 == len(api.app.registry.endpoints())


async def test_editing_keeps_masked_header_values(api: Api, browser: Browser) -> None:
    """The form shows *** for a header's value and leaves it as it was; a new value replaces it."""
    endpoint = await api.app.services.endpoints.create(
        "default", url="https://example.com/", event_types=["*"], headers={"X-Key": "secret", "X-Old": "1"}
    )
    path = f"/webhooks/{endpoint.id}/edit"
    assert b"secret" not in (await browser.get(path)).body
    fields = {**FIELDS, "url": endpoint.url, "headers": "x-KEY: ***\nX-New: 2"}
    answer = await browser.send_form(path, fields, path)
    assert (303, f"/webhooks/{endpoint.id}?said=changed") == (answer.status, answer.headers["Location"])
    changed = api.app.registry.endpoint("default", endpoint.id)
    assert ((("x-KEY", "secret"), ("X-New", "2")), ("*",)) == (changed.headers, changed.event_types)
    refused = await browser.send_form(path, {**fields, "headers": "X-Other: ***"}, path)
    assert (422, True) == (refused.status, "hides a value" in html.unescape(refused.body.decode()))
    assert changed == api.app.registry.endpoint("default", endpoint.id)


async def test_a_form_without_the_version_that_it_showed_saves_nothing(
    api: Api, browser: Browser, endpoint: Endpoint
) -> None:
    """Whatever the field holds."""
    path = f"/webhooks/{endpoint.id}/edit"
    for version in ("", "x", ".....", "é" * 100):
        fields = {**FIELDS, "url": "https://x.example/", "version": version}
        assert 409 == (await browser.send_form(path, fields, path)).status
    assert endpoint == api.app.registry.endpoint("default", endpoint.id)


async def test_auto_disabled_says_why_since_when_and_how_many_wait(browser: Browser, auto_disabled: Endpoint) -> None:
    """The table, the webhook's page and *Enable* all tell of it; the budget names who spent it and until when."""
    table = await text_of(browser, "/webhooks")
    assert "1 event dropped in the last hour" in table
    shown = await text_of(browser, f"/webhooks/{auto_disabled.id}")
    assert "Auto-disabled since 20" in table and "6 of 5" in table and "The budget is spent until 20" in table
    for words in (
        "1 event dropped in the last hour",
        "Disabled automatically at 20",
        "More than 5 attempts failed in 30 minutes in this workspace",
        "3 events are held for it, in order.",
        "0 delivered, failed attempts: 6",
    ):
        assert words in shown
    asked = await text_of(browser, f"/webhooks/{auto_disabled.id}/enable")
    assert "3 events wait. What should happen to them?" in asked


@pytest.mark.parametrize(
    ("choice", "delivered", "said"),
    [("deliver", ["e1", "e2", "e3"], "enabled_delivering"), ("skip", [], "enabled_skipped")],
)
async def test_enable_delivers_or_skips_what_waits(
    api: Api, browser: Browser, auto_disabled: Endpoint, choice: str, delivered: list[str], said: str
) -> None:
    """As the person chose, and the page says how many it was."""
    api.engine.network.answer = lambda url, webhook_id: 200
    path = f"/webhooks/{auto_disabled.id}/enable"
    answer = await browser.send_form(path, {"held": choice}, path)
    assert f"/webhooks/{auto_disabled.id}?said={said}&n=3" == answer.headers["Location"]
    await api.engine.quiet()
    assert delivered == api.engine.network.ids(auto_disabled.url, delivered_only=True)
    assert "Enabled: the 3 events that waited" in await text_of(browser, answer.headers["Location"])


async def test_what_waits_says_since_when_and_when_it_goes_next(api: Api, browser: Browser, endpoint: Endpoint) -> None:
    """Why is it late: so many wait, the oldest since then, the next attempt at that time."""
    failing(api)
    await api.engine.send("e1", "e2")
    await api.engine.quiet()
    body = (await browser.get(f"/webhooks/{endpoint.id}")).body.decode()
    facts = re.search(r'<dl class="facts"[^>]*>(.*?)</dl>', body, re.DOTALL)
    assert facts is not None
    first, *_, retry = re.findall(r'datetime="([^"]+)"', facts[1])
    assert '<dd class="figure">2</dd>' in facts[1] and "503" in facts[1]
    assert 30 == (int(retry[14:16]) * 60 + int(retry[17:19]) - int(first[14:16]) * 60 - int(first[17:19])) % 3600


async def test_a_test_leads_to_what_came_of_it(api: Api, browser: Browser, endpoint: Endpoint) -> None:
    """*Send test* of a type, in the log as a test, not counted; the page shows the attempt."""
    failing(api)
    path = f"/webhooks/{endpoint.id}"
    answer = await browser.send_form(f"{path}/test", {"event_type": "order.paid"}, path)
    shown = await text_of(browser, answer.headers["Location"])
    for words in ("The test failed", "Order Paid", "The receiver answered 503; 200 was expected.", "order.paid · Test"):
        assert words in shown
    assert "A test is not replayed" in shown and "Counted" not in shown


async def test_disable_and_delete(api: Api, browser: Browser, endpoint: Endpoint) -> None:
    """*Disable* holds; *Delete* asks first, naming how many would be cancelled, and leaves the log."""
    path = f"/webhooks/{endpoint.id}"
    await browser.send_form(f"{path}/disable", {}, path)
    await api.engine.send("e1")
    assert "Disabled by a person at 20" in await text_of(browser, path)
    assert "1 event is held for it." in await text_of(browser, path)
    assert "1 event that waits will be cancelled." in await text_of(browser, f"{path}/delete")
    answer = await browser.send_form(f"{path}/delete", {}, f"{path}/delete")
    assert "/webhooks?said=deleted" == answer.headers["Location"]
    assert 404 == (await browser.get(path)).status
    assert "Cancelled" in await text_of(browser, "/log")
    assert "Its webhook was deleted" in await text_of(browser, f"/log/{delivery_id(1)}")


async def test_the_log_is_filtered_and_paged(api: Api, browser: Browser, endpoint: Endpoint) -> None:
    """By webhook, type, state, id and time; newest first; older pages by cursor until there are none."""
    await api.engine.send(*[f"e{number}" for number in range(60)])
    await api.engine.send("other", event_type="contact.created")
    await api.engine.quiet()

    async def ids(path: str) -> list[str]:
        return re.findall(r'<bdi class="id">(\w+)</bdi></div>', (await browser.get(path)).body.decode())

    newest = await ids("/log")
    assert (50, "other", "e59") == (len(newest), newest[0], newest[1])
    older = re.search(r'rel="next" href="([^"]+)"', (await browser.get("/log")).body.decode())
    assert older is not None
    assert [f"e{number}" for number in range(10, -1, -1)] == await ids(html.unescape(older[1]))
    assert ["other"] == await ids("/log?event_type=contact.created")
    assert ["e7"] == await ids("/log?event_id=e7")
    assert 50 == len(await ids(f"/log?endpoint={endpoint.id}&state=delivered"))
    assert [] == await ids("/log?state=dropped")
    assert [] == await ids("/log?until=2001-01-01T00:00")
    assert 50 == len(await ids("/log?since=2001-01-01T00:00:00"))
    assert "Nothing in the log matches" in await text_of(browser, "/log?state=dropped")
    for bad in ("/log?state=x", "/log?since=yesterday", "/log?until=99999-01-01"):
        assert 422 == (await browser.get(bad)).status
    for odd in ("/log?cursor=-1", "/log?cursor=" + "9" * 30, "/log?event_id=%00%ff", "/log?nonsense=1"):
        assert 200 == (await browser.get(odd)).status


async def test_a_long_search_is_given_up_with_a_way_to_go_on(
    api: Api, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page never waits for a walk through the whole log: it says how far it came, and the link searches on."""
    monkeypatch.setattr("webhookd.store.delivery_log.WINDOW_ROWS", 10)
    monkeypatch.setattr("webhookd.store.delivery_log.NEWEST_ROWS", 3)
    monkeypatch.setattr("webhookd.web.ui.log.SEARCH_SECONDS", 0)
    await api.engine.endpoint("https://example.com/hook")
    await api.engine.send("rare", event_type="contact.created")
    await api.engine.send(*[f"e{number}" for number in range(45)])
    await api.engine.quiet()
    path = "/log?event_type=contact.created"
    assert "Nothing found in the newest part of the log." in await text_of(browser, path)
    for _ in range(9):
        body = (await browser.get(path)).body.decode()
        onwards = re.search(r'rel="next" href="([^"]+)">Search on, further back<', body)
        if onwards is None:
            break
        path = html.unescape(onwards[1])
    assert '<bdi class="id">rare</bdi>' in body


async def test_a_deleted_webhook_can_still_be_searched_for(api: Api, browser: Browser) -> None:
    """The log outlives it: the filter offers it apart from the living, and its rows say which one it was."""
    endpoint = await api.engine.endpoint("https://example.com/gone")
    await api.engine.endpoint("https://example.com/other")
    await api.engine.send("e1")
    await api.engine.quiet()
    await api.engine.app.services.endpoints.delete("default", endpoint.id)
    shown = (await browser.get(f"/log?endpoint={endpoint.id}")).body.decode()
    assert re.search(rf'<optgroup label="Deleted webhooks">\s*<option value="{endpoint.id}" selected>', shown)
    assert 1 == shown.count('<bdi class="id">e1</bdi>')
    assert "https://example.com/gone deleted" in await text_of(browser, f"/log?endpoint={endpoint.id}")
    nowhere = await browser.get("/log?endpoint=ep_x")
    assert 422 == nowhere.status


async def test_replay_says_how_many_before_it_sends(api: Api, browser: Browser, endpoint: Endpoint) -> None:
    """All dropped of a webhook: first the count, nothing sent; then, by POST, all of them."""
    failing(api)
    await api.engine.send("e1")
    await api.engine.advance(240)
    api.engine.network.answer = lambda url, webhook_id: 200
    path = f"/log/replay?endpoint={endpoint.id}"
    assert "1 delivery will be sent again." in await text_of(browser, path)
    await api.engine.quiet()
    assert [] == api.engine.network.ids(endpoint.url, delivered_only=True)
    answer = await browser.send_form(path, {}, path)
    assert f"/log?endpoint={endpoint.id}&said=replayed&n=1" == answer.headers["Location"]
    await api.engine.quiet()
    assert ["e1"] == api.engine.network.ids(endpoint.url, delivered_only=True)
    assert 422 == (await browser.get("/log/replay")).status
    assert 409 == (await browser.get(f"/log/replay?endpoint={endpoint.id}&state=held")).status


async def test_replay_of_one_that_cannot_be_says_why(browser: Browser, auto_disabled: Endpoint) -> None:
    """Waiting, or its webhook not active: the page says so and has no button; a form sent all the same is refused."""
    dropped, held = f"/log/{delivery_id(1)}", f"/log/{delivery_id(2)}"
    assert "Enable the webhook to replay it." in await text_of(browser, dropped)
    assert "It still waits, so it needn't be replayed." in await text_of(browser, held)
    for path in (dropped, held):
        assert 409 == (await browser.send_form(f"{path}/replay", {}, path)).status
    assert 409 == (await browser.get(f"/log/replay?endpoint={auto_disabled.id}")).status


async def test_errors_are_in_the_readers_language(browser: Browser) -> None:
    """What doesn't exist is a 404 page; a refused form says why, in the reader's language alone."""
    for path in ("/log/dlv_0000000000009", "/log/nonsense", "/webhooks/ep_x", "/webhooks?workspace=x"):
        answer = await browser.get(path, Accept_Language="vi-VN,vi;q=0.9,en;q=0.1")
        assert (404, True) == (answer.status, "Không tìm thấy" in answer.body.decode())
    fields = FIELDS | {"url": "http://127.0.0.1/"}
    body = (await browser.send_form("/webhooks/new", fields, "/webhooks/new", Accept_Language="vi")).body.decode()
    assert "127.0.0.1 là địa chỉ loopback; webhookd không gửi đến đó." in body
    assert "webhookd doesn't send there" not in body


async def test_the_language_switch_is_remembered(browser: Browser) -> None:
    """A cookie outranks the browser's wish; an unknown language is refused."""
    fields = {"language": "vi", "then": "/log"}
    assert "/log" == (await browser.send_form("/language", fields, "/log")).headers["Location"]
    assert b'<html lang="vi">' in (await browser.get("/log", Accept_Language="en")).body
    assert 422 == (await browser.send_form("/language", {"language": "xx"}, "/log")).status


async def test_the_address_in_a_mail_leads_to_the_webhook(api: Api, browser: Browser) -> None:
    """`/workspaces/acme/endpoints/ep_…`, as the notice names it."""
    await api.app.services.workspaces.create("acme", name="Acme")
    endpoint = await api.engine.endpoint("https://example.com/hook", workspace="acme")
    answer = await browser.get(f"/workspaces/acme/endpoints/{endpoint.id}")
    assert f"/webhooks/{endpoint.id}?workspace=acme" == answer.headers["Location"]


async def test_a_signing_key_of_ones_own(api: Api, browser: Browser) -> None:
    """Taken as it is; a malformed one is refused at its field, and never shown again."""
    fields = FIELDS | {"url": "https://own.example/", "signing_key": "whsec_short"}
    refused = await browser.send_form("/webhooks/new", fields, "/webhooks/new")
    assert 422 == refused.status and 'id="signing_key-fault"' in refused.body.decode()
    assert "whsec_short" not in refused.body.decode()
    own = "whsec_" + base64.b64encode(bytes(range(32))).decode()
    made = await browser.send_form("/webhooks/new", fields | {"signing_key": own}, "/webhooks/new")
    assert 303 == made.status
    assert own in {each.signing_key for each in api.app.registry.endpoints("default")}


async def test_a_plan_without_webhooks_is_said(api: Api, browser: Browser) -> None:
    """Below the plan: the table says that nothing goes out, the form says first which plan it takes and what to do."""
    await api.engine.endpoint("https://example.com/hook")
    await api.app.services.workspaces.change("default", plan="starter")
    shown = await text_of(browser, "/webhooks")
    assert "This workspace's plan has no webhooks" in shown and "Paused by plan" in shown
    first = await text_of(browser, "/webhooks/new")
    assert first.index("Webhooks come with the plan Advanced and above. This workspace is on Starter") < first.index(
        "URL"
    )
    assert 'href="/settings"' in (await browser.get("/webhooks/new")).body.decode()
    fields = FIELDS | {"url": "https://other.example/"}
    answer = await browser.send_form("/webhooks/new", fields, "/webhooks/new")
    assert (403, True) == (answer.status, "The plan has no webhooks" in answer.body.decode())


async def test_a_fault_of_ours_is_a_page_without_a_traceback(
    api: Api, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500, an incident number, nothing of the inside."""
    monkeypatch.setattr("webhookd.store.attempts.last_of_endpoint", lambda db, seq: 1 // 0)
    await api.engine.endpoint("https://example.com/hook")
    answer = await browser.get("/webhooks")
    body = answer.body.decode()
    assert 500 == answer.status
    assert "incident" in body and "Traceback" not in body and "ZeroDivision" not in body


async def test_head_is_answered_wherever_get_is(browser: Browser) -> None:
    """The same status, no body; the stream, which never ends, has no HEAD and reads as a delivery's id."""
    for path in ("/webhooks", "/log", "/sign-in"):
        answer = await browser.ask("HEAD", path)
        assert (200, b"") == (answer.status, answer.body)
    assert 404 == (await browser.ask("HEAD", "/log/stream")).status
