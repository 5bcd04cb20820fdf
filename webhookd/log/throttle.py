"""Limits a repeated log line to one a minute, with its count.

The first of a kind is logged at once.  Those of the minute after it are counted; the next one after that minute is
logged with the count, and where none comes, `over` returns the count.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

INTERVAL_SECONDS = 60.0
KEYS_KEPT = 1000


class Summary(NamedTuple):
    """The suppressed lines of one kind: the fields of the last one, and how many they are."""

    event: str
    fields: dict[str, Any]
    stands_for: int


@dataclass(slots=True)
class _Kind:
    since: float
    suppressed: int
    fields: dict[str, Any]


class Throttle:
    """Times are monotonic seconds, given by the caller.  Safe from several threads."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, object], _Kind] = {}  # in the order of `since`
        self._lock = threading.Lock()

    def admit(self, event: str, key: object, fields: dict[str, Any], now: float) -> int:
        """How many lines this one stands for; 0: suppress it."""
        with self._lock:
            kind = self._kinds.get((event, key))
            if kind is not None and now - kind.since < INTERVAL_SECONDS:
                kind.suppressed += 1
                kind.fields = fields
                return 0
            self._kinds.pop((event, key), None)
            self._kinds[event, key] = _Kind(now, 0, fields)
            return 1 if kind is None else 1 + kind.suppressed

    def over(self, now: float) -> list[Summary]:
        """What is due: kinds whose minute ended, and the oldest ones past `KEYS_KEPT`."""
        due: list[Summary] = []
        with self._lock:
            for (event, key), kind in [*self._kinds.items()]:
                ended = now - kind.since >= INTERVAL_SECONDS
                if not ended and len(self._kinds) <= KEYS_KEPT:
                    break
                del self._kinds[event, key]
                if kind.suppressed:
                    due.append(Summary(event, kind.fields, kind.suppressed))
                    if ended:  # this summary is the line of a new minute
                        self._kinds[event, key] = _Kind(now, 0, kind.fields)
        return due

    def suppressed(self) -> list[Summary]:
        """Everything suppressed so far, also in minutes that aren't over: for the end of the process."""
        with self._lock:
            kept = [(event, kind) for (event, _), kind in self._kinds.items() if kind.suppressed]
            summaries = [Summary(event, kind.fields, kind.suppressed) for event, kind in kept]
            for _, kind in kept:
                kind.suppressed = 0
        return summaries

    def next_seconds(self, now: float) -> float | None:
        """How long until `over` has something new; None while nothing is suppressed."""
        with self._lock:
            ends = [kind.since + INTERVAL_SECONDS - now for kind in self._kinds.values() if kind.suppressed]
        return max(0.0, min(ends)) if ends else None
