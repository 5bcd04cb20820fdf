"""A clock that only moves when the test says so."""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass, field
from itertools import count

START_WALL_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z


@dataclass(order=True, slots=True)
class _Wait:
    due: float
    number: int
    future: asyncio.Future[None] = field(compare=False)


class ManualClock:
    """`clock.Clock` for tests: `advance` moves both hands, `jump_wall` the wall clock alone.

    `advance` ends each wait that comes due with the hands standing exactly there, in the order of the dues, and lets
    the loop run in between, so that what woke can wait again within the same `advance`.  What goes through real
    threads or sockets in between isn't waited for: a test waits for that by its own means.
    """

    def __init__(self, *, wall_ms: int = START_WALL_MS, monotonic: float = 1000.0) -> None:
        self._wall_ms = float(wall_ms)
        self._monotonic = monotonic
        self._waits: list[_Wait] = []
        self._numbers = count()
        self._changed = asyncio.Event()

    def monotonic(self) -> float:
        return self._monotonic

    def wall_ms(self) -> int:
        """Milliseconds since 1970, as far as `advance` and `jump_wall` brought them."""
        return round(self._wall_ms)

    async def wait(self, event: asyncio.Event, timeout_seconds: float) -> bool:
        """Wait until `event` is set or `advance` has gone `timeout_seconds` further; returns whether it is set."""
        if event.is_set() or timeout_seconds <= 0:
            await asyncio.sleep(0)  # like the real one, a wait always lets others run
            return event.is_set()
        due: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        wait = _Wait(_exact(self._monotonic + timeout_seconds), next(self._numbers), due)
        heapq.heappush(self._waits, wait)
        self._changed.set()
        waiter = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait((waiter, due), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
            if not due.done():
                due.cancel()
            if wait in self._waits:
                self._waits.remove(wait)
                heapq.heapify(self._waits)
            self._changed.set()
        return event.is_set()

    async def advance(self, seconds: float) -> None:
        """Move both hands `seconds` forward, ending the waits that come due on the way, in order."""
        target = _exact(self._monotonic + seconds)
        await settle()
        while self._waits and self._waits[0].due <= target:
            wait = heapq.heappop(self._waits)
            self._move_to(wait.due)
            if not wait.future.done():
                wait.future.set_result(None)
            await settle()
        self._move_to(target)
        await settle()

    async def leap(self, seconds: float) -> None:
        """Move both hands `seconds` at once, as on a machine that slept: what came due meanwhile wakes late, once."""
        await settle()
        self._move_to(_exact(self._monotonic + seconds))
        await self.advance(0)

    def jump_wall(self, seconds: float) -> None:
        """Move the wall clock alone, forward or (negative) back, as a person or NTP does."""
        self._wall_ms += seconds * 1000

    @property
    def waiters(self) -> int:
        return len(self._waits)

    @property
    def next_due_in_seconds(self) -> float | None:
        """How far `advance` has to go for the next wait to end, or None if nothing waits."""
        return _exact(self._waits[0].due - self._monotonic) if self._waits else None

    async def until_waiters(self, number: int, *, timeout_seconds: float = 10.0) -> None:
        """Return once at least `number` waits are under way: then it is time to `advance` (real time, bounded)."""
        async with asyncio.timeout(timeout_seconds):
            while len(self._waits) < number:
                self._changed.clear()
                await self._changed.wait()

    def _move_to(self, monotonic: float) -> None:
        step = max(0.0, monotonic - self._monotonic)
        self._monotonic = max(self._monotonic, monotonic)
        self._wall_ms += step * 1000


def _exact(seconds: float) -> float:
    """Whole microseconds, so that sums of steps meet what was waited for exactly."""
    return round(seconds, 6)


async def settle(rounds: int = 20) -> None:
    """Let everything that is ready on the loop run, `rounds` steps deep."""
    for _ in range(rounds):
        await asyncio.sleep(0)
