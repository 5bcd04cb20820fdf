"""Why an event was sent to an endpoint, or wasn't: from what the log still has, and the endpoint as it is now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from webhookd.clock import rfc3339
from webhookd.errors import ApiError
from webhookd.models import EVERY_TYPE, DeliveryState, DeliveryView, Endpoint, EventView, Workspace
from webhookd.rules.filters import Mismatch, mismatches, parsed
from webhookd.store import delivery_log, endpoints, events
from webhookd.store.connection import Late
from webhookd.store.delivery_log.log_filter import LogFilter
from webhookd.store.store import Db

DELIVERIES_MAX = 100


class Why(StrEnum):
    """The state of the newest delivery, or why there is none: in one enum, because msgspec takes no union of two."""

    PENDING = DeliveryState.PENDING
    HELD = DeliveryState.HELD
    DELIVERED = DeliveryState.DELIVERED
    DROPPED = DeliveryState.DROPPED
    EXPIRED = DeliveryState.EXPIRED
    SKIPPED = DeliveryState.SKIPPED
    CANCELLED = DeliveryState.CANCELLED
    # No delivery:
    TEST = "test"
    CREATED_AFTER = "created_after"
    DELETED = "deleted"
    PRUNED = "pruned"
    PLAN = "plan"
    NOT_SUBSCRIBED = "not_subscribed"
    FILTERED = "filtered"
    UNKNOWN = "unknown"


_OF_STATE = {
    DeliveryState.PENDING: "It waits in the endpoint's queue.",
    DeliveryState.HELD: "It is held: the endpoint is disabled, or its workspace's plan has no webhooks.",
    DeliveryState.DELIVERED: "It was delivered.",
    DeliveryState.DROPPED: "It was tried as often as the schedule says, then dropped.",
    DeliveryState.EXPIRED: "It was held too long, or too much was: hold.max_age_hours, hold.max_events, hold.max_mb.",
    DeliveryState.SKIPPED: "A person skipped it when enabling the endpoint.",
    DeliveryState.CANCELLED: "The endpoint was deleted while it waited.",
}

# Whatever the endpoint's types and filters were.
_SURE = (Why.TEST, Why.CREATED_AFTER, Why.DELETED, Why.PRUNED, Why.PLAN)


@dataclass(frozen=True, slots=True)
class Explanation:
    """`has_changed`: other event types or filters since the event was accepted."""

    endpoint: Endpoint
    event: EventView
    reason: Why
    message: str
    has_changed: bool
    mismatches: Sequence[Mismatch]
    deliveries: Sequence[DeliveryView]


@dataclass(frozen=True, slots=True)
class _Found:
    endpoint: Endpoint
    event: EventView
    deliveries: list[DeliveryView]  # to the endpoint
    was_test: bool


def question(
    workspace: Workspace, endpoint_id: str, event_id: str, *, paused: bool
) -> Callable[[Db, Late], Explanation]:
    """What to ask the store; ApiError `not_found` where it has no such endpoint or event."""

    def ask(db: Db, _: Late) -> Explanation:
        with delivery_log.snapshot(db):
            seq = endpoints.seq_of_id(db, workspace.seq, endpoint_id)
            event = events.get(db, workspace.seq, event_id)
            if seq is None:
                raise _missing("endpoint", endpoint_id, workspace)
            if event is None:
                raise _missing("event", event_id, workspace)
            wanted = LogFilter(workspace.seq, paused, event_id=event_id)
            of_event = delivery_log.page(db, wanted, before_seq=None, limit=DELIVERIES_MAX)
            to_endpoint = LogFilter(workspace.seq, paused, event_id=event_id, endpoint_seq=seq)
            found = delivery_log.page(db, to_endpoint, before_seq=None, limit=DELIVERIES_MAX)
            was_test = any(each.is_test for each in of_event)
            return _explained(_Found(endpoints.get(db, seq), event, found, was_test), workspace, paused=paused)

    return ask


def _missing(what: str, name: str, workspace: Workspace) -> ApiError:
    return ApiError("not_found", f"There is no {what} {name[:100]!r} in the log of workspace {workspace.id!r}.")


def _explained(found: _Found, workspace: Workspace, *, paused: bool) -> Explanation:
    endpoint, event = found.endpoint, found.event
    has_changed = endpoint.selected_at_ms > event.accepted_at_ms
    kept_back: list[Mismatch] = []
    if found.deliveries:
        newest = found.deliveries[0]
        reason, message = Why(newest.state), _OF_STATE[newest.state]
    else:
        if event.body is not None:
            kept_back = mismatches(endpoint.filters, event.type, parsed(event.body))
        reason, message = _why_not(found, workspace, kept_back, paused=paused)
    if has_changed and reason not in _SURE:
        message += (
            f" The endpoint's event types or filters were changed at {rfc3339(endpoint.selected_at_ms)}, after the "
            "event was accepted: those that decided are no longer known."
        )
    shown = kept_back if reason is Why.FILTERED else []
    return Explanation(endpoint, event, reason, message, has_changed, shown, found.deliveries)


def _why_not(found: _Found, workspace: Workspace, kept_back: Sequence[Mismatch], *, paused: bool) -> tuple[Why, str]:
    """Why there is no delivery, the surest reason first."""
    endpoint, event = found.endpoint, found.event
    accepted_at_ms = event.accepted_at_ms
    if found.was_test:
        return Why.TEST, "It was a test event of another endpoint."
    if endpoint.created_at_ms > accepted_at_ms:
        return Why.CREATED_AFTER, (
            f"The endpoint was created at {rfc3339(endpoint.created_at_ms)}, after the event was accepted. A backfill "
            "sends it what it missed."
        )
    if endpoint.deleted_at_ms is not None and endpoint.deleted_at_ms <= accepted_at_ms:
        deleted_at = rfc3339(endpoint.deleted_at_ms)
        return Why.DELETED, f"The endpoint was deleted at {deleted_at}, before the event was accepted."
    if event.body is None:
        return Why.PRUNED, "Retention has removed the event and its deliveries from the log."
    if paused is (workspace.plan_changed_at_ms <= accepted_at_ms):
        since = rfc3339(workspace.plan_changed_at_ms)
        now = f"has none since {since}" if paused else f"has them since {since}"
        return Why.PLAN, f"The workspace's plan had no webhooks when the event was accepted; it {now}."
    if not {event.type, EVERY_TYPE} & set(endpoint.event_types):
        return Why.NOT_SUBSCRIBED, f"The endpoint doesn't want {event.type}."
    if kept_back:
        return Why.FILTERED, "The endpoint's filters leave it out."
    return Why.UNKNOWN, "As the endpoint is now it would get such an event. The log doesn't say why it didn't."
