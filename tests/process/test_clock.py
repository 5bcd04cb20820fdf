"""A real daemon whose machine stands still, and whose wall clock is set while it runs."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from pathlib import Path

import pytest

from tests.support import process
from tests.support.process import Daemon
from tests.support.receiver import Receiver, receiver
from webhookd.clock import parse_rfc3339

CONFIG = """
[egress]
allow = ["127.0.0.0/8"]
[delivery]
timeout_seconds = 0.5
retry_seconds = [0.4, 0.8, 1.2]
[budget]
limit = 3
"""
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
HASTY = "import webhookd.rules.retry as retry; retry.LOCAL_RETRY_SECONDS = 0.2; from webhookd.cli import main; main()"


async def add(d: Daemon, where: Receiver, name: str) -> str:
    made = await d.call("POST", "/v1/endpoints", {"url": f"{where.url}/{name}", "event_types": ["*"]}, expect=201)
    return str(made["id"])


async def send(d: Daemon, *ids: str) -> None:
    await d.call("POST", "/v1/events", [{"event_type": "message.sent", "event_id": each} for each in ids], expect=202)


async def test_a_machine_that_stood_still_blames_no_endpoint(tmp_path: Path) -> None:
    """Stopped with five attempts in flight, past their time: none counts, none is disabled, all arrive in order."""
    state_dir = tmp_path / "state"
    async with receiver() as where, process.daemon(state_dir, CONFIG, program=("-c", HASTY)) as d:
        names = [f"hook{number}" for number in range(5)]
        for name in names:
            where.gates[name] = asyncio.Event()
            await add(d, where, name)
        await send(d, "a", "b")
        await where.until(5)
        os.kill(d.process.pid, signal.SIGSTOP)
        for gate in where.gates.values():
            gate.set()
        await asyncio.sleep(2.0)  # all answers are given, and no process is there to read them
        os.kill(d.process.pid, signal.SIGCONT)
        await where.until(15)
        for name in names:
            assert ["a", "a", "b"] == where.ids(name)
        assert 0 == (await d.call("GET", "/v1/budget"))["failures"]
        (first, *_) = (await d.call("GET", "/v1/deliveries?event_id=a"))["data"]
        attempts = (await d.call("GET", f"/v1/deliveries/{first['id']}"))["attempts"]
        assert [("local", False), (None, False)] == [(each["reason"], each["counted"]) for each in attempts]
        assert "this machine stood still" in attempts[0]["detail"]


async def test_a_wait_that_a_stop_falls_into_is_no_longer_than_both(tmp_path: Path) -> None:
    """Stopped in the middle of a wait and past its end: the retry comes right after, once."""
    came: list[float] = []

    def failing(name: str) -> int:
        came.append(time.monotonic())
        return 500 if len(came) < 3 else 200

    async with receiver(failing) as where, process.daemon(tmp_path / "state", CONFIG) as d:
        await add(d, where, "hook")
        await send(d, "a", "b")
        await where.until(1)
        await asyncio.sleep(0.1)
        os.kill(d.process.pid, signal.SIGSTOP)
        await asyncio.sleep(1.0)
        woken = time.monotonic()
        os.kill(d.process.pid, signal.SIGCONT)
        await where.until(4)
        assert ["a", "a", "a", "b"] == where.ids("hook")
        assert came[1] >= woken
        assert came[2] - came[1] >= 0.8


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime isn't installed (apt-get install faketime)")
@pytest.mark.parametrize("jump", ["+1d", "-1h"])
async def test_a_clock_set_while_it_runs_changes_no_wait(jump: str, tmp_path: Path) -> None:
    """The retries come as scheduled, and everything arrives once; over a restart as well."""
    came: list[float] = []

    def failing(name: str) -> int:
        came.append(time.monotonic())
        return 500 if len(came) < 4 else 200

    stamp = tmp_path / "faketime"
    stamp.write_text("+0")
    environ = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(stamp),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    async with receiver(failing) as where:
        d = await process.start(tmp_path / "state", CONFIG, environ=environ)
        try:
            await add(d, where, "hook")
            before = time.time()
            await send(d, "a", "b")
            await where.until(2)
            stamp.write_text(jump)
            await where.until(5)
            gaps = [late - early for early, late in itertools.pairwise(came[:4])]
            for gap, step in zip(gaps, (0.4, 0.8, 1.2), strict=True):
                assert step <= gap
            assert ["a", "a", "a", "a", "b"] == where.ids("hook")
            await send(d, "c")
            await where.until(6)
            (shown,) = (await d.call("GET", "/v1/deliveries?event_id=c"))["data"]
            hours = {"h": 1, "d": 24}[jump[-1]] * int(jump[:2])
            report = parse_rfc3339(shown["accepted_at"]) / 1000
            assert abs(report - before - hours * 3600) < 120  # the clock was really set
        finally:
            await d.stop()
            await d.session.close()
        where.received.clear()
        d = await process.start(tmp_path / "state", CONFIG)  # the clock is right again
        try:
            await send(d, "c", "d")
            await where.until(1)
            assert ["d"] == where.ids("hook")
            assert "active" == (await d.call("GET", "/v1/endpoints"))["data"][0]["state"]
        finally:
            await d.stop()
            await d.session.close()
