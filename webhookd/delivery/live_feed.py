"""What happens, as it happens: a ring of the newest, and whoever listens (the live stream of the API and the page).

Each happening has an id that sorts by time, `<milliseconds>-<count>`, so that a listener that comes back says where it
was.  The ring answers that as long as it reaches back so far, and says when it doesn't.

Nobody listens most of the time, and then thousands of happenings a second should cost nothing: whoever has something to
tell asks `wanted` first and builds nothing otherwise.  It stays true for a while after the last listener left, so that
one who only lost the connection finds the ring unbroken.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from webhookd.clock import Clock
from webhookd.errors import ApiError
from webhookd.models import DeliveryView

# A delivery with all that its receiver answered takes up to some 20 KB, so these are bounds of some 20 MB.
RING = 1024
LISTENER_BEHIND = 1024
MAX_LISTENERS = 100
LINGER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """One thing that happened to a delivery: `kind` is `delivery.accepted` or `delivery.attempted`."""

    id: str
    kind: str
    delivery: DeliveryView


class Listener:
    """One who listens.  One who is too slow is cut off rather than let memory grow."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[FeedEvent | None] = asyncio.Queue(LISTENER_BEHIND)
        self._over = False

    def put(self, happening: FeedEvent | None) -> None:
        """Hand over a happening; None tells that there will be no more."""
        if self._over:
            return
        if self._queue.full() or happening is None:
            self._over = True
        if not self._queue.full():
            self._queue.put_nowait(happening)

    async def some(self) -> list[FeedEvent]:
        """Everything that happened since the last call, as soon as there is anything; nothing when it is over."""
        if self._over and self._queue.empty():
            return []
        found = [await self._queue.get()]
        while not self._queue.empty():
            found.append(self._queue.get_nowait())
        return [happening for happening in found if happening is not None]


class LiveFeed:
    """Publishes to all listeners and remembers the newest."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ring: deque[FeedEvent] = deque(maxlen=RING)
        self._listeners: set[Listener] = set()
        self._lingers_until = float("-inf")
        self._count = 0
        self._last_ms = 0
        self._ended = False

    @property
    def wanted(self) -> bool:
        """Whether anybody listens or may come back; if not, what happens needs not be told."""
        if self._listeners or self._clock.monotonic() < self._lingers_until:
            return True
        self._ring.clear()  # it would have a gap
        return False

    def publish(self, kind: str, delivery: DeliveryView) -> None:
        """Tell of something that is committed."""
        self._count += 1
        self._last_ms = max(self._last_ms, self._clock.wall_ms())  # ids never go back, whatever the clock does
        happening = FeedEvent(f"{self._last_ms}-{self._count}", kind, delivery)
        self._ring.append(happening)
        for listener in self._listeners:
            listener.put(happening)

    def listen(self) -> Listener:
        """A new listener; `leave` must be called for it.  Refusal `unavailable` if there are too many."""
        if len(self._listeners) >= MAX_LISTENERS:
            message = f"{MAX_LISTENERS} live streams are open, which is as many as there may be. End one of them."
            raise ApiError("unavailable", message, retry_after_seconds=30)
        listener = Listener()
        if self._ended:
            listener.put(None)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """The listener has gone."""
        self._listeners.discard(listener)
        self._lingers_until = self._clock.monotonic() + LINGER_SECONDS

    @property
    def now_id(self) -> str:
        """The id to go on from for somebody who has seen everything so far."""
        if self._ring:
            return self._ring[-1].id
        return f"{max(self._last_ms, self._clock.wall_ms())}-0"

    def since(self, last_id: str) -> list[FeedEvent] | None:
        """What happened after the happening with this id; None if the ring doesn't know it (any more)."""
        recent = list(self._ring)
        for place in range(len(recent) - 1, -1, -1):
            if recent[place].id == last_id:
                return recent[place + 1 :]
        return None

    def end(self) -> None:
        """The daemon stops: every listener is told."""
        self._ended = True
        for listener in self._listeners:
            listener.put(None)
