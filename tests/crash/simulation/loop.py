"""An asyncio event loop without a machine below it: time is a number, and who goes first is drawn from a seed.

When nothing is ready, time jumps to the next timer.  What is ready at the same moment runs in an order that the seed
draws (or, for some seeds, first come first served, as asyncio has it).  The same seed gives the same run.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any, TypeVar

from webhookd.clock import SystemClock

T = TypeVar("T")

UNWINDINGS = 50
START_WALL_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z


class Stuck(AssertionError):
    """Nothing is ready, no timer runs, and what was waited for hasn't come."""


class SimulatedLoop(asyncio.AbstractEventLoop):
    """As much of a loop as tasks, futures, locks and timeouts need; `halt` ends it as a kill ends a process."""

    def __init__(self, rng: Random, now: float, *, in_order: bool) -> None:
        self._draw = rng.random
        self._in_order = in_order
        self._now = now
        self._ready: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = count()
        self._halted = False
        self.faults: list[dict[str, Any]] = []

    # What asyncio asks of a loop

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return events._get_running_loop() is self

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A callback failed or a task's failure was never looked at: kept for the world."""
        self.faults.append(context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is passed over when its time comes."""

    # What the simulation asks of it

    def halt(self) -> None:
        """Stop after the handle that runs now: nothing else ever runs (but see `unwind`)."""
        self._halted = True

    @property
    def halted(self) -> bool:
        return self._halted

    def run(self, done: Callable[[], bool]) -> None:
        """Run until `done()` or until it is halted; Stuck if neither can come any more."""
        events._set_running_loop(self)
        try:
            while not self._halted and not done():
                self._step()
        finally:
            events._set_running_loop(None)

    def unwind(self) -> None:
        """Unwind what was left standing when it was halted, so that none of it is left to the garbage collector.

        Time stands still meanwhile: what would have happened later never does.
        """
        events._set_running_loop(self)
        self._in_order = True
        try:
            for _ in range(UNWINDINGS):
                tasks = asyncio.all_tasks(self)
                if not tasks:
                    return
                for task in tasks:
                    task.cancel()
                while self._ready:
                    self._step()
        finally:
            events._set_running_loop(None)
        raise Stuck(f"these don't end when they are cancelled: {asyncio.all_tasks(self)}")

    def _step(self) -> None:
        ready = self._ready
        if not ready:
            self._jump()
        place = 0 if self._in_order else int(self._draw() * len(ready))
        if place < len(ready) - 1 and not self._in_order:
            ready[place], ready[-1] = ready[-1], ready[place]
            place = -1
        handle = ready.pop(place)
        if not handle.cancelled():
            handle._run()

    def _jump(self) -> None:
        """Go to the next moment at which something is due, and take everything that is."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers:
            raise Stuck("nothing is ready and no timer runs")
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            handle = heapq.heappop(timers)[2]
            if not handle.cancelled():
                self._ready.append(handle)


@dataclass(slots=True)
class Wall:
    offset_seconds: float = 0.0


class SimulatedClock(SystemClock):
    """The loop's time, and a wall clock that people may set.  Waits are the real ones, on the loop."""

    def __init__(self, loop: SimulatedLoop, wall: Wall) -> None:
        self._loop = loop
        self._wall = wall

    def monotonic(self) -> float:
        return self._loop.time()

    def wall_ms(self) -> int:
        return START_WALL_MS + round((self._loop.time() + self._wall.offset_seconds) * 1000)
