"""Programs that post event after event, as many as a test wants, and what became of every single request."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import aiohttp


@dataclass(slots=True)
class Callers:
    """Each has a connection of its own per event, or one that it keeps."""

    answers: Counter[str] = field(default_factory=Counter)
    accepted: set[str] = field(default_factory=set)
    longest_seconds: float = 0.0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(
        self, name: str, url: str, headers: dict[str, str], *, keep: bool, pause_seconds: float = 0.0
    ) -> None:
        """Post event after event until `done`, with a pause after each answer."""
        connector = aiohttp.TCPConnector(force_close=not keep)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as session:
            for number in count():
                event = {"event_type": "message.sent", "event_id": f"{name}-{number}"}
                began = time.monotonic()
                try:
                    async with session.post(url + "/v1/events", json=event, headers=headers) as answer:
                        self.answers[str(answer.status)] += 1
                        if answer.status == 202:
                            self.accepted.add(event["event_id"])
                except aiohttp.ClientConnectorError:
                    self.answers["refused"] += 1
                except (aiohttp.ClientError, ConnectionError) as error:
                    self.answers[type(error).__name__] += 1
                self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
                if self.done.is_set():
                    return
                if pause_seconds:
                    await asyncio.sleep(pause_seconds)

    async def until_more(self, number: int = 100) -> None:
        before = len(self.accepted)
        async with asyncio.timeout(60):
            while len(self.accepted) < before + number:
                await asyncio.sleep(0.01)

    @property
    def unanswered(self) -> int:
        """Requests that went out and got no answer at all; refused connections are others."""
        return sum(times for what, times in self.answers.items() if not what.isdecimal() and what != "refused")


@asynccontextmanager
async def calling(
    url: str, headers: dict[str, str], names: list[str], *, kept: bool | None = None, pause_seconds: float = 0.0
) -> AsyncIterator[Callers]:
    """Callers for the time of a test; `kept` is whether they keep their connections, None: every second one does."""
    them = Callers()
    tasks = [
        asyncio.create_task(
            them.call(name, url, headers, keep=bool(number % 2) if kept is None else kept, pause_seconds=pause_seconds)
        )
        for number, name in enumerate(names)
    ]
    try:
        yield them
    finally:
        them.done.set()
        await asyncio.gather(*tasks)
