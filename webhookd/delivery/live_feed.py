"""The live feed: what happens to deliveries, as it happens, for the live streams of the API and the page.

A ring keeps the newest feed events.  Each has an id that sorts by time, `<milliseconds>-<count>`.  Without a subscriber
it costs nothing: publishers ask `wanted` first.  That stays true for `LINGER_SECONDS` after the last subscriber left,
so that one who only lost its connection finds the ring without a gap.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from webhookd.clock import Clock
from webhookd.errors import ApiError
from webhookd.models import DeliveryState, DeliveryView, Endpoint, Json, QueuedDelivery

# A delivery with all that its receiver answered takes up to some 20 KB, so these are bounds of some 20 MB.
RING = 1024
SUBSCRIPTION_EVENTS = 1024
MAX_SUBSCRIPTIONS = 100
MAX_PER_WORKSPACE = 20
LINGER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """One thing that happened to a delivery: `kind` is `delivery.accepted` or `delivery.attempted`."""

    id: str
    kind: str
    delivery: DeliveryView


class Subscription:
    """One subscriber's queue of what it wants.  One that is too slow is cut off rather than let memory grow."""

    def __init__(self, workspace_seq: int, wants: Callable[[DeliveryView], bool]) -> None:
        self.workspace_seq = workspace_seq
        self.wants = wants
        self._queue: asyncio.Queue[FeedEvent | None] = asyncio.Queue(SUBSCRIPTION_EVENTS)
        self._over = False

    def put(self, event: FeedEvent | None) -> None:
        """Queue an event; None is the end of the feed."""
        if self._over:
            return
        if self._queue.full() or event is None:
            self._over = True
        if not self._queue.full():
            self._queue.put_nowait(event)

    def end(self) -> None:
        """End it at once, and drop what is queued."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self.put(None)

    async def next(self) -> list[FeedEvent]:
        """All events since the last call, as soon as there is one; [] at the end of the feed."""
        if self._over and self._queue.empty():
            return []
        found = [await self._queue.get()]
        while not self._queue.empty():
            found.append(self._queue.get_nowait())
        return [event for event in found if event is not None]


class LiveFeed:
    """Publishes to all subscriptions and remembers the newest events."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ring: deque[FeedEvent] = deque(maxlen=RING)
        self._subscriptions: set[Subscription] = set()
        self._lingers_until = float("-inf")
        self._count = 0
        self._last_ms = 0
        self._ended = False

    @property
    def wanted(self) -> bool:
        """Whether there is a subscriber, or one that may reconnect; if not, nothing needs to be published."""
        if self._subscriptions or self._clock.monotonic() < self._lingers_until:
            return True
        self._ring.clear()  # it would have a gap
        return False

    def publish(self, kind: str, delivery: DeliveryView) -> None:
        """Publish a change of a delivery that is committed."""
        self._count += 1
        self._last_ms = max(self._last_ms, self._clock.wall_ms())  # ids never go back, whatever the clock does
        event = FeedEvent(f"{self._last_ms}-{self._count}", kind, delivery)
        self._ring.append(event)
        for subscription in self._subscriptions:
            if subscription.workspace_seq == delivery.workspace_seq and subscription.wants(delivery):
                subscription.put(event)

    def subscribe(self, workspace_seq: int, wants: Callable[[DeliveryView], bool]) -> Subscription:
        """A new subscription to the deliveries of a workspace that `wants` is true of; call `unsubscribe` for it.

        ApiError `unavailable` if the workspace, or webhookd, has as many as there may be.
        """
        own = sum(1 for each in self._subscriptions if each.workspace_seq == workspace_seq)
        if own >= MAX_PER_WORKSPACE or len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            whose = (
                f"{own} live streams of this workspace"
                if own >= MAX_PER_WORKSPACE
                else f"{MAX_SUBSCRIPTIONS} live streams"
            )
            message = f"{whose} are open, which is as many as there may be. End one of them."
            raise ApiError("unavailable", message, retry_after_seconds=30)
        subscription = Subscription(workspace_seq, wants)
        if self._ended:
            subscription.put(None)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """The subscriber has gone."""
        self._subscriptions.discard(subscription)
        self._lingers_until = self._clock.monotonic() + LINGER_SECONDS

    @property
    def now_id(self) -> str:
        """The id to continue after for a subscriber that has seen everything so far."""
        if self._ring:
            return self._ring[-1].id
        return f"{max(self._last_ms, self._clock.wall_ms())}-0"

    def since(self, last_id: str) -> list[FeedEvent] | None:
        """The events after the one with this id; None if the ring doesn't have it (any more)."""
        recent = list(self._ring)
        for place in range(len(recent) - 1, -1, -1):
            if recent[place].id == last_id:
                return recent[place + 1 :]
        return None

    def end(self) -> None:
        """The daemon stops: end every subscription."""
        self._ended = True
        for subscription in self._subscriptions:
            subscription.put(None)


def delivery_view(
    endpoint: Endpoint,
    delivery: QueuedDelivery,
    state: DeliveryState,
    last_attempt: Json | None = None,
    next_attempt_at_ms: int | None = None,
    *,
    finished_at_ms: int | None = None,
    is_test: bool = False,
) -> DeliveryView:
    """A delivery as the live feed publishes it, from what is in memory."""
    return DeliveryView(
        seq=delivery.seq,
        workspace_seq=endpoint.workspace_seq,
        workspace=endpoint.workspace,
        endpoint_seq=endpoint.seq,
        endpoint_id=endpoint.id,
        event_id=delivery.event_id,
        event_type=delivery.event_type,
        state=state,
        replay_of=delivery.replay_of,
        is_test=is_test,
        is_backfill=delivery.backfill,
        accepted_at_ms=delivery.accepted_at_ms,
        next_attempt_at_ms=next_attempt_at_ms,
        finished_at_ms=finished_at_ms,
        attempt_count=last_attempt["number"] if last_attempt else 0,
        last_attempt=last_attempt,
        sequence=delivery.sequence,
    )
