"""An endpoint's queue in memory: exact counts of what waits, and never more than a few of its events.

New deliveries are offered in commit order.  When the bounded queue is full, and at the start, it is *behind*: what
comes is only counted, and the consumer refills from the table until it has everything that was committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from msgspec.structs import replace

from webhookd.models import QueuedDelivery

QUEUE_EVENTS = 64
# A body larger than this is read when its turn comes; and all bodies in all queues together are bounded, so that a
# thousand dead endpoints don't hold a gigabyte.
INLINE_BYTES = 8 * 1024
SHARED_BYTES = 32 * 1024 * 1024


@dataclass(slots=True)
class QueuedBytes:
    """The bytes of all bodies in all queues."""

    now: int = 0

    @property
    def full(self) -> bool:
        """Whether queues should rather hold deliveries without their bodies."""
        return self.now >= SHARED_BYTES


@dataclass(slots=True)
class Backlog:
    """What waits for all endpoints of a workspace together: deliveries and their bytes."""

    waiting: int = 0
    waiting_bytes: int = 0


# (endpoint_seq, after_seq, limit, largest body to bring along) → the next deliveries in order
Refill = Callable[[int, int, int, int], Awaitable[list[QueuedDelivery]]]


class EndpointQueue:
    """What waits for one endpoint: exact counts, and the next few deliveries while a consumer lives."""

    __slots__ = (
        "_backlog",
        "_behind",
        "_items",
        "_newest_seq",
        "_shared",
        "_taken_seq",
        "endpoint_seq",
        "waiting",
        "waiting_bytes",
    )

    def __init__(self, endpoint_seq: int, backlog: Backlog, shared: QueuedBytes) -> None:
        self.endpoint_seq = endpoint_seq
        self.waiting = 0
        self.waiting_bytes = 0
        self._backlog = backlog
        self._shared = shared
        self._newest_seq = 0  # of all that were committed
        self._taken_seq = 0  # up to here `_items` has had everything; what the table has after it is yet to be read
        self._behind = False
        self._items: deque[QueuedDelivery] | None = None

    def restore(self, count: int, size: int, newest_seq: int) -> None:
        """Take what the table says waits, at the start."""
        self._count(count, size)
        self._newest_seq = newest_seq
        self._behind = True

    def open(self) -> None:
        """A consumer starts: have a queue to offer to."""
        if self._items is None:
            self._items = deque()

    def close(self, *, emptied: bool) -> None:
        """The consumer left.  Unless it had `emptied` the queue, the next one begins from the table again."""
        while self._items:
            self._take()
        self._items = None
        if not emptied:
            self._behind = True
            self._taken_seq = 0

    def offer(self, delivery: QueuedDelivery) -> None:
        """Count a delivery that was just committed, and take it if it is its turn and there is room."""
        self._count(1, delivery.size)
        self._newest_seq = max(self._newest_seq, delivery.seq)  # those of a backfill come later
        if self._behind or delivery.seq <= self._taken_seq:  # a page may have brought it before we heard of its commit
            return
        if self._items is None or len(self._items) >= QUEUE_EVENTS:
            self._behind = True
            return
        if delivery.size > INLINE_BYTES or self._shared.full:
            delivery = replace(delivery, body=None)
        self._put(delivery)

    def settled(self, size: int, count: int = 1) -> None:
        """`count` deliveries of together `size` bytes no longer wait."""
        self._count(-count, -size)

    def emptied(self) -> None:
        """A mark was set that took everything off the queue at once."""
        self.settled(self.waiting_bytes, self.waiting)

    async def next(self, refill: Refill) -> QueuedDelivery | None:
        """The next delivery in order, read from the table where needed; None when nothing waits.

        Between a None and the consumer's `close` nothing may be awaited, else an offer could fall in between.
        """
        assert self._items is not None
        while not self._items:
            if not self._behind:
                return None
            await self._refill(refill)
        return self._take()

    async def _refill(self, refill: Refill) -> None:
        assert self._items is not None
        newest_seq = self._newest_seq
        inline_bytes = 0 if self._shared.full else INLINE_BYTES
        page = await refill(self.endpoint_seq, self._taken_seq, QUEUE_EVENTS, inline_bytes)
        for delivery in page:
            self._put(delivery)
        if len(page) < QUEUE_EVENTS:
            # The table had no more, so everything committed before it was asked is through.
            self._taken_seq = max(self._taken_seq, newest_seq)
        self._behind = self._taken_seq < self._newest_seq

    def _put(self, delivery: QueuedDelivery) -> None:
        assert self._items is not None
        self._items.append(delivery)
        self._taken_seq = delivery.seq
        if delivery.body is not None:
            self._shared.now += delivery.size

    def _take(self) -> QueuedDelivery:
        assert self._items is not None
        delivery = self._items.popleft()
        if delivery.body is not None:
            self._shared.now -= delivery.size
        return delivery

    def _count(self, count: int, size: int) -> None:
        self.waiting += count
        self.waiting_bytes += size
        self._backlog.waiting += count
        self._backlog.waiting_bytes += size
