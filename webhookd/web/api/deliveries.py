"""The event log: search events and deliveries, follow them live, send past ones again."""

from __future__ import annotations

import re
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from webhookd.errors import ApiError
from webhookd.models import DeliveryState, DeliveryView, EventView, Json
from webhookd.rules.ids import delivery_id
from webhookd.store import delivery_log, events
from webhookd.store.connection import Late
from webhookd.store.delivery_log.log_filter import WAITING, LogFilter
from webhookd.store.store import Db
from webhookd.web.api.schemas import (
    DeliveryDetailSchema,
    DeliverySchema,
    EventDetailSchema,
    EventSchema,
    PageSchema,
    Schema,
    delivery_json,
    event_json,
    payload_json,
)
from webhookd.web.live_stream import live_stream
from webhookd.web.log_search import (
    DeliveryFilter,
    EventId,
    EventTypeName,
    SearchText,
    Since,
    Until,
    check_event_type,
    find_delivery,
    log_filter,
)
from webhookd.web.server.paging import Cursor, Moment, PageSize, Paging
from webhookd.web.server.question_limit import question
from webhookd.web.server.requests import (
    WRITE_ERRORS,
    NoFields,
    Routes,
    caller,
    invalid_field,
    read_fields,
    read_query,
    services_of,
    workspace_of,
)
from webhookd.web.server.responses import json_response, list_response, one_page

# An event has one delivery per endpoint and one more per replay; all of them are found with `deliveries?event_id=`.
DELIVERIES_OF_EVENT = 500

# What can't be an id is not looked up.
_EVENT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

ROUTES = Routes(workspaced=True)


class DeliveryQuery(DeliveryFilter, frozen=True, kw_only=True):
    """Which deliveries are asked for, and which page of them."""

    text: SearchText | None = None
    limit: PageSize = 50
    cursor: Cursor | None = None


class EventQuery(Paging, frozen=True, kw_only=True):
    """Which events are asked for, and which page of them."""

    event_type: EventTypeName | None = None
    since: Since = None
    until: Until = None


class ReplayRequest(Struct, frozen=True, kw_only=True):
    """What is to be sent again; `endpoint`, `event_id` or `since` is needed."""

    endpoint: Annotated[str | None, Meta(description="The id of an endpoint")] = None
    event_type: EventTypeName | None = None
    event_id: EventId | None = None
    state: Annotated[DeliveryState, Meta(description="A finished one")] = DeliveryState.DROPPED
    since: Since = None
    until: Until = None
    dry_run: Annotated[bool, Meta(description="Only count them")] = False


class BackfillRequest(Struct, frozen=True, kw_only=True):
    """Which past events an endpoint is to get."""

    since: Annotated[Moment, Meta(description="Accepted then or later")]
    until: Until = None
    event_type: Annotated[EventTypeName | None, Meta(description="One that the endpoint subscribes to; else all")] = (
        None
    )
    dry_run: Annotated[bool, Meta(description="Only count them")] = False


class DeliveryListSchema(PageSchema[DeliverySchema]):
    """A page of deliveries."""


class EventListSchema(PageSchema[EventSchema]):
    """A page of events."""


class ReplayedSchema(Schema):
    """How many deliveries were queued again, or would be, and how many were left out."""

    replayed: int
    left_out: Annotated[
        dict[str, int],
        Meta(
            description="How many by reason: `delivered_since`, `waiting`, `repeated` (the same event and endpoint "
            "once more), `not_active`, `gone`, `pruned`, `no_room`"
        ),
    ]


class BackfilledSchema(Schema):
    """How many events were queued, or would be, and how many were left out."""

    backfilled: int
    left_out: Annotated[
        dict[str, int],
        Meta(
            description="How many by reason: `already_had` (the endpoint has a delivery of it), `not_active`, `gone`, "
            "`pruned`, `filtered` (by the endpoint's filters), `no_room`"
        ),
    ]


@ROUTES("GET", "/events", {200: EventListSchema}, query=EventQuery, errors=("unknown_event_type",))
async def list_events(request: web.Request) -> web.Response:
    """List the events of the log, newest first.

    A long search stops after a while: then a page is short, or empty, and `next` says where to go on.
    """
    query = read_query(request, EventQuery)
    services = services_of(request)
    workspace = workspace_of(request)
    check_event_type(services, workspace.seq, query.event_type)
    found, stopped_at = await services.store.search(
        workspace.seq,
        lambda db, late: events.page(
            db,
            workspace.seq,
            event_type=query.event_type,
            since_ms=query.since,
            until_ms=query.until,
            before_seq=query.seq,
            limit=query.limit + 1,
            late=late,
        ),
    )
    page, after = one_page(found, query.limit)
    return list_response([event_json(view) for view in page], stopped_at if after is None else after)


@ROUTES("GET", "/events/{event}", {200: EventDetailSchema})
async def get_event(request: web.Request) -> web.Response:
    """Get an event: its payload and its deliveries.

    The payload is the event byte for byte: read it with a parser that keeps large integers. It is null once
    retention pruned it. At most 500 deliveries are shown, the newest.
    """
    event_id = request.match_info["event"]
    services = services_of(request)
    workspace = workspace_of(request)
    wanted = LogFilter(workspace.seq, services.registry.paused(workspace.seq), event_id=event_id)

    def question(db: Db, _: Late) -> tuple[EventView | None, list[DeliveryView]]:
        with delivery_log.snapshot(db):
            event = events.get(db, workspace.seq, event_id)
            return event, delivery_log.page(db, wanted, before_seq=None, limit=DELIVERIES_OF_EVENT)

    known = _EVENT_ID.fullmatch(event_id) is not None
    event, found = await services.store.search(workspace.seq, question) if known else (None, [])
    if event is None:
        raise ApiError("not_found", f"There is no event {event_id[:100]!r} in the log of workspace {workspace.id!r}.")
    answer = event_json(event)
    answer |= {"payload": payload_json(event), "deliveries": [delivery_json(view) for view in found]}
    return json_response(answer)


@ROUTES("GET", "/deliveries", {200: DeliveryListSchema}, query=DeliveryQuery, errors=("unknown_event_type",))
async def list_deliveries(request: web.Request) -> web.Response:
    """Search the deliveries of the log, newest first.

    A long search stops after a while: then a page is short, or empty, and `next` says where to go on.
    """
    query = read_query(request, DeliveryQuery)
    services = services_of(request)
    wanted = await log_filter(services, workspace_of(request), query, text=query.text)
    before_seq = None if query.cursor is None else query.cursor.seq
    found, stopped_at = await services.store.search(
        wanted.workspace_seq,
        lambda db, late: delivery_log.search(db, wanted, before_seq=before_seq, limit=query.limit + 1, late=late),
    )
    page, after = one_page(found, query.limit)
    return list_response([delivery_json(view) for view in page], stopped_at if after is None else after)


# Before /deliveries/{delivery}, which would take its path.
@ROUTES(
    "GET",
    "/deliveries/stream",
    {200: "text/event-stream"},
    query=DeliveryFilter,
    errors=("unknown_event_type", "unavailable"),
)
async def stream_deliveries(request: web.Request) -> web.StreamResponse:
    """Follow the deliveries live.

    Server-sent events: `id` is the happening's, `event` is `delivery.accepted` or `delivery.attempted`, `data` the
    delivery as it then was. `Last-Event-ID` brings what was missed; an event `reset` means that this is too much,
    and that the list should be read again.
    """
    services, token = services_of(request), caller(request)
    wanted = await log_filter(services, workspace_of(request), read_query(request, DeliveryFilter))
    return await live_stream(
        request, wanted, allowed=lambda: token is None or services.tokens.lasts(token), data=delivery_json
    )


@ROUTES("GET", "/deliveries/{delivery}", {200: DeliveryDetailSchema})
async def get_delivery(request: web.Request) -> web.Response:
    """Get a delivery with each of its attempts."""
    view, made = await _find(request, request.match_info["delivery"])
    return json_response({**delivery_json(view), "attempts": made})


@ROUTES(
    "POST",
    "/deliveries/{delivery}/replay",
    {201: DeliverySchema},
    body=NoFields,
    errors=(
        *("endpoint_not_active", "endpoint_gone", "delivery_not_finished", "delivered_since", "too_far_behind"),
        "workspace_full",
        *WRITE_ERRORS,
    ),
)
async def replay_delivery(request: web.Request) -> web.Response:
    """Send a finished delivery again, as a new one at the end of the queue."""
    await read_fields(request, NoFields)
    view, _ = await _find(request, request.match_info["delivery"])
    seq = await services_of(request).replayer.one(view)
    replayed, _ = await _find(request, delivery_id(seq))
    return json_response(delivery_json(replayed), 201)


@ROUTES(
    "POST",
    "/replay",
    {200: ReplayedSchema},
    body=ReplayRequest,
    errors=(
        *("unknown_event_type", "endpoint_not_active", "endpoint_gone", "replay_running", "workspace_full"),
        *("too_many_questions", *WRITE_ERRORS),
    ),
)
async def replay_deliveries(request: web.Request) -> web.Response:
    """Send all finished deliveries of a filter again, oldest first.

    Each event once per endpoint, unless it was delivered there since or waits there already; only to endpoints that are
    active. Tests are left out, and so is what would fill more than half of what may wait in the workspace.
    """
    fields = await read_fields(request, ReplayRequest)
    if fields.endpoint is None and fields.event_id is None and fields.since is None:
        raise ApiError(
            "invalid_field",
            "Which deliveries? Name endpoint, event_id or since: a whole log is not sent again by accident.",
            details={"field": "endpoint"},
        )
    if fields.state in WAITING:
        raise invalid_field("state", f"is {fields.state.value!r}, and these go out by themselves: name a finished one")
    services = services_of(request)
    wanted = await log_filter(
        services,
        workspace_of(request),
        DeliveryFilter(
            endpoint=fields.endpoint,
            event_type=fields.event_type,
            state=fields.state,
            event_id=fields.event_id,
            since=fields.since,
            until=fields.until,
        ),
    )
    if wanted.endpoint_seq is not None and services.registry.get(wanted.endpoint_seq) is None:
        raise ApiError("endpoint_gone", f"Endpoint {fields.endpoint} was deleted; there is nowhere to send to.")
    async with question(request, only_asks=fields.dry_run):
        done = await services.replayer.many(wanted, dry_run=fields.dry_run)
    return json_response({"replayed": done.count, "left_out": done.left_out})


@ROUTES(
    "POST",
    "/endpoints/{endpoint}/backfill",
    {200: BackfilledSchema},
    body=BackfillRequest,
    errors=(
        *("unknown_event_type", "endpoint_not_active", "replay_running", "workspace_full", "too_many_questions"),
        *WRITE_ERRORS,
    ),
)
async def backfill_endpoint(request: web.Request) -> web.Response:
    """Send an endpoint past events that it never had, in order of acceptance.

    Of the types that it subscribes to now. They go after what waits for it already and before what is accepted from now
    on; until they are queued, no attempt to it starts. Tests are left out, and so is what would fill more than half of
    what may wait in the workspace.
    """
    fields = await read_fields(request, BackfillRequest)
    services, workspace = services_of(request), workspace_of(request)
    endpoint = services.registry.endpoint(workspace.seq, request.match_info["endpoint"])
    check_event_type(services, workspace.seq, fields.event_type)
    async with question(request, only_asks=fields.dry_run):
        done = await services.replayer.backfill(
            endpoint,
            event_type=fields.event_type,
            since_ms=fields.since,
            until_ms=fields.until,
            dry_run=fields.dry_run,
        )
    return json_response({"backfilled": done.count, "left_out": done.left_out})


async def _find(request: web.Request, named: str) -> tuple[DeliveryView, list[Json]]:
    services = services_of(request)
    workspace = workspace_of(request)
    found = await find_delivery(services, workspace, named)
    if found is None:
        raise ApiError("not_found", f"There is no delivery {named[:100]!r} in the log of workspace {workspace.id!r}.")
    return found
