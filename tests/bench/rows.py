"""The rows of the table: each measured as a ratio within its rounds, goals as the issue «Speed» sets them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.bench import lanes, paced, processes, stock
from tests.bench.measure import Figure, Yard
from tests.bench.stock import Stock
from tests.support.process import cpu_seconds

ENDPOINTS = 100
BATCH = 100
FAN_OUT = 20
WINDOW = 1000  # events on their way at once, end to end
SETTLE_SECONDS = 1.0


async def ingest(yard: Yard) -> list[Figure]:
    """Single events from 64 callers, each committed and queued for an endpoint, against the bare server."""
    return [await _ingest(yard, loop, 1, 0.75 if loop == "uvloop" else 0.6) for loop in processes.loops()]


async def batches(yard: Yard) -> list[Figure]:
    """Arrays of 100 events, against the bare server's requests of one."""
    return [await _ingest(yard, loop, BATCH, 5.0) for loop in processes.loops()]


async def _ingest(yard: Yard, loop: str, batch: int, goal: float) -> Figure:
    name = "single-event ingest, 64 callers" if batch == 1 else f"batch ingest, {batch} a request"
    figure = Figure(name, loop, "", goal, at_least=True)
    state_dir = await yard.stocked("ingest", Stock(endpoints=1, active=False))
    async with (
        processes.bare_server(loop) as (port, bare_pid),
        yard.daemon_on_copy(state_dir, stock.config(1), loop) as daemon,
    ):
        for number in range(-1, yard.scale.rounds):  # the first warms up and isn't counted
            rates, costs = [], []
            for target, pid, size in ((port, bare_pid, 1), (daemon, daemon.process.pid, batch)):
                before = cpu_seconds([pid])
                got = await yard.load(target, types=["bench.t0"], batch=size, seconds=yard.scale.seconds)
                costs.append((cpu_seconds([pid]) - before) / got["accepted_in_all"] * 1e6)
                rates.append(got["accepted"] / got["seconds"])
            if number >= 0:
                figure.add(
                    rates[1] / rates[0], bare_per_s=rates[0], events_per_s=rates[1], bare_us=costs[0], us=costs[1]
                )
    return figure


async def delivery(yard: Yard) -> list[Figure]:
    """From a backlog to 100 endpoints, against the bare client; then the same to 5,000."""
    many = yard.scale.many_endpoints
    return [
        *[await _delivery(yard, loop, ENDPOINTS, yard.scale.per_endpoint) for loop in processes.loops()],
        *[await _delivery(yard, loop, many, max(4, yard.scale.per_endpoint // 30)) for loop in processes.loops()],
    ]


async def _delivery(yard: Yard, loop: str, endpoints: int, each: int) -> Figure:
    figure = Figure(f"delivery from a backlog, {endpoints:,} endpoints", loop, "", 1.1, at_least=True)
    total = endpoints * each
    wanted = Stock(endpoints=endpoints, types=ENDPOINTS, port=yard.peer.port, waiting=total)
    state_dir = await yard.stocked(f"backlog-{endpoints}", wanted)
    for _ in range(yard.scale.rounds):
        bare, bare_us = await yard.bare_deliveries(loop, endpoints, each)
        await yard.peer.ask("clear")
        async with yard.daemon_on_copy(state_dir, stock.config(ENDPOINTS), loop, ready=False) as daemon:
            rate, us = await yard.deliveries(daemon, total)
        figure.add(rate / bare, bare_per_s=bare, deliveries_per_s=rate, bare_us=bare_us, us=us)
    return figure


async def end_to_end(yard: Yard) -> list[Figure]:
    """In and out at once, 100 endpoints, fan-out 1 and 20; and what it takes from an event's time to its delivery."""
    figures = []
    for loop in processes.loops():
        both_ways = Figure("end to end, 100 endpoints, fan-out 1", loop, "", 0.6, at_least=True)
        fan_out = Figure(f"deliveries at fan-out {FAN_OUT} ÷ at 1", loop, "", 1.3, at_least=True)
        p50 = Figure("latency at half of the peak, p50", loop, " ms", 10, at_least=False)
        p99 = Figure("latency at half of the peak, p99", loop, " ms", 50, at_least=False)
        for _ in range(yard.scale.rounds):
            bare, _bare_us = await yard.bare_deliveries(loop, ENDPOINTS, yard.scale.per_endpoint)
            rate, us, latencies = await through(yard, loop, 1)
            both_ways.add(rate / bare, bare_per_s=bare, per_s=rate, us=us)
            wide, wide_us, _ = await through(yard, loop, FAN_OUT)
            fan_out.add(wide / rate, deliveries_per_s=wide, us=wide_us)
            p50.add(latencies["p50"], events_per_s=rate / 2)
            p99.add(latencies["p99"], events_per_s=rate / 2)
        figures += [both_ways, fan_out, p50, p99]
    return figures


async def through(yard: Yard, loop: str, fan_out: int) -> tuple[float, float, dict[str, float]]:
    """Deliveries a second while events come in, µs of processor time for each, and the latencies at half the rate."""
    types = stock.type_names(ENDPOINTS // fan_out)
    wanted = Stock(endpoints=ENDPOINTS, types=len(types), port=yard.peer.port)
    state_dir = await yard.stocked(f"empty-{fan_out}", wanted)
    async with yard.daemon_on_copy(state_dir, stock.config(len(types)), loop) as daemon:
        order = {"types": types, "window": WINDOW * fan_out, "fan_out": fan_out}
        await yard.load(daemon, seconds=yard.scale.seconds / 4, **order)  # connections, caches
        before = cpu_seconds([daemon.process.pid])
        got = await yard.load(daemon, seconds=yard.scale.seconds, **order)
        us = (cpu_seconds([daemon.process.pid]) - before) / got["taken"] * 1e6
        rate = got["taken"] / got["seconds"]
        if fan_out > 1:
            return rate, us, {}
        await asyncio.sleep(SETTLE_SECONDS / 2)
        paced = await yard.load(daemon, types=types, seconds=yard.scale.seconds, rate=rate / 2)
        assert 0 == paced["lost"], paced
        return rate, us, paced["delivered_ms"]


async def memory(yard: Yard) -> list[Figure]:
    """What the process holds with 10,000 idle endpoints, and with a million events waiting."""
    idle, million = yard.scale.idle_endpoints, yard.scale.million
    port = yard.peer.port
    figures = []
    for name, goal_mb, key, wanted in (
        (f"memory, {idle:,} idle endpoints", 80, "idle", Stock(types=ENDPOINTS, port=port, idle=idle)),
        (f"memory, {million:,} waiting events", 120, "held", _million(yard, active=False)),
    ):
        figure = Figure(name, "stock", " MB", goal_mb, at_least=False)
        state_dir = await yard.stocked(key, wanted)
        for _ in range(yard.scale.rounds):
            async with processes.webhookd(state_dir, stock.config(ENDPOINTS)) as daemon:
                await asyncio.sleep(SETTLE_SECONDS)
                figure.add(daemon.resident_bytes() / 1e6)
        figures.append(figure)
    return figures


async def million(yard: Yard) -> list[Figure]:
    """The delivery rate with a million waiting, against that with the small backlog; memory while it is worked off."""
    per_endpoint = yard.scale.per_endpoint
    waiting = ENDPOINTS * per_endpoint
    small = await yard.stocked(
        f"backlog-{ENDPOINTS}", Stock(endpoints=ENDPOINTS, types=ENDPOINTS, port=yard.peer.port, waiting=waiting)
    )
    large = await yard.stocked("million", _million(yard, active=True))
    figure = Figure(f"delivery with {yard.scale.million:,} waiting ÷ with {waiting:,}", "stock", "", 0.9, at_least=True)
    held = Figure(f"memory while {yard.scale.million:,} go out", "stock", " MB", 120, at_least=False)
    for _ in range(yard.scale.rounds):
        await yard.peer.ask("clear")
        async with yard.daemon_on_copy(small, stock.config(ENDPOINTS), "stock") as daemon:
            few, few_us = await yard.deliveries(daemon, waiting)
        await yard.peer.ask("clear")
        async with processes.webhookd(large, stock.config(ENDPOINTS)) as daemon:
            # Each round takes a few of the million; a stop by kill leaves at most one repeat per endpoint.
            many, many_us = await yard.deliveries(daemon, min(waiting, yard.scale.million // yard.scale.rounds - 1000))
            held.add(daemon.resident_bytes() / 1e6)
        figure.add(many / few, few_per_s=few, many_per_s=many, few_us=few_us, many_us=many_us)
    return [figure, held]


def _million(yard: Yard, *, active: bool) -> Stock:
    return Stock(endpoints=ENDPOINTS, types=ENDPOINTS, port=yard.peer.port, waiting=yard.scale.million, active=active)


ROWS: dict[str, Callable[[Yard], Awaitable[list[Figure]]]] = {
    "ingest": ingest,
    "batches": batches,
    "delivery": delivery,
    "end_to_end": end_to_end,
    "paced": paced.paced,
    "written": paced.written,
    "rest": paced.rest,
    "memory": memory,
    "million": million,
    "lanes": lanes.lanes,
    "filters": paced.filters,
}
