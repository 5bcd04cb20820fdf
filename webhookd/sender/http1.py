"""aiohttp's client connection, made fit for hostile peers.

What the public interface of aiohttp doesn't offer:

- **Closing means at once.**  A transport that is closed politely first sends what is buffered, and a receiver that
  never reads keeps socket and buffer for ever.  Here `close` aborts.
- **The head has an end.**  Lines and their number are limited by the parser; the head as a whole, with all the interim
  (1xx) answers before it, is limited here, and so is what may stand around a body: chunk extensions, trailers.
- **Small bites.**  A turn of the event loop may bring a large block of tiny messages or chunks; it is parsed in pieces,
  and nothing is parsed after the first fault.
- **Nothing unasked.**  Bytes that arrive on an idle connection are no answer to the next request: it is closed.

- **A TLS connection is small.**  asyncio gives each a buffer of 256 KiB to read into, which stays as long as the
  connection, kept alive or dead and not yet collected: 100 of them are 25 MiB.  Here it is a bite.

It also keeps what the sender has to know of a failure: whether the connection had carried other requests, and whether
a single byte of an answer had come.

`TCPConnector._factory` and the overridden methods are aiohttp's internals: each has a test in tests/delivery that fails
when a new version stops calling it.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from asyncio import sslproto
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp.connector
from aiohttp import ClientPayloadError, ClientRequest, ClientTimeout, TCPConnector
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDict
from yarl import URL

from webhookd.models import Reason, Request
from webhookd.sender.attempt_trace import CURRENT, AttemptTrace, EgressFailure, Stage
from webhookd.sender.egress import Egress, GatedResolver

READ_BYTES = 16 * 1024
HEAD_LIMIT_BYTES = 32 * 1024
ANSWER_LIMIT_BYTES = 256 * 1024  # 16 KiB of body in 1-byte chunks are 96 KiB
_PIECE_BYTES = 4 * 1024
_KEEP_ALIVE_SECONDS = 15.0

# The deadline is the client's, around everything; aiohttp sets none of its own.
_NO_TIMEOUT = ClientTimeout(total=None)

sslproto.SSLProtocol.max_size = _PIECE_BYTES

PeerCheck = Callable[[tuple[str, int], AttemptTrace], bool]


class Connection(ResponseHandler):
    """One connection to a receiver, over all the requests that it carries one after the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop, check_peer: PeerCheck) -> None:
        super().__init__(loop)
        self._check_peer = check_peer
        self._requests = 0
        self._received_bytes = 0
        self._head_done = False
        self.answered = False
        self.lost: BaseException | None = None

    def set_response_params(self, **params: Any) -> None:
        """A request is about to go out: note who carries it, and judge the peer of a fresh connection."""
        self._requests += 1
        self._received_bytes = 0
        self._head_done = False
        self.answered = False
        trace = CURRENT.get()
        trace.connection = self
        trace.reused = self._requests > 1
        trace.stage = Stage.ANSWER
        super().set_response_params(**params)
        if self._requests == 1 and (trace.failure is not None or not self._peer_is_good(trace)):
            self.abort()

    def data_received(self, data: bytes) -> None:
        """Parse `data` in pieces; `b""` is aiohttp's own call to go on with what is buffered."""
        if not data:
            super().data_received(data)
            return
        for at in range(0, len(data), _PIECE_BYTES):
            if self._complete():
                self.abort()
                return
            self.answered = True
            piece = data[at : at + _PIECE_BYTES]
            self._received_bytes += len(piece)
            super().data_received(piece)
            if self._exception is not None:
                self._hang_up()  # aiohttp has closed politely, which goes on reading
                return
            if self.transport is None:
                return
            if self._received_bytes > (ANSWER_LIMIT_BYTES if self._head_done else HEAD_LIMIT_BYTES):
                self._refuse("too much around the body" if self._head_done else "too much before the body")
                return

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001 - aiohttp's own signature
        """Go on where reading was paused.  aiohttp calls it for every body, and has its parser called each time."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """A head was parsed; interim answers (1xx but 101) are not the head that is waited for."""
        code = data[0].code
        if code == 101 or not 100 <= code <= 199:
            self._head_done = True
        super().feed_data(data, size)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection ended; `exc` is kept, because aiohttp drops it for some answers."""
        if self._exception is None:  # otherwise the answer was at fault before the connection
            self.lost = exc
        super().connection_lost(exc)

    def close(self) -> None:
        """Close at once, whatever is buffered."""
        self.abort()

    def _peer_is_good(self, trace: AttemptTrace) -> bool:
        peer = None if self.transport is None else self.transport.get_extra_info("peername")
        if peer is None:  # the kernel has forgotten it: the connection is over already
            trace.failure = EgressFailure(Reason.RESET, f"the connection to {trace.peer} was reset")
            return False
        return self._check_peer(peer[:2], trace)

    def _refuse(self, complaint: str) -> None:
        self.set_exception(BadHttpMessage(complaint))
        if self._payload is not None:
            self._payload.set_exception(ClientPayloadError(complaint))
        self._hang_up()

    def _hang_up(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def _complete(self) -> bool:
        return self._head_done and (self._payload is None or self._payload.is_eof())


class GatedConnector(TCPConnector):
    """A connector behind the gates of `egress`, without limits of its own: an endpoint has one request in flight."""

    def __init__(self, egress: Egress, ssl_context: ssl.SSLContext, *, keep_alive: bool) -> None:
        super().__init__(
            resolver=GatedResolver(egress),
            use_dns_cache=False,  # c-ares keeps answers for their time to live
            socket_factory=egress.open_socket,
            ssl=ssl_context,
            limit=0,
            force_close=not keep_alive,
            keepalive_timeout=_KEEP_ALIVE_SECONDS if keep_alive else None,
        )
        self._factory = functools.partial(Connection, check_peer=egress.check_peer, loop=self._loop)  # type: ignore[assignment]


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
