"""A repeated log line at most once a minute, with its count: an error that comes a thousand times says so once.

The first of a kind is told at once.  Those of the minute after it are counted; the next one after that minute is told
with the count, and where none comes, `over` tells the count by itself.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

INTERVAL_SECONDS = 60.0
KEYS_KEPT = 1000


class Summary(NamedTuple):
    """What was suppressed of one kind: the fields of its last line, and for how many lines it stands."""

    event: str
    fields: dict[str, Any]
    stands_for: int


@dataclass(slots=True)
class _Kind:
    since: float
    suppressed: int
    fields: dict[str, Any]


class Throttle:
    """Times are monotonic seconds, given by the caller.  Safe to use from several threads."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, object], _Kind] = {}  # in the order of `since`
        self._lock = threading.Lock()

    def admit(self, event: str, key: object, fields: dict[str, Any], now: float) -> int:
        """For how many lines this one is to stand; 0: suppress it."""
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
        """What is due to be told: minutes that ended, and the oldest kinds where there are too many to remember."""
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
        """Everything suppressed so far, whose minute is over or not: for the end of the process."""
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
