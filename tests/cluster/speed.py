"""What a cluster costs: the time to a 202 at a steady rate, and what three daemons carry beside one alone.

    python -m tests.cluster.speed [--seconds 10] [--rate 200] [--rounds 3] [--record]

Three nats-servers that sync every write, three daemons, the producers and the receivers share this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.bench import processes
from tests.bench.processes import Peer
from tests.cluster.machines import Machine, machines, until
from tests.cluster.nats_servers import HOW_TO_GET_ONE, find_server, nats_servers
from tests.cluster.truth import Leases
from tests.support.process import cpu_seconds, daemon
from tests.support.results import recorded
from webhookd.cluster.names import partition_of

PARTITIONS = 6
# One to each partition.
WORKSPACES = tuple(
    next(name for name in (f"w{number}" for number in range(1000)) if partition_of(name, PARTITIONS) == partition)
    for partition in range(PARTITIONS)
)
CONFIG = '[egress]\nallow = ["127.0.0.0/8"]\n[log]\nlevel = "warning"\n'
CALLERS = 24
LIMITS_MS = (8.0, 30.0)  # p50, p99
SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Carried:
    """Events a second, and the daemons' processor time for each."""

    rate: float
    us: float


@dataclass(frozen=True, slots=True)
class Side:
    """Daemons that carry events: their ports and processes, a token, and the workspace that each peer posts to."""

    ports: list[int]
    pids: list[int]
    token: str
    workspaces: Sequence[str]


async def _latencies(machine_urls: list[str], token: str, rate: float, seconds: float) -> list[float]:
    """Post single events at a steady rate, each workspace to each machine by turns; the milliseconds to each 202."""
    found: list[float] = []
    label = os.urandom(3).hex()

    async def post(session: aiohttp.ClientSession, number: int) -> None:
        workspace = WORKSPACES[number % len(WORKSPACES)]
        url = f"{machine_urls[number // len(WORKSPACES) % len(machine_urls)]}/v1/workspaces/{workspace}/events"
        event = {"event_type": "message.sent", "event_id": f"{label}-{number}", "text": "x" * 900}
        begun = time.perf_counter()
        async with session.post(url, json=event, headers={"Authorization": f"Bearer {token}"}) as answer:
            assert 202 == answer.status, await answer.text()
        found.append((time.perf_counter() - begun) * 1e3)

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        begun = time.perf_counter()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            group.create_task(post(session, number))
    return found


async def _carried(peers: list[Peer], side: Side, seconds: float) -> Carried:
    """Load, singly, each peer to a daemon with a workspace of its own."""
    before = cpu_seconds(side.pids)
    orders = [
        peer.ask(
            "load", address=["127.0.0.1", port], token=side.token, types=["message.sent"], callers=CALLERS,
            seconds=seconds, path=f"/v1/workspaces/{workspace}/events",
        )
        for peer, port, workspace in zip(peers, side.ports, side.workspaces, strict=True)
    ]  # fmt: skip
    got = await asyncio.gather(*orders)
    accepted = sum(each["accepted"] for each in got)
    rate = sum(each["accepted"] / each["seconds"] for each in got)
    return Carried(rate, (cpu_seconds(side.pids) - before) / accepted * 1e6)


async def _set_up(call: Any, peers: list[Peer]) -> None:
    for place, workspace in enumerate(WORKSPACES):
        await call("POST", "/v1/workspaces", {"id": workspace}, expect=201)
        url = f"http://127.0.0.1:{peers[place % len(peers)].port}/hook"
        path = f"/v1/workspaces/{workspace}/endpoints"
        await call("POST", path, {"url": url, "event_types": ["*"]}, expect=201)


async def _until_shared(leases: Leases, cluster: list[Machine]) -> None:
    def is_shared() -> bool:
        owners = [leases.owner(partition) for partition in range(PARTITIONS)]
        return all(owners.count(each.name) == PARTITIONS // len(cluster) for each in cluster)

    await until("the machines share the partitions", is_shared, timeout_seconds=90)
    await asyncio.sleep(2)


async def _alone(folder: Path, peers: list[Peer], rate: float, seconds: float) -> tuple[Carried, list[float]]:
    """What one daemon carries, and its milliseconds to a 202.  Nothing runs beside it: syncs wait for each other."""
    async with daemon(folder, CONFIG) as alone:
        await _set_up(alone.call, peers)
        side = Side([alone.port] * 3, [alone.process.pid], alone.token, WORKSPACES[:3])
        latencies_ms = await _latencies([alone.url], side.token, rate, seconds)
        await _carried(peers, side, 2)
        return await _carried(peers, side, seconds), latencies_ms


async def measure(rate: float, seconds: float, rounds: int) -> int:
    """Print the figures; 1 if a limit isn't met."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="webhookd-speed-")))
        peers = [await stack.enter_async_context(processes.peer()) for _ in range(3)]
        before, alone_ms = await _alone(folder / "before", peers, rate, seconds)
        async with AsyncExitStack() as of_cluster:
            servers = await of_cluster.enter_async_context(nats_servers(folder, partitions=PARTITIONS))
            cluster = await of_cluster.enter_async_context(
                machines(servers, folder, partitions=PARTITIONS, through_relays=False)
            )
            leases = Leases(await servers.client(), {each.url: each.name for each in cluster}, PARTITIONS)
            following = asyncio.create_task(leases.follow())
            await _until_shared(leases, cluster)
            await _set_up(cluster[0].call, peers)
            token, urls = cluster[0].token, [each.url for each in cluster]
            await _latencies(urls, token, rate, 3)
            cluster_ms = await _latencies(urls, token, rate, seconds)
            first, second, third = (
                next(name for name in WORKSPACES if leases.owner(partition_of(name, PARTITIONS)) == each.name)
                for each in cluster
            )
            following.cancel()
            ports = [each.port for each in cluster]
            pids = [each.daemon.process.pid for each in cluster if each.daemon is not None]
            sides = {
                "each producer asks its workspace's owner": Side(ports, pids, token, (first, second, third)),
                "two of three are passed on": Side(ports, pids, token, (first, third, second)),
            }
            for side in sides.values():
                await _carried(peers, side, 2)
            turns = [
                {name: await _carried(peers, side, seconds) for name, side in sides.items()} for _ in range(rounds)
            ]
        after, _ = await _alone(folder / "after", peers, rate, seconds)
    load = os.getloadavg()[0]
    version = ".".join(map(str, servers.version))
    print(f"nats-server {version}, sync_interval {'2m' if servers.lazy else 'always'}, load average {load:.0f}")
    print()
    print(f"{f'202 at {rate:g}/s':<34} {'p50':>8} {'p90':>8} {'p99':>8}")
    for name, found in (("one daemon alone", alone_ms), ("cluster, three replicas", cluster_ms)):
        cuts = statistics.quantiles(found, n=100)
        print(f"{name:<34} {cuts[49]:>5.1f} ms {cuts[89]:>5.1f} ms {cuts[98]:>5.1f} ms")
    reached = cuts[49] <= LIMITS_MS[0] and cuts[98] <= LIMITS_MS[1]
    one = (before.rate + after.rate) / 2
    print()
    print(f"singly, {3 * CALLERS} callers, delivered as well, {seconds:g} s a turn")
    print(f"one daemon alone, before and after: {before.rate:,.0f} and {after.rate:,.0f}/s, {before.us:.0f} us each")
    for name in sides:
        carried = [turn[name] for turn in turns]
        shares = [each.rate / one for each in carried]
        reached &= statistics.median(shares) >= SHARE
        print(
            f"three, {name}: {statistics.median(each.rate for each in carried):,.0f}/s, "
            f"{statistics.median(each.us for each in carried):.0f} us each: {statistics.median(shares):.2f} of it "
            f"({', '.join(f'{each:.2f}' for each in shares)})"
        )
    return 0 if reached else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.speed")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if find_server() is None:
        print(HOW_TO_GET_ONE)
        return 1
    return asyncio.run(measure(given.rate, given.seconds, given.rounds))


if __name__ == "__main__":
    sys.exit(recorded(main))
