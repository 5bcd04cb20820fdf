"""A single daemon's database becomes a cluster, and a cluster a single daemon's: nothing lost, nothing twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.machines import machines
from tests.cluster.nats_servers import HOW_TO_GET_ONE, Servers, find_server
from tests.support.process import ROOT, Daemon, daemon
from tests.support.receiver import Receiver, receiver

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_server() is None, reason=HOW_TO_GET_ONE)]
EGRESS = '[egress]\nallow = ["127.0.0.0/8"]\n'
CLUSTER = EGRESS + '[cluster]\nservers = {servers}\nmonitor = {monitor}\ntoken_file = "{token}"\npartitions = 4\n'
WORKSPACES = ("default", "acme", "globex")


def migrate(*words: str, config: Path) -> str:
    """Run `webhookd cluster …`; what it printed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WEBHOOKD_")}
    ran = subprocess.run(
        [sys.executable, "-m", "webhookd", "cluster", *words, "--config", str(config)],
        cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip
    assert 0 == ran.returncode, ran.stderr
    return ran.stdout


async def add_endpoints(d: Daemon, where: Receiver) -> None:
    for workspace in WORKSPACES:
        await d.call("POST", "/v1/workspaces", {"id": workspace})
        for name in ("on", "off"):
            url = f"{where.url}/{workspace}-{name}"
            path = f"/v1/workspaces/{workspace}/endpoints"
            made = await d.call("POST", path, {"url": url, "event_types": ["*"]}, expect=201)
            if name == "off":
                await d.call("POST", f"{path}/{made['id']}/disable", {})


async def send(d: Daemon, first: int, last: int) -> None:
    for workspace in WORKSPACES:
        batch = [
            {"event_type": "message.sent", "event_id": f"{workspace}-{number}"} for number in range(first, last + 1)
        ]
        await d.call("POST", f"/v1/workspaces/{workspace}/events", batch, expect=202)


async def enable(d: Daemon, workspace: str) -> None:
    path = f"/v1/workspaces/{workspace}/endpoints"
    for each in (await d.call("GET", path))["data"]:
        if each["state"] != "active":
            await d.call("POST", f"{path}/{each['id']}/enable", {}, expect=200)


def config_file(folder: Path, servers: Servers) -> Path:
    token = folder / "cluster-token"
    token.write_text("c" * 40 + "\n")
    token.chmod(0o600)
    file = folder / "cluster.toml"
    text = CLUSTER.format(servers=servers.urls, monitor=servers.monitors, token=token)
    file.write_text(text + f"allow_unsafe = {str(servers.lazy).lower()}\n")
    return file


async def pause(d: Daemon) -> None:
    """What waits for an endpoint of a workspace whose plan has no webhooks, and what came meanwhile."""
    await d.call("PATCH", "/v1/workspaces/globex", {"plan": "starter"}, expect=200)
    await d.call(
        "POST", "/v1/workspaces/globex/events", {"event_type": "message.sent", "event_id": "paused"}, expect=202
    )


async def test_there_and_back(tmp_path: Path, servers: Servers) -> None:
    """What was delivered isn't again, what waits arrives in order, ids are known, keys and states stay.

    A cluster that is in use is left alone.
    """
    async with receiver() as where:
        async with daemon(tmp_path / "single", EGRESS) as d:
            await add_endpoints(d, where)
            await send(d, 1, 5)
            await where.until(5 * len(WORKSPACES))
            await pause(d)
            endpoints = (await d.call("GET", "/v1/workspaces/acme/endpoints"))["data"]
        config = config_file(tmp_path, servers)
        said = migrate("import", str(tmp_path / "single" / "webhookd.db"), config=config)
        assert "3 workspaces, 6 endpoints and 16 events" in said
        async with machines(servers, tmp_path, count=1, through_relays=False, lease_seconds=10) as cluster:
            d0 = cluster[0].daemon
            assert d0 is not None
            await d0.call("PATCH", "/v1/workspaces/globex", {"plan": "advanced"}, expect=200)
            there = (await d0.call("GET", "/v1/workspaces/acme/endpoints", expect=200))["data"]
            assert [(e["id"], e["state"], e["url"]) for e in endpoints] == [
                (e["id"], e["state"], e["url"]) for e in there
            ]
            await send(d0, 4, 8)  # two of these are known
            await where.until(8 * len(WORKSPACES))
            await enable(d0, "acme")
            await where.until(8 * len(WORKSPACES) + 8)
            refuse(tmp_path, config)
            for each in cluster:
                assert 0 == await each.stop()
        migrate("export", str(tmp_path / "back"), config=config)
        async with daemon(tmp_path / "back", EGRESS) as d:
            await send(d, 7, 9)
            await where.until(9 * len(WORKSPACES) + 9)
            await enable(d, "default")
            await enable(d, "globex")
            await where.until(9 * 2 * len(WORKSPACES))
            assert endpoints[0]["id"] in {
                e["id"] for e in (await d.call("GET", "/v1/workspaces/acme/endpoints"))["data"]
            }
        for workspace in WORKSPACES:
            for name in ("on", "off"):
                assert [f"{workspace}-{number}" for number in range(1, 10)] == where.ids(f"{workspace}-{name}")


def refuse(folder: Path, config: Path) -> None:
    """An import into a cluster that is in use is refused, and so is an export while a machine runs."""
    with pytest.raises(AssertionError, match="has workspaces already"):
        migrate("import", str(folder / "single" / "webhookd.db"), config=config)
    with pytest.raises(AssertionError, match="stop webhookd on every machine"):
        migrate("export", str(folder / "back"), config=config)
