"""A large database: calls on a great backlog, the log's pages, and from SIGKILL to ready.

    python -m tests.bench.large calls|log|webhooks|page|ready [DELIVERIES]

`calls` disables, enables, skips and deletes the endpoint that has 1,000,000 waiting (unless given) and prints how long
each call took, with p99 and the longest of the commits of a healthy endpoint's events meanwhile.  `log` prints median
and p95 of the page's and the API's answers, filter by filter, with 1,000,000 finished deliveries of 20 webhooks while
500 events a second go through, and before those the daemon's processor time for one; `webhooks` the same of the pages
that have webhooks in them, with 1,000 webhooks.  `page` prints p95 in Chromium, until the page's script has run.
`ready` kills a daemon under load five times and prints how long it took until the next was ready.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from playwright.async_api import async_playwright

from tests.bench import stock
from tests.bench.stock import Stock
from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.support import process
from tests.support.process import Daemon
from tests.support.receiver import receiver
from tests.support.results import recorded
from webhookd.clock import rfc3339

CONFIG = stock.config(2, log_level="warning")
ENDPOINTS = 20
MANY = 1000
RATE_PER_SECOND = 500
KILLS = 5


@dataclass(frozen=True)
class Figure:
    """One line of the output: what was measured, and its values by name, most in milliseconds."""

    what: str
    values: dict[str, float]

    def __str__(self) -> str:
        return f"{self.what:60} " + ", ".join(f"{name} {value:.1f}" for name, value in self.values.items())


@asynccontextmanager
async def stocked(wanted: Callable[[int], Stock]) -> AsyncIterator[tuple[Path, str]]:
    """A state directory with that stock for the port of a receiver, which answers 404 to the stock's `/hook/0`."""
    with tempfile.TemporaryDirectory(prefix="webhookd-large-") as folder:
        async with receiver() as where:
            await stock.fill(Path(folder) / "state", wanted(int(where.url.rpartition(":")[2])))
            yield Path(folder) / "state", where.url


@asynccontextmanager
async def meanwhile(going: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(going)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def waiting(events: int) -> Callable[[int], Stock]:
    return lambda port: Stock(endpoints=1, types=1, port=port, waiting=events, body_bytes=256)


async def post_timed(d: Daemon, label: str, latencies_ms: list[float]) -> None:
    """One event after the other for the healthy endpoint, each timed until its 202."""
    for number in range(1_000_000):
        began = time.perf_counter()
        await d.call("POST", "/v1/events", {"event_type": "bench.t1", "event_id": f"{label}-{number}"}, expect=202)
        latencies_ms.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.002)


async def calls(events: int, meanwhile_seconds: float = 2.0) -> list[Figure]:
    """Each call is watched from a quarter of `meanwhile_seconds` before it until so long after it."""
    figures = []
    async with stocked(waiting(events)) as (state_dir, url):
        began = time.perf_counter()
        async with process.daemon(state_dir, CONFIG) as d:
            figures.append(Figure("until ready", {"seconds": time.perf_counter() - began}))
            dead = (await d.call("GET", "/v1/endpoints"))["data"][0]["id"]
            await d.call("POST", "/v1/endpoints", {"url": f"{url}/well", "event_types": ["bench.t1"]}, expect=201)
            for method, path, fields in (
                ("POST", f"/v1/endpoints/{dead}/disable", None),
                ("POST", f"/v1/endpoints/{dead}/enable", None),
                ("POST", f"/v1/endpoints/{dead}/disable", None),
                ("PATCH", "/v1/workspaces/default", {"plan": "growth"}),
                ("PATCH", "/v1/workspaces/default", {"plan": "advanced"}),
                ("POST", f"/v1/endpoints/{dead}/enable", {"skip_held": True}),
                ("DELETE", f"/v1/endpoints/{dead}", None),
            ):
                latencies: list[float] = []
                async with meanwhile(post_timed(d, str(len(figures)), latencies)):
                    await asyncio.sleep(meanwhile_seconds / 4)
                    began = time.perf_counter()
                    await d.call(method, path, fields)
                    took_ms = (time.perf_counter() - began) * 1000
                    await asyncio.sleep(meanwhile_seconds)
                commits = {"commits p99": statistics.quantiles(latencies, n=100)[98], "longest": max(latencies)}
                figures.append(Figure(f"{method} {path[-20:]} {fields or ''}", {"took": took_ms} | commits))
    return figures


async def traffic(d: Daemon) -> None:
    """500 events a second, as one stream of lines, until cancelled."""

    async def lines() -> AsyncIterator[bytes]:
        for number in range(1_000_000):
            yield b'{"event_type":"bench.t1","event_id":"new-%d"}\n' % number
            await asyncio.sleep(1 / RATE_PER_SECOND)

    headers = {**d.admin(), "Content-Type": "application/x-ndjson"}
    async with d.session.post(d.url + "/v1/events", data=lines(), headers=headers) as answer:
        await answer.read()


async def signed_in(d: Daemon) -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
    async with session.get(d.url + "/sign-in") as answer:
        proof = re.findall(r'name="proof" value="([0-9a-f]+)"', await answer.text())[0]
    form = {"secret": (d.state_dir / "admin-token").read_text().strip(), "proof": proof}
    async with session.post(d.url + "/sign-in", data=form, headers={"Origin": d.url}) as answer:
        assert answer.ok, await answer.text()
    return session


async def log(deliveries: int, rounds: int = 22) -> list[Figure]:
    """The log's pages and the API's."""
    early = rfc3339(time.time_ns() // 1_000_000 - deliveries * 9 // 10)
    addresses = (
        "/log",
        f"/log?endpoint={_id(3)}",
        "/log?state=dropped",
        "/log?span=hour",
        "/log?span=today",
        "/log?state=retrying",
        "/log?state=held",
        "/log?status=5xx",
        "/log?text=old-000000000077",
        "/log?text=nothing-has-this",
        "/log?text=nothing-has-this&state=dropped",
        f"/log?event_id=old-{77:012d}",
        f"/log?until={early[:-5]}",
        "/log?since=2100-01-01T00:00",
        "/log?event_type=comment.created",  # of which there is none
        "/v1/deliveries",
        "/v1/deliveries?text=xxxx&status=200",
        f"/v1/deliveries?until={early}",
        "/webhooks",
        f"/webhooks/{_id(1)}",
        "/v1/status",
    )
    return await _answers(Stock(endpoints=ENDPOINTS, types=1, history=deliveries, body_bytes=64), addresses, rounds)


async def webhooks(deliveries: int, rounds: int = 22) -> list[Figure]:
    """The pages that have webhooks in them, and the API's, of a workspace with 1,000."""
    addresses = (
        "/webhooks",
        "/webhooks?page=20",
        "/webhooks?sort=failures",
        "/webhooks?q=hook/99",
        f"/webhooks?only={_id(1)},{_id(2)}",
        f"/webhooks/{_id(1)}",
        f"/webhooks/{_id(1)}?range=week",
        "/log",
        f"/log?endpoint={_id(3)}",
        "/log?event_type=comment.created",
        "/v1/endpoints",
        "/v1/deliveries?text=xxxx&status=200",
        "/v1/status",
    )
    return await _answers(Stock(endpoints=MANY, types=1, history=deliveries, body_bytes=64), addresses, rounds)


def _id(number: int) -> str:
    return f"ep_{number:026d}"


async def _answers(wanted: Stock, addresses: Sequence[str], rounds: int) -> list[Figure]:
    """One address after the other: what each costs the daemon, then how long each takes under traffic."""
    figures = []
    async with stocked(lambda _: wanted) as (state_dir, url), process.daemon(state_dir, CONFIG) as d:
        session = await signed_in(d)
        costs_ms = [await _cost_ms(d, session, address) for address in addresses]
        await d.call("POST", "/v1/endpoints", {"url": f"{url}/hook", "event_types": ["bench.t1"]}, expect=201)
        async with meanwhile(traffic(d)):
            for address, cost_ms in zip(addresses, costs_ms, strict=True):
                taken_ms = [await _get_ms(d, session, address) for _ in range(rounds)]
                p95 = statistics.quantiles(taken_ms, n=20)[18]
                values = {"median": statistics.median(taken_ms), "p95": p95, "processor": cost_ms}
                figures.append(Figure(address, values))
        await session.close()
    return figures


async def _cost_ms(d: Daemon, session: aiohttp.ClientSession, address: str, rounds: int = 5) -> float:
    """The daemon's processor time for one request, after one that isn't counted."""
    await _get_ms(d, session, address)
    before = process.cpu_seconds([d.process.pid])
    for _ in range(rounds):
        await _get_ms(d, session, address)
    return (process.cpu_seconds([d.process.pid]) - before) / rounds * 1000


async def _get_ms(d: Daemon, session: aiohttp.ClientSession, address: str) -> float:
    began = time.perf_counter()
    async with session.get(d.url + address, headers=d.admin() if address.startswith("/v1") else {}) as answer:
        await answer.read()
        assert 200 == answer.status, address
    return (time.perf_counter() - began) * 1000


async def page(deliveries: int, rounds: int = 22) -> list[Figure]:
    """Pages in Chromium: until each has answered, until it can be used, and until all of it has loaded."""
    few = Stock(endpoints=ENDPOINTS, types=1, history=deliveries, body_bytes=600)
    many = Stock(endpoints=MANY, types=1, history=deliveries, body_bytes=64)
    searches = ("/log", "/log?state=dropped", "/log?span=hour", "/log?text=nothing-has-this")
    figures = await _in_chromium(few, searches, rounds)
    return figures + await _in_chromium(many, ("/webhooks", f"/webhooks/{_id(1)}", "/log"), rounds)


async def _in_chromium(wanted: Stock, addresses: Sequence[str], rounds: int) -> list[Figure]:
    figures = []
    async with stocked(lambda _: wanted) as (state_dir, _), process.daemon(state_dir, CONFIG) as d:
        secret = (d.state_dir / "admin-token").read_text().strip()
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            tab = await browser.new_page()
            await tab.goto(d.url + "/sign-in")
            await tab.get_by_label("Token or sign-in code").fill(secret)
            await tab.get_by_role("button", name="Sign in").click()
            await tab.wait_for_url("**/webhooks*")
            for address in addresses:
                taken: list[dict[str, float]] = []
                for _ in range(rounds):
                    await tab.goto(d.url + address)
                    taken.append(await tab.evaluate(_TIMING))
                p95 = {name: statistics.quantiles([each[name] for each in taken], n=20)[18] for name in taken[0]}
                what = f"{address}, {wanted.endpoints} webhooks"
                figures.append(Figure(what, {f"p95 {name}": value for name, value in p95.items()}))
            await browser.close()
    return figures


# Scripts are deferred: they have run when the DOM's content counts as loaded.
_TIMING = """() => {
  const at = performance.getEntriesByType("navigation")[0];
  return {
    answered: at.responseEnd,
    interactive: at.domContentLoadedEventEnd,
    loaded: at.loadEventEnd,
    KiB: at.decodedBodySize / 1024,
  };
}"""


async def ready(events: int) -> list[Figure]:
    """Seconds from each SIGKILL, after a second of events for the healthy endpoint, to the next ready."""
    figures = []
    async with stocked(waiting(events)) as (state_dir, url):
        d = await process.start(state_dir, CONFIG)
        await d.call("POST", "/v1/endpoints", {"url": f"{url}/well", "event_types": ["bench.t1"]}, expect=201)
        for number in range(KILLS):
            for batch in range(20):
                ids = [f"kill-{number}-{batch}-{each}" for each in range(50)]
                await d.call("POST", "/v1/events", [{"event_type": "bench.t1", "event_id": each} for each in ids])
                await asyncio.sleep(0.05)
            began = time.perf_counter()
            os.kill(d.process.pid, signal.SIGKILL)
            await d.until_dead()
            await d.session.close()
            wal_mb = (state_dir / "webhookd.db-wal").stat().st_size / 1024**2
            d = await process.start(state_dir, CONFIG)
            figures.append(Figure("SIGKILL", {"seconds": time.perf_counter() - began, "MiB of log": wal_mb}))
        await d.stop()
        await d.session.close()
    return figures


MEASURES: dict[str, Any] = {"calls": calls, "log": log, "webhooks": webhooks, "page": page, "ready": ready}


def main() -> None:
    what, *number = sys.argv[1:] or ["calls"]
    print(*asyncio.run(MEASURES[what](int(number[0]) if number else 1_000_000)), sep="\n", flush=True)


if __name__ == "__main__":
    sys.exit(recorded(main))
