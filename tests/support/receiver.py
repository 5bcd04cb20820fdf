"""A receiver of webhooks on loopback: keeps what came, answers as the test says."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Received:
    """One request: its path without the slash, its headers, its body byte for byte."""

    name: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass(slots=True)
class Receiver:
    """`answer` gives the status for a path; a `gate` of a path holds its answers back until it is set."""

    answer: Callable[[str], int] = lambda name: 200
    url: str = ""
    body: bytes = b"thanks"
    delivered: list[str] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        body = await request.read()
        one = Received(name, {key.lower(): value for key, value in request.headers.items()}, body)
        self.received.append(one)
        self.arrived.set()
        if name in self.gates:
            await self.gates[name].wait()
        status = self.answer(name)
        if status == 200:
            self.delivered.append(one.headers.get("webhook-id", ""))
        return web.Response(status=status, body=self.body, content_type="text/plain")

    def ids(self, name: str) -> list[str]:
        return [each.id for each in self.received if each.name == name]

    def with_header(self, name: str) -> list[str]:
        return [each.id for each in self.received if name in each.headers]

    async def until(self, number: int, *, timeout_seconds: float = 30.0) -> list[Received]:
        async with asyncio.timeout(timeout_seconds):
            while len(self.received) < number:
                self.arrived.clear()
                await self.arrived.wait()
        return self.received


@asynccontextmanager
async def receiver(
    answer: Callable[[str], int] = lambda name: 200,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[Receiver]:
    kept = Receiver(answer)
    app = web.Application()
    app.router.add_post("/{name:.*}", kept.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, port, ssl_context=ssl_context).start()
    kept.url = f"{'http' if ssl_context is None else 'https'}://{host}:{runner.addresses[0][1]}"
    try:
        yield kept
    finally:
        for gate in kept.gates.values():
            gate.set()
        await runner.cleanup()
