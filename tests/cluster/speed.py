"""What a cluster costs: the time to a 202 at a steady rate, and what three daemons carry beside one alone.

    python -m tests.cluster.speed [--seconds 20] [--rate 200] [--record]

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
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp

from tests.bench import processes
from tests.bench.processes import Peer
from tests.cluster.machines import Machine, machines, until
from tests.cluster.nats_servers import HOW_TO_GET_ONE, find_server, nats_servers
from tests.cluster.truth import Leases
from tests.support.process import daemon
from tests.support.results import recorded
from webhookd.cluster.names import partition_of

PARTITIONS = 6
WORKSPACES = tuple(f"w{number}" for number in range(6))
CONFIG = '[egress]\nallow = ["127.0.0.0/8"]\n[log]\nlevel = "warning"\n'
CALLERS = 24
LIMITS_MS = (8.0, 30.0)  # p50, p99


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


async def _carried(peers: list[Peer], ports: list[int], token: str, seconds: float) -> float:
    """Events a second, singly, each peer to a machine with a workspace of its own."""
    orders = [
        peer.ask(
            "load", address=["127.0.0.1", port], token=token, types=["message.sent"], callers=CALLERS, seconds=seconds,
            path=f"/v1/workspaces/{workspace}/events",
        )
        for peer, port, workspace in zip(peers, ports, WORKSPACES, strict=False)
    ]  # fmt: skip
    got = await asyncio.gather(*orders)
    return sum(each["accepted"] / each["seconds"] for each in got)


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


async def measure(rate: float, seconds: float) -> int:
    """Print the figures; 1 if a limit isn't met."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="webhookd-speed-")))
        peers = [await stack.enter_async_context(processes.peer()) for _ in range(3)]
        async with daemon(folder / "single", CONFIG) as alone:
            await _set_up(alone.call, peers)
            token = alone.admin()["Authorization"].split()[1]
            port = int(alone.url.rpartition(":")[2])
            await _carried(peers, [port] * 3, token, 2)
            one = await _carried(peers, [port] * 3, token, seconds)
            single = await _latencies([alone.url], token, rate, seconds)
        servers = await stack.enter_async_context(nats_servers(folder, partitions=PARTITIONS))
        cluster = await stack.enter_async_context(
            machines(servers, folder, partitions=PARTITIONS, through_relays=False)
        )
        leases = Leases(await servers.client(), {each.url: each.name for each in cluster}, PARTITIONS)
        following = asyncio.create_task(leases.follow())
        await _until_shared(leases, cluster)
        await _set_up(cluster[0].call, peers)
        token, urls = cluster[0].token, [each.url for each in cluster]
        await _latencies(urls, token, rate, 3)
        three_ms = await _latencies(urls, token, rate, seconds)
        ports = [each.port for each in cluster]
        await _carried(peers, ports, token, 2)
        three = await _carried(peers, ports, token, seconds)
        forwarded = sum(
            leases.owner(partition_of(workspace, PARTITIONS)) != each.name
            for workspace, each in zip(WORKSPACES, cluster, strict=False)
        )
        following.cancel()
    load = os.getloadavg()[0]
    version = ".".join(map(str, servers.version))
    print(f"nats-server {version}, sync_interval {'2m' if servers.lazy else 'always'}, load average {load:.0f}")
    print()
    print(f"{f'202 at {rate:g}/s':<34} {'p50':>8} {'p90':>8} {'p99':>8}")
    for name, found in (("one daemon alone", single), ("cluster, three replicas", three_ms)):
        cuts = statistics.quantiles(found, n=100)
        print(f"{name:<34} {cuts[49]:>5.1f} ms {cuts[89]:>5.1f} ms {cuts[98]:>5.1f} ms")
    print()
    print(
        f"singly, {3 * CALLERS} callers, delivered as well: one daemon alone {one:,.0f}/s, three daemons {three:,.0f}/s"
    )
    print(f"three beside one: {three / one:.2f} ({forwarded} of 3 producers were passed on to another machine)")
    cuts = statistics.quantiles(three_ms, n=100)
    return 0 if cuts[49] <= LIMITS_MS[0] and cuts[98] <= LIMITS_MS[1] and three >= 0.5 * one else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.speed")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=200.0)
    given = parser.parse_args()
    if find_server() is None:
        print(HOW_TO_GET_ONE)
        return 1
    return asyncio.run(measure(given.rate, given.seconds))


if __name__ == "__main__":
    sys.exit(recorded(main))
