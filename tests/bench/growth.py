"""What grows: the cost of idle endpoints, of waiting events and of history, at several sizes of each.

Costs are counted in processor time and memory, which a busy machine hardly changes.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench import processes, stock
from tests.bench.measure import Yard
from tests.bench.stock import Stock
from tests.support.process import Daemon, cpu_seconds

ENDPOINTS = 100


@dataclass(frozen=True, slots=True)
class Point:
    size: int
    start_seconds: float
    memory_mb: float
    idle_ms_per_s: float  # processor time of doing nothing
    event_us: float  # processor time of an event, in and out; 0 where none was sent


@dataclass(frozen=True, slots=True)
class Curve:
    name: str
    points: tuple[Point, ...]


async def curves(
    yard: Yard, sizes: Sequence[int], *, seconds: float, events: int, history: Sequence[int] = ()
) -> list[Curve]:
    """The three curves, of `events` sent at each point; endpoints grow to a hundredth of the other sizes."""
    port = yard.peer.port
    by_name = {
        "idle endpoints": [Stock(ENDPOINTS, ENDPOINTS, port, idle=n // 100) for n in sizes],
        "waiting events": [Stock(ENDPOINTS, ENDPOINTS, port, active=False, waiting=n, body_bytes=256) for n in sizes],
        "rows of history": [Stock(ENDPOINTS, ENDPOINTS, port, history=n, body_bytes=256) for n in (*sizes, *history)],
    }
    found = []
    for name, stocks in by_name.items():
        points = [await _point(yard, each, seconds, events) for each in stocks]
        found.append(Curve(name, tuple(points)))
    return found


async def _point(yard: Yard, wanted: Stock, seconds: float, events: int) -> Point:
    state_dir = await yard.stocked("growing", wanted)
    try:
        began = time.monotonic()
        async with processes.webhookd(state_dir, stock.config(ENDPOINTS)) as daemon:
            start_seconds = time.monotonic() - began
            await _events(yard, daemon, wanted, events // 4)  # connections, caches
            event_us = await _events(yard, daemon, wanted, events)
            memory_mb = daemon.resident_bytes() / 1e6
            pid = [daemon.process.pid]
            before = cpu_seconds(pid)
            await asyncio.sleep(seconds)
            idle = (cpu_seconds(pid) - before) / seconds
    finally:
        shutil.rmtree(state_dir)
    size = wanted.history or wanted.waiting or wanted.idle
    point = Point(size, start_seconds, memory_mb, idle * 1000, event_us)
    print(point, flush=True)  # the table comes at the end, and a history of millions takes its time
    return point


async def _events(yard: Yard, daemon: Daemon, wanted: Stock, events: int) -> float:
    """Send so many events and wait for their deliveries where there are any; µs of processor time for each."""
    pid = [daemon.process.pid]
    await yard.peer.ask("clear")
    before = cpu_seconds(pid)
    await yard.load(daemon, types=stock.type_names(ENDPOINTS), events=events, seconds=60)
    if wanted.active:
        assert events == (await yard.peer.ask("watch", count=events, timeout_seconds=60))["taken"]
    return (cpu_seconds(pid) - before) / events * 1e6
