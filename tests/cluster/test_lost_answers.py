"""A lease, a feed, the configuration and a machine that leaves, where something takes long or its answer gets lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cluster.conftest import PARTITIONS
from tests.cluster.machines import Machine, machines
from tests.cluster.nats_servers import HOW_TO_GET_ONE, Servers, find_server
from tests.support.receiver import receiver
from webhookd.cluster import names
from webhookd.cluster.feed import Feed
from webhookd.cluster.jetstream import JetStream, Unreachable
from webhookd.cluster.lease import Lease, LeaseValue, decode
from webhookd.cluster.mirror import Local, Mirror
from webhookd.cluster.names import partition_of
from webhookd.cluster.shared import Shared
from webhookd.config import Cluster
from webhookd.models import Workspace
from webhookd.rules.encryption import PLAIN

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_server() is None, reason=HOW_TO_GET_ONE)]


class LosesAnAnswer(JetStream):
    """The answer to the first consumer that is made gets lost."""

    made = 0

    async def add_consumer(self, stream: str, config: dict[str, Any]) -> str:
        name = await super().add_consumer(stream, config)
        self.made += 1
        if self.made == 1:
            raise Unreachable("the answer was lost")
        return name


async def nothing(endpoint_ids: object, upto: int) -> None:
    """Nothing waits."""


@pytest.fixture
async def jetstream(servers: Servers) -> AsyncIterator[LosesAnAnswer]:
    """A connection."""
    connection = LosesAnAnswer(Cluster(servers=tuple(servers.urls)), "test")
    await connection.open()
    yield connection
    await connection.close()


async def test_a_lease_is_released_though_a_renewal_was_not_answered(jetstream: LosesAnAnswer) -> None:
    """Otherwise the next machine would wait for its end."""
    await jetstream.ensure_bucket(names.CLUSTER_BUCKET, replicas=1)
    value = LeaseValue("a", "http://a", "boot")
    lease = Lease(jetstream, 0, value, lease_seconds=15, attempt_seconds=lambda: 5.0)
    await lease.take(0)
    key = names.lease_key(0)
    found = await jetstream.get(names.CLUSTER_BUCKET, key)
    assert found is not None
    await jetstream.put(names.CLUSTER_BUCKET, key, msgspec.json.encode(value), found.revision)
    await lease.release("b")
    found = await jetstream.get(names.CLUSTER_BUCKET, key)
    assert found is not None and decode(found.value) == LeaseValue(to="b")


async def test_who_has_lost_a_partition_overwrites_no_configuration(jetstream: LosesAnAnswer) -> None:
    """A change that was under way when the next owner wrote another one comes to nothing, however late it arrives."""
    writes_left = 1000

    def may_write() -> bool:
        nonlocal writes_left
        writes_left -= 1
        return writes_left >= 0

    await jetstream.ensure_bucket(names.CONFIG_BUCKET, replicas=1)
    local = Local(
        applied=lambda: 0, may_write=may_write, is_paused=lambda workspace: False, read_upto=lambda: 0, waiting=nothing
    )
    mirror = Mirror(jetstream, 0, "a", PLAIN, Shared(jetstream), local)
    writing = asyncio.ensure_future(mirror.run())
    workspace = Workspace(1, "w", "one", "free", (), 0, 0)
    mirror.changed(workspace, True)
    await mirror.flushed()
    key = names.config_key(0, "workspace", "w")
    await jetstream.put(names.CONFIG_BUCKET, key, b"of the next owner")
    writes_left = 1
    mirror.changed(replace(workspace, name="two"), True)
    async with asyncio.timeout(20):
        while writes_left >= 0:  # until it asks again, which it does as the first try came to nothing
            await asyncio.sleep(0.01)
    found = await jetstream.get(names.CONFIG_BUCKET, key)
    assert found is not None and found.value == b"of the next owner"
    writing.cancel()


async def test_a_feed_goes_on_though_a_consumer_that_it_does_not_know_of_beats(jetstream: LosesAnAnswer) -> None:
    """The first one was made without an answer; the second is lost by its server."""
    await jetstream.ensure_stream("s", ["s.>"], replicas=1)
    feed = Feed(jetstream, "s")
    await jetstream.publish("s.a", b"one", {}, "s")
    assert [b"one"] == [each.body for each in await feed.next(10, 1000)]
    assert jetstream.made == 2
    await jetstream.delete_consumer("s", feed._consumer)
    waiting = asyncio.ensure_future(feed.next(10, 1000))
    await asyncio.sleep(0.5)
    await jetstream.publish("s.a", b"two", {}, "s")
    async with asyncio.timeout(10):
        assert [b"two"] == [each.body for each in await waiting]
    await feed.close()


async def test_a_machine_that_leaves_slowly_repeats_nothing(servers: Servers, tmp_path: Path) -> None:
    """It waits for an answer for longer than its lease would allow an attempt: it renews it until it has written."""
    config = "[delivery]\ntimeout_seconds = 3\n"
    async with receiver() as where, machines(servers, tmp_path, count=2, lease_seconds=7, config=config) as cluster:
        await cluster[0].call("POST", "/v1/workspaces", {"id": "acme"}, expect=201)
        for name in ("slow", "quick"):
            fields = {"url": f"{where.url}/{name}", "event_types": ["*"]}
            await cluster[0].call("POST", "/v1/workspaces/acme/endpoints", fields, expect=201)
        async with asyncio.timeout(30):
            while [2, 2] != list(map(len, (owners := await owners_of(cluster[0])).values())):
                await asyncio.sleep(0.2)
        (leaving,) = [each for each in cluster if partition_of("acme", PARTITIONS) in owners[each.url]]
        (staying,) = [each for each in cluster if each is not leaving]
        where.gates["slow"] = asyncio.Event()
        await staying.call("POST", "/v1/workspaces/acme/events", [event(number) for number in range(5)], expect=202)
        await where.until(6)
        stopping = asyncio.ensure_future(leaving.stop())
        await asyncio.sleep(2.3)  # the lease, less the time of an attempt and a margin of two seconds, is two seconds
        where.gates["slow"].set()
        assert 0 == await stopping
        await where.until(10)
        await staying.call("POST", "/v1/workspaces/acme/events", event(5), expect=202)
        await where.until(12)
        assert [f"e{number}" for number in range(6)] == where.ids("quick") == where.ids("slow")


async def owners_of(machine: Machine) -> dict[str, list[int]]:
    """The partitions of each machine, by its address; of none while the one that would say it is being handed over."""
    look = await machine.call("GET", "/v1/cluster")
    if "error" in look:
        assert "unavailable" == look["error"]["code"], look
        return {}
    urls = {each["node"]: each["advertise"] for each in look["nodes"]}
    owners: dict[str, list[int]] = {}
    for each in look["partitions"]:
        owners.setdefault(urls.get(each["node"], ""), []).append(each["partition"])
    return owners


def event(number: int) -> dict[str, str]:
    """One of several."""
    return {"event_type": "message.sent", "event_id": f"e{number}"}
