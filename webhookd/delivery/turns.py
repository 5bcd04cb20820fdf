"""One at a time per endpoint: a lock for each, kept only as long as somebody has it or waits for it.

So neither deleted endpoints nor ids that never were leave anything behind.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary


class Turns:
    """Whoever does `async with turns.of(key)` has the turn of `key` to itself."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._locks)

    def of(self, key: str) -> asyncio.Lock:
        """The lock of `key`; turns are taken in the order in which they were asked for."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock
