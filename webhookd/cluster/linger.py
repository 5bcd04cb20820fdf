"""How long to let more come before all that waits goes together."""

from __future__ import annotations

import asyncio

# After so many at once more are near: for so long they are waited for (figures in manual/decisions.md).
MANY = 5
LINGER_SECONDS = 0.003


class Linger:
    """Waits for a moment after many went together, else only for what is just being read."""

    def __init__(self) -> None:
        self._last_count = 0

    async def wait(self) -> None:
        """Let more come."""
        await asyncio.sleep(LINGER_SECONDS if self._last_count >= MANY else 0)

    def took(self, count: int) -> None:
        """So many went together."""
        self._last_count = count
