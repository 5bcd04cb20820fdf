"""The main job as a stranger does it: a pipe into the command, signed webhooks out of the daemon."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from standardwebhooks import Webhook

from tests.support.process import ROOT, daemon
from tests.support.receiver import receiver

SAMPLES = sorted((ROOT / "tests" / "rules" / "samples").glob("*.json"))
LOOPBACK = '[egress]\nallow = ["127.0.0.0/8"]\n'
BACKLOG = 200_000
BATCH = 1000
MEGABYTE = 1024 * 1024


async def test_the_samples_come_out_byte_for_byte_in_order_and_verified(tmp_path: Path) -> None:
    """`cat samples/*.json | webhookd send`: their bodies as they were, which PyPI's standardwebhooks verifies."""
    piped = b"".join(each.read_bytes() for each in SAMPLES)
    async with receiver() as where, daemon(tmp_path / "state", LOOPBACK) as d:
        made = await d.call("POST", "/v1/endpoints", {"url": f"{where.url}/hook", "event_types": ["*"]}, expect=201)
        command = [sys.executable, "-m", "webhookd", "send", "--state-dir", str(d.state_dir)]
        sending = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdin=asyncio.subprocess.PIPE, env={"WEBHOOKD_URL": d.url, "PATH": ""}
        )
        await sending.communicate(piped)
        assert 0 == sending.returncode
        received = await where.until(len(SAMPLES))
        assert [each.read_bytes().strip() for each in SAMPLES] == [each.body for each in received]
        webhook = Webhook(made["signing_key"])
        for each in received:
            webhook.verify(each.body, each.headers)


async def test_a_backlog_of_200_000_costs_less_than_20_mb(tmp_path: Path) -> None:
    """For an endpoint that is dead, by the memory that the process really holds."""
    async with receiver(lambda name: 500) as where, daemon(tmp_path / "state", LOOPBACK) as d:
        url = f"{where.url}/dead"
        made = await d.call("POST", "/v1/endpoints", {"url": url, "event_types": ["*"]}, expect=201)

        async def send(first: int, size: int) -> None:
            events = [
                {"event_type": "message.received", "event_id": f"e{number}", "text": "x" * 200}
                for number in range(first, first + size)
            ]
            await d.call("POST", "/v1/events", events, expect=202)

        for first in range(0, 10 * BATCH, BATCH):  # what any traffic costs once
            await send(first, BATCH)
        before = d.resident_bytes()
        for first in range(10 * BATCH, 10 * BATCH + BACKLOG, BATCH):
            await send(first, BATCH)
        grown = d.resident_bytes() - before
        print(f"{BACKLOG} waiting events: {grown / MEGABYTE:.1f} MiB more")
        assert grown < 20 * MEGABYTE
        queue = (await d.call("GET", f"/v1/endpoints/{made['id']}"))["queue"]
        assert BACKLOG + 10 * BATCH == queue["waiting"]
