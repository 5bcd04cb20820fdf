"""The event log: events and deliveries, searched; and sending the past again."""

from __future__ import annotations

import re
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from webhookd.admin.tokens import Scope
from webhookd.errors import ApiError
from webhookd.models import DeliveryState, DeliveryView, EventView, Json, Workspace
from webhookd.rules.ids import delivery_seq
from webhookd.store import attempts, delivery_log, endpoints, events
from webhookd.store.delivery_log import WAITING, LogFilter
from webhookd.store.store import Db
from webhookd.web.api.schemas import (
    DeliveryShown,
    DeliveryWithAttempts,
    EventShown,
    EventWithPayload,
    Shape,
    show_delivery,
    show_event,
    show_payload,
)
from webhookd.web.server.requests import (
    Cursor,
    Moment,
    NoFields,
    PageSize,
    Paging,
    Route,
    invalid_field,
    read_fields,
    read_query,
    services_of,
    workspace_id,
)
from webhookd.web.server.responses import json_response, list_response
from webhookd.web.services import Services

# An event has one delivery per endpoint and one more per replay; all of them are found with `deliveries?event_id=`.
DELIVERIES_OF_EVENT = 500

# Ids are looked up as they are; what can't be one isn't even asked for.
_EVENT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ENDPOINT_ID = re.compile(r"ep_[0-9a-z]{1,64}")

EventType = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]
Since = Annotated[Moment | None, Meta(description="Accepted then or later")]
Until = Annotated[Moment | None, Meta(description="Accepted before then")]


class DeliveryFilter(Struct, frozen=True, kw_only=True):
    """Which deliveries are asked for; what is left out means any."""

    endpoint: Annotated[str | None, Meta(description="The id of an endpoint, deleted ones included")] = None
    event_type: EventType | None = None
    state: DeliveryState | None = None
    event_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    since: Since = None
    until: Until = None


class DeliveryQuery(DeliveryFilter, frozen=True, kw_only=True):
    """Which deliveries are asked for, and which page of them."""

    limit: PageSize = 50
    cursor: Cursor | None = None


class EventQuery(Paging, frozen=True, kw_only=True):
    """Which events are asked for, and which page of them."""

    event_type: EventType | None = None
    since: Since = None
    until: Until = None


class Replaying(Struct, frozen=True, kw_only=True):
    """What is to be sent again; `endpoint` or `since` is needed."""

    endpoint: Annotated[str | None, Meta(description="The id of an endpoint")] = None
    state: Annotated[DeliveryState, Meta(description="A finished one")] = DeliveryState.DROPPED
    since: Since = None
    until: Until = None
    dry_run: Annotated[bool, Meta(description="Only say how many it would be")] = False


class DeliveryList(Shape):
    """A page of deliveries."""

    data: list[DeliveryShown]
    next: str | None


class EventList(Shape):
    """A page of events."""

    data: list[EventShown]
    next: str | None


class Replayed(Shape):
    """How many deliveries were queued again, or would be."""

    replayed: int


async def list_events(request: web.Request) -> web.Response:
    """The events of a workspace, newest first."""
    query = read_query(request, EventQuery)
    services = services_of(request)
    workspace = services.registry.workspace(workspace_id(request))

    def question(db: Db) -> list[EventView]:
        return events.page(
            db,
            workspace.seq,
            event_type=query.event_type,
            since_ms=query.since,
            until_ms=query.until,
            before_seq=None if query.cursor is None else query.cursor.seq,
            limit=query.limit + 1,
        )

    found = await services.store.read(question)
    page = found[: query.limit]
    return list_response([show_event(view) for view in page], page[-1].seq if len(found) > len(page) else None)


async def get_event(request: web.Request) -> web.Response:
    """One event: its payload, byte for byte, and its deliveries."""
    event_id = request.match_info["event"]
    services = services_of(request)
    workspace = services.registry.workspace(workspace_id(request))
    wanted = LogFilter(workspace.seq, services.registry.paused(workspace.id), event_id=event_id)

    def question(db: Db) -> tuple[EventView | None, list[DeliveryView]]:
        with delivery_log.snapshot(db):
            event = events.get(db, workspace.seq, event_id)
            return event, delivery_log.page(db, wanted, before_seq=None, limit=DELIVERIES_OF_EVENT)

    known = _EVENT_ID.fullmatch(event_id) is not None
    event, found = await services.store.read(question) if known else (None, [])
    if event is None:
        raise ApiError("not_found", f"There is no event {event_id[:100]!r} in the log of workspace {workspace.id!r}.")
    answer = show_event(event)
    answer |= {"payload": show_payload(event), "deliveries": [show_delivery(view) for view in found]}
    return json_response(answer)


async def list_deliveries(request: web.Request) -> web.Response:
    """The deliveries of a workspace, newest first."""
    query = read_query(request, DeliveryQuery)
    services = services_of(request)
    wanted = await wanted_of(services, workspace_id(request), query)
    before_seq = None if query.cursor is None else query.cursor.seq
    found = await services.store.read(
        lambda db: delivery_log.page(db, wanted, before_seq=before_seq, limit=query.limit + 1)
    )
    page = found[: query.limit]
    return list_response([show_delivery(view) for view in page], page[-1].seq if len(found) > len(page) else None)


async def get_delivery(request: web.Request) -> web.Response:
    """One delivery with each of its attempts."""
    services = services_of(request)
    workspace = services.registry.workspace(workspace_id(request))
    seq, paused = _seq(request, workspace), services.registry.paused(workspace.id)

    def question(db: Db) -> tuple[DeliveryView | None, list[Json]]:
        with delivery_log.snapshot(db):
            return delivery_log.get(db, workspace.seq, seq, paused=paused), attempts.of_delivery(db, seq)

    view, made = await services.store.read(question)
    return json_response({**show_delivery(_found(view, request, workspace)), "attempts": made})


async def replay_delivery(request: web.Request) -> web.Response:
    """Send a finished delivery again, as a new one at the end of the queue."""
    await read_fields(request, NoFields)
    services = services_of(request)
    workspace = services.registry.workspace(workspace_id(request))
    past = _found(await _look(services, workspace, _seq(request, workspace)), request, workspace)
    made = await _look(services, workspace, await services.replayer.one(workspace.id, past))
    return json_response(show_delivery(_found(made, request, workspace)), 201)


async def replay_deliveries(request: web.Request) -> web.Response:
    """Send all finished deliveries of a filter again, oldest first."""
    fields = await read_fields(request, Replaying)
    if fields.endpoint is None and fields.since is None:
        raise ApiError(
            "invalid_field",
            "Which deliveries? Name an endpoint or since, so that nobody sends a whole log again by accident.",
            details={"field": "endpoint"},
        )
    if fields.state in WAITING:
        raise invalid_field("state", f"is {fields.state.value!r}, and these go out by themselves: name a finished one")
    services, workspace = services_of(request), workspace_id(request)
    wanted = await wanted_of(
        services,
        workspace,
        DeliveryFilter(endpoint=fields.endpoint, state=fields.state, since=fields.since, until=fields.until),
    )
    if wanted.endpoint_seq is not None and services.registry.get(wanted.endpoint_seq) is None:
        raise ApiError("endpoint_gone", f"Endpoint {fields.endpoint} was deleted; there is nowhere to send to.")
    return json_response({"replayed": await services.replayer.many(wanted, workspace, dry_run=fields.dry_run)})


async def wanted_of(services: Services, workspace: str, asked: DeliveryFilter) -> LogFilter:
    """What a caller asks for, as the store takes it.  ApiError `not_found` (the workspace, the endpoint)."""
    own = services.registry.workspace(workspace)
    return LogFilter(
        own.seq,
        services.registry.paused(own.id),
        endpoint_seq=None if asked.endpoint is None else await _endpoint_seq(services, own, asked.endpoint),
        event_type=asked.event_type,
        state=asked.state,
        event_id=asked.event_id,
        since_ms=asked.since,
        until_ms=asked.until,
    )


async def _endpoint_seq(services: Services, workspace: Workspace, endpoint_id: str) -> int:
    """The number of an endpoint; its log can be searched after it was deleted too."""
    if _ENDPOINT_ID.fullmatch(endpoint_id):
        seq = await services.store.read(lambda db: endpoints.seq_of_id(db, workspace.seq, endpoint_id))
        if seq is not None:
            return seq
    return services.registry.endpoint(workspace.id, endpoint_id[:100]).seq  # which says that there is none


def _seq(request: web.Request, workspace: Workspace) -> int:
    seq = delivery_seq(request.match_info["delivery"])
    if seq is None:
        raise _no_delivery(request, workspace)
    return seq


async def _look(services: Services, workspace: Workspace, seq: int) -> DeliveryView | None:
    paused = services.registry.paused(workspace.id)
    return await services.store.read(lambda db: delivery_log.get(db, workspace.seq, seq, paused=paused))


def _found(view: DeliveryView | None, request: web.Request, workspace: Workspace) -> DeliveryView:
    if view is None:
        raise _no_delivery(request, workspace)
    return view


def _no_delivery(request: web.Request, workspace: Workspace) -> ApiError:
    named = request.match_info["delivery"][:100]
    return ApiError("not_found", f"There is no delivery {named!r} in the log of workspace {workspace.id!r}.")


ROUTES = [
    Route(
        "GET",
        "/events",
        list_events,
        Scope.ADMIN,
        "List the events of the log, newest first",
        answers={200: EventList},
        query=EventQuery,
        workspaced=True,
    ),
    Route(
        "GET",
        "/events/{event}",
        get_event,
        Scope.ADMIN,
        "Get an event: its payload and its deliveries",
        answers={200: EventWithPayload},
        workspaced=True,
        description="The payload is the event byte for byte: read it with a parser that keeps large integers. It is "
        f"null once retention pruned it. At most {DELIVERIES_OF_EVENT} deliveries are shown, the newest.",
    ),
    Route(
        "GET",
        "/deliveries",
        list_deliveries,
        Scope.ADMIN,
        "Search the deliveries of the log, newest first",
        answers={200: DeliveryList},
        query=DeliveryQuery,
        workspaced=True,
    ),
    Route(
        "GET",
        "/deliveries/{delivery}",
        get_delivery,
        Scope.ADMIN,
        "Get a delivery with each of its attempts",
        answers={200: DeliveryWithAttempts},
        workspaced=True,
    ),
    Route(
        "POST",
        "/deliveries/{delivery}/replay",
        replay_delivery,
        Scope.ADMIN,
        "Send a finished delivery again, as a new one at the end of the queue",
        answers={201: DeliveryShown},
        body=NoFields,
        errors=("endpoint_not_active", "endpoint_gone", "delivery_not_finished", "storage_full", "unavailable"),
        workspaced=True,
    ),
    Route(
        "POST",
        "/replay",
        replay_deliveries,
        Scope.ADMIN,
        "Send all finished deliveries of a filter again, oldest first",
        answers={200: Replayed},
        body=Replaying,
        errors=("endpoint_not_active", "endpoint_gone", "storage_full", "unavailable"),
        workspaced=True,
        description="Only deliveries of endpoints that are active; tests and pruned events are left out.",
    ),
]
