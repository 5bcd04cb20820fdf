"""A receiver that misbehaves on purpose: a real server, over HTTP or HTTPS, that plays a script per connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(slots=True)
class Peer:
    """One connection as a script sees it.  `number` counts the connections of the receiver, from 1."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    requests: list[bytes]

    async def request(self) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        self.requests.append(head + await self.reader.readexactly(length))
        return self.requests[-1]

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def drip(self, data: bytes, *, seconds: float) -> None:
        """Send one byte at a time, `seconds` apart."""
        for byte in data:
            await self.send(bytes([byte]))
            await asyncio.sleep(seconds)

    async def flood(self, data: bytes, *, at_most: int) -> None:
        """Send `data` again and again at full speed, up to `at_most` bytes or until the other side is gone."""
        block = data * max(1, 65536 // len(data))
        for _ in range(max(1, at_most // len(block))):
            if self.writer.is_closing():
                return
            await self.send(block)
            await asyncio.sleep(0)  # over TLS, drain neither waits nor tells that the other side is gone

    async def stay(self) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self.reader.read(65536):
                pass

    async def freeze(self) -> None:
        """Keep the connection open, reading nothing, until the receiver is closed."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(3600)

    def half_close(self) -> None:
        """End what is sent and go on listening (over TLS there is no such thing: the connection is closed)."""
        if self.writer.can_write_eof():
            self.writer.write_eof()
        else:
            self.writer.close()

    def reset(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # it may be gone already
            linger = struct.pack("ii", 1, 0)
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


@dataclass(slots=True)
class ScriptedReceiver:
    """The receiver: `async with ScriptedReceiver(script) as receiver`; `receiver.url` is where it is.

    `requests` holds the whole requests that scripts have read, `connections` counts.  `receive_buffer_bytes` bounds
    what the kernel takes for a script that doesn't read.
    """

    script: Script
    tls: ssl.SSLContext | None = None
    receive_buffer_bytes: int | None = None
    host: str = "127.0.0.1"
    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}/hook"

    async def __aenter__(self) -> ScriptedReceiver:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family)
        if self.receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer_bytes)
        sock.bind((self.host, 0))
        self.port = sock.getsockname()[1]
        self._server = await asyncio.start_server(self._serve, sock=sock, ssl=self.tls, limit=1 << 20, backlog=1024)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        # What was sent is on its way: Nagle would hold back a small answer, and a RST would then take it along.
        with contextlib.suppress(OSError, AttributeError):  # it may be gone already
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self.script(Peer(reader, writer, self.connections, self.requests))
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError):
            pass
        except asyncio.CancelledError:
            pass  # the receiver is being closed; asyncio's own callback would log it
        finally:
            self._tasks.discard(task)
            writer.transport.abort()
