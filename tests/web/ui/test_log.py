"""The log's page and a delivery's: presets, search, the histogram, what can be copied, the line of attempts."""

from __future__ import annotations

import html
import re

import pytest

from tests.support.api import Api
from tests.support.reader import Browser
from webhookd.config import Budget, Config, Delivery
from webhookd.models import Endpoint
from webhookd.rules.ids import delivery_id

URL = "https://example.com/hook"


@pytest.fixture
def config() -> Config:
    return Config(budget=Budget(limit=5), delivery=Delivery(retry_seconds=(30, 60, 90)))


@pytest.fixture
async def endpoint(api: Api) -> Endpoint:
    return await api.app.services.endpoints.create(
        "default", url=URL, event_types=["*"], headers={"X-Api-Key": "hidden 'secret'"}
    )


async def body_of(browser: Browser, path: str, **headers: str) -> str:
    answer = await browser.get(path, **headers)
    assert 200 == answer.status
    return html.unescape(answer.body.decode())


async def ids(browser: Browser, path: str) -> list[str]:
    return re.findall(r'<bdi class="id">([\w-]+)</bdi></div>', await body_of(browser, path))


async def test_one_click_filters_and_takes_back(api: Api, browser: Browser, endpoint: Endpoint) -> None:
    """Failed, retrying, held, the last hour: each with the rest of the filter kept; a second click takes it away."""
    await api.engine.send("ok")
    await api.engine.quiet()
    api.engine.network.answer = lambda url, webhook_id: 503
    await api.engine.send("gone", "late", "next")
    await api.engine.advance(200)
    await api.engine.quiet()
    assert ["gone"] == await ids(browser, "/log?state=dropped")
    assert ["late"] == await ids(browser, "/log?state=retrying")
    assert ["next", "late"] == await ids(browser, "/log?state=pending")
    assert 4 == len(await ids(browser, "/log?span=hour"))
    shown = await body_of(browser, "/log?state=dropped&text=o&span=hour")
    assert '<a class="chip" href="/log?text=o&span=hour" aria-current="true">Failed' in shown
    assert 'href="/log?text=o&span=hour&state=retrying"' in shown
    assert "Filter (3)" in shown
    assert ["gone"] == await ids(browser, "/log?text=GON")
    assert ["next", "late", "gone", "ok"] == await ids(browser, "/log?text=message.received")
    assert ["ok"] == await ids(browser, "/log?status=2xx") and ["late", "gone"] == await ids(browser, "/log?status=503")
    assert 422 == (await browser.get("/log?status=teapot")).status
    await api.app.services.endpoints.disable("default", endpoint.id)
    assert ["next", "late"] == await ids(browser, "/log?state=held")
    assert [] == await ids(browser, "/log?state=retrying")


async def test_a_replay_by_what_it_does_not_know_is_refused(api: Api, browser: Browser, endpoint: Endpoint) -> None:
    """A filter with a text or a status has no replay of all; asked for all the same, nothing is sent."""
    api.engine.network.answer = lambda url, webhook_id: 503
    await api.engine.send("e1")
    await api.engine.advance(200)
    path = f"/log?endpoint={endpoint.id}"
    assert "Replay the dropped of these…" in await body_of(browser, path)
    for narrow in ("&text=e1", "&status=503"):
        assert "Replay the dropped" not in await body_of(browser, path + narrow)
        refused = await browser.send_form(f"/log/replay?endpoint={endpoint.id}{narrow}", {}, path)
        assert 422 == refused.status and b"know status and text" in refused.body


async def test_the_bars_above_the_log_are_links_to_their_time(api: Api, browser: Browser, endpoint: Endpoint) -> None:
    """What was accepted when, and what of it failed; a link shows the rows of its bar alone, the filter kept."""
    await api.engine.send("early")
    await api.engine.advance(1800)
    api.engine.network.answer = lambda url, webhook_id: 503
    await api.engine.send("late", "later")
    await api.engine.advance(200)
    shown = await body_of(browser, f"/log?endpoint={endpoint.id}&since=2001-01-01T00:00")
    assert "Deliveries: 3, failed: 1" in shown
    bars = re.findall(r'<a class="bar" href="(/log\?[^"]+)" [^>]*data-said="deliveries: (\d), failed: (\d)"', shown)
    assert [("1", "0"), ("2", "1")] == [bar[1:] for bar in bars]
    assert [["early"], ["later", "late"]] == [await ids(browser, path) for path, *_ in bars]
    assert all(f"endpoint={endpoint.id}" in path for path, *_ in bars)
    assert "data-chart" not in await body_of(browser, "/log?until=2001-01-01T00:00")


async def test_a_delivery_says_first_where_it_went(api: Api, browser: Browser, endpoint: Endpoint) -> None:
    """POST and the URL; the body and a curl command to copy, secrets masked; escapes readable."""
    text = '{"event_type":"message.received","event_id":"e1","text":"Xin ch\\u00e0o, it\'s"}'
    headers = {"Content-Type": "application/json"}
    assert 202 == (await api.call("POST", "/v1/events", data=text.encode(), headers=headers)).status
    await api.engine.quiet()
    shown = await body_of(browser, f"/log/{delivery_id(1)}")
    main = re.sub(r"<[^>]+>", "", shown.partition("<main")[2])
    assert main.index(f"POST {URL}") < main.index("New Incoming Message")
    assert "Xin chào, it's" in shown.partition('aria-label="Event body"')[2].partition("</pre>")[0]
    raw = re.search(r'<div id="raw-body" hidden>(.*?)</div>', shown, re.DOTALL)
    curl = re.search(r'<div id="raw-curl" hidden>(.*?)</div>', shown, re.DOTALL)
    assert raw and curl and text == raw[1]
    for words in (f"curl -X POST {URL}", "-H 'X-Api-Key: ***'", "-H 'webhook-id: e1'", "ch\\u00e0o, it'\"'\"'s"):
        assert words in curl[1]
    assert "secret" not in shown


async def test_attempts_stand_on_a_line_with_what_is_to_come(api: Api, browser: Browser, endpoint: Endpoint) -> None:
    """+30 after the first, +60 and +90 planned; the deliveries before and after; *Enable* where a replay needs it."""
    api.engine.network.answer = lambda url, webhook_id: 503
    await api.engine.send("e1", "e2")
    await api.engine.advance(31)
    await api.engine.quiet()
    first, second = f"/log/{delivery_id(1)}", f"/log/{delivery_id(2)}"
    line = (await body_of(browser, first)).partition('class="timeline"')[2].partition("</svg>")[0]
    assert ["+30 s", "+60 s", "+90 s"] == re.findall(r'class="gap"[^>]*>([^<]+)<', line)
    assert (2, 2) == (line.count('class="bad"'), line.count("circle cx") - line.count('class="bad"'))
    shown = await body_of(browser, first)
    assert f'rel="next" href="{second}"' in shown and 'rel="prev"' not in shown
    assert f'rel="prev" href="{first}"' in await body_of(browser, second)
    enable = f'href="/webhooks/{endpoint.id}/enable">Enable<'
    assert enable not in shown
    await api.app.services.endpoints.disable("default", endpoint.id)
    assert enable in await body_of(browser, first)
    vietnamese = await body_of(browser, first, Accept_Language="vi")
    assert "+30 giây" in vietnamese and "Sao chép dạng curl" in vietnamese
