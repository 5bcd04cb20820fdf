"""Rows at a steady rate, where an event costs more than under load: latency, processor time, bytes; and at rest.

What makes the slowest moments is `tests/bench/stalls.py`'s to tell.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.bench import processes, stock
from tests.bench.measure import Figure, Yard
from tests.bench.stock import Stock
from tests.support.process import Daemon, cpu_seconds
from webhookd.rules.event_types import BUILT_IN as TYPES

ENDPOINTS = 100
IDLE_ENDPOINTS = 1000
RATES = (50, 200, 1000)
REST_RATE = 200
WINDOW = 1000
SETTLE_SECONDS = 0.5
FILTER_RATE = 200_000 / 60
FILTER_FAN_OUTS = (4, 20)  # with less, the load generator would be the bottleneck
# Each endpoint has another.
FILTERS = json.dumps(
    {
        "*": {
            "contact": {"id": [{"numeric": [">=", 0]}], "countryCode": ["VN", "MY", "NUMBER"]},
            "message": {"message": {"type": [{"anything-but": ["unsupported", "NUMBER"]}]}},
        }
    },
    sort_keys=True,
    separators=(",", ":"),
)
_SAMPLE = next(each.sample for each in TYPES if each.name == "message.received")
MESSAGE = json.dumps({name: _SAMPLE[name] for name in ("contact", "message", "channel")})[1:-1] + ","


def written_bytes(pid: int) -> int:
    """What a process has caused to be written to the disk (proc(5)); on a disk of memory, what it gave to write(2)."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    counts = {name: int(count) for name, _, count in (line.partition(": ") for line in lines)}
    return counts["write_bytes"] or counts["wchar"]


async def paced(yard: Yard) -> list[Figure]:
    """Events at 50, 200 and 1,000 a second to 100 endpoints: from accepted to delivered; at 200 what each one costs."""
    figures = []
    for loop in processes.loops():
        p50 = {rate: Figure(f"latency at {rate:,}/s, p50", loop, " ms", 4, at_least=False) for rate in RATES}
        p99 = {rate: Figure(f"latency at {rate:,}/s, p99", loop, " ms", 12, at_least=False) for rate in RATES}
        cost = Figure(f"processor time an event at {REST_RATE}/s", loop, " ms", 1.3, at_least=False)
        written = Figure(f"bytes written an event at {REST_RATE}/s", loop, " KB", 30, at_least=False)
        for _ in range(yard.scale.rounds):
            for rate in RATES:
                latencies, ms, kilobytes = await at_rate(yard, loop, rate)
                p50[rate].add(latencies["p50"])
                p99[rate].add(latencies["p99"], longest_ms=latencies["max"])
                if rate == REST_RATE:
                    cost.add(ms)
                    written.add(kilobytes)
        figures += [*p50.values(), *p99.values(), cost, written]
    return figures


async def at_rate(yard: Yard, loop: str, rate: float) -> tuple[dict[str, float], float, float]:
    """The latencies at `rate` events a second; of each event, ms of processor time and KB written to the disk."""
    types = stock.type_names(ENDPOINTS)
    state_dir = await yard.stocked("empty-1", Stock(endpoints=ENDPOINTS, types=ENDPOINTS, port=yard.peer.port))
    async with yard.daemon_on_copy(state_dir, stock.config(ENDPOINTS), loop) as daemon:
        await yard.load(daemon, types=types, window=WINDOW, seconds=yard.scale.seconds / 4)  # connections, caches
        await asyncio.sleep(SETTLE_SECONDS)
        before = _spent(daemon)
        got = await yard.load(daemon, types=types, rate=rate, seconds=yard.scale.seconds * 3)
        cpu, written = (after - earlier for after, earlier in zip(_spent(daemon), before, strict=True))
        assert 0 == got["lost"], got
    return got["delivered_ms"], cpu / got["accepted_in_all"] * 1e3, written / got["accepted_in_all"] / 1e3


async def filters(yard: Yard) -> list[Figure]:
    """Processor time at 200,000 deliveries a minute to 100 endpoints that have filters, against the same without.

    Each endpoint has a pattern of its own, with three rules, which every event passes; events are those of a message.
    """
    figures = []
    for loop in processes.loops():
        for fan_out in FILTER_FAN_OUTS:
            figure = Figure(f"processor time with filters ÷ without, fan-out {fan_out}", loop, "", 1.15, at_least=False)
            for number in range(yard.scale.rounds):
                costs: dict[str, float] = {}
                for each in ("", FILTERS) if number % 2 else (FILTERS, ""):
                    costs[each] = await _filtered(yard, loop, fan_out, each)
                figure.add(costs[FILTERS] / costs[""], us_without=costs[""], us_with=costs[FILTERS])
            figures.append(figure)
    return figures


async def _filtered(yard: Yard, loop: str, fan_out: int, text: str) -> float:
    """µs of processor time an event."""
    types = stock.type_names(ENDPOINTS // fan_out)
    wanted = Stock(endpoints=ENDPOINTS, types=len(types), port=yard.peer.port, filters=text)
    state_dir = await yard.stocked(f"filters-{fan_out}-{bool(text)}", wanted)
    order = {"types": types, "fan_out": fan_out, "fields": MESSAGE, "rate": FILTER_RATE / fan_out}
    async with yard.daemon_on_copy(state_dir, stock.config(len(types)), loop) as daemon:
        await yard.load(daemon, seconds=yard.scale.seconds / 2, **order)  # connections, caches
        await asyncio.sleep(SETTLE_SECONDS)
        before, _ = _spent(daemon)
        got = await yard.load(daemon, seconds=yard.scale.seconds * 2, **order)
        await asyncio.sleep(SETTLE_SECONDS)  # the last outcomes
        assert 0 == got["lost"], got
        return (_spent(daemon)[0] - before) / got["accepted_in_all"] * 1e6


async def written(yard: Yard) -> list[Figure]:
    """Bytes written for each event in and out, under load."""
    figures = []
    types = stock.type_names(ENDPOINTS)
    state_dir = await yard.stocked("empty-1", Stock(endpoints=ENDPOINTS, types=ENDPOINTS, port=yard.peer.port))
    for loop in processes.loops():
        figure = Figure("bytes written an event under load", loop, " KB", 8, at_least=False)
        for _ in range(yard.scale.rounds):
            async with yard.daemon_on_copy(state_dir, stock.config(ENDPOINTS), loop) as daemon:
                await yard.load(daemon, types=types, window=WINDOW, seconds=yard.scale.seconds / 4)
                await asyncio.sleep(SETTLE_SECONDS)
                _, before = _spent(daemon)
                got = await yard.load(daemon, types=types, window=WINDOW, seconds=yard.scale.seconds)
                await asyncio.sleep(SETTLE_SECONDS)  # the last outcomes
                figure.add((_spent(daemon)[1] - before) / got["accepted_in_all"] / 1e3)
        figures.append(figure)
    return figures


async def rest(yard: Yard) -> list[Figure]:
    """Processor time of doing nothing, with 1,000 endpoints."""
    figures = []
    idle = min(IDLE_ENDPOINTS, yard.scale.idle_endpoints)
    state_dir = await yard.stocked("rest", Stock(types=ENDPOINTS, port=yard.peer.port, idle=idle))
    for loop in processes.loops():
        figure = Figure(f"processor time at rest, {idle:,} endpoints", loop, " ms/s", 1, at_least=False)
        for _ in range(yard.scale.rounds):
            async with yard.daemon_on_copy(state_dir, stock.config(ENDPOINTS), loop) as daemon:
                await asyncio.sleep(SETTLE_SECONDS)
                (before, _), seconds = _spent(daemon), yard.scale.seconds * 5
                await asyncio.sleep(seconds)
                figure.add((_spent(daemon)[0] - before) / seconds * 1e3)
        figures.append(figure)
    return figures


def _spent(daemon: Daemon) -> tuple[float, int]:
    pid = daemon.process.pid
    return cpu_seconds([pid]), written_bytes(pid)
