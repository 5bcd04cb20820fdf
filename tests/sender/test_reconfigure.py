"""The client over changes of its settings: nothing of the old ones stays open."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from tests.support.receiver import receiver
from webhookd.clock import SystemClock
from webhookd.config import Config, Delivery, Egress
from webhookd.models import Request
from webhookd.sender.client import Client


def settings(timeout_seconds: float) -> Config:
    """Loopback allowed, and a timeout that differs."""
    return Config(delivery=Delivery(timeout_seconds=timeout_seconds), egress=Egress(allow=("127.0.0.0/8", "::1/128")))


async def test_a_reload_leaves_no_descriptor_behind() -> None:
    """Also where nothing was under way: neither the idle connections nor the resolver of the settings before."""
    async with receiver() as where:
        client = Client(settings(5), SystemClock())
        url = f"http://localhost:{urlsplit(where.url).port}/hook"
        request = Request(url, (("webhook-id", "a"), ("Content-Length", "2")), b"{}", accept_any_2xx=False)
        counts = []
        for number in range(6):
            outcome = await client.post(request)
            assert outcome.delivered, outcome.detail
            counts.append(len(os.listdir("/proc/self/fd")))
            client.configure(settings(6 + number))
        await client.close()
    assert max(counts[2:]) <= counts[1] + 1, counts
