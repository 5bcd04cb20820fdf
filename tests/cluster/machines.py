"""Three daemons of one cluster as processes, each with a link of its own to every NATS server."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.cluster.nats_servers import Servers, free_ports
from tests.cluster.relay import Relay
from tests.support import process
from tests.support.process import Daemon

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
# How late a daemon may see that its clock was set: libfaketime keeps what it read for one whole second and the rest of
# another.  Reading it at each call takes half of two cores from the daemons that are judged.
CLOCK_SEEN_SECONDS = 2.0
SHARED_MEMORY = Path("/dev/shm")
# Webhookd as it is, but that its requests say which machine they come from.
PROGRAM = """\
import sys
import webhookd.sender.request_builder as request_builder
request_builder._FIXED = (request_builder._FIXED[0], ("User-Agent", sys.argv.pop(1)))
from webhookd.cli import main
main()
"""
CONFIG = """\
[egress]
allow = ["127.0.0.0/8"]
[log]
format = "json"
level = "info"
[store]
min_free_mb = 0
[cluster]
servers = {servers}
monitor = {monitor}
token_file = "{token_file}"
partitions = {partitions}
lease_seconds = {lease_seconds}
allow_unsafe = {allow_unsafe}
"""
READY_SECONDS = 60.0


@dataclass(slots=True)
class Machine:
    """A daemon, its disk, its links and its clock."""

    name: str
    state_dir: Path
    config: str
    relays: list[Relay]
    clock_file: Path
    port: int
    has_clock: bool
    daemon: Daemon | None = None
    session: aiohttp.ClientSession = field(default_factory=aiohttp.ClientSession)
    token: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, *, until_ready: bool = True) -> None:
        assert self.daemon is None
        environ = {"WEBHOOKD_LISTEN__PORT": str(self.port)}
        if self.has_clock:
            environ |= {
                "LD_PRELOAD": str(FAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(self.clock_file),
                "FAKETIME_CACHE_DURATION": "1",
                "DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        self.daemon = await process.start(
            self.state_dir, self.config, program=("-c", PROGRAM, self.name), alive=False, environ=environ
        )
        if until_ready:
            await self.until_ready()

    async def until_ready(self) -> None:
        async with asyncio.timeout(READY_SECONDS):
            assert self.daemon is not None
            assert await process.until_ready(self.daemon), self.log()
            self.token = (self.state_dir / "admin-token").read_text().strip()

    async def until_owned(self) -> None:
        """Wait until every partition is at some machine."""
        async with asyncio.timeout(READY_SECONDS):
            while True:
                look = await self.call("GET", "/v1/cluster")
                if look.get("partitions") and all(each["node"] for each in look["partitions"]):
                    return
                await asyncio.sleep(0.1)

    @property
    def is_running(self) -> bool:
        return self.daemon is not None and self.daemon.process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        assert self.daemon is not None
        os.kill(self.daemon.process.pid, number)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self._ended()

    async def stop(self) -> int:
        """SIGTERM: it leaves in peace; its exit code."""
        self.signal(signal.SIGTERM)
        return await self._ended()

    async def _ended(self) -> int:
        daemon, self.daemon = self.daemon, None
        assert daemon is not None
        code = await daemon.until_dead()
        await daemon.session.close()
        for left in SHARED_MEMORY.glob(f"*faketime_*_{daemon.process.pid}"):  # who is killed leaves it to its namesake
            left.unlink(missing_ok=True)
        return code

    def empty_disk(self) -> None:
        assert self.daemon is None
        shutil.rmtree(self.state_dir)

    def set_clock(self, seconds: float) -> None:
        """Set the wall clock so far from the true time; the monotonic clock goes on."""
        replaced = self.clock_file.with_suffix(".new")
        replaced.write_text(f"{seconds:+.0f}\n")
        replaced.replace(self.clock_file)

    async def call(self, method: str, path: str, json: Any = None, *, expect: int | None = None, **more: Any) -> Any:
        async with self.session.request(
            method, self.url + path, json=json, headers={"Authorization": f"Bearer {self.token}"}, **more
        ) as answer:
            body = await answer.json(content_type=None) if answer.content_type == "application/json" else None
            assert expect in (None, answer.status), (answer.status, body)
            return body

    def log(self) -> str:
        return (self.state_dir.parent / f"{self.state_dir.name}.log").read_text()[-4000:]

    async def close(self) -> None:
        if self.daemon is not None:
            with suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
                self.signal(signal.SIGKILL)
            await self._ended()
        await self.session.close()
        for relay in self.relays:
            await relay.close()


@asynccontextmanager
async def machines(
    servers: Servers,
    folder: Path,
    *,
    count: int = 3,
    partitions: int = 4,
    lease_seconds: float = 15,
    config: str = "",
    listen: str = "",
    through_relays: bool = True,
    with_clocks: bool = False,
) -> AsyncIterator[list[Machine]]:
    """So many daemons, ready, until the context ends; `listen` are lines of that section, `{url}` in them its own."""
    token_file = folder / "cluster-token"
    token_file.write_text("c" * 40 + "\n")
    token_file.chmod(0o600)
    made = []
    for place, port in enumerate(free_ports(count)):
        relays = await servers.relays() if through_relays else []
        text = CONFIG.format(
            servers=[each.url for each in relays] if relays else servers.urls,
            monitor=servers.monitors,
            token_file=token_file,
            partitions=partitions,
            lease_seconds=lease_seconds,
            allow_unsafe=str(servers.lazy or len(servers.servers) < 3).lower(),
        )
        machine = Machine(
            f"m{place}",
            folder / f"m{place}",
            listen.format(url=f"http://127.0.0.1:{port}") + text + config,
            relays,
            folder / f"m{place}.clock",
            port,
            with_clocks and FAKETIME is not None,
        )
        machine.set_clock(0)
        made.append(machine)
    try:
        for each in made:
            await each.start(until_ready=False)
        for each in made:
            await each.until_ready()
        await made[0].until_owned()
        yield made
    finally:
        for each in made:
            await each.close()


async def until(what: str, condition: Any, *, timeout_seconds: float = 30.0) -> float:
    """Wait until `condition()` holds; how long that took, in seconds."""
    begun = time.monotonic()
    try:
        async with asyncio.timeout(timeout_seconds):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_seconds:g} s: {what}") from None
    return time.monotonic() - begun
