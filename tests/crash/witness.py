"""A receiver that keeps a log for the judge: what arrived when, byte for byte, and what was answered when.

Written on the bare protocol, because what counts is the moment at which bytes arrive, are answered, or a connection is
lost; and because it stands for fifty receivers beside the load that it watches.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from tests.crash.history import Received


@dataclass(frozen=True, slots=True)
class Reply:
    """How a request is met: with a status after a while, with a reset (`status` 0), or with silence (None).

    Who resets has a port `apart` and does `close` after its answers: the reset of a connection that was used before, by
    another receiver at the same port even, is met by a second request at once.
    """

    status: int | None = 200
    after_seconds: float = 0.0
    close: bool = False


Manners = Callable[[Received], Reply]
WELL = Reply()


@dataclass(slots=True)
class Witness:
    """All receivers at one port, and those that reset at another; `manners` says how each request is met."""

    manners: Manners = lambda received: WELL
    port: int = 0
    port_apart: int = 0
    received: list[Received] = field(default_factory=list)
    connections: set[_Connection] = field(default_factory=set)
    answering: dict[str, _Connection] = field(default_factory=dict)  # who has yet to answer, by its name

    def url(self, name: str, *, apart: bool = False) -> str:
        return f"http://127.0.0.1:{self.port_apart if apart else self.port}/{name}"

    def begin(self, manners: Manners) -> list[Received]:
        """Forget everything and behave like this from now on; the new log."""
        for connection in tuple(self.connections):
            connection.reset()
        self.received = []
        self.manners = manners
        return self.received


class _Connection(asyncio.Protocol):
    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._log = witness.received
        self._buffer = b""
        self._open: Received | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._witness.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        length = int(headers["content-length"])
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        endpoint = lines[0].split()[1].lstrip("/")
        before = self._witness.answering.get(endpoint)
        if before is not None:
            before.look_for_end()
        received = Received(
            endpoint,
            headers["webhook-id"],
            rest[:length],
            int(headers["x-webhook-attempt"]),
            headers.get("x-webhook-replay") == "true",
            time.time(),
            sender=headers.get("user-agent", ""),
        )
        self._log.append(received)
        self._open = received
        self._witness.answering[received.endpoint] = self
        reply = self._witness.manners(received)
        if reply.status is None:
            return
        if reply.after_seconds:
            self._timer = asyncio.get_running_loop().call_later(reply.after_seconds, self._reply, reply)
        else:
            self._reply(reply)

    def _reply(self, reply: Reply) -> None:
        assert self._open is not None and self._transport is not None and reply.status is not None
        if not reply.status:
            self.reset()
            return
        self._end(reply.status)
        closing = b"Connection: close\r\n" if reply.close else b""
        self._transport.write(b"HTTP/1.1 %d Said\r\n%bContent-Length: 0\r\n\r\n" % (reply.status, closing))
        if reply.close:
            self._transport.close()

    def reset(self) -> None:
        assert self._transport is not None
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._end(None)
        self._transport.abort()

    def look_for_end(self) -> None:
        """Note an end that lies in the kernel yet to be read: it came before what was read from elsewhere just now."""
        assert self._transport is not None
        with socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno())) as sock:
            try:
                ended = not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                ended = False
            except ConnectionError:
                ended = True
        if ended:
            self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._witness.connections.discard(self)
        self._end(None)

    def _end(self, answer: int | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._open is not None:
            self._open.ended_at = time.time()
            self._open.answer = answer
            if self._witness.answering.get(self._open.endpoint) is self:
                del self._witness.answering[self._open.endpoint]
            self._open = None


async def caught_up() -> None:
    """Let the receivers read what a dead daemon had sent: it came before the death, and is to be dated so."""
    for _ in range(10):
        await asyncio.sleep(0.001)


@asynccontextmanager
async def witness() -> AsyncIterator[Witness]:
    kept = Witness()
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(lambda: _Connection(kept), "127.0.0.1", 0, backlog=1024) for _ in range(2)]
    kept.port, kept.port_apart = (server.sockets[0].getsockname()[1] for server in servers)
    try:
        yield kept
    finally:
        for server in servers:
            server.close()
        for connection in tuple(kept.connections):
            connection.reset()
        for server in servers:
            await server.wait_closed()
