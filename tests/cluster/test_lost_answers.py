"""A lease, a feed and the configuration where answers of NATS got lost: three real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.cluster.nats_servers import HOW_TO_GET_ONE, Servers, find_server
from webhookd.cluster import names
from webhookd.cluster.feed import Feed
from webhookd.cluster.jetstream import JetStream, Unreachable
from webhookd.cluster.lease import Lease, LeaseValue, decode
from webhookd.cluster.mirror import Local, Mirror
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
