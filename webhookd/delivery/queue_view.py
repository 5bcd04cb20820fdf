"""What the API, the page and the metrics show of an endpoint's queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from webhookd.delivery.consumer import Consumer
from webhookd.delivery.queue import EndpointQueue
from webhookd.models import Endpoint, Json
from webhookd.rules.ordering import key_of

BLOCKED_SHOWN = 5
KEY_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class BlockedLane:
    """A lane that waits for a retry: of the event with this key, accepted at `since_ms`, and what waits behind it."""

    key: Any
    event_id: str
    since_ms: int
    next_attempt_at_ms: int
    waiting: int


@dataclass(frozen=True, slots=True)
class LanesView:
    """The lanes of an endpoint that orders by key: how many are at work, what waits in the fullest, some blocked."""

    busy: int
    most_waiting: int
    blocked: tuple[BlockedLane, ...]


@dataclass(frozen=True, slots=True)
class QueueView:
    """An endpoint's queue: what waits (and of that, what is held), when a retry is due, how many are in flight."""

    waiting: int
    waiting_bytes: int
    held: int
    next_attempt_at_ms: int | None
    in_flight: int
    retrying: int = 0  # lanes that wait for a retry
    queued: int = 0  # lanes that wait until others leave them a slot
    lanes: LanesView | None = None  # where the endpoint orders by key


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """What the API and the pages show of an endpoint beside its fields.  `paused`: its plan has no webhooks."""

    endpoint: Endpoint
    paused: bool
    queue: QueueView
    oldest_at_ms: int | None
    last_attempt: Json | None
    dropped_last_hour: int = 0

    @property
    def state(self) -> str:
        """The endpoint's own state, or `paused` where only its plan stops it."""
        return "paused" if self.paused and self.endpoint.active else self.endpoint.state.value


def lanes_view(queue: EndpointQueue, consumers: Sequence[Consumer]) -> LanesView | None:
    """The lanes of an endpoint with these consumers; None in strict order."""
    if queue.slots is None:
        return None
    waiting = [each for each in consumers if each.current is not None and each.next_attempt_at_ms is not None]
    waiting.sort(key=lambda each: each.current.seq if each.current else 0)
    return LanesView(
        queue.slots.busy,
        max(queue.waiting_by_hash.values(), default=0),
        tuple(_blocked(queue, each) for each in waiting[:BLOCKED_SHOWN]),
    )


def _blocked(queue: EndpointQueue, consumer: Consumer) -> BlockedLane:
    delivery, path = consumer.current, queue.ordering.key
    assert delivery is not None and path is not None
    known = delivery.body is not None and not queue.is_barred  # before a barrier the key was another one
    return BlockedLane(
        _shown(key_of(path, delivery.body)) if known and delivery.body is not None else None,
        delivery.event_id,
        delivery.accepted_at_ms,
        consumer.next_attempt_at_ms or 0,
        queue.waiting_by_hash.get(delivery.lane_hash or 0, 0),
    )


def _shown(key: Any) -> Any:
    """A key as it is, a long one cut."""
    if isinstance(key, (dict, list)):
        key = orjson.dumps(key).decode()
    return key[:KEY_CHARACTERS] + "…" if isinstance(key, str) and len(key) > KEY_CHARACTERS else key
