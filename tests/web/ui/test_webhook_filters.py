"""The pickers of a webhook's form, and the filters beside them: both read and write the same."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from tests.support.api import Api
from tests.support.reader import Browser
from webhookd.models import Endpoint
from webhookd.rules.event_types import BUILT_IN
from webhookd.rules.filters import filters_json

FORM = {"url": "https://example.com/hook", "every_type": "yes", "success": "200", "x_webhook_signature": "yes"}
CLOSED, UPDATED, SENT = "conversation.closed", "contact.updated", "message.sent"
CLOSED_BY = f"pick {CLOSED} conversation.closedBySource"
FIELD = f"pick {UPDATED} fields"


async def made(api: Api, filters: Any) -> Endpoint:
    return await api.app.services.endpoints.create("default", url=FORM["url"], event_types=["*"], filters=filters)


def filters_of(api: Api) -> Any:
    (endpoint,) = api.app.registry.endpoints()
    return filters_json(endpoint.filters)


async def edit(browser: Browser, endpoint: Endpoint, fields: dict[str, Any]) -> str:
    path = f"/webhooks/{endpoint.id}/edit"
    answer = await browser.send_form(path, FORM | fields, path)
    return "" if answer.status == 303 else html.unescape(answer.body.decode())


def ticked(body: str) -> set[tuple[str, str]]:
    return set(re.findall(r'<input type="checkbox" name="(pick [^"]+)" value="([^"]+)" checked>', body))


async def test_each_choice_of_the_catalogue_has_boxes(api: Api, browser: Browser) -> None:
    """Conversations by source, messages by type and source, contacts by field; in the reader's language."""
    body = (await browser.get("/webhooks/new")).body.decode()
    boxes = set(re.findall(r'<input type="checkbox" name="pick (\S+) (\S+)" value="([^"]+)">', body))
    assert boxes == {
        (kind.name, field.path, value) for kind in BUILT_IN for field in kind.choices for value in field.values
    }
    kinds = {kind for kind, _, _ in boxes}
    assert {CLOSED, "conversation.opened", SENT, "message.received", UPDATED} == kinds
    assert "<bdi>Developer API</bdi>" in body and "<legend>Closed by</legend>" in body and not ticked(body)
    vietnamese = (await browser.get("/webhooks/new", Accept_Language="vi")).body.decode()
    assert "<legend>Đóng bởi</legend>" in vietnamese and "<bdi>Tự động đóng</bdi>" in vietnamese


async def test_boxes_make_a_filter_and_show_it(api: Api, browser: Browser) -> None:
    """New, shown, read on the webhook's page, changed, taken away; fields of one type together."""
    fields = {CLOSED_BY: ["user", "auto_close"], FIELD: ["email"], f"more {FIELD}": "28811, 28812"}
    fields |= {f"pick {UPDATED} contactFieldType": ["custom_field"]}
    assert 303 == (await browser.send_form("/webhooks/new", FORM | fields, "/webhooks/new")).status
    changed = {"contactFieldType": ["custom_field"], "fields": ["email", "28811", "28812"]}
    assert {CLOSED: {"conversation": {"closedBySource": ["user", "auto_close"]}}, UPDATED: changed} == filters_of(api)
    (endpoint,) = api.app.registry.endpoints()
    body = (await browser.get(f"/webhooks/{endpoint.id}/edit")).body.decode()
    assert {(CLOSED_BY, "user"), (CLOSED_BY, "auto_close"), (FIELD, "email")} < ticked(body)
    assert 'value="28811, 28812"' in body and 2 == body.count('<details class="picks" open>')
    shown = html.unescape((await browser.get(f"/webhooks/{endpoint.id}")).body.decode())
    assert "Closed by: User, Auto Close" in shown and "Changed field: Email, 28811, 28812" in shown
    assert "" == await edit(browser, endpoint, {CLOSED_BY: ["bot"]})
    assert {CLOSED: {"conversation": {"closedBySource": ["bot"]}}} == filters_of(api)
    assert "" == await edit(browser, endpoint, {})
    assert {} == filters_of(api)


async def test_other_filters_are_written_out_and_kept(api: Api, browser: Browser) -> None:
    """What no box can say stands as JSON, its type without boxes; an edit of anything else keeps all."""
    others = {
        "*": {"contact": {"id": [{"numeric": [">", 5]}]}},
        SENT: {"sender": {"source": ["user"]}, "$or": [{"a": ["x"]}, {"b": ["y"]}]},
    }
    whole = others | {CLOSED: {"conversation": {"closedBySource": ["somebody", "user"]}}}
    endpoint = await made(api, whole)
    body = html.unescape((await browser.get(f"/webhooks/{endpoint.id}/edit")).body.decode())
    assert {(CLOSED_BY, "user"), (CLOSED_BY, "somebody")} == ticked(body) and f"pick {SENT}" not in body
    written = re.search(
        r'<textarea id="filters"[^>]*>([^<]*)<', (await browser.get(f"/webhooks/{endpoint.id}/edit")).body.decode()
    )
    assert written is not None
    fields = {"filters": html.unescape(written[1]), CLOSED_BY: ["user", "somebody"], "description": "x"}
    assert "" == await edit(browser, endpoint, fields)
    kept = filters_of(api)
    assert others == {name: kept[name] for name in others}
    assert {"user", "somebody"} == set(kept[CLOSED]["conversation"]["closedBySource"])
    shown = html.unescape((await browser.get(f"/webhooks/{endpoint.id}")).body.decode())
    assert 'Every event: <bdi>{"contact": {"id": [{"numeric": [">", 5]}]}}' in shown


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"filters": "{"}, "Filters are a JSON object"),
        ({"filters": "[1]"}, "Filters are a JSON object"),
        ({"filters": '{"*": {"a": [{"prefiks": "x"}]}}'}, "wrong at 'a[0]'. It has no operator 'prefiks'"),
        ({"filters": '{"conversation.closed": {"a": ["x"]}}', CLOSED_BY: ["user"]}, "has ticked boxes and a pattern"),
        ({"filters": '{"x.y": {"a": ["x"]}}'}, "no event type 'x.y'"),
    ],
)
async def test_a_mistake_is_shown_beside_its_field(api: Api, browser: Browser, fields: Any, words: str) -> None:
    """What was typed and ticked stays; nothing is saved."""
    endpoint = await made(api, {})
    body = await edit(browser, endpoint, {**fields, f"pick {UPDATED} fields": ["phone"]})
    assert words in body and fields["filters"] in body
    assert (f"pick {UPDATED} fields", "phone") in ticked(body)
    assert {} == filters_of(api)


async def test_a_mistake_is_told_in_vietnamese(api: Api, browser: Browser) -> None:
    """Where it is, and what is wrong."""
    endpoint = await made(api, {})
    path = f"/webhooks/{endpoint.id}/edit"
    wrong = FORM | {"filters": '{"*": {"a": [{"exists": 1}]}}'}
    answer = await browser.send_form(path, wrong, path, Accept_Language="vi")
    assert "Bộ lọc của '*' sai tại 'a[0]'. exists là true hoặc false." in html.unescape(answer.body.decode())


async def test_a_filter_that_changed_meanwhile_isnt_overwritten(api: Api, browser: Browser) -> None:
    """The form says both."""
    endpoint = await made(api, {})
    path = f"/webhooks/{endpoint.id}/edit"
    shown = (await browser.get(path)).body.decode()
    hidden = {name: re.search(f'name="{name}" value="([^"]+)"', shown)[1] for name in ("proof", "version")}  # type: ignore[index]
    theirs = {CLOSED: {"conversation": {"closedBySource": ["api"]}}}
    await api.app.services.endpoints.change("default", endpoint.id, {"filters": theirs})
    answer = await browser.post(path, FORM | hidden | {CLOSED_BY: ["bot"]})
    body = html.unescape(answer.body.decode())
    assert 409 == answer.status and '["bot"]' in body and '["api"]' in body
    assert theirs == filters_of(api)
