"""Producers that publish straight to NATS: what they publish is delivered once, what can't be goes to dead letters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.machines import machines
from tests.cluster.nats_servers import HOW_TO_GET_ONE, find_server, nats_servers
from tests.support.receiver import receiver
from webhookd.cluster import names

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_server() is None, reason=HOW_TO_GET_ONE)]


async def test_what_is_published_is_delivered_once_or_a_dead_letter(tmp_path: Path) -> None:
    """In its order, by the mapped subject; a malformed event is kept with its reason and counted."""
    async with (
        receiver() as where,
        nats_servers(tmp_path) as servers,
        machines(servers, tmp_path, count=1, lease_seconds=10) as cluster,
    ):
        d = cluster[0].daemon
        assert d is not None
        await d.call("POST", "/v1/workspaces", {"id": "acme"}, expect=201)
        path = "/v1/workspaces/acme/endpoints"
        await d.call("POST", path, {"url": f"{where.url}/hook", "event_types": ["*"]}, expect=201)
        stream = (await servers.client()).jetstream()
        for number in (1, 2, 2, 3):
            event = json.dumps({"event_type": "message.received", "event_id": f"m-{number}"}).encode()
            await stream.publish("webhookd.events.acme", event, headers={"Nats-Msg-Id": f"acme.m-{number}"})
        for body in (b"no json", b'{"event_type":"no.such.type"}'):
            await stream.publish("webhookd.events.acme", body)
        await stream.publish("webhookd.events.nobody", b'{"event_type":"message.received"}')
        await where.until(3)
        subscription = await stream.subscribe("webhookd.dead.*", stream=names.DEAD_STREAM, ordered_consumer=True)
        dead = [await subscription.next_msg(timeout=20) for _ in range(3)]
        assert [b"no json", b'{"event_type":"no.such.type"}'] == [each.data for each in dead if "acme" in each.subject]
        reasons = sorted(each.headers[names.REASON_HEADER] for each in dead)
        assert ["invalid_json", "not_found", "unknown_event_type"] == reasons
        assert ["m-1", "m-2", "m-3"] == where.ids("hook")
        text = await d.call("GET", "/metrics")
        counts = [line for line in text.splitlines() if line.startswith("webhookd_cluster_dead_letters_total{")]
        assert 3 == sum(float(line.rpartition(" ")[2]) for line in counts)
