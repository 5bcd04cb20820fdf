"""An endpoint's queue in memory: exact counts of what waits, and never more than a few of its events.

New deliveries are offered in commit order.  When a lane's bounded queue is full, and at the start, it is *behind*: what
comes is only counted, and the consumer refills from the table until it has everything that was committed.

An endpoint that orders by key has several lanes, each with a queue of its own; any other has one.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from webhookd.models import STRICT, Ordering, QueuedDelivery
from webhookd.rules.ordering import hashes_of, lane_of
from webhookd.store.deliveries import EVERYTHING

QUEUE_EVENTS = 64
LANE_EVENTS = 16  # where an endpoint has several lanes
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

    It reads from the table those with one of `hashes` (None: all of the endpoint), up to `upto_seq`.
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
        "hashes",
        "number",
        "upto_seq",
    )

    def __init__(
        self,
        endpoint_seq: int,
        shared: QueuedBytes,
        *,
        number: int = 0,
        hashes: range | None = None,
        upto_seq: int = EVERYTHING,
        newest_seq: int = 0,
    ) -> None:
        self.endpoint_seq = endpoint_seq
        self.number = number
        self.hashes = hashes
        self.upto_seq = upto_seq
        self.capacity = QUEUE_EVENTS if hashes is None else LANE_EVENTS
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
            self._take()
        self._items = None
        if not emptied:
            self._behind = True
            self._taken_seq = 0

    def offer(self, delivery: QueuedDelivery) -> None:
        """Take a delivery that was just committed, if it is its turn and there is room."""
        self._newest_seq = max(self._newest_seq, delivery.seq)  # those of a backfill come later
        if self._behind or delivery.seq <= self._taken_seq:  # a page may have brought it before we heard of its commit
            return
        unknown = self.hashes is not None and self._previous_id is None  # the table knows the one before it
        if self._items is None or len(self._items) >= self.capacity or unknown:
            self._behind = True
            return
        without_body = delivery.size > INLINE_BYTES or self._shared.full
        if self.hashes is not None:
            body = None if without_body else delivery.body
            delivery = replace(delivery, body=body, lane_previous=self._previous_id)
        elif without_body:
            delivery = replace(delivery, body=None)
        self._put(delivery)

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

    def _take(self) -> QueuedDelivery:
        assert self._items is not None
        delivery = self._items.popleft()
        if delivery.body is not None:
            self._shared.now -= delivery.size
        return delivery


class EndpointQueue:
    """What waits for one endpoint: exact counts, and its lanes by number.

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
        self.lanes: dict[int, Lane] = {}
        self.take_ordering(ordering)

    # The order

    def take_ordering(self, ordering: Ordering) -> None:
        """Make the lanes for an order; no consumer of the endpoint may run."""
        self.ordering = ordering
        self._barriers = list(ordering.barriers) if ordering.key is not None else []
        self._clear_lanes()

    def _clear_lanes(self) -> None:
        self.lanes = {}
        self._emptied: set[int] = set()  # lanes that have nothing left up to the barrier

    @property
    def is_barred(self) -> bool:
        """Whether what is offered has to wait until everything up to a barrier is finished."""
        return bool(self._barriers)

    def pass_barrier(self) -> None:
        """Nothing waits any more up to the barrier, and no consumer runs: go on behind it."""
        del self._barriers[0]
        self._clear_lanes()

    def emptied_lane(self, lane: Lane) -> None:
        """A lane's consumer found nothing more."""
        if self._barriers:
            self._emptied.add(lane.number)

    def lane_for(self, delivery: QueuedDelivery) -> Lane | None:
        """The lane of a delivery that is to be offered; None while a barrier is before it."""
        if self._barriers:
            return None
        lanes = self.ordering.lanes
        return self._lane(0 if lanes == 1 else lane_of(delivery.lane_hash, lanes))

    @property
    def _lane_count(self) -> int:
        return self.ordering.lanes if not self._barriers or self._barriers[0].keyed else 1

    def _lane(self, number: int) -> Lane:
        lane = self.lanes.get(number)
        if lane is None:
            lanes = self._lane_count
            lane = self.lanes[number] = Lane(
                self.endpoint_seq,
                self._shared,
                number=number,
                hashes=hashes_of(number, lanes) if lanes > 1 else None,
                upto_seq=self._barriers[0].upto_seq if self._barriers else EVERYTHING,
                newest_seq=self._newest_seq,
            )
        return lane

    def lanes_with_work(self) -> Iterable[Lane]:
        """The lanes for which something waits; before a barrier, those that may have something left."""
        if not self.waiting:
            return ()
        lanes = self._lane_count
        if lanes == 1:
            return () if self._emptied else (self._lane(0),)
        numbers = {lane_of(hashed, lanes) for hashed, count in self.waiting_by_hash.items() if count}
        return [self._lane(number) for number in sorted(numbers - self._emptied)]

    def waiting_in(self, lane: Lane) -> int:
        """How much waits in a lane."""
        return self.waiting if lane.hashes is None else sum(self.waiting_by_hash[each] for each in lane.hashes)

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

    def emptied(self) -> None:
        """A mark was set that took everything off the queue at once."""
        self._count(-self.waiting, -self.waiting_bytes)
        self.waiting_by_hash.clear()

    def _count(self, count: int, size: int) -> None:
        self.waiting += count
        self.waiting_bytes += size
        self._backlog.waiting += count
        self._backlog.waiting_bytes += size
