"""The producer's recipes: each program and each of the manual's shell lines sends to a real daemon."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from tests.recipes.languages import RECIPES, Program, needs
from tests.support.listening import served
from tests.support.process import Daemon, daemon

MANUAL = (Path(__file__).resolve().parents[2] / "webhookd" / "manual" / "sending.md").read_text("utf-8")
SECTIONS = MANUAL.split("\n## By HTTP\n")[1].split("\n## From a program\n")[0]
COMMANDS = {"send.sh": "sh", "send.py": "python3", "send.mjs": "node", "send.php": "php"}
EVENT = '{"event_type":"message.received","event_id":"m-9","text":"hello"}'


@dataclass
class Proxy:
    """Stands before the daemon: turns the first away with 503 and breaks off the second; lets the others in."""

    daemon: Daemon
    url: str = ""
    bodies: list[bytes] = field(default_factory=list)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.bodies.append(body)
        if len(self.bodies) == 1:
            return web.json_response({}, status=503, headers={"Retry-After": "0"})
        if len(self.bodies) == 2:
            assert request.transport is not None
            request.transport.abort()
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type")}
        async with self.daemon.session.post(self.daemon.url + request.path, data=body, headers=headers) as answer:
            return web.json_response(await answer.json(), status=answer.status)


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Proxy]:
    async with daemon(tmp_path / "state") as d:
        made = Proxy(d)
        async with served(made.handle) as made.url:
            yield made


def sender(proxy: Proxy, name: str, token: str) -> Program:
    return Program(name, proxy.daemon.state_dir, {"WEBHOOKD_URL": proxy.url, "WEBHOOKD_INGEST_TOKEN": token})


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_sender_tries_until_it_is_taken(proxy: Proxy, name: str) -> None:
    """Turned away, then broken off: the same bytes go a third time, and the daemon has the event once.

    A wrong token is no reason to try again: it ends at once, with what the daemon said.
    """
    words = [needs(COMMANDS[name]), str(RECIPES / name), *([EVENT] if name == "send.sh" else [])]
    token = (proxy.daemon.state_dir / "ingest-token").read_text().strip()
    ran = await sender(proxy, name, token).run(*words)
    assert (0, "") == (ran.code, ran.err)
    assert 3 == len(proxy.bodies) and 1 == len(set(proxy.bodies))
    listed = await proxy.daemon.call("GET", "/v1/events")
    assert [json.loads(proxy.bodies[0])["event_id"]] == [each["event_id"] for each in listed["data"]]
    assert listed["data"][0]["event_id"] in ran.out
    ran = await sender(proxy, name, "wrong").run(*words)
    assert 0 != ran.code and 4 == len(proxy.bodies)
    assert "unauthorized" in ran.out + ran.err


async def test_shell_lines(tmp_path: Path) -> None:  # a short name: the path of a unix socket has at most 107 bytes
    """curl, the file, the pipes and the unix socket as they stand there, at home in a folder of the test."""
    for command in ("curl", "jq", "bash"):
        needs(command)
    home = tmp_path / "home"
    state_dir = home / ".local" / "state" / "webhookd"
    lines = "\n".join(line[4:] for line in SECTIONS.splitlines() if line.startswith("    "))
    assert 6 == len(re.findall(r"(?m)^(?:curl|webhookd|jq|tail|TOKEN)", lines))
    async with daemon(state_dir, 'unix_socket = "webhookd.sock"\n') as d:
        lines = lines.replace("http://127.0.0.1:8780", d.url)
        # One that follows a file never ends by itself.
        lines = lines.replace("tail -n 0 -F", "timeout 1 tail -n +1 -F")
        (tmp_path / "events.ndjson").write_text('{"event_type": "message.sent", "event_id": "n-1"}\n', "utf-8")
        (tmp_path / "events.json").write_text('[{"event_type": "message.sent", "event_id": "a-1"}]', "utf-8")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environ = {"HOME": str(home), "PATH": path, "WEBHOOKD_URL": d.url}
        environ["WEBHOOKD_TOKEN"] = (state_dir / "ingest-token").read_text().strip()
        ran = await Program("manual", tmp_path, environ).run(needs("bash"), "-ec", lines)
        assert 0 == ran.code, ran.err
        listed = await d.call("GET", "/v1/events")
        ids = [each["event_id"] for each in listed["data"]]
        assert 4 == len(ids) and ["a-1", "n-1", "m-1"] == ids[1:]
    assert shutil.which("webhookd", path=path)
