"""Refused secrets by who sent them, so that guessing is slowed down, and written down no more than now and then."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from webhookd.clock import Clock

REFUSED_MAX = 10
WINDOW_SECONDS = 60.0
KEYS_MAX = 10_000
# Beyond so many keys in a minute a new one is counted, but no longer written down: a flood must not fill the disk.
NOTED_MAX = 100


@dataclass(slots=True)
class _Window:
    since: float
    refused: int


class Throttle:
    """Counts in windows of a minute, each from a key's first refused secret on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows: dict[str, _Window] = {}  # in the order of `since`

    def count(self, key: str) -> bool:
        """Count a refused secret; whether to write it down: the key's first in this minute."""
        now = self._clock.monotonic()
        while self._windows and self._oldest().since <= now - WINDOW_SECONDS:
            self._drop_oldest()
        window = self._windows.get(key)
        if window is not None:
            window.refused += 1
            return False
        if len(self._windows) >= KEYS_MAX:
            self._drop_oldest()
        self._windows[key] = _Window(now, 1)
        return len(self._windows) <= NOTED_MAX

    def wait_seconds(self, key: str) -> float:
        """How long a key with too many refused secrets has to wait; 0 for all others."""
        window = self._windows.get(key)
        if window is None or window.refused < REFUSED_MAX:
            return 0.0
        return max(0.0, window.since + WINDOW_SECONDS - self._clock.monotonic())

    def _oldest(self) -> _Window:
        return next(iter(self._windows.values()))

    def _drop_oldest(self) -> None:
        del self._windows[next(iter(self._windows))]


def network_of(address: str) -> str:
    """What a caller can't easily change of its address: of IPv6 the first 64 bits."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address  # `local`, or `unknown`
    return str(IPv6Address(int(parsed) >> 64 << 64)) if parsed.version == 6 else address
