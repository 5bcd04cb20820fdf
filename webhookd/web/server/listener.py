"""The doors: sockets that callers come to, and what happens where there is no room for one more.

asyncio's own way of accepting is not used.  With no descriptor left it complains a thousand times, then leaves all
callers waiting without a word.  Here each door keeps a few spare descriptors: where the system has none any more, one
of them is given up for as long as it takes to tell a caller 503 and when to come back.  The same is said to a caller
for whom there is no room although there are descriptors (`server` decides that).
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from webhookd import log
from webhookd.errors import ApiError
from webhookd.web.server.guard import SHORTAGE_RETRY_SECONDS, is_shortage, refused, whole

BACKLOG = 1024
# So many at a time, then others have the loop.
ACCEPTED_AT_ONCE = 64
# How many callers at a time can be told that there is no descriptor left.
SPARES = 16
# And how many are waited for until they have asked for something.
TURNED_AWAY_MAX = 64
# How long such a caller may take to ask for something; and then, if it did, to read the answer and go.
ASKING_SECONDS = 0.25
GOING_SECONDS = 1.0
# Where not even a spare is left, or accepting fails for another reason: how long until it is tried again.
PAUSE_SECONDS = 0.2


class Door:
    """One listening socket.  It looks like the part of `asyncio.Server` that aiohttp's sites ask for."""

    def __init__(
        self, listening: socket.socket, make: Callable[[], asyncio.Protocol], disk_space: Callable[[], bool]
    ) -> None:
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self.sockets = (listening,)
        self._listening = listening
        self._make = make
        self._room = disk_space
        self._loop = asyncio.get_running_loop()
        self._spares = [*_spares(SPARES)]
        self._arriving: set[asyncio.Task[Any]] = set()
        self._spares_lent = 0
        self._turned_away = 0
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(listening.fileno(), self._accept)

    def close(self) -> None:
        """Take no connection any more."""
        if self._listening.fileno() < 0:
            return
        self._loop.remove_reader(self._listening.fileno())
        self._listening.close()
        if self._pause is not None:
            self._pause.cancel()
        while self._spares:
            os.close(self._spares.pop())

    async def arrived(self) -> None:
        """Return once every connection that was taken has been given to the server."""
        if self._arriving:
            await asyncio.wait(self._arriving)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            self._keep_spares()  # first: else whoever comes next has the descriptor for as long as it likes
            try:
                taken, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except (OSError, MemoryError) as error:
                log.throttled("resource.exhausted", error=f"{type(error).__name__}: {error}")
                if not (is_shortage(error) and self._accept_on_a_spare()):
                    self._stand_still()
                    return
            else:
                if self._room():
                    self._arrive(taken, self._make)
                else:
                    self._turn_away(taken, self._gone)

    def _accept_on_a_spare(self) -> bool:
        """Take a connection in place of a spare descriptor, to turn it away; False if that can't be done now."""
        if not self._spares:
            return False
        os.close(self._spares.pop())
        try:
            taken, _ = self._listening.accept()
        except (OSError, MemoryError):
            return False
        self._spares_lent += 1
        self._turn_away(taken, self._gave_back)
        return True

    def _turn_away(self, taken: socket.socket, gone: Callable[[], None]) -> None:
        self._turned_away += 1
        hurried = self._turned_away > TURNED_AWAY_MAX
        self._arrive(taken, lambda: OverloadResponse(gone, hurried=hurried), gone)

    def _gone(self) -> None:
        self._turned_away -= 1

    def _gave_back(self) -> None:
        self._turned_away -= 1
        self._spares_lent -= 1
        self._loop.call_soon(self._go_on)  # the descriptor is closed right after asyncio tells that it will be

    def _arrive(
        self, taken: socket.socket, make: Callable[[], asyncio.Protocol], failed: Callable[[], None] | None = None
    ) -> None:
        task = self._loop.create_task(self._connect(taken, make, failed))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _connect(
        self, taken: socket.socket, make: Callable[[], asyncio.Protocol], failed: Callable[[], None] | None
    ) -> None:
        try:
            taken.setblocking(False)
            await self._loop.connect_accepted_socket(make, taken)
        except (OSError, MemoryError):  # it has gone already, or there is no memory for it
            taken.close()
            if failed is not None:
                failed()

    def _stand_still(self) -> None:
        """Leave callers in the backlog for a moment: the loop must not turn for nothing."""
        if self._pause is None:
            self._loop.remove_reader(self._listening.fileno())
            self._pause = self._loop.call_later(PAUSE_SECONDS, self._go_on)

    def _go_on(self) -> None:
        if self._listening.fileno() < 0:
            return
        self._keep_spares()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _keep_spares(self) -> None:
        missing = SPARES - self._spares_lent - len(self._spares)
        if missing:
            self._spares.extend(_spares(missing))


class OverloadResponse(asyncio.Protocol):
    """A connection that there is no room for: whatever is asked, the answer is 503, and then it ends.

    What the caller sends is read, so that the answer isn't lost to a reset; and nothing of it is kept.
    """

    def __init__(self, gone: Callable[[], None], *, hurried: bool) -> None:
        self._gone = gone
        self._hurried = hurried
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the question, not long."""
        self._transport = cast("asyncio.Transport", transport)
        self._timer = asyncio.get_running_loop().call_later(0 if self._hurried else ASKING_SECONDS, self._end)

    def data_received(self, data: bytes) -> None:
        """Answer what begins to be asked; drop the rest."""
        self._answer()

    def eof_received(self) -> bool:
        """The caller has said all: answer if that hasn't been done, and end."""
        self._end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended, one way or the other."""
        if self._timer is not None:
            self._timer.cancel()
        self._gone()

    def _end(self) -> None:
        self._answer()
        if self._transport is not None:
            self._transport.close()

    def _answer(self) -> None:
        if self._answered or self._transport is None:
            return
        self._answered = True
        self._transport.write(no_room())
        if self._transport.can_write_eof():
            self._transport.write_eof()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(GOING_SECONDS, self._transport.abort)


class Site(web.BaseSite):
    """A listening socket as aiohttp's runner knows it."""

    __slots__ = ("_listening", "_room")

    def __init__(self, runner: web.BaseRunner, listening: socket.socket, disk_space: Callable[[], bool]) -> None:
        super().__init__(runner)
        self._listening = listening
        self._room = disk_space

    @property
    def name(self) -> str:
        """Where it listens."""
        return str(self._listening.getsockname())

    async def start(self) -> None:
        """Take connections from now on."""
        await super().start()
        assert self._runner.server is not None
        self._server = cast("Any", Door(self._listening, self._runner.server, self._room))

    async def arrived(self) -> None:
        """Return once every connection that was taken has been given to the server."""
        door = cast("Door | None", self._server)
        if door is not None:
            await door.arrived()


def no_room() -> bytes:
    """The answer to a caller that there is no room for, whole."""
    return whole(
        refused(
            ApiError(
                "unavailable",
                "webhookd has no room for another connection just now; nothing was done. Try again in a moment.",
                retry_after_seconds=SHORTAGE_RETRY_SECONDS,
            )
        )
    )


async def listen_tcp(host: str, port: int) -> list[socket.socket]:
    """Sockets that are bound to every address of `host`; OSError where one can't be had."""
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
    """A unix socket at `path`, in place of one that a daemon before this one left there."""
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


def _spares(count: int) -> Iterator[int]:
    """So many descriptors of nothing, or as many as there are."""
    for _ in range(count):
        try:
            yield os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
