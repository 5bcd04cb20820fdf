"""aiohttp's server with what webhookd adds: one form for all errors, bounded connections, draining, ready responses.

aiohttp's parser answers malformed requests in plain text, before any handler runs; `handle_error` changes that.  All
use of aiohttp's private parts is in this module; `pyproject.toml` keeps aiohttp below the next untested minor version.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from functools import lru_cache
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard, cast

import orjson
from aiohttp import HttpVersion11, StreamReader, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from aiohttp.web_urldispatcher import UrlMappingMatchInfo

from webhookd.errors import ApiError
from webhookd.web.server.guard import GUARD
from webhookd.web.server.listener import Listener, listen_tcp, listen_unix
from webhookd.web.server.memory_limit import refuse_if_memory_is_short
from webhookd.web.server.question_limit import ONLY_ASKS
from webhookd.web.server.requests import Handler
from webhookd.web.server.responses import JSON_TYPE, SECURITY_HEADERS, error_response, internal_error, wire_bytes

# Also the limit for a request's headers, counted from the start of the connection or its last answer.
KEEP_ALIVE_SECONDS = 75.0
HEADER_BYTES = 8190
EVENTS_PATH = "/v1/events"
HEADERS = 64
# After an answer that did not wait for the whole body: how long the rest is read and dropped, so that a caller that is
# still sending gets to read the answer.
LINGER_SECONDS = 5.0
# While draining: how long a new connection may take to send its first request.
NEW_CONNECTION_SECONDS = 2.0
# While draining: how long an answered connection may take to send the next request, which is answered with
# `Connection: close`.  A connection that sends nothing for longer is idle, and HTTP lets a server close it.
NEXT_REQUEST_SECONDS = 0.25
DRAIN_POLL_SECONDS = 0.005
CONNECTIONS_LOOKED_AT = 100
READ_BYTES = 256 * 1024
# A caller that sends nothing more and waits for an answer is asked so often whether it is still there.
PROBE_SECONDS = 0.2


class ReadyResponse(web.Response):
    """A JSON answer whose head is known, written at once: for thousands a second (figures in manual/decisions.md)."""

    def __init__(self, data: Any, status: int) -> None:
        self._data = orjson.dumps(data)  # aiohttp's own part is made when it is needed
        self._ready_status = status

    @property
    def prepared(self) -> bool:
        """It has all headers: the guard adds none."""
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write it, or become what aiohttp writes."""
        body = self._data
        if self._keep_alive is None and request.keep_alive and request.version == HttpVersion11:
            self._keep_alive = self._eof_sent = True
            head = b"%b%d\r\nDate: %b\r\n\r\n" % (
                _head(self._ready_status),
                len(body),
                rfc822_formatted_time().encode(),
            )
            await request.writer.write(head + body)
            return None
        if not hasattr(self, "_headers"):
            headers = {"Content-Type": JSON_TYPE, **SECURITY_HEADERS}
            super().__init__(body=body, status=self._ready_status, headers=headers)
        return await super().prepare(request)


@lru_cache(8)
def _head(status: int) -> bytes:
    fixed = {"Content-Type": JSON_TYPE, **SECURITY_HEADERS}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in fixed.items())]
    return "\r\n".join([*lines, "Content-Length: "]).encode()


class _Connection(RequestHandler, asyncio.BufferedProtocol):
    """A caller's connection.  All read into one buffer: asyncio's 256 KiB for each read fail where memory is short."""

    __slots__ = ("_buffer", "_newest", "half_closed")

    def __init__(self, *arguments: Any, buffer: memoryview, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._buffer = buffer
        self._newest: StreamReader | None = None  # the body of the request that came last
        self.half_closed = False  # the caller sends nothing more and still waits for answers

    def expects_request(self, now: float) -> bool:
        """Whether the caller has all its answers and is likely to be sending a request just now."""
        if self._current_request is not None or self._close or self._force_close or self.transport is None:
            return False
        # aiohttp counts this from when the connection was made or last answered, whichever is later.
        silent_seconds = now - (self._next_keepalive_close_time - self._keepalive_timeout)
        return silent_seconds < (NEXT_REQUEST_SECONDS if self._request_count else NEW_CONNECTION_SECONDS)

    @property
    def is_last_answer(self) -> bool:
        """Whether the answer being made is the last one that a half-closed connection gets."""
        return self.half_closed and not self._messages

    def connection_lost(self, exc: BaseException | None) -> None:
        """The caller has gone: what it only asked for needs no answer any more."""
        asking, task = self._current_request, self._task_handler
        super().connection_lost(exc)
        if task is not None and _only_asks(asking):
            task.cancel()

    def _probe(self) -> None:
        """Does a half-closed caller still wait?  One that has gone answers an interim response with a reset."""
        asking = self._current_request
        if not _only_asks(asking) or self.transport is None or asking.writer.output_size > 0:
            return
        if asking.version >= HttpVersion11:
            self.transport.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        self._loop.call_later(PROBE_SECONDS, self._probe)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where asyncio puts received data."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes were received."""
        try:
            refuse_if_memory_is_short()
            self.data_received(bytes(self._buffer[:nbytes]))
        except MemoryError as error:
            self._out_of_memory(error)

    def _out_of_memory(self, error: MemoryError) -> None:
        """The data can't be kept: fail the handler that reads the body, or else answer 503; then close."""
        fault = internal_error("", "", error)
        reading = self._current_request
        if reading is not None and not reading.content.is_eof():
            reading.content.set_exception(error)
            reading.content.feed_eof()
        elif (self._newest is None or self._is_idle()) and self.transport is not None:
            self.transport.write(wire_bytes(error_response(fault)))
            self.force_close()
        self.close()

    def _is_idle(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio asks for it; aiohttp never stays
        """The caller sends nothing more; whole requests are still answered (`nc -N`), unless an answer had begun."""
        asking = self._current_request
        answering = asking is not None and asking.writer.output_size > 0 and not self._messages
        self.half_closed = not (self._is_idle() or answering) and self._newest is not None and self._newest.is_eof()
        if self.is_last_answer:
            self._close = True  # after the answer that is due; `close` is for a connection that waits
        if self.half_closed:
            self._loop.call_later(PROBE_SECONDS, self._probe)
        return self.half_closed

    def data_received(self, data: bytes) -> None:
        """Parse received data.  Where it breaks a body's framing, aiohttp does not tell the body's reader."""
        super().data_received(data)
        if not self._messages:
            return
        newest, self._newest = self._messages[-1]
        if isinstance(newest, _ErrInfo):
            reading = self._current_request
            if reading is not None and not reading.content.is_eof():
                reading.content.set_exception(web.RequestPayloadError("its framing is wrong"))
                reading.content.feed_eof()  # no more of it comes, so aiohttp need not wait for it
                self.close()  # where the next request begins is unknown

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to what never reached a handler, and to what escaped from one."""
        if isinstance(exc, ConnectionError):
            raise exc  # the caller has gone
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer had begun")
        if status == 400:
            text = (message or "").strip().splitlines()
            answer = error_response(
                ApiError("invalid_request", f"This is not HTTP as it should be: {text[0] if text else ''}")
            )
        else:
            error = exc or RuntimeError(f"status {status}")
            answer = error_response(internal_error(request.method, request.path, error))
        answer.headers.update(SECURITY_HEADERS)  # the guard never saw it
        answer.force_close()
        return answer


def _only_asks(request: web.BaseRequest | None) -> TypeGuard[web.BaseRequest]:
    return request is not None and (request.method in (hdrs.METH_GET, hdrs.METH_HEAD) or request.get(ONLY_ASKS, False))


class _Server(web.Server):
    """Makes `_Connection`s, and bounds their number."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._buffer = memoryview(bytearray(READ_BYTES))

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, buffer=self._buffer, **self._kwargs)

    def may_accept(self) -> bool:
        """Whether there is room for one more connection; at the bound, an idle one is closed to make room."""
        if len(self._connections) < _connections_max():
            return True
        idle = self._idlest()
        if idle is not None:
            idle.force_close()
        return idle is not None

    def _idlest(self) -> RequestHandler | None:
        """Of the oldest connections one that never sent a request, or else one between two requests."""
        oldest = [
            each
            for each in islice(self._connections, CONNECTIONS_LOOKED_AT)
            if each._current_request is None and not each._force_close
        ]
        return next((each for each in oldest if each._request_count == 0), oldest[0] if oldest else None)

    def expects_requests(self, now: float) -> bool:
        """Whether any connection is likely to be sending a request just now."""
        return any(cast("_Connection", each).expects_request(now) for each in self._connections)


class _Site(web.BaseSite):
    """A `Listener` as one of the sites of aiohttp's runner."""

    __slots__ = ("_listening",)

    def __init__(self, runner: Runner, listening: socket.socket) -> None:
        super().__init__(runner)
        self._listening = listening

    @property
    def name(self) -> str:
        """The address."""
        return str(self._listening.getsockname())

    async def start(self) -> None:
        """Start accepting connections."""
        await super().start()
        server = cast("_Server", self._runner.server)
        self._server = cast("Any", Listener(self._listening, server, server.may_accept))

    async def connected(self) -> None:
        """Return once the server has every connection that was accepted."""
        listener = cast("Listener | None", self._server)
        if listener is not None:
            await listener.connected()


class Runner(web.AppRunner):
    """Runs an application: with limits on headers, without decompressing bodies, able to drain its connections.

    With `front` every request goes there, and the application itself has no routes.
    """

    __slots__ = ("_draining", "_front")

    def __init__(
        self,
        app: web.Application,
        *,
        shutdown_seconds: float,
        keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
        front: Handler | None = None,
    ) -> None:
        self._draining = False
        self._front = front
        super().__init__(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=shutdown_seconds,
            keepalive_timeout=keep_alive_seconds,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
            max_headers=HEADERS,
        )

    async def listen_tcp(self, host: str, port: int) -> None:
        """Serve on every address of `host`; OSError if one of them can't be bound."""
        for each in await listen_tcp(host, port):
            await self.listen_on(each)

    async def listen_unix(self, path: Path) -> None:
        """Serve on a unix socket; OSError if it can't be bound."""
        await self.listen_on(listen_unix(path))

    async def listen_on(self, listening: socket.socket) -> None:
        """Serve on a bound socket."""
        await _Site(self, listening).start()

    async def drain(self) -> None:
        """Accept no new connection; answer requests that are on their way, each with `Connection: close`."""
        self._draining = True
        sites = self.sites
        for site in sites:
            await site.stop()
        for site in sites:
            await cast("_Site", site).connected()
        await asyncio.sleep(0)  # asyncio calls `connection_made` in the next turn of the loop
        for _ in range(round(NEW_CONNECTION_SECONDS / DRAIN_POLL_SECONDS)):
            server = cast("_Server | None", self.server)
            if server is None or not server.expects_requests(asyncio.get_running_loop().time()):
                return
            await asyncio.sleep(DRAIN_POLL_SECONDS)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handle = handler_of(self.app) if self._front is None else self._front

        async def answer(request: web.Request) -> web.StreamResponse:
            response = await handle(request)
            if self._draining or cast("_Connection", request.protocol).is_last_answer:
                response.force_close()
            return response

        return _Server(
            cast("Any", answer),
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            **made._kwargs,
        )


def handler_of(app: web.Application) -> Handler:
    """All that an application makes of a request, its guard included."""
    guard, resolve_and_handle = app[GUARD], cast("Handler", app._handle)
    fixed = _fixed_routes(app)

    async def handle(request: web.Request) -> web.StreamResponse:
        found = fixed.get((request.method, request._message.path))
        if found is None or hdrs.EXPECT in request.headers:
            return await resolve_and_handle(request)
        request._match_info = found
        return await found.handler(request)

    async def answer(request: web.Request) -> web.StreamResponse:
        return await guard.answer(request, handle)

    return answer


def _fixed_routes(app: web.Application) -> dict[tuple[str, str], UrlMappingMatchInfo]:
    """What aiohttp finds for events' own path, by method and path: found anew, it costs each request 5 %."""
    fixed = {}
    for route in app.router.routes():
        if route.method == "POST" and route.resource is not None and route.resource.canonical == EVENTS_PATH:
            found = fixed[route.method, EVENTS_PATH] = UrlMappingMatchInfo({}, route)
            found.add_app(app)
            found.freeze()
    return fixed


def _connections_max() -> int:
    """Half of the descriptors that the process may have: the other half is for endpoints and files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft // 2
