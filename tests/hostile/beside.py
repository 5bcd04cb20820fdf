"""199 hostile receivers and one healthy endpoint in one real daemon with the default timeout of 5 s.

    python -m tests.hostile.beside [SECONDS]

Every behaviour of `tests.support.bad_receivers` is among them, over http and https in turns, in a process of its own.
First their events come one by one, then all at once every three seconds; a failed one is given up at once, so that the
next begins.  Before that the healthy one gets as much alone.  Prints the longest attempt, the loop's lag, the healthy
endpoint's times from accepted to delivered, and by how much the daemon's memory grew.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.bad_receiver_server import ScriptedReceiver
from tests.support.bad_receivers import ALL, healthy
from tests.support.changed import Lag, read_lags
from tests.support.process import ROOT, Daemon, daemon
from tests.support.results import recorded

HOSTILE = 199
BURST_EVERY_SECONDS = 3.0
HEALTHY_PER_SECOND = 20
HOSTILE_PER_SECOND = 200
CONFIG = """
[egress]
allow = ["127.0.0.0/8"]
[delivery]
timeout_seconds = {timeout_seconds}
retry_seconds = []
[budget]
limit = 1000000
[limits]
endpoints = 1000
[log]
format = "json"
"""


@dataclass(frozen=True, slots=True)
class Hostile:
    scheme: str
    name: str
    url: str


@dataclass(slots=True)
class Figures:
    """What one run came to; `surprises` are outcomes that aren't what the receiver leads to."""

    hostile: int
    attempts: int
    longest_ms: float
    healthy_ms: list[float]
    lags: list[Lag]
    grown_bytes: int
    surprises: list[str]

    def __str__(self) -> str:
        late, own, healthy_ms = [lag.late_ms for lag in self.lags], [lag.own_ms for lag in self.lags], self.healthy_ms
        return "\n".join(
            [
                f"{self.hostile} hostile endpoints, {self.attempts} attempts, the longest {self.longest_ms:.0f} ms",
                f"loop lag: median {statistics.median(late):.1f} ms, p99 {p99(late):.1f} ms, longest {max(late):.1f} "
                f"ms; of the process's own doing: p99 {p99(own):.1f} ms, longest {max(own):.1f} ms",
                f"healthy endpoint, accepted to delivered, {len(healthy_ms)} events: median "
                f"{statistics.median(healthy_ms):.0f} ms, p99 {p99(healthy_ms):.0f}, longest {max(healthy_ms):.0f} ms",
                f"memory grew by {self.grown_bytes / 1024**2:.1f} MiB",
                *self.surprises,
            ]
        )


def p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def choose(ports: dict[str, dict[str, int]], number: int, turn: int) -> list[Hostile]:
    """`number` endpoints, every behaviour among them if there is room, http and https in turns."""
    other = {"http": "https", "https": "http"}
    first: list[Hostile] = []
    second: list[Hostile] = []
    for at, name in enumerate(ports["https"]):
        scheme = ("http", "https")[(at + turn) % 2] if name in ports["http"] else "https"
        for place, each in ((first, scheme), (second, other[scheme])):
            if name in ports[each]:
                place.append(Hostile(each, name, f"{each}://127.0.0.1:{ports[each][name]}/hook"))
    return (first + second)[:number]


@asynccontextmanager
async def _receivers() -> AsyncIterator[tuple[dict[str, dict[str, int]], str]]:
    """The process of the hostile receivers: its ports, and the certificate of its authority."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.bad_receivers", cwd=ROOT, limit=1 << 20,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    started = json.loads(await process.stdout.readline())
    try:
        yield started["ports"], started["authority"]
    finally:
        process.stdin.close()
        await process.wait()


async def _beat(seconds: float, per_second: float, once: Callable[[int], Awaitable[None]]) -> None:
    began = time.monotonic()
    for number in range(int(seconds * per_second)):
        await asyncio.sleep(began + number / per_second - time.monotonic())
        await once(number)


async def measure(
    number: int = HOSTILE, *, turn: int = 0, seconds: float = 20.0, timeout_seconds: float = 5.0
) -> Figures:
    """The figures of one run: `seconds` one by one, `seconds` in bursts."""
    with tempfile.TemporaryDirectory(prefix="webhookd-beside-") as name:
        folder = Path(name)
        async with _receivers() as (ports, authority), ScriptedReceiver(healthy) as receiver:
            (folder / "authority.pem").write_text(authority)
            hostile = choose(ports, number, turn)
            types = "".join(f'[events."bad.n{at}"]\nlabel = "Bad receiver {at}"\n' for at in range(len(hostile)))
            async with daemon(
                folder / "state",
                CONFIG.format(timeout_seconds=timeout_seconds) + types,
                program=("-m", "tests.support.changed", f"lags={folder / 'lags'}"),
                environ={"SSL_CERT_FILE": str(folder / "authority.pem")},
            ) as d:
                return await _measure(d, hostile, receiver.url, folder / "lags", seconds, timeout_seconds)


async def _measure(
    d: Daemon, hostile: list[Hostile], healthy_url: str, lags: Path, seconds: float, timeout_seconds: float
) -> Figures:
    async def endpoint(url: str, event_type: str) -> str:
        made = await d.call("POST", "/v1/endpoints", {"url": url, "event_types": [event_type]}, expect=201)
        return str(made["id"])

    async def post(events: list[dict[str, Any]]) -> None:
        await d.call("POST", "/v1/events", events, expect=202)

    async def watch_memory() -> None:
        nonlocal peak_bytes
        while True:
            peak_bytes = max(peak_bytes, d.resident_bytes())
            await asyncio.sleep(0.05)

    well = await endpoint(healthy_url, "message.received")
    names = {await endpoint(each.url, f"bad.n{at}"): each for at, each in enumerate(hostile)}
    texts = ["x" * ALL[each.scheme][each.name].body_bytes for each in hostile]
    events = [{"event_type": f"bad.n{at}", "text": text} for at, text in enumerate(texts)]

    def send_healthy(at: int) -> Awaitable[None]:
        return post([{"event_type": "message.received", "number": at}])

    # First as much, and as large, to the healthy endpoint alone.
    for _ in range(3):
        await post([each | {"event_type": "message.received"} for each in events])
    await _beat(min(seconds, 2.0), HEALTHY_PER_SECOND, send_healthy)
    async with asyncio.timeout(60):
        while (await d.call("GET", f"/v1/endpoints/{well}"))["queue"]["waiting"]:
            await asyncio.sleep(0.05)
    peak_bytes = before_bytes = d.resident_bytes()
    began_ms = time.time() * 1000
    watcher = asyncio.create_task(watch_memory())
    for send, per_second in (
        (lambda at: post([events[at % len(events)]]), HOSTILE_PER_SECOND),
        (lambda _: post(events), 1 / BURST_EVERY_SECONDS),
    ):
        neighbour = asyncio.create_task(_beat(seconds, HEALTHY_PER_SECOND, send_healthy))
        await _beat(seconds, per_second, send)
        await neighbour
    ended_ms = time.time() * 1000
    await asyncio.sleep(timeout_seconds + 0.5)
    watcher.cancel()
    lines = [json.loads(line) for line in d.log_file.read_text().splitlines() if line.startswith("{")]
    attempts = [line for line in lines if line["event"] == "delivery.attempted"]
    healthy_ms = await _healthy_times(d, well, began_ms)
    await d.stop()  # which writes the lags
    surprises = {
        f"  {each.scheme}, {each.name}: {line.get('reason')} instead of {expected}: {line.get('detail')}"
        for line in attempts
        if (each := names.get(line["endpoint_id"])) is not None
        and line.get("reason") != (expected := ALL[each.scheme][each.name].reason)
    }
    return Figures(
        hostile=len(hostile),
        attempts=len(attempts),
        longest_ms=max(line["duration_ms"] for line in attempts),
        healthy_ms=healthy_ms,
        lags=[lag for lag in read_lags(lags) if began_ms <= lag.at_ms <= ended_ms],
        grown_bytes=peak_bytes - before_bytes,
        surprises=sorted(surprises),
    )


async def _healthy_times(d: Daemon, endpoint: str, since_ms: float) -> list[float]:
    """How long each delivery to the healthy endpoint took from its acceptance on, in ms."""
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await d.call("GET", f"/v1/deliveries?endpoint={endpoint}&limit=500&cursor={cursor}", expect=200)
        found += page["data"]
        cursor = page["next"]
    assert {"delivered"} == {each["state"] for each in found}
    times = [[datetime.fromisoformat(each[at]).timestamp() for at in ("accepted_at", "finished_at")] for each in found]
    return [(finished - accepted) * 1000 for accepted, finished in times if accepted * 1000 >= since_ms]


def main() -> None:
    """Measure and print: two runs, so that each behaviour comes over http and over https."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}")
    for turn in (0, 1):
        print(asyncio.run(measure(turn=turn, seconds=seconds)), flush=True)


if __name__ == "__main__":
    sys.exit(recorded(main))
