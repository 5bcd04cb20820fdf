"""The whole API on a real socket, over an app whose clock and network are the test's."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from aiohttp import ClientSession, ClientTimeout, web
from multidict import CIMultiDictProxy

from tests.support.engine import Engine, ScriptedNetwork, engine
from webhookd.app import App
from webhookd.config import Config
from webhookd.web.router import make_app
from webhookd.web.server.http_server import KEEP_ALIVE_SECONDS, Runner
from webhookd.web.server.requests import RequestTimeouts

TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])

    @property
    def error(self) -> tuple[int, str]:
        return self.status, self.code


@dataclass(slots=True)
class Api:
    """A running API: `call` speaks to it as the admin by default."""

    engine: Engine
    url: str
    port: int
    application: web.Application
    session: ClientSession
    admin_token: str
    ingest_token: str

    @property
    def app(self) -> App:
        return self.engine.app

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        data: Any = None,
        token: str | None = "admin",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request.  `body` is sent as JSON, `data` as it is; `token` None sends none, other words are secrets."""
        secret = {"admin": self.admin_token, "ingest": self.ingest_token}.get(token or "", token)
        sent = {"Authorization": f"Bearer {secret}"} if secret else {}
        if body is not None:
            data, sent["Content-Type"] = orjson.dumps(body), "application/json"
        if isinstance(data, bytes):
            data = io.BytesIO(data)  # aiohttp warns of large bytes as they are
        async with self.session.request(
            method, self.url + path, data=data, headers={**sent, **(headers or {})}, allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.call("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return await self.call("POST", path, body, **options)


@asynccontextmanager
async def running_api(
    state_dir: Path,
    config: Config | None = None,
    *,
    timeouts: RequestTimeouts | None = None,
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
    network: ScriptedNetwork | None = None,
) -> AsyncIterator[Api]:
    async with engine(state_dir, config, network=network) as running:
        application = make_app(running.app.services, timeouts=timeouts)
        runner = Runner(application, shutdown_seconds=0.5, keep_alive_seconds=keep_alive_seconds)
        await runner.setup()
        try:
            await runner.listen_tcp("127.0.0.1", 0)
            port = runner.addresses[0][1]
            admin, ingest = ((state_dir / name).read_text().strip() for name in ("admin-token", "ingest-token"))
            async with ClientSession(
                timeout=ClientTimeout(total=TIMEOUT_SECONDS), skip_auto_headers=("Content-Type",)
            ) as session:
                yield Api(running, f"http://127.0.0.1:{port}", port, application, session, admin, ingest)
        finally:
            running.app.stop_accepting()
            await runner.cleanup()


class Wire:
    """A connection spoken to byte by byte, for what no client library would send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes | str) -> None:
        self._writer.write(data.encode() if isinstance(data, str) else data)

    async def sent(self) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self._writer.drain()

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return int(head[0].split(" ")[1]), headers, body

    async def json(self) -> tuple[int, Any]:
        status, _, body = await self.answer()
        return status, orjson.loads(body)

    async def ended(self) -> bytes:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""

    def end(self) -> None:
        self._writer.write_eof()

    def reset(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def wire(port: int) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def head(api: Api, method: str = "POST", path: str = "/v1/events", **headers: str) -> str:
    """The head of a request with the ingest token; `_` in a header's name stands for `-`."""
    given = {"Host": "localhost", "Authorization": f"Bearer {api.ingest_token}", **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in given.items() if value]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""])
