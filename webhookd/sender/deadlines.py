"""Deadlines: one timer for all attempts, and one for all idle connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Deadlines(Generic[T]):
    """One timer for everything that has the same time; `expire` gets what is late and by how many seconds."""

    def __init__(self, seconds: float, expire: Callable[[T, float], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._expire = expire
        self._due: dict[T, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self, what: T) -> None:
        """Start the deadline of `what`."""
        due = self._due[what] = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._look)

    def end(self, what: T) -> None:
        """End the deadline of `what`, if it has one.  The timer stays: it fires once per `seconds` at most."""
        self._due.pop(what, None)

    def close(self) -> None:
        """Expire nothing any more."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        now, expired = self._loop.time(), []
        for what, due in self._due.items():
            if due > now:
                self._timer = self._loop.call_at(due, self._look)
                break
            expired.append((what, now - due))
        for what, overdue_seconds in expired:
            self._due.pop(what, None)
            self._expire(what, overdue_seconds)


class AttemptDeadline:
    """Cancels the task that made it when it expires, and tells this from a cancellation by somebody else."""

    __slots__ = ("_cancelling", "_task", "overdue_seconds")

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self.overdue_seconds = -1.0

    def expire(self, overdue_seconds: float) -> None:
        """Cancel the task.  `overdue_seconds` is how long the process or its loop stood still past the deadline."""
        self.overdue_seconds = overdue_seconds
        self._task.cancel()

    def is_the_cause(self) -> bool:
        """Whether the task was cancelled by this deadline alone."""
        return self.overdue_seconds >= 0 and self._task.uncancel() <= self._cancelling
