"""A rate limit: so many in a second on average, and as many at once after a pause."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class RateLimit:
    """What may still go now (`level`, below 0 after more than a second's worth went at once), and as of when."""

    level: float
    at: float

    def wait_seconds(self, count: int, rate: float, now: float) -> float:
        """How long until `count` may go at `rate` a second; 0 for now.  More than a second's worth goes as one does."""
        full = max(rate, 1.0)
        self.level = min(full, self.level + (now - self.at) * rate)
        self.at = now
        return max(0.0, min(count, full) - self.level) / rate

    def took(self, count: int) -> None:
        """So many went."""
        self.level -= count
