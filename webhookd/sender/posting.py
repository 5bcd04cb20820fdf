"""One POST over a connection: what aiohttp's session, request and response would do, and only as much as is needed.

aiohttp's connector dials and keeps connections, its parser reads answers, its writer writes heads; all three stand,
with everything that `connection` and `egress` add to them.  Left out is what lies between: redirects, cookies,
sessions, compression, tasks for bodies, a request object made anew from the URL each time.  What depends on the URL
alone is made once (`Target`), and head and body go out in one write.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

import aiohttp.connector
from aiohttp import ClientRequest, ClientTimeout
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.streams import StreamReader
from multidict import CIMultiDict
from yarl import URL

from webhookd.models import Request
from webhookd.sender.attempt_trace import AttemptTrace, Stage
from webhookd.sender.egress import Egress
from webhookd.sender.http1 import GatedConnector

READ_BYTES = 16 * 1024

# The deadline is the sender's, around everything; aiohttp sets none of its own.
_NO_TIMEOUT = ClientTimeout(total=None)


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: how to dial it, and what each request to it begins with."""

    dial: ClientRequest
    line: str
    host: str


def target_of(url: URL) -> Target:
    """The target for an absolute `url`, which is sent as it is."""
    dial = ClientRequest("POST", url, loop=asyncio.get_running_loop())
    return Target(dial, f"POST {url.raw_path_qs} HTTP/1.1", dial.headers["Host"])


class Poster:
    """Posts over connections of its own: kept for the next request, or opened and closed for each."""

    def __init__(self, egress: Egress, ssl_context: ssl.SSLContext, *, keep_alive: bool) -> None:
        self._connector = GatedConnector(egress, ssl_context, keep_alive=keep_alive)
        self._keep_alive = keep_alive
        self._loop = asyncio.get_running_loop()

    async def post(self, target: Target, request: Request, trace: AttemptTrace) -> None:
        """Send `request`, and read what is to be read of the answer into `exchange`."""
        connection = await self._connector.connect(target.dial, [], _NO_TIMEOUT)
        complete = False
        try:
            assert connection.protocol is not None
            await self._send(connection.protocol, target, request)
            message, content = await _answer(connection.protocol)
            trace.status = message.code
            trace.headers = tuple((_text(name), _text(value)) for name, value in message.raw_headers)
            trace.stage = Stage.BODY
            await _read(content, trace)
            complete = not trace.truncated
        finally:
            _let_go(connection, keep=complete)

    async def close(self) -> None:
        """End all connections at once."""
        await self._connector.close()

    async def _send(self, protocol: ResponseHandler, target: Target, request: Request) -> None:
        """Write the whole request.  What the socket doesn't take at once waits in the transport, at most one event."""
        protocol.set_response_params(
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=READ_BYTES,
            max_line_size=8190,
            max_field_size=8190,
            max_headers=100,
        )
        headers = CIMultiDict({"Host": target.host})
        headers.extend(request.headers)
        headers.setdefault("Accept", "*/*")  # without Accept-Encoding: answers are kept as they come
        headers["Content-Length"] = str(len(request.body))
        if not self._keep_alive:
            headers["Connection"] = "close"
        writer = StreamWriter(protocol, self._loop)
        await writer.write_headers(target.line, headers)
        await writer.write_eof(request.body)


async def _answer(protocol: ResponseHandler) -> tuple[RawResponseMessage, StreamReader]:
    """The head of the answer, past interim ones, and its body as it comes."""
    while True:
        message, content = await protocol.read()
        if message.code == 101 or not 100 <= message.code <= 199:
            return message, content


async def _read(content: StreamReader, trace: AttemptTrace) -> None:
    body = trace.body
    while len(body) < READ_BYTES and not content.at_eof():
        read = await content.read(READ_BYTES - len(body))
        if not read:
            break
        body += read
    trace.truncated = not content.at_eof()


def _let_go(connection: aiohttp.connector.Connection, *, keep: bool) -> None:
    if keep:
        connection.release()  # which closes it where the answer wants that
    else:
        connection.close()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
