"""How long to wait for more before what waits goes together."""

from __future__ import annotations

import asyncio

# Where so many callers came together, more follow shortly: then it is worth this wait (figures in manual/decisions.md).
MANY_CALLERS = 5
LINGER_SECONDS = 0.003


class Linger:
    """Waits for a moment where many callers came together before, else only for what is just being read."""

    def __init__(self) -> None:
        self._last_callers = 0

    async def wait(self) -> None:
        """Let more come."""
        await asyncio.sleep(LINGER_SECONDS if self._last_callers >= MANY_CALLERS else 0)

    def took(self, callers: int) -> None:
        """What so many callers wait for goes together now."""
        self._last_callers = callers
