"""A producer that remembers what it asked and what it heard, and asks again, with the same ids, until it heard yes."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from tests.crash.history import Asked, Said
from webhookd.models import Json

# Bytes, or pieces of them as they come to be sent.
Body = bytes | AsyncIterator[bytes]
# (path, body, its type) → status and JSON; aiohttp.ClientError when no answer came
Ask = Callable[[str, Body, str], Awaitable[tuple[int, Any]]]
TRIES = 200
FULL_SECONDS = 0.1
PIECES = 5


@dataclass(frozen=True, slots=True)
class Event:
    event_id: str
    event_type: str = "message.sent"
    workspace: str = "default"
    size: int = 0
    contact: int | None = None

    @property
    def body(self) -> bytes:
        filling = f',"text":"{"x" * self.size}"' if self.size else ""
        if self.contact is not None:
            filling += f',"contact":{{"id":{self.contact}}}'
        return f'{{"event_type":"{self.event_type}","event_id":"{self.event_id}"{filling}}}'.encode()


def events(prefix: str, count: int, **fields: Any) -> list[Event]:
    return [Event(f"{prefix}-{number}", **fields) for number in range(count)]


@dataclass
class Producer:
    """Sends through `ask`; calls `again` after a silence, to have somebody to ask."""

    ask: Ask
    again: Callable[[], Awaitable[None]]
    asked: list[Asked] = field(default_factory=list)
    requests: itertools.count[int] = field(default_factory=itertools.count)

    async def one(self, event: Event) -> Json:
        return await self._send([event], lambda: event.body, "application/json")

    async def array(self, batch: Sequence[Event]) -> Json:
        body = b"[" + b",".join(event.body for event in batch) + b"]"
        return await self._send(batch, lambda: body, "application/json")

    async def pipe(self, batch: Sequence[Event], *, pause_seconds: float = 0.0) -> Json:
        """A stream of lines, in pieces (cut anywhere) with pauses between them."""
        body = b"\n".join(event.body for event in batch)
        return await self._send(batch, lambda: _pieces(body, pause_seconds), "application/x-ndjson")

    async def _send(self, batch: Sequence[Event], body: Callable[[], Body], content_type: str) -> Json:
        workspace = batch[0].workspace
        for _ in range(TRIES):
            request = next(self.requests)
            begun = [
                Asked(
                    each.event_id,
                    each.event_type,
                    workspace,
                    each.body,
                    time.time(),
                    None,
                    Said.UNKNOWN,
                    request,
                    index,
                )
                for index, each in enumerate(batch)
            ]
            try:
                status, answer = await self.ask(f"/v1/workspaces/{workspace}/events", body(), content_type)
            except aiohttp.ClientError:
                self.asked += begun
                await self.again()
                continue
            self.asked += _heard(begun, status, answer)
            if status == 202:
                return dict(answer)
            assert status in (503, 507), (status, answer)
            if status == 507:
                await asyncio.sleep(FULL_SECONDS)
            await self.again()
        raise AssertionError("never accepted")


async def _pieces(body: bytes, pause_seconds: float) -> AsyncIterator[bytes]:
    size = len(body) // PIECES + 1
    for begin in range(0, len(body), size):
        if begin:
            await asyncio.sleep(pause_seconds)
        yield body[begin : begin + size]


def _heard(begun: list[Asked], status: int, answer: Json) -> list[Asked]:
    """What the answer says of each; a stream that was cut short by an error says how far it came."""
    now = time.time()
    if status == 202:
        if "accepted" in answer:
            assert len(begun) == answer["accepted"] + answer["duplicates"], answer
        return [replace(each, answered_at=now, said=Said.TAKEN, duplicate=answer.get("duplicate")) for each in begun]
    taken = answer.get("next_index", 0)
    return [replace(each, answered_at=now, said=Said.TAKEN if each.index < taken else Said.REFUSED) for each in begun]
