"""What a noisy workspace costs a quiet one, and what the noisy one still gets.

    python -m tests.bench.fairness [NOISE …] [--seconds 10] [--record]

A quiet workspace sends ten events a second to one endpoint; measured is the time from its request to the arrival at the
receiver.  Each noise makes its own in another workspace, alone at first (its rate), then beside the quiet one.  Noises
run in a process of their own, so that the clock of the quiet workspace isn't held up by them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from tests.bench import processes
from tests.support.process import Daemon
from tests.support.results import recorded

CONFIG = (
    '[egress]\nallow = ["127.0.0.0/8"]\n[log]\nlevel = "error"\n[limits]\nendpoints = 100\nquestions_per_token = 50\n'
    "waiting_per_workspace = 100000000\nwaiting_mb_per_workspace = 100000\n"  # else disabled endpoints end the noise
)
QUIET, NOISY = "quiet", "noisy"
PERIOD_SECONDS = 0.1
WORST_RATIO, WORST_MS, LEAST_RATE = 3.0, 250.0, 0.7
SMALL = b'{"event_type":"message.sent","text":"hello"}\n'
LARGE = b'{"event_type":"message.sent","text":"' + b"x" * 200_000 + b'"}\n'
REPLAYED = 100_000
STOCKED_ENDPOINTS = 20  # one alone would take minutes to deliver them


class Noise:
    """What the noisy workspace does: `count` is what got through."""

    def __init__(self, url: str, token: str) -> None:
        self.count = 0
        self._url = f"{url}/v1/workspaces/{NOISY}"
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"}, connector=aiohttp.TCPConnector(limit=0)
        )

    async def close(self) -> None:
        """The noise is over."""
        await self._session.close()

    async def pipe(self, line: bytes, per_write: int) -> None:
        """One stream of lines, as fast as it is taken; ends are followed by another stream."""

        async def lines() -> AsyncIterator[bytes]:
            while True:
                yield line * per_write
                self.count += per_write

        while True:
            headers = {"Content-Type": "application/x-ndjson"}
            async with self._session.post(f"{self._url}/events", data=lines(), headers=headers) as answer:
                await answer.read()
            await asyncio.sleep(0.1)

    async def ask(self, path: str) -> None:
        """One question after the other."""
        while True:
            async with self._session.get(f"{self._url}{path}") as answer:
                await answer.read()
                self.count += answer.status == 200

    async def post(self, path: str, body: dict[str, object]) -> None:
        """One request after the other."""
        while True:
            async with self._session.post(f"{self._url}{path}", json=body) as answer:
                self.count += (await answer.json()).get("replayed", 0)
            await asyncio.sleep(0.05)

    async def stream_unread(self) -> None:
        """A live stream that is opened and never read."""
        answer = await self._session.get(f"{self._url}/deliveries/stream")
        self.count += 1
        await asyncio.Event().wait()
        answer.close()

    async def events(self, per_second: int) -> None:
        """Single events at a steady rate."""
        while True:
            async with self._session.post(
                f"{self._url}/events", data=SMALL, headers={"Content-Type": "application/json"}
            ) as answer:
                self.count += answer.status == 202
            await asyncio.sleep(1 / per_second)


@dataclass(frozen=True)
class Kind:
    """A noise: how many endpoints it needs and how they are, and its tasks."""

    what: str
    tasks: Callable[[Noise], list[Awaitable[None]]]
    endpoints: int = 0
    state: str = "disabled"
    stocked: int = 0  # deliveries that are there before, all of them delivered
    has_rate: bool = True
    accepts: bool = True  # its rate is that of accepted events, else of its own answers


NOISES = {
    "pipes": Kind("eight pipes of small events, no endpoint", lambda n: [n.pipe(SMALL, 100) for _ in range(8)]),
    "large": Kind("one pipe of 200 kB events", lambda n: [n.pipe(LARGE, 1)]),
    "fanout": Kind("four pipes, 35 disabled endpoints", lambda n: [n.pipe(SMALL, 100) for _ in range(4)], endpoints=35),
    "million": Kind("a million piped in, one endpoint", lambda n: [n.pipe(SMALL, 100)], endpoints=1, state="active"),
    "blackhole": Kind(
        "35 endpoints at a black hole", lambda n: [n.events(100)], endpoints=35, state="black hole", has_rate=False
    ),
    "replay": Kind(
        f"a replay of {REPLAYED:,}",
        lambda n: [n.post("/replay", {"since": "2020-01-01T00:00:00Z", "state": "delivered"})],
        endpoints=STOCKED_ENDPOINTS,
        state="active",
        stocked=REPLAYED,
        has_rate=False,
    ),
    "searches": Kind(
        "50 concurrent searches",
        lambda n: [n.ask("/deliveries?state=expired&limit=100") for _ in range(50)],
        endpoints=STOCKED_ENDPOINTS,
        state="active",
        stocked=REPLAYED,
        accepts=False,
    ),
    "streams": Kind(
        "100 live streams that don't read, 100 events/s",
        lambda n: [*[n.stream_unread() for _ in range(100)], n.events(100)],
        endpoints=1,
        state="active",
        has_rate=False,
    ),
}


async def make_noise(name: str, url: str, token: str, seconds: float) -> None:
    """The program of the noise: prints what got through per second."""
    noise = Noise(url, token)
    tasks = [asyncio.ensure_future(task) for task in NOISES[name].tasks(noise)]
    began, before = time.monotonic(), 0
    await asyncio.sleep(seconds)
    print(json.dumps((noise.count - before) / (time.monotonic() - began)), flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await noise.close()


async def quiet(daemon: Daemon, seconds: float) -> tuple[float, float]:
    """p50 and p99 of the quiet workspace, in ms; an event that doesn't arrive counts as long as it was waited for."""
    sent: dict[str, float] = {}
    began, number = time.monotonic(), 0
    posts: list[asyncio.Task[object]] = []
    while time.monotonic() - began < seconds:
        event_id = f"q{time.monotonic_ns()}"
        sent[event_id] = time.monotonic()
        event = {"event_type": "message.sent", "event_id": event_id}
        posts.append(asyncio.create_task(daemon.call("POST", f"/v1/workspaces/{QUIET}/events", event)))
        number += 1
        await asyncio.sleep(max(0.0, began + number * PERIOD_SECONDS - time.monotonic()))
    await asyncio.wait(posts, timeout=30)
    deadline = time.monotonic() + 30
    while not sent.keys() <= ARRIVED.keys() and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    now = time.monotonic()
    took = sorted((ARRIVED.get(each, now) - at) * 1000 for each, at in sent.items())
    return took[len(took) // 2], took[math.ceil(len(took) * 0.99) - 1]


ARRIVED: dict[str, float] = {}


def _noise(name: str, daemon: Daemon, seconds: float) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    token = daemon.admin()["Authorization"].removeprefix("Bearer ")
    return processes.program("-m", "tests.bench.fairness", "--noise", name, daemon.url, token, str(seconds))


async def _rate(process: asyncio.subprocess.Process) -> float:
    """What the noise counted itself, per second."""
    assert process.stdout is not None
    return float(await process.stdout.readline())


async def _accepted(daemon: Daemon) -> float:
    """How many events were accepted so far."""
    metrics: str = await daemon.call("GET", "/metrics")
    return float(re.findall(r"^webhookd_events_accepted_total\S* (\S+)$", metrics, re.MULTILINE)[0])


@asynccontextmanager
async def _measured(name: str, daemon: Daemon, seconds: float, rates: list[float]) -> AsyncIterator[None]:
    """Have the noise; its rate is appended to `rates`."""
    async with _noise(name, daemon, seconds) as process:
        await asyncio.sleep(1)  # it starts
        before, began = await _accepted(daemon), time.monotonic()
        yield
        rate = (await _accepted(daemon) - before) / (time.monotonic() - began)
        rates.append(rate if NOISES[name].accepts else await _rate(process))


async def measure(name: str, seconds: float) -> str:
    """A noise's row of the table."""
    kind = NOISES[name]
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="webhookd-fair-")))
        sink = await stack.enter_async_context(_sink())
        hole = await stack.enter_async_context(await asyncio.start_server(_swallow, "127.0.0.1"))
        daemon = await stack.enter_async_context(processes.webhookd(folder / "state", CONFIG))
        for workspace in (QUIET, NOISY):
            await daemon.call("POST", "/v1/workspaces", {"id": workspace, "plan": "advanced"}, expect=201)
        await daemon.call(
            "POST", f"/v1/workspaces/{QUIET}/endpoints", {"url": f"{sink}/q", "event_types": ["*"]}, expect=201
        )
        url = f"{sink}/n" if kind.state != "black hole" else f"http://127.0.0.1:{hole.sockets[0].getsockname()[1]}"
        for number in range(kind.endpoints):
            made = await daemon.call(
                "POST",
                f"/v1/workspaces/{NOISY}/endpoints",
                {"url": f"{url}/{number}", "event_types": ["*"]},
                expect=201,
            )
            if kind.state == "disabled":
                await daemon.call("POST", f"/v1/workspaces/{NOISY}/endpoints/{made['id']}/disable")
        if kind.stocked:
            await _stock(daemon, kind.stocked // kind.endpoints)
        base = await quiet(daemon, seconds)
        rates: list[float] = []
        async with _measured(name, daemon, seconds + 2, rates):
            await asyncio.sleep(seconds)
        await asyncio.sleep(1)
        async with _measured(name, daemon, seconds + 2, rates):
            beside = await quiet(daemon, seconds)
        if kind.has_rate:  # again: its own tables have grown meanwhile, which makes it slower whoever is beside it
            await asyncio.sleep(1)
            async with _measured(name, daemon, seconds + 2, rates):
                await asyncio.sleep(seconds)
    before, rate, *after = rates
    alone = statistics.mean([before, *after])
    good = beside[1] <= WORST_RATIO * base[1] and beside[1] < WORST_MS
    good = good and (not kind.has_rate or rate >= LEAST_RATE * alone)
    kept = f"{rate / alone:.2f} ({rate:,.0f}/s)" if kind.has_rate and alone else ""
    return (
        f"| {kind.what} | {base[0]:.0f} / {base[1]:.0f} | {beside[0]:.0f} / {beside[1]:.0f} "
        f"| {beside[1] / base[1]:.1f} | {kept} | {'yes' if good else '**no**'} |"
    )


@asynccontextmanager
async def _sink() -> AsyncIterator[str]:
    """A receiver that keeps when each event came, and nothing else; its URL."""

    async def note(request: web.Request) -> web.Response:
        ARRIVED.setdefault(request.headers["webhook-id"], time.monotonic())
        return web.Response()

    app = web.Application()
    app.router.add_post("/{name:.*}", note)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _swallow(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        pass


async def _stock(daemon: Daemon, count: int) -> None:
    """Let so many events be delivered to every endpoint."""
    event = json.loads(SMALL)
    for _ in range(count // 1000):
        await daemon.call("POST", f"/v1/workspaces/{NOISY}/events", [event] * 1000)
    while True:
        shown = await daemon.call("GET", f"/v1/workspaces/{NOISY}/endpoints")
        if not sum(each["queue"]["waiting"] for each in shown["data"]):
            break
        await asyncio.sleep(0.5)


def main() -> None:
    """As the arguments say."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fairness", description=__doc__.splitlines()[0])
    parser.add_argument("noises", nargs="*", metavar="NOISE", help=", ".join(NOISES))
    parser.add_argument("--seconds", type=float, default=20.0, help="of each turn")
    arguments = parser.parse_args()
    unknown = set(arguments.noises) - set(NOISES)
    if unknown:
        parser.error(f"no such noise: {', '.join(sorted(unknown))}; there are {', '.join(NOISES)}")
    print("| noise | quiet alone, p50 / p99 ms | beside it | ratio of p99 | noise's rate ÷ alone | good |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in arguments.noises or NOISES:
        print(asyncio.run(measure(name, arguments.seconds)), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--noise"]:
        asyncio.run(make_noise(sys.argv[2], sys.argv[3], sys.argv[4], float(sys.argv[5])))
    else:
        sys.exit(recorded(main))
