"""Searching the delivery log, for the API, the page and the live stream: one filter, one way to find a delivery."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, Struct

from webhookd.models import DeliveryState, DeliveryView, Json, Workspace
from webhookd.rules.ids import delivery_seq
from webhookd.store import attempts, delivery_log, endpoints
from webhookd.store.connection import Late
from webhookd.store.delivery_log.log_filter import LogFilter
from webhookd.store.store import Db
from webhookd.web.server.paging import Moment
from webhookd.web.services import Services

# What can't be an id is not looked up.
_ENDPOINT_ID = re.compile(r"ep_[0-9a-z]{1,64}")

EventTypeName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_.-]{1,100}$",
        description="One of the catalogue's, or one that an endpoint kept; else 422 `unknown_event_type`",
    ),
]
STATUS_PATTERN = "^([1-5][0-9]{2}|[1-5]xx|none)$"
Status = Annotated[
    str, Meta(pattern=STATUS_PATTERN, description="Of the last answer: `404`, `5xx`, or `none` where none came")
]
TEXT_CHARACTERS = 200
SearchText = Annotated[
    str,
    Meta(
        max_length=TEXT_CHARACTERS,
        description="In the event's id or body, `A` as `a`. The id of an event or a delivery finds that event alone",
    ),
]
EventId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Since = Annotated[Moment | None, Meta(description="Accepted then or later")]
Until = Annotated[Moment | None, Meta(description="Accepted before then")]


class DeliveryFilter(Struct, frozen=True, kw_only=True):
    """Which deliveries are asked for; what is left out means any."""

    endpoint: Annotated[str | None, Meta(description="The id of an endpoint, deleted ones included")] = None
    event_type: EventTypeName | None = None
    state: DeliveryState | None = None
    retrying: Annotated[bool, Meta(description="`true`: only what failed and is tried again")] = False
    status: Status | None = None
    event_id: EventId | None = None
    since: Since = None
    until: Until = None


async def log_filter(
    services: Services, workspace: Workspace, asked: DeliveryFilter, *, text: str | None = None
) -> LogFilter:
    """The filter as the store takes it, with the `text` that is searched for.

    Raises ApiError: `not_found` (the endpoint), `unknown_event_type`.
    """
    check_event_type(services, workspace.seq, asked.event_type)
    return LogFilter(
        workspace.seq,
        services.registry.paused(workspace.seq),
        endpoint_seq=None if asked.endpoint is None else await _endpoint_seq(services, workspace, asked.endpoint),
        event_type=asked.event_type,
        state=asked.state,
        event_id=asked.event_id,
        since_ms=asked.since,
        until_ms=asked.until,
        retrying=asked.retrying,
        status=asked.status,
        text=text,
    )


def check_event_type(services: Services, workspace_seq: int, name: str | None) -> None:
    """ApiError `unknown_event_type` unless the catalogue has the type, or an endpoint kept it when it left there."""
    if name is not None and not any(name in each.event_types for each in services.registry.endpoints(workspace_seq)):
        services.event_types().require(name)


async def _endpoint_seq(services: Services, workspace: Workspace, endpoint_id: str) -> int:
    """The number of an endpoint, deleted or not: its log outlives it."""
    if _ENDPOINT_ID.fullmatch(endpoint_id):
        seq = await services.store.search(
            workspace.seq, lambda db, _: endpoints.seq_of_id(db, workspace.seq, endpoint_id)
        )
        if seq is not None:
            return seq
    return services.registry.endpoint(workspace.seq, endpoint_id[:100]).seq  # raises `not_found`


async def find_delivery(
    services: Services, workspace: Workspace, delivery_id: str
) -> tuple[DeliveryView, list[Json]] | None:
    """A delivery of a workspace by its public id, with its attempts in order; None if there is none."""
    seq = delivery_seq(delivery_id)
    if seq is None:
        return None
    paused = services.registry.paused(workspace.seq)

    def question(db: Db, _: Late) -> tuple[DeliveryView, list[Json]] | None:
        with delivery_log.snapshot(db):
            view = delivery_log.get(db, workspace.seq, seq, paused=paused)
            return None if view is None else (view, attempts.of_delivery(db, seq))

    return await services.store.search(workspace.seq, question)
