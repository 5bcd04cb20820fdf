"""Failures of our own machine, made for real: no descriptors left, no way out of a network namespace."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import ROOT, Daemon, daemon
from tests.support.receiver import receiver
from webhookd.models import Json

CONFIG = '[egress]\nallow = ["127.0.0.0/8"]\n[delivery]\nretry_seconds = []\n[budget]\nlimit = 1\n'
# The daemon, whose failures of its own machine are tried again sooner than after the 30 s that users have.
HASTY = "import webhookd.rules.retry as retry; retry.LOCAL_RETRY_SECONDS = 0.2; from webhookd.cli import main; main()"
NO_ROUTE = ("http://93.184.216.34/", "https://[2606:4700::1111]/", "http://receiver.example/")


async def last_attempt(d: Daemon, endpoint_id: str) -> Json:
    async with asyncio.timeout(30):
        while True:
            endpoint = await d.call("GET", f"/v1/endpoints/{endpoint_id}")
            if endpoint["last_attempt"]:
                assert "active" == endpoint["state"]
                attempt: Json = endpoint["last_attempt"]
                return attempt
            await asyncio.sleep(0.02)


async def send(d: Daemon, *ids: str) -> None:
    await d.call("POST", "/v1/events", [{"event_type": "message.received", "event_id": i} for i in ids], expect=202)


@pytest.mark.skipif(
    not hasattr(resource, "prlimit"), reason="no prlimit(2) here, which changes the limits of a running process"
)
async def test_without_descriptors_attempts_are_local_and_come_back_by_themselves(tmp_path: Path) -> None:
    """Nothing is counted, dropped or refused that came over a connection that stands; the order holds."""
    state_dir = tmp_path / "state"
    async with receiver() as where, daemon(state_dir, CONFIG, program=("-c", HASTY)) as d:
        url = f"{where.url}/hook"
        hook = (await d.call("POST", "/v1/endpoints", {"url": url, "event_types": ["*"]}, expect=201))["id"]
        pid = d.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), limits[1]))
        await send(d, "a", "b", "c")
        attempt = await last_attempt(d, hook)
        assert ("failed", "local", False) == (attempt["outcome"], attempt["reason"], attempt["counted"])
        assert 0 == (await d.call("GET", "/v1/budget"))["failures"]
        assert [] == where.received
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        await where.until(3)
        assert ["a", "b", "c"] == where.ids("hook")


async def in_the_namespace(state_dir: Path) -> None:
    """What the next test checks, run by its process inside a namespace that has loopback alone."""
    async with receiver() as where, daemon(state_dir, CONFIG) as d:
        urls = [f"{where.url}/hook", *NO_ROUTE]
        added = [await d.call("POST", "/v1/endpoints", {"url": u, "event_types": ["*"]}, expect=201) for u in urls]
        await send(d, "a", "b", "c")
        for endpoint in added[1:]:
            attempt = await last_attempt(d, endpoint["id"])
            assert ("local", False) == (attempt["reason"], attempt["counted"]), attempt
        assert 0 == (await d.call("GET", "/v1/budget"))["failures"]
        await where.until(3)
        assert ["a", "b", "c"] == where.ids("hook")


def test_without_a_route_attempts_are_local_and_not_counted(tmp_path: Path) -> None:
    """Public addresses of both families and a name, in a namespace with loopback alone: nothing is the receiver's."""
    unshare = shutil.which("unshare")
    if unshare is None or shutil.which("ip") is None:
        pytest.skip("no `unshare` or no `ip` on this machine: it was not tried without a route")
    enter = [unshare, "-n"] if os.geteuid() == 0 else [unshare, "-rn"]
    if subprocess.run([*enter, "ip", "link", "set", "lo", "up"], capture_output=True, timeout=30).returncode:
        pytest.skip("this machine doesn't allow network namespaces: it was not tried without a route")
    program = (
        "import asyncio, pathlib, sys; from tests.process.test_machine_at_fault import in_the_namespace; "
        "asyncio.run(in_the_namespace(pathlib.Path(sys.argv[1])))"
    )
    shell = 'ip link set lo up && exec "$@"'
    command = [*enter, "sh", "-c", shell, "sh", sys.executable, "-c", program, str(tmp_path / "state")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert 0 == ended.returncode, ended.stderr
