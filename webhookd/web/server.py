"""aiohttp's server, with what it leaves to us: malformed requests are answered in our form, connections are bounded.

aiohttp answers what its parser refuses before any middleware runs, in plain text; `handle_error` is where that can be
changed.  Its access log is off: every thing done has a line of its own (`log`).
"""

from __future__ import annotations

import asyncio
import resource
from itertools import islice
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from webhookd.errors import Refusal
from webhookd.web.middleware import GUARD, Handler, failure, refused

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


class _Connection(RequestHandler):
    """One connection of a caller."""

    __slots__ = ()

    def expected(self, now: float) -> bool:
        """Whether its caller, to whom nothing is owed, most likely writes a request just now."""
        if self._current_request is not None or self._close or self._force_close or self.transport is None:
            return False
        # aiohttp dates this from when the connection was made or last answered, whichever is later.
        silent_seconds = now - (self._next_keepalive_close_time - KEEP_ALIVE_SECONDS)
        return silent_seconds < (ANSWERED_SECONDS if self._request_count else FRESH_SECONDS)

    def connection_made(self, transport: Any) -> None:
        """Take the connection; when there are too many, one that asks for nothing makes room, or else this one."""
        super().connection_made(transport)
        if self._manager is not None and len(self._manager._connections) > _connections_max():
            _idlest(self._manager, self).force_close()

    def data_received(self, data: bytes) -> None:
        """Take what came.  Where that breaks a body's framing, aiohttp's parser doesn't tell who reads the body."""
        super().data_received(data)
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            reading = self._current_request
            if reading is not None and not reading.content.is_eof():
                reading.content.set_exception(web.RequestPayloadError("its framing is wrong"))
                self.close()  # where the next request begins is unknown

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
            answer = refused(Refusal("invalid_request", f"This is not HTTP as it should be: {text[0] if text else ''}"))
        else:
            answer = refused(failure(request.method, request.path, exc or RuntimeError(f"status {status}")))
        answer.force_close()
        return answer


def _idlest(server: web.Server, newest: _Connection) -> RequestHandler:
    """Of the oldest connections one that never asked for anything, or else one between two requests."""
    oldest = [
        each
        for each in islice(server._connections, CONNECTIONS_LOOKED_AT)
        if each._current_request is None and not each._force_close
    ]
    return next((each for each in oldest if each._request_count == 0), oldest[0] if oldest else newest)


class _Server(web.Server):
    """Makes our kind of connection."""

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


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

    async def part(self) -> None:
        """Take no new connection; answer what is on its way, and tell each caller to come back on a new one.

        Returns once nobody is expected to write any more, at most `FRESH_SECONDS` later.  Without this, a caller
        whose connection was just taken, or who writes the next request on one that is kept, would get no answer.
        """
        self._parting = True
        loop = asyncio.get_running_loop()
        for site in self.sites:
            for each in getattr(site._server, "sockets", ()):
                loop.remove_reader(each.fileno())
        # asyncio takes a connection in three steps, each in a turn of its own: it is accepted, it gets its transport
        # (a server that is closed before that drops it), and our server hears of it.
        await asyncio.sleep(0)
        for site in self.sites:
            await site.stop()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for _ in range(round(FRESH_SECONDS / PARTING_LOOK_SECONDS)):
            if not self._anybody_expected(loop.time()):
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
            if self._parting:
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
