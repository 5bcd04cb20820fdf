"""What happens, as it happens: a ring of the newest, and whoever listens (the live stream of the API and the page).

Each happening has an id that sorts by time, `<milliseconds>-<count>`, so that a listener that comes back says where it
was.  The ring answers that as long as it reaches back so far, and says when it doesn't.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from webhookd.clock import Clock
from webhookd.model import DeliveryView

RING = 4096
LISTENER_BEHIND = 4096


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened to a delivery: `kind` is the name of its log event."""

    id: str
    kind: str
    delivery: DeliveryView


class Listener:
    """One who listens.  One who is too slow is cut off (`lost`) rather than let memory grow."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Happening | None] = asyncio.Queue(LISTENER_BEHIND)
        self.lost = False

    def put(self, happening: Happening) -> None:
        """Hand over a happening."""
        if self._queue.full():
            self.lost = True
            return
        self._queue.put_nowait(happening)

    def end(self) -> None:
        """Tell the listener that there will be no more."""
        if self._queue.full():
            self.lost = True
        else:
            self._queue.put_nowait(None)

    async def next(self) -> Happening | None:
        """The next happening; None when it is over."""
        if self.lost and self._queue.empty():
            return None
        return await self._queue.get()


class Happenings:
    """Publishes to all listeners and remembers the newest."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ring: deque[Happening] = deque(maxlen=RING)
        self._listeners: set[Listener] = set()
        self._count = 0
        self._last_ms = 0
        self._ended = False

    def publish(self, kind: str, delivery: DeliveryView) -> None:
        """Tell of something that is committed."""
        self._count += 1
        self._last_ms = max(self._last_ms, self._clock.wall_ms())  # ids never go back, whatever the clock does
        happening = Happening(f"{self._last_ms}-{self._count}", kind, delivery)
        self._ring.append(happening)
        for listener in self._listeners:
            listener.put(happening)

    def listen(self) -> Listener:
        """A new listener; `leave` must be called for it."""
        listener = Listener()
        if self._ended:
            listener.end()
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """The listener has gone."""
        self._listeners.discard(listener)

    def since(self, last_id: str) -> list[Happening] | None:
        """What happened after the happening with this id; None if the ring no longer knows it."""
        recent = list(self._ring)
        for place in range(len(recent) - 1, -1, -1):
            if recent[place].id == last_id:
                return recent[place + 1 :]
        return None

    def end(self) -> None:
        """The daemon stops: every listener is told."""
        self._ended = True
        for listener in self._listeners:
            listener.end()
