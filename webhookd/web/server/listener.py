"""Listening sockets, and the 503 for a connection that there is no room for.

With no file descriptor left, asyncio's own accept loop logs each failure and leaves callers without an answer.  Each
`Listener` keeps spare descriptors and gives one up for as long as it takes to answer a caller 503 with Retry-After.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from webhookd import log
from webhookd.errors import ApiError
from webhookd.web.server.responses import SHORTAGE_RETRY_SECONDS, error_response, is_shortage, wire_bytes

BACKLOG = 1024
# Connections accepted in one turn of the event loop; then other tasks run.
ACCEPTED_AT_ONCE = 64
# How many callers at a time can be answered when no descriptor is left.
SPARES = 16
# Up to so many overload responses wait for the caller's request; beyond, the 503 is sent at once.
PATIENT_OVERLOADS = 64
# How long such a caller may take to send its request; then, to read the answer and close.
REQUEST_SECONDS = 0.25
CLOSE_SECONDS = 1.0
# The pause after a failure to accept, when no spare is left either.
PAUSE_SECONDS = 0.2


class Listener:
    """One listening socket.  It has the part of `asyncio.Server` that aiohttp's sites use: `sockets` and `close`."""

    def __init__(
        self, listening: socket.socket, make: Callable[[], asyncio.Protocol], may_accept: Callable[[], bool]
    ) -> None:
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self.sockets = (listening,)
        self._listening = listening
        self._make = make
        self._may_accept = may_accept
        self._loop = asyncio.get_running_loop()
        self._spares: list[int] = []
        self._spares_lent = 0
        self._overloads = 0
        self._connecting: set[asyncio.Task[Any]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._refill_spares()
        self._loop.add_reader(listening.fileno(), self._accept)

    def close(self) -> None:
        """Stop accepting connections."""
        if self._listening.fileno() < 0:
            return
        self._loop.remove_reader(self._listening.fileno())
        self._listening.close()
        if self._pause is not None:
            self._pause.cancel()
        while self._spares:
            os.close(self._spares.pop())

    async def connected(self) -> None:
        """Return once the server has every connection that was accepted."""
        if self._connecting:
            await asyncio.wait(self._connecting)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            self._refill_spares()  # first: the next connection may take the last descriptor for as long as it likes
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except (OSError, MemoryError) as error:
                log.throttled("resource.exhausted", error=f"{type(error).__name__}: {error}")
                if not (is_shortage(error) and self._accept_on_spare()):
                    self._pause_accepting()
                    return
            else:
                if self._may_accept():
                    self._start(connection, self._make)
                else:
                    self._refuse(connection, self._refused)

    def _accept_on_spare(self) -> bool:
        """Accept a connection in place of a spare descriptor, to refuse it; False if that is not possible now."""
        if not self._spares:
            return False
        os.close(self._spares.pop())
        try:
            connection, _ = self._listening.accept()
        except (OSError, MemoryError):
            return False
        self._spares_lent += 1
        self._refuse(connection, self._refused_on_spare)
        return True

    def _refuse(self, connection: socket.socket, on_lost: Callable[[], None]) -> None:
        self._overloads += 1
        at_once = self._overloads > PATIENT_OVERLOADS
        self._start(connection, lambda: OverloadResponse(on_lost, at_once=at_once), on_lost)

    def _refused(self) -> None:
        self._overloads -= 1

    def _refused_on_spare(self) -> None:
        self._overloads -= 1
        self._spares_lent -= 1
        self._loop.call_soon(self._resume)  # asyncio closes the descriptor right after `connection_lost`

    def _start(
        self,
        connection: socket.socket,
        make: Callable[[], asyncio.Protocol],
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        task = self._loop.create_task(self._connect(connection, make, on_failure))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(
        self, connection: socket.socket, make: Callable[[], asyncio.Protocol], on_failure: Callable[[], None] | None
    ) -> None:
        try:
            connection.setblocking(False)
            await self._loop.connect_accepted_socket(make, connection)
        except (OSError, MemoryError):  # the caller has gone already, or there is no memory for the connection
            connection.close()
            if on_failure is not None:
                on_failure()

    def _pause_accepting(self) -> None:
        """Leave callers in the backlog for a moment, so that the loop does not spin."""
        if self._pause is None:
            self._loop.remove_reader(self._listening.fileno())
            self._pause = self._loop.call_later(PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        if self._listening.fileno() < 0:
            return
        self._refill_spares()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _refill_spares(self) -> None:
        with suppress(OSError):  # as many as there are
            while len(self._spares) + self._spares_lent < SPARES:
                self._spares.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


class OverloadResponse(asyncio.Protocol):
    """Answers 503 for want of room, and drops what comes: closing with unread data would lose the answer."""

    def __init__(self, on_lost: Callable[[], None], *, at_once: bool) -> None:
        self._on_lost = on_lost
        self._wait_seconds = 0.0 if at_once else REQUEST_SECONDS
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait a moment for the request."""
        self._transport = cast("asyncio.Transport", transport)
        self._timer = asyncio.get_running_loop().call_later(self._wait_seconds, self._end)

    def data_received(self, data: bytes) -> None:
        """Answer the first bytes of a request; drop the rest."""
        self._answer()

    def eof_received(self) -> bool:
        """The caller sends nothing more."""
        self._end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
        self._on_lost()

    def _end(self) -> None:
        self._answer()
        if self._transport is not None:
            self._transport.close()

    def _answer(self) -> None:
        if self._answered or self._transport is None:
            return
        self._answered = True
        self._transport.write(wire_bytes(error_response(_overloaded())))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._transport.abort)


def _overloaded() -> ApiError:
    return ApiError(
        "unavailable",
        "webhookd has no room for another connection just now; nothing was done. Try again in a moment.",
        retry_after_seconds=SHORTAGE_RETRY_SECONDS,
    )


async def listen_tcp(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to every address of `host`; OSError if one of them can't be bound."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            bound.append(socket.create_server(cast("Any", address), family=family))
    except OSError:
        for each in bound:
            each.close()
        raise
    return bound


def listen_unix(path: Path) -> socket.socket:
    """A unix socket bound to `path`, in place of one that an earlier daemon left there."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(str(path))
    except OSError:
        bound.close()
        raise
    return bound
