"""An endpoint's queue in memory: exact counts of what waits, and never more than a few of its events.

New deliveries are offered in commit order.  When a lane's bounded queue is full, and at the start, it is *behind*: what
comes is only counted, and the consumer refills from the table until it has everything that was committed.

An endpoint that orders by key has a lane for each hash of a key, each with a queue of its own; any other has one.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from webhookd.models import STRICT, Ordering, QueuedDelivery
from webhookd.store.deliveries import EVERYTHING

QUEUE_EVENTS = 64
LANE_EVENTS = 8  # where an endpoint has a lane for each hash
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


# (lane, after_seq, limit, largest body to bring along) → the next deliveries in order
Refill = Callable[["Lane", int, int, int], Awaitable[list[QueuedDelivery]]]


class Lane:
    """The next few deliveries of one lane, while a consumer lives.

    It reads from the table those of its hash (None: all of the endpoint), up to `upto_seq`.  `slots` are those of the
    endpoint, if it has several lanes.
    """

    __slots__ = (
        "_behind",
        "_items",
        "_newest_seq",
        "_previous_id",
        "_shared",
        "_taken_seq",
        "capacity",
        "endpoint_seq",
        "hash",
        "slots",
        "upto_seq",
    )

    def __init__(
        self,
        endpoint_seq: int,
        shared: QueuedBytes,
        *,
        hashed: int | None = None,
        slots: Slots | None = None,
        upto_seq: int = EVERYTHING,
        newest_seq: int = 0,
    ) -> None:
        self.endpoint_seq = endpoint_seq
        self.hash = hashed
        self.slots = slots
        self.upto_seq = upto_seq
        self.capacity = QUEUE_EVENTS if hashed is None else LANE_EVENTS
        self._shared = shared
        self._newest_seq = newest_seq  # of all that were committed
        self._taken_seq = 0  # up to here `_items` has had everything; what the table has after it is yet to be read
        self._behind = newest_seq > 0
        self._items: deque[QueuedDelivery] | None = None
        self._previous_id: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits behind the delivery that was taken last, as far as is known."""
        return not self._items and not self._behind

    def restore(self, newest_seq: int) -> None:
        """Begin with the table, which has deliveries up to this number."""
        self._newest_seq = newest_seq
        self._behind = True

    def open(self) -> None:
        """A consumer starts: have a queue to offer to."""
        if self._items is None:
            self._items = deque()

    def close(self, *, emptied: bool) -> None:
        """The consumer left.  Unless it had `emptied` the queue, the next one begins from the table again."""
        while self._items:
            self.take()
        self._items = None
        if not emptied:
            self._behind = True
            self._taken_seq = 0

    def offer(self, delivery: QueuedDelivery) -> None:
        """Take a delivery that was just committed, if it is its turn and there is room."""
        self._newest_seq = max(self._newest_seq, delivery.seq)  # those of a backfill come later
        if self._behind or delivery.seq <= self._taken_seq:  # a page may have brought it before we heard of its commit
            return
        unknown = self.hash is not None and self._previous_id is None  # the table knows the one before it
        if self._items is None or len(self._items) >= self.capacity or unknown:
            self._behind = True
            return
        without_body = delivery.size > INLINE_BYTES or self._shared.full
        if self.hash is not None:
            body = None if without_body else delivery.body
            delivery = replace(delivery, body=body, lane_previous=self._previous_id)
        elif without_body:
            delivery = replace(delivery, body=None)
        self._put(delivery)

    async def fetch(self, refill: Refill) -> bool:
        """Whether a delivery is there for `take`, read from the table where needed; False when nothing waits.

        Between a False and the consumer's `close` nothing may be awaited, else an offer could fall in between.
        """
        while not self._items:
            if not self._behind:
                return False
            await self._refill(refill)
        return True

    async def _refill(self, refill: Refill) -> None:
        assert self._items is not None
        newest_seq = self._newest_seq
        inline_bytes = 0 if self._shared.full else INLINE_BYTES
        page = await refill(self, self._taken_seq, self.capacity, inline_bytes)
        for delivery in page:
            self._put(delivery)
        if len(page) < self.capacity:
            # The table had no more, so everything committed before it was asked is through.
            self._taken_seq = max(self._taken_seq, newest_seq)
        self._behind = self._taken_seq < self._newest_seq

    def _put(self, delivery: QueuedDelivery) -> None:
        assert self._items is not None
        self._items.append(delivery)
        self._taken_seq = delivery.seq
        self._previous_id = delivery.event_id
        if delivery.body is not None:
            self._shared.now += delivery.size

    def take(self) -> QueuedDelivery:
        """The next delivery in order; `fetch` found it."""
        assert self._items is not None
        delivery = self._items.popleft()
        if delivery.body is not None:
            self._shared.now -= delivery.size
        return delivery


class Slots:
    """How many of an endpoint's lanes may be at work at once; the others wait for a slot, first come first served.

    A lane that waits for a retry keeps its slot, so that a receiver that is down isn't asked by every lane.  But a few
    give theirs up meanwhile (`park`), so that some keys that fail don't slow down the others.
    """

    __slots__ = ("_free", "_parked", "_parked_most", "_requests", "count")

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = count
        self._parked = 0
        self._parked_most = max(1, count // 4)
        self._requests: deque[asyncio.Future[bool]] = deque()

    @property
    def busy(self) -> int:
        """How many are taken."""
        return self.count - self._free

    @property
    def wanted(self) -> bool:
        """Whether a lane waits for one."""
        return any(not each.done() for each in self._requests)

    def request(self) -> asyncio.Future[bool]:
        """Ask for a slot: True once it is there.  Who no longer wants it sets False before."""
        request: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self._free:
            self._free -= 1
            request.set_result(True)
        else:
            self._requests.append(request)
        return request

    def release(self) -> None:
        """Give a slot back."""
        while self._requests:
            request = self._requests.popleft()
            if not request.done():
                request.set_result(True)
                return
        self._free += 1

    def park(self) -> bool:
        """Give a slot back while a lane waits; False, and it is kept, if enough lanes did that."""
        if self._parked >= self._parked_most:
            return False
        self._parked += 1
        self.release()
        return True

    def unpark(self) -> None:
        """The wait is over: who still wants a slot asks for one."""
        self._parked -= 1


class EndpointQueue:
    """What waits for one endpoint: exact counts, and its lanes by hash; None is the only one of strict order.

    Where the key's path was changed, the lanes go up to a barrier first: `is_barred`.
    """

    __slots__ = (
        "_backlog",
        "_barriers",
        "_emptied",
        "_newest_seq",
        "_shared",
        "endpoint_seq",
        "lanes",
        "ordering",
        "slots",
        "waiting",
        "waiting_by_hash",
        "waiting_bytes",
    )

    def __init__(self, endpoint_seq: int, backlog: Backlog, shared: QueuedBytes, ordering: Ordering = STRICT) -> None:
        self.endpoint_seq = endpoint_seq
        self.waiting = 0
        self.waiting_bytes = 0
        self.waiting_by_hash: Counter[int] = Counter()  # of those that have one
        self._backlog = backlog
        self._shared = shared
        self._newest_seq = 0
        self.take_ordering(ordering)

    # The order

    def take_ordering(self, ordering: Ordering) -> None:
        """Make the lanes for an order; no consumer of the endpoint may run."""
        self.ordering = ordering
        self.slots = Slots(ordering.lanes) if ordering.key is not None else None
        self._barriers = list(ordering.barriers) if ordering.key is not None else []
        self._clear_lanes()

    def _clear_lanes(self) -> None:
        self.lanes: dict[int | None, Lane] = {}
        self._emptied: set[int | None] = set()  # lanes that have nothing left up to the barrier

    @property
    def is_barred(self) -> bool:
        """Whether what is offered has to wait until everything up to a barrier is finished."""
        return bool(self._barriers)

    def pass_barrier(self) -> None:
        """Nothing waits any more up to the barrier, and no consumer runs: go on behind it."""
        del self._barriers[0]
        self._clear_lanes()

    def emptied(self, lane: Lane) -> None:
        """A lane's consumer found nothing more."""
        if self._barriers:
            self._emptied.add(lane.hash)

    @property
    def _is_strict(self) -> bool:
        return self.slots is None or bool(self._barriers and not self._barriers[0].keyed)

    def lane_for(self, delivery: QueuedDelivery) -> Lane | None:
        """The lane of a delivery that is to be offered; None while a barrier is before it."""
        if self._barriers:
            return None
        return self._lane(None if self.slots is None else delivery.lane_hash)

    def _lane(self, hashed: int | None) -> Lane:
        lane = self.lanes.get(hashed)
        if lane is None:
            lane = self.lanes[hashed] = Lane(
                self.endpoint_seq,
                self._shared,
                hashed=hashed,
                slots=self.slots,
                upto_seq=self._barriers[0].upto_seq if self._barriers else EVERYTHING,
                newest_seq=self._newest_seq,
            )
        return lane

    def lanes_with_work(self) -> Iterable[Lane]:
        """The lanes for which something waits; before a barrier, those that may have something left."""
        if not self.waiting:
            return ()
        if self._is_strict:
            return () if self._emptied else (self._lane(None),)
        hashes = [each for each, count in self.waiting_by_hash.items() if count and each not in self._emptied]
        return [self._lane(each) for each in hashes]

    # What waits

    def restore(self, count: int, size: int, newest_seq: int, by_hash: dict[int, int]) -> None:
        """Take what the table says waits, at the start."""
        self._count(count, size)
        self.waiting_by_hash.update(by_hash)
        self._newest_seq = newest_seq
        for lane in self.lanes.values():
            lane.restore(newest_seq)

    def offer(self, delivery: QueuedDelivery, lane: Lane | None) -> None:
        """Count a delivery that was just committed, and let its lane take it."""
        self._count(1, delivery.size)
        if delivery.lane_hash is not None:
            self.waiting_by_hash[delivery.lane_hash] += 1
        self._newest_seq = max(self._newest_seq, delivery.seq)
        if lane is not None:
            lane.offer(delivery)

    def settled(self, size: int, lane_hash: int | None) -> None:
        """A delivery of `size` bytes no longer waits."""
        self._count(-1, -size)
        if lane_hash is not None:
            self.waiting_by_hash[lane_hash] -= 1

    def clear(self) -> None:
        """Nothing waits any more: a mark took everything off the queue at once."""
        self._count(-self.waiting, -self.waiting_bytes)
        self.waiting_by_hash.clear()

    def _count(self, count: int, size: int) -> None:
        self.waiting += count
        self.waiting_bytes += size
        self._backlog.waiting += count
        self._backlog.waiting_bytes += size
