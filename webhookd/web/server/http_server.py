"""aiohttp's server, with what it leaves to us: malformed requests are answered in our form, connections are bounded.

aiohttp answers what its parser refuses before any middleware runs, in plain text; `handle_error` is where that can be
changed.  Its access log is off: every thing done has a line of its own (`log`).
"""

from __future__ import annotations

import asyncio
import resource
import socket
from itertools import islice
from pathlib import Path
from typing import Any, cast

from aiohttp import StreamReader, web
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from webhookd.errors import ApiError
from webhookd.web.server.guard import GUARD, Handler, failure, refused, whole
from webhookd.web.server.listener import Site, listen_tcp, listen_unix
from webhookd.web.server.memory_limit import refuse_if_memory_is_short
from webhookd.web.server.requests import SECURITY_HEADERS

# Also how long a request's headers may take, counted from the connection's start or its last answer.
KEEP_ALIVE_SECONDS = 75.0
HEADER_BYTES = 8190
HEADERS = 64
# After an answer that didn't wait for the whole body: how long the rest is read and dropped, so that the caller, who
# may still be writing, comes to read the answer.
LINGER_SECONDS = 5.0
# How long a daemon that stops waits for a request on a connection that was just made: its caller had no answer yet,
# and writes one even if the machine is busy.
FRESH_SECONDS = 2.0
# The same for one that was just answered: who goes on at once is told to come back on a new connection.  Who doesn't is
# idle, and HTTP lets a server close what is idle; its caller has to be ready for that at any time.
ANSWERED_SECONDS = 0.25
PARTING_LOOK_SECONDS = 0.005
CONNECTIONS_LOOKED_AT = 100
READ_BYTES = 256 * 1024


class _Connection(RequestHandler, asyncio.BufferedProtocol):
    """One connection of a caller.

    What comes is read into the one buffer of all connections and handed on from there at once: asyncio would make
    256 KiB anew for each read, which fails, without a word to the caller, where memory is short.
    """

    __slots__ = ("_buffer", "_newest", "said_all")

    def __init__(self, *arguments: Any, buffer: memoryview, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._buffer = buffer
        self._newest: StreamReader | None = None  # the body of the request that came last
        self.said_all = False

    def expected(self, now: float) -> bool:
        """Whether its caller, to whom nothing is owed, most likely writes a request just now."""
        if self._current_request is not None or self._close or self._force_close or self.transport is None:
            return False
        # aiohttp dates this from when the connection was made or last answered, whichever is later.
        silent_seconds = now - (self._next_keepalive_close_time - KEEP_ALIVE_SECONDS)
        return silent_seconds < (ANSWERED_SECONDS if self._request_count else FRESH_SECONDS)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where asyncio puts what comes."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So much has come."""
        try:
            refuse_if_memory_is_short()
            self.data_received(bytes(self._buffer[:nbytes]))
        except MemoryError as error:
            self._out_of_memory(error)

    def _out_of_memory(self, error: MemoryError) -> None:
        """What came can't be held: whoever reads the body gives up, or else the caller is told; then it ends."""
        refusal = failure("", "", error)
        reading = self._current_request
        if reading is not None and not reading.content.is_eof():
            reading.content.set_exception(error)
            reading.content.feed_eof()
        elif (self._newest is None or self._is_idle()) and self.transport is not None:
            self.transport.write(whole(refused(refusal)))
            self.force_close()
        self.close()

    def _is_idle(self) -> bool:
        """Whether it waits for the next request."""
        return self._waiter is not None and not self._waiter.done()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio asks for it; aiohttp never stays
        """The caller sends nothing more; it still gets its answers if all of what they need has come (`nc -N`).

        One whose answer has begun is taken to be gone, as callers of a live stream are.
        """
        asking = self._current_request
        answering = asking is not None and asking.writer.output_size > 0 and not self._messages
        self.said_all = not (self._is_idle() or answering) and self._newest is not None and self._newest.is_eof()
        if self.said_all and not self._messages:
            self._close = True  # after the answer that is due, and without `close`, which is for one that waits
        return self.said_all

    def data_received(self, data: bytes) -> None:
        """Take what came.  Where that breaks a body's framing, aiohttp's parser doesn't tell who reads the body."""
        super().data_received(data)
        if not self._messages:
            return
        newest, self._newest = self._messages[-1]
        if isinstance(newest, _ErrInfo):
            reading = self._current_request
            if reading is not None and not reading.content.is_eof():
                reading.content.set_exception(web.RequestPayloadError("its framing is wrong"))
                reading.content.feed_eof()  # nothing of it comes any more, so that aiohttp doesn't wait for it
                self.close()  # where the next request begins is unknown

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001 - aiohttp's own signature
        """Go on where reading was paused.  aiohttp calls it for every body, and has its parser called each time."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what never reached a handler, and to what escaped from one."""
        if isinstance(exc, ConnectionError):
            raise exc  # nobody is there any more
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer had begun")
        if status == 400:
            text = (message or "").strip().splitlines()
            answer = refused(
                ApiError("invalid_request", f"This is not HTTP as it should be: {text[0] if text else ''}")
            )
        else:
            answer = refused(failure(request.method, request.path, exc or RuntimeError(f"status {status}")))
        answer.headers.update(SECURITY_HEADERS)  # the guard never saw it
        answer.force_close()
        return answer


class _Server(web.Server):
    """Makes our kind of connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._buffer = memoryview(bytearray(READ_BYTES))

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, buffer=self._buffer, **self._kwargs)

    def make_room(self) -> bool:
        """Whether there is room for one more connection; one that asks for nothing makes some."""
        if len(self._connections) < _connections_max():
            return True
        idle = self._idlest()
        if idle is not None:
            idle.force_close()
        return idle is not None

    def _idlest(self) -> RequestHandler | None:
        """Of the oldest connections one that never asked for anything, or else one between two requests."""
        oldest = [
            each
            for each in islice(self._connections, CONNECTIONS_LOOKED_AT)
            if each._current_request is None and not each._force_close
        ]
        return next((each for each in oldest if each._request_count == 0), oldest[0] if oldest else None)


class Runner(web.AppRunner):
    """Runs an application as webhookd wants it served: slow headers end, bodies stay as they were sent."""

    __slots__ = ("_parting",)

    def __init__(self, app: web.Application, *, shutdown_seconds: float) -> None:
        self._parting = False
        super().__init__(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=shutdown_seconds,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
            max_headers=HEADERS,
        )

    async def listen_tcp(self, host: str, port: int) -> None:
        """Serve on every address of `host`; OSError where that can't be."""
        for each in await listen_tcp(host, port):
            await self.listen_on(each)

    async def listen_unix(self, path: Path) -> None:
        """Serve on a unix socket; OSError where that can't be."""
        await self.listen_on(listen_unix(path))

    async def listen_on(self, listening: socket.socket) -> None:
        """Serve on a socket that is bound."""
        await Site(self, listening, lambda: cast("_Server", self.server).make_room()).start()

    async def part(self) -> None:
        """Take no new connection; answer what is on its way, and tell each caller to come back on a new one.

        Returns once nobody is expected to write any more, at most `FRESH_SECONDS` later.  Without this, a caller
        whose connection was just taken, or who writes the next request on one that is kept, would get no answer.
        """
        self._parting = True
        sites = self.sites
        for site in sites:
            await site.stop()
        for site in sites:
            await cast("Site", site).arrived()
        await asyncio.sleep(0)  # asyncio tells of a connection in the turn after it was made
        for _ in range(round(FRESH_SECONDS / PARTING_LOOK_SECONDS)):
            if not self._anybody_expected(asyncio.get_running_loop().time()):
                return
            await asyncio.sleep(PARTING_LOOK_SECONDS)

    def _anybody_expected(self, now: float) -> bool:
        connections = self.server._connections if self.server is not None else ()
        return any(cast("_Connection", each).expected(now) for each in connections)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        guard, handle = self.app[GUARD], cast("Handler", made.request_handler)

        async def answer(request: web.Request) -> web.StreamResponse:
            response = await guard.answer(request, handle)
            connection = request.protocol
            if self._parting or (connection.said_all and not connection._messages):  # type: ignore[attr-defined]
                response.force_close()
            return response

        return _Server(
            cast("Any", answer),
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            **made._kwargs,
        )


def _connections_max() -> int:
    """Half of the descriptors that the process may have: the other half is for endpoints and files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft // 2
