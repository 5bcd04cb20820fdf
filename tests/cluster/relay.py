"""The link between a daemon and a NATS server, which a test can cut: bytes stop, as when a cable is pulled."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

PIECE_BYTES = 65536


@dataclass(slots=True)
class Relay:
    """Passes bytes on while `open` is set; `reset` ends the connections that there are."""

    target_port: int
    port: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @classmethod
    async def start(cls, target_port: int) -> Relay:
        relay = cls(target_port)
        relay.open.set()
        relay._server = await asyncio.start_server(relay._serve, "127.0.0.1", 0)
        relay.port = relay._server.sockets[0].getsockname()[1]
        return relay

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """From now on nothing comes through; connections stay, and new ones are silent."""
        self.open.clear()

    def mend(self) -> None:
        self.open.set()

    def reset(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self.open.wait()
            there, back = await asyncio.open_connection("127.0.0.1", self.target_port)
            self._writers.add(back)
            try:
                ways = [
                    asyncio.ensure_future(self._pass_on(reader, back)),
                    asyncio.ensure_future(self._pass_on(there, writer)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
            finally:
                self._writers.discard(back)
                back.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass  # the server is dead, or the relay is closed
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
                await self.open.wait()
                writer.write(data)
                await writer.drain()
