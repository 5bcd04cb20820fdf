"""Root tasks: every task that runs as long as the daemon has an owner, which notices its end.  And locks by key.

A task that ends too early, in whatever way, ends `run_until_stopped` with the reason; the daemon then exits.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Hashable
from typing import Any
from weakref import WeakValueDictionary

from webhookd.errors import FatalError

# As long as a task may need for its end.
CANCEL_AGAIN_SECONDS = 2.0


class TaskEnded(FatalError):
    """A task that must not end ended.  `exit_code` is its cause's where that is a `FatalError`, else 1."""

    def __init__(self, name: str, cause: BaseException | None, how: str = "") -> None:
        super().__init__(f"the task {name!r} {how or f'failed: {_described(cause)}'}")
        self.name = name
        self.__cause__ = cause
        self.exit_code = cause.exit_code if isinstance(cause, FatalError) else 1


class TaskOwner:
    """Starts root tasks, watches them, and ends them together."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._ended: list[str] = []
        self._one_ended = asyncio.Event()
        self._cancelling = False

    def start(self, name: str, run: Callable[[], Coroutine[Any, Any, Any]]) -> asyncio.Task[Any]:
        """Start `run()` as a task that is to run until `cancel_all`.  ValueError when the name is taken."""
        if name in self._tasks:
            raise ValueError(f"there is a task {name!r} already")
        task = asyncio.get_running_loop().create_task(run(), name=name)
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._note_end(name))
        return task

    async def run_until_stopped(self, stop: asyncio.Event) -> TaskEnded | None:
        """Wait until `stop` is set (None; a task may then return quietly) or a task ended by itself (why)."""
        waiters = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(self._one_ended.wait())]
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)
        ends = [_end_of(name, self._tasks[name]) for name in self._ended]
        failures = [end for end in ends if end.__cause__ is not None]
        if failures:
            return failures[0]
        return None if stop.is_set() or not ends else ends[0]

    async def cancel_all(
        self, timeout_seconds: float = 5.0, again_seconds: float = CANCEL_AGAIN_SECONDS
    ) -> list[TaskEnded]:
        """Cancel every task and wait for it; returns those that failed on the way or didn't end in time.

        Again where that changed nothing: nats-py takes a cancellation while it flushes for its own end, and in Python
        3.11 `asyncio.wait_for` gives its result instead if it has one at the same moment.
        """
        self._cancelling = True
        tasks, self._tasks = self._tasks, {}
        late = set(tasks.values())
        until = time.monotonic() + timeout_seconds
        while late and (left := until - time.monotonic()) > 0:
            for task in late:
                task.cancel()
            _, late = await asyncio.wait(late, timeout=min(left, again_seconds))
        ends = [
            TaskEnded(name, None, f"didn't end within {timeout_seconds:g} s") if task in late else _end_of(name, task)
            for name, task in tasks.items()
        ]
        return [end for end in ends if end.__cause__ is not None or tasks[end.name] in late]

    def _note_end(self, name: str) -> None:
        if not self._cancelling:
            self._ended.append(name)
            self._one_ended.set()


class KeyedLocks:
    """A lock for each key, kept only as long as a task has it or waits for it: deleted keys leave nothing behind."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._locks)

    def of(self, key: str) -> asyncio.Lock:
        """The lock of `key`.  Tasks get it in the order in which they ask."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock


def _end_of(name: str, task: asyncio.Task[Any]) -> TaskEnded:
    """Why `task`, which is done, ended; without a cause when it returned or was cancelled."""
    if task.cancelled():
        return TaskEnded(name, None, "was cancelled")
    cause = task.exception()
    return TaskEnded(name, cause) if cause is not None else TaskEnded(name, None, "returned")


def _described(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


# Turns of the loop between two slices: an event takes ten of them from its request to its delivery.
REST_TURNS = 2


class LoopTurns:
    """Slices of heavy work on the event loop: one at a time, a few turns of the loop apart, to those that ask by turns.

    Without this, eight tasks that work for 5 ms each keep everything else waiting for 40 ms.  `rest_seconds` says how
    long the loop has for others after a slice, beside its turns; 0 for no longer than these.
    """

    def __init__(self, rest_seconds: Callable[[], float] = lambda: 0.0) -> None:
        self._rest_seconds = rest_seconds
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()
        self._scheduled = False
        self._resting = 0

    async def next(self, key: Hashable) -> None:
        """Return when the next slice is that of `key`'s: the keys take turns, and so do callers with the same key."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._grant)
        await turn

    def _grant(self) -> None:
        rest_seconds = 0.0
        if self._resting:
            self._resting -= 1
        else:
            self._grant_one()
            rest_seconds = self._rest_seconds() if self._resting else 0.0
        self._scheduled = bool(self._waiting or self._resting)
        if rest_seconds:
            asyncio.get_running_loop().call_later(rest_seconds, self._grant)
        elif self._scheduled:
            asyncio.get_running_loop().call_soon(self._grant)

    def _grant_one(self) -> None:
        while self._waiting:
            key, turns = next(iter(self._waiting.items()))
            turn = turns.popleft()
            self._waiting.move_to_end(key)
            if not turns:
                del self._waiting[key]
            if not turn.done():  # else its task was cancelled
                turn.set_result(None)
                self._resting = REST_TURNS
                break
