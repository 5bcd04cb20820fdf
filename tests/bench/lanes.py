"""Rows about order by key: how fast lanes deliver to a slow receiver, and what one key that always fails costs others.

The receiver answers after 50 ms, so strict order gets 20 events a second through.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.bench import processes, stock
from tests.bench.measure import Figure, Yard, steady_rate
from tests.support.process import Daemon

ANSWER_SECONDS = 0.05
KEYS = 10_000
GOALS = {1: 19.0, 8: 150.0, 32: 550.0}
PACED_LANES, PACED_RATE, FAILING_RATE = 32, 200.0, 2.0
WORST_RATIO = 1.2
FAILING = KEYS  # one more than the others are
_EVENT = re.compile(rb'"event_id": "l-(\d+)", "contact": {"id": (\d+)}')
_ANSWERS = {
    status: b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status.encode() for status in ("200 OK", "500 Failed")
}


@dataclass(slots=True)
class Receiver(asyncio.Protocol):
    """Answers each request after 50 ms, and keeps when it did: by event, in the order of arrival."""

    port: int = 0
    failing: int | None = None
    answered: list[tuple[int, int, float]] = field(default_factory=list)  # number, key, when

    def connection(self) -> asyncio.Protocol:
        return _Connection(self)


class _Connection(asyncio.Protocol):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver, self._data = receiver, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._data.endswith(b"}"):
            return
        found = _EVENT.search(self._data)
        assert found is not None
        self._data = b""
        asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._answer, int(found[1]), int(found[2]))

    def _answer(self, number: int, key: int) -> None:
        fails = key == self._receiver.failing
        if not fails:
            self._receiver.answered.append((number, key, time.monotonic()))
        self._transport.write(_ANSWERS["500 Failed" if fails else "200 OK"])


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.get_running_loop().create_server(receiver.connection, "127.0.0.1", 0, backlog=512)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()


def event(number: int, key: int) -> dict[str, Any]:
    return {"event_type": "contact.updated", "event_id": f"l-{number:09d}", "contact": {"id": key}}


async def lanes(yard: Yard) -> list[Figure]:
    """Events of 10,000 keys to one endpoint; then at 200/s, with and without one key that always fails."""
    figures = []
    for loop in processes.loops()[:1]:
        for count, goal in GOALS.items():
            figure = Figure(f"{count} lanes, a receiver that takes 50 ms", loop, "/s", goal, at_least=True)
            for _ in range(yard.scale.rounds):
                figure.add(await _rate(yard, loop, count, max(20, int(goal * yard.scale.seconds * 2))))
            figures.append(figure)
        ratio = Figure("others' p99 beside a key that fails ÷ without it", loop, "", WORST_RATIO, at_least=False)
        for _ in range(yard.scale.rounds):
            without, beside = [await _p99_ms(yard, loop, failing=failing) for failing in (None, FAILING)]
            ratio.add(beside / without, without_ms=without, beside_ms=beside)
        figures.append(ratio)
    return figures


@asynccontextmanager
async def _daemon(yard: Yard, loop: str, port: int, count: int) -> AsyncIterator[Daemon]:
    state_dir = yard.folder / "lanes"
    async with processes.webhookd(state_dir, stock.config(), loop) as daemon:
        ordering = {"key": "contact.id", "lanes": count} if count > 1 else "endpoint"
        fields = {"url": f"http://127.0.0.1:{port}/", "event_types": ["*"], "ordering": ordering}
        await daemon.call("POST", "/v1/endpoints", fields, expect=201)
        yield daemon
    for each in state_dir.iterdir():
        each.unlink()


async def _rate(yard: Yard, loop: str, count: int, total: int) -> float:
    """Deliveries a second of a backlog, each key in order."""
    keys = [random.randrange(KEYS) for _ in range(total)]
    async with receiving() as receiver, _daemon(yard, loop, receiver.port, count) as daemon:
        for begin in range(0, total, 500):
            sent = [event(number, key) for number, key in enumerate(keys[begin : begin + 500], begin)]
            await daemon.call("POST", "/v1/events", sent, expect=202)
        async with asyncio.timeout(60 + 2 * total * ANSWER_SECONDS / count):
            while len(receiver.answered) < total:
                await asyncio.sleep(0.05)
        _check_order(receiver)
        return steady_rate([(at, place) for place, (_, _, at) in enumerate(receiver.answered)])


async def _p99_ms(yard: Yard, loop: str, *, failing: int | None) -> float:
    """From the time that an event was due to its answer, of all events but those of the key that fails."""
    due: dict[int, float] = {}
    async with receiving() as receiver, _daemon(yard, loop, receiver.port, PACED_LANES) as daemon:
        receiver.failing = failing
        began, posts = time.monotonic(), []
        for number in range(int(PACED_RATE * yard.scale.seconds * 4)):
            due[number] = began + number / PACED_RATE
            await asyncio.sleep(max(0.0, due[number] - time.monotonic()))
            sent = event(number, random.randrange(KEYS))
            posts.append(asyncio.create_task(daemon.call("POST", "/v1/events", sent, expect=202)))
            if failing is not None and number % (PACED_RATE // FAILING_RATE) == 0:
                sent = event(10**8 + number, failing)
                posts.append(asyncio.create_task(daemon.call("POST", "/v1/events", sent, expect=202)))
        await asyncio.gather(*posts)
        await asyncio.sleep(1.0)
        _check_order(receiver)
        at = {number: when for number, _, when in receiver.answered}
        # One that shares the lane of the key that fails still waits: it counts as longest.
        took = sorted(at.get(number, float("inf")) - due[number] for number in due)
        return took[int(len(took) * 0.99)] * 1000


def _check_order(receiver: Receiver) -> None:
    by_key: defaultdict[int, list[int]] = defaultdict(list)
    for number, key, _ in receiver.answered:
        by_key[key].append(number)
    assert all(numbers == sorted(set(numbers)) for numbers in by_key.values()), "out of order, or twice"
