"""The manual's jq recipes find what they promise in the lines of a real daemon."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.process import daemon
from tests.support.receiver import receiver

PAGE = (Path(__file__).resolve().parents[2] / "webhookd" / "manual" / "operating.md").read_text("utf-8")
RECIPES = re.findall(r"^    journalctl [^|\n]*\| (jq -\w+) '([^']*)'$", PAGE, re.MULTILINE)
# Among the daemon's lines stand systemd's, and what a Python that dies writes.
OTHERS = "Started webhookd.service - Outgoing webhooks.\nTraceback (most recent call last):\n"


def found(log: str, command: str, filter_: str) -> str:
    words = [*command.split(), filter_]
    return subprocess.run(words, input=log, capture_output=True, text=True, timeout=30, check=True).stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("jq") is None, reason="no jq on this machine: the manual's recipes were not tried")
async def test_every_recipe_finds_its_lines(tmp_path: Path) -> None:
    """Two events for a receiver that fails, one of them m-1: each recipe's filter is run on the daemon's own log."""
    config = '[egress]\nallow = ["127.0.0.0/8"]\n[delivery]\nretry_seconds = []\n'
    async with receiver(lambda name: 500) as where, daemon(tmp_path / "state", config) as d:
        made = await d.call("POST", "/v1/endpoints", {"url": f"{where.url}/bad", "event_types": ["*"]}, expect=201)
        for event_id in ("m-1", "m-2"):
            await d.call("POST", "/v1/events", {"event_type": "message.sent", "event_id": event_id}, expect=202)
        async with asyncio.timeout(30):
            while len(where.received) < 2:
                await asyncio.sleep(0.01)
    log = OTHERS + d.log_file.read_text("utf-8")  # the daemon has ended, and with it every attempt
    said = [found(log, *recipe) for recipe in RECIPES]
    failing, warnings, one, by_reason, slowest, minutes = said
    assert (2, 2) == (failing.count('"delivery.attempted"'), warnings.count('"delivery.dropped"'))
    assert '"info"' not in warnings
    assert '"m-1"' in one and '"m-2"' not in one
    assert f"2\t{made['id']}\tstatus\n" == by_reason
    assert 2 == len(re.findall(rf"^[\d.]+ ms\t{made['id']}\tm-\d$", slowest, re.MULTILINE))
    assert 2 == sum(int(line.split("\t")[1]) for line in minutes.splitlines())
