"""Time, injected: monotonic for waits and windows, wall clock for what is kept and shown."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """Injected into everything that waits, so that tests can drive it."""

    def monotonic(self) -> float:
        """Seconds that only go forward, from an arbitrary start."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970, by the machine's clock."""
        ...

    async def wait(self, event: asyncio.Event, timeout_seconds: float) -> bool:
        """Wait until `event` is set, at most `timeout_seconds`; returns whether it is set."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        """`CLOCK_MONOTONIC`, in seconds."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """`CLOCK_REALTIME`, in milliseconds."""
        return time.time_ns() // 1_000_000

    async def wait(self, event: asyncio.Event, timeout_seconds: float) -> bool:
        """See `Clock.wait`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, timeout_seconds)):
                await event.wait()
        return event.is_set()


_YEAR_1_MS, _YEAR_9999_MS = -62_135_596_800_000, 253_402_300_799_999


def rfc3339(unix_ms: int) -> str:
    """`unix_ms` as RFC 3339 in UTC with milliseconds: `2026-01-31T12:00:00.000Z`; a malformed one as the nearest."""
    seconds, millis = divmod(min(max(unix_ms, _YEAR_1_MS), _YEAR_9999_MS), 1000)
    return f"{_second(seconds)}.{millis:03d}Z"


@lru_cache(16)  # the present second is asked for thousands of times
def _second(unix_seconds: int) -> str:
    return f"{datetime.fromtimestamp(unix_seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def parse_rfc3339(text: str) -> int:
    """The milliseconds since 1970 that `text` names; ValueError unless it is RFC 3339 with an offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time needs an offset: 2026-01-31T12:00:00Z")
    return round(moment.timestamp() * 1000)
