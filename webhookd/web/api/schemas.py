"""How the API shows things: for each noun its form (a Struct, for the OpenAPI document and the tests) and its maker.

The makers give plain JSON values: attempts are kept as the API shows them, and an event's payload goes out as the very
bytes that came in, so nothing is taken apart only to be put together again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
import orjson
from msgspec import Meta, Struct

from webhookd.clock import rfc3339
from webhookd.delivery.queue_view import BLOCKED_SHOWN, BlockedLane, EndpointStatus, LanesView
from webhookd.models import DeliveryState, DeliveryView, Endpoint, EndpointState, EventView, Json, Reason, Workspace
from webhookd.rules.filters import filters_json
from webhookd.rules.ids import delivery_id
from webhookd.rules.ordering import KEY_PATTERN, LANES_DEFAULT, LANES_MAX, LANES_MIN, ordering_json
from webhookd.rules.urls import MASK
from webhookd.web.services import Services

T = TypeVar("T")

Time = Annotated[str, Meta(description="RFC 3339, UTC, milliseconds", extra_json_schema={"format": "date-time"})]


class Schema(Struct, forbid_unknown_fields=True):
    """The form of an answer; a test holds the answers to their forms."""


class PageSchema(Schema, Generic[T]):
    """A page of a list; `next` is the cursor of the one after it."""

    data: list[T]
    next: str | None


# Deliveries and their attempts


class SentRequestSchema(Schema):
    """What was sent; the values of the endpoint's own headers are masked."""

    headers: dict[str, str]
    url: Annotated[str, Meta(description="Not in attempts that an older webhookd made")] = ""


class ReceivedResponseSchema(Schema):
    """What was answered, as far as it was read."""

    headers: dict[str, str]
    body: str
    truncated: bool


class AttemptSchema(Schema):
    """One HTTP request of a delivery."""

    number: int
    started_at: Time
    duration_ms: float
    outcome: Literal["delivered", "failed"]
    reason: Reason | None
    status: int | None
    detail: Annotated[str, Meta(description="The reason, for a person")]
    counted: Annotated[bool, Meta(description="Whether it counts against the failure budget")]
    connection_retried: bool
    request: SentRequestSchema
    response: ReceivedResponseSchema | None


class DeliverySchema(Schema):
    """One event on its way to one endpoint."""

    id: str
    workspace: str
    endpoint_id: str
    event_id: str
    event_type: str
    state: DeliveryState
    replay_of: str | None
    test: Annotated[bool, Meta(description="Whether it was a *Send test*")]
    backfill: Annotated[bool, Meta(description="Whether it was queued by a backfill")]
    sequence: Annotated[int | None, Meta(description="Its webhook-sequence, where the endpoint orders by key")]
    accepted_at: Time
    next_attempt_at: Time | None
    finished_at: Time | None
    attempt_count: int
    last_attempt: AttemptSchema | None


class DeliveryDetailSchema(DeliverySchema):
    """A delivery with each of its attempts, in order."""

    attempts: list[AttemptSchema]


def delivery_json(view: DeliveryView) -> Json:
    """A delivery, as lists and the stream show it."""
    pending = view.state is DeliveryState.PENDING
    return {
        "id": delivery_id(view.seq),
        "workspace": view.workspace,
        "endpoint_id": view.endpoint_id,
        "event_id": view.event_id,
        "event_type": view.event_type,
        "state": view.state,
        "replay_of": None if view.replay_of is None else delivery_id(view.replay_of),
        "test": view.is_test,
        "backfill": view.is_backfill,
        "sequence": view.sequence,
        "accepted_at": rfc3339(view.accepted_at_ms),
        "next_attempt_at": time_json(view.next_attempt_at_ms) if pending else None,
        "finished_at": time_json(view.finished_at_ms),
        "attempt_count": view.attempt_count,
        "last_attempt": view.last_attempt,
    }


# Events


class EventSchema(Schema):
    """An event of the log."""

    event_id: str
    workspace: str
    event_type: str
    accepted_at: Time


class EventDetailSchema(EventSchema):
    """An event as it came in, with its newest deliveries; `payload` is null once pruned, or if it is malformed."""

    payload: dict[str, Any] | None
    deliveries: list[DeliverySchema]


def event_json(view: EventView) -> Json:
    """An event, as the list shows it."""
    return {
        "event_id": view.id,
        "workspace": view.workspace,
        "event_type": view.type,
        "accepted_at": rfc3339(view.accepted_at_ms),
    }


def payload_json(view: EventView) -> orjson.Fragment | None:
    """The payload to be spliced into an answer: no integer is too big for that and no float is rounded.

    None for one that is pruned, or malformed in the database: it would make the whole answer malformed.
    """
    body = view.body or b""
    try:
        body.decode()
        msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (UnicodeDecodeError, msgspec.DecodeError):
        return None
    return orjson.Fragment(body)


# Endpoints


class DisabledSchema(Schema):
    """Why an endpoint isn't active, and since when."""

    reason: Annotated[str, Meta(description="`failure_budget`, `person`, or `malformed`: its row in the database")]
    at: Time
    message: str


class BlockedLaneSchema(Schema):
    """A lane that waits for the retry of an event, and with it what has the same key."""

    key: Annotated[Any, Meta(description="The event's; null also where it isn't in memory")]
    event_id: str
    since: Annotated[Time, Meta(description="When the event was accepted")]
    next_attempt_at: Time
    waiting: Annotated[int, Meta(description="Deliveries that wait in the lane, this one included")]


class LanesSchema(Schema):
    """The lanes of an endpoint that orders by key."""

    busy: Annotated[int, Meta(description="Lanes at work, at most `ordering.lanes`")]
    most_waiting: Annotated[int, Meta(description="What waits in the lane in which most does")]
    blocked: Annotated[list[BlockedLaneSchema], Meta(description=f"The oldest {BLOCKED_SHOWN} that wait for a retry")]


class QueueSchema(Schema):
    """How an endpoint's queue stands."""

    waiting: Annotated[int, Meta(description="Deliveries that wait, the held ones included")]
    held: Annotated[int, Meta(description="Of these, those that are held because the endpoint gets nothing now")]
    oldest_at: Annotated[Time | None, Meta(description="When the oldest of them was accepted")]
    next_attempt_at: Time | None
    in_flight: bool
    lanes: Annotated[LanesSchema | None, Meta(description="Where the endpoint orders by key and anything came")]


class KeyOrdering(Struct, frozen=True, forbid_unknown_fields=True):
    """Events with one value at `key` go in order, one at a time; others beside them, up to `lanes` requests at once."""

    key: Annotated[
        str,
        Meta(
            description="The path of the key in the event, as `contact.id`", extra_json_schema={"pattern": KEY_PATTERN}
        ),
    ]
    lanes: Annotated[int, Meta(extra_json_schema={"minimum": LANES_MIN, "maximum": LANES_MAX})] = LANES_DEFAULT


ORDERING = 'In which order it gets events: `"endpoint"`, one after the other, or by a key'


FILTERS = "Which events of a type it gets: event patterns in EventBridge's syntax by event type, and `*` for all types"


class EndpointSchema(Schema):
    """A webhook: a URL, the event types that it wants, a state."""

    id: str
    workspace: str
    url: str
    event_types: Annotated[list[str], Meta(description='Names of the catalogue, or ["*"] for all')]
    description: str
    success: Literal["200", "2xx"]
    headers: Annotated[dict[str, str], Meta(description="In lists the values are masked")]
    x_webhook_signature: Annotated[bool, Meta(description="Whether X-Webhook-Signature is sent")]
    x_webhook_signature_key: Annotated[
        Literal["***"] | None, Meta(description="Masked: the key that the receiver has; null: the signing key is used")
    ]
    ordering: Annotated[Literal["endpoint"] | KeyOrdering, Meta(description=ORDERING)]
    filters: Annotated[dict[str, dict[str, Any]], Meta(description=FILTERS)]
    state: EndpointState
    paused_by: Literal["plan"] | None
    disabled: DisabledSchema | None
    created_at: Time
    updated_at: Time
    queue: QueueSchema
    last_attempt: AttemptSchema | None


async def endpoints_json(services: Services, shown: Sequence[Endpoint], *, masked: bool = False) -> list[Json]:
    """Endpoints with their queues; `masked`: without the values of their headers."""
    return [_endpoint_json(each, masked=masked) for each in await services.dispatcher.statuses(shown)]


async def endpoint_json(services: Services, endpoint: Endpoint) -> Json:
    """One endpoint with its queue."""
    return (await endpoints_json(services, [endpoint]))[0]


def _endpoint_json(status: EndpointStatus, *, masked: bool) -> Json:
    endpoint, queue = status.endpoint, status.queue
    return {
        "id": endpoint.id,
        "workspace": endpoint.workspace,
        "url": endpoint.url,
        "event_types": endpoint.event_types,
        "description": endpoint.description,
        "success": endpoint.success,
        "headers": {name: MASK if masked else value for name, value in endpoint.headers},
        "x_webhook_signature": endpoint.x_webhook_signature,
        "x_webhook_signature_key": endpoint.x_webhook_signature_key and MASK,
        "ordering": ordering_json(endpoint.ordering),
        "filters": filters_json(endpoint.filters),
        "state": endpoint.state,
        "paused_by": "plan" if status.paused else None,
        "disabled": _disabled_json(endpoint),
        "created_at": rfc3339(endpoint.created_at_ms),
        "updated_at": rfc3339(endpoint.updated_at_ms),
        "queue": {
            "waiting": queue.waiting,
            "held": queue.held,
            "oldest_at": time_json(status.oldest_at_ms),
            "next_attempt_at": time_json(queue.next_attempt_at_ms),
            "in_flight": bool(queue.in_flight),
            "lanes": lanes_json(queue.lanes),
        },
        "last_attempt": status.last_attempt,
    }


def lanes_json(lanes: LanesView | None) -> Json | None:
    """The lanes of an endpoint that orders by key."""
    if lanes is None:
        return None
    return {
        "busy": lanes.busy,
        "most_waiting": lanes.most_waiting,
        "blocked": [blocked_json(each) for each in lanes.blocked],
    }


def blocked_json(lane: BlockedLane) -> Json:
    """A lane that waits for a retry."""
    return {
        "key": lane.key,
        "event_id": lane.event_id,
        "since": rfc3339(lane.since_ms),
        "next_attempt_at": rfc3339(lane.next_attempt_at_ms),
        "waiting": lane.waiting,
    }


def _disabled_json(endpoint: Endpoint) -> Json | None:
    if endpoint.state is EndpointState.ACTIVE:
        return None
    return {
        "reason": endpoint.disabled_reason,
        "at": time_json(endpoint.disabled_at_ms),
        "message": endpoint.disabled_message,
    }


# Workspaces and their budget


class PendingAddressSchema(Schema):
    """An address for notices that has yet to confirm it."""

    address: str
    expires_at: Time


class WorkspaceSchema(Schema):
    """A tenant."""

    id: str
    name: str
    plan: str
    webhooks: Annotated[bool, Meta(description="Whether the plan has webhooks; else everything is held")]
    notify: Annotated[list[str], Meta(description="Who gets the notices; none: mail.notify of the configuration")]
    pending_notify: Annotated[list[PendingAddressSchema], Meta(description="Who will, once they have confirmed it")]
    language: Annotated[Literal["en", "vi"], Meta(description="Of its mails")]
    created_at: Time


class BudgetSchema(Schema):
    """How much of the failure budget is spent, and by whom."""

    limit: int
    window_seconds: float
    failures: int
    by_endpoint: dict[str, int]
    oldest_expires_at: Time | None
    spent_until: Annotated[
        Time | None, Meta(description="Until then one more failure disables its endpoint; null: it wouldn't yet")
    ]


def workspace_json(services: Services, workspace: Workspace) -> Json:
    """A workspace."""
    return {
        "id": workspace.id,
        "name": workspace.name,
        "plan": workspace.plan,
        "webhooks": not services.registry.paused(workspace.seq),
        "notify": workspace.notify,
        "pending_notify": [
            {"address": each.address, "expires_at": rfc3339(each.expires_at_ms)}
            for each in workspace.pending_at(services.clock.wall_ms())
        ],
        "language": workspace.language,
        "created_at": rfc3339(workspace.created_at_ms),
    }


def budget_json(services: Services, workspace_seq: int) -> Json:
    """The failure budget of a workspace, now."""
    view = services.watchdog.view(workspace_seq)
    expires = view.oldest_expires_in_seconds
    seconds = view.window_seconds
    return {
        "limit": view.limit,
        "window_seconds": round(seconds) if seconds == round(seconds) else seconds,
        "failures": view.failures,
        "by_endpoint": view.by_endpoint,
        "oldest_expires_at": None if expires is None else rfc3339(services.clock.wall_ms() + round(expires * 1000)),
        "spent_until": time_json(services.watchdog.spent_until_ms(workspace_seq)),
    }


def time_json(unix_ms: int | None) -> str | None:
    """A time that may be missing."""
    return None if unix_ms is None else rfc3339(unix_ms)
