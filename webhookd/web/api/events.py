"""`POST /v1/events`: one event, an array of them, or a stream of lines (`ingest_stream`)."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from webhookd.admin.tokens import Scope
from webhookd.errors import ApiError
from webhookd.models import Accepted, Json, Workspace
from webhookd.web.api.batch_ingest import (
    LISTED_REJECTIONS,
    REFUSED,
    BatchIngest,
    check_event,
    conflict,
    count_refused,
    note_mismatch,
    trace_of,
)
from webhookd.web.api.event_stream import STREAMS, IngestStream
from webhookd.web.server.http_server import ReadyResponse
from webhookd.web.server.requests import (
    Error,
    ErrorDetail,
    Routes,
    check_encoding,
    media_type,
    read_body,
    services_of,
    unsupported_media_type,
    workspace_of,
)
from webhookd.web.services import Services

# Of an array in all.  The largest event that can be configured (delivery.max_body_kb) is as large.
BODY_MAX_BYTES = 8 * 1024 * 1024
NDJSON = "application/x-ndjson"

ROUTES = Routes(workspaced=True)


class WarningSchema(Struct):
    """One event of many that was accepted though it doesn't fit its type's schema."""

    index: Annotated[int, Meta(description="Its place among those sent, from 0")]
    warning: ErrorDetail


class AcceptedEventSchema(Struct):
    """One event was accepted."""

    event_id: str
    deliveries: Annotated[int, Meta(description="For how many endpoints it is queued")]
    duplicate: Annotated[bool, Meta(description="Whether this very event had been accepted before")]
    paused_by: Annotated[str, Meta(description="`plan` where the workspace's plan has no webhooks; else missing")] = ""
    warning: Annotated[
        ErrorDetail | UnsetType, Meta(description="`schema_mismatch` where `events.validate` is `warn` and it applies")
    ] = UNSET


class RejectionSchema(Struct):
    """One event of many that was refused."""

    index: Annotated[int, Meta(description="Its place among those sent, from 0")]
    error: ErrorDetail


class AcceptedEventsSchema(Struct):
    """What became of many events."""

    accepted: int
    duplicates: int
    rejected: Annotated[list[RejectionSchema], Meta(max_length=LISTED_REJECTIONS)]
    rejected_count: Annotated[int, Meta(description="All that were refused; there where any was")] = 0
    warnings: Annotated[list[WarningSchema], Meta(max_length=LISTED_REJECTIONS)] = []
    warned_count: Annotated[int, Meta(description="All that were accepted with a warning; there where any was")] = 0
    next_index: Annotated[int, Meta(description="Where to go on; there where a stream had to stop")] = 0
    unsubscribed: Annotated[
        dict[str, int], Meta(description="By type, how many accepted events no endpoint subscribes to; there where any")
    ] = {}
    paused_by: Annotated[str, Meta(description="`plan` where the workspace's plan has no webhooks; else missing")] = ""


class NewEventFields(Struct):
    """An event: one flat object that holds these two and whatever else belongs to it."""

    event_type: str
    event_id: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")] | UnsetType = UNSET


@ROUTES(
    "POST",
    "/events",
    {202: (AcceptedEventSchema, AcceptedEventsSchema), 422: (AcceptedEventsSchema, Error)},
    scope=Scope.INGEST,
    media={
        "application/json": (NewEventFields, list[NewEventFields]),
        NDJSON: "One event per line, committed as it arrives, for as long as the connection is open.",
    },
    errors=(
        "invalid_json",
        "not_found",
        "request_timeout",
        "event_id_conflict",
        "payload_too_large",
        "unsupported_media_type",
        "invalid_event",
        "missing_event_type",
        "unknown_event_type",
        "invalid_event_id",
        "schema_mismatch",
        "too_far_behind",
        "rate_limited",
        "unavailable",
        "storage_full",
        "workspace_full",
    ),
)
async def post_events(request: web.Request) -> web.StreamResponse:
    """Accept one event, an array of up to 1,000, or a stream of lines.

    The answer is given once the events are durable. An event sent again with the same event_id and the same bytes
    is a duplicate and delivered once. The body delivered is the event byte for byte.
    """
    services, workspace = services_of(request), workspace_of(request)
    check_encoding(request)
    kind = media_type(request)
    if kind == NDJSON:
        return await _stream(request)
    if kind != "application/json":
        raise unsupported_media_type(request, "application/json", NDJSON)
    try:
        body = await read_body(request, BODY_MAX_BYTES)
        if body.lstrip()[:1] == b"[":
            return await _array(request, body)
        warnings: list[ApiError] = []
        event = check_event(services, body, warnings)
        result = (await services.ingest.accept(workspace.seq, (event,), trace=trace_of(request)))[0]
        if result.conflict:
            raise conflict(result.event_id)
    except ApiError as error:
        count_refused(request.app[REFUSED], workspace.id, error.code)
        raise
    answer = accepted_answer(services, workspace, result)
    for warning in warnings:
        note_mismatch(services, workspace.id, warning)
        answer["warning"] = warning.body()["error"]
    return ReadyResponse(answer, 202)


def accepted_answer(services: Services, workspace: Workspace, result: Accepted) -> Json:
    """The answer's body for one event."""
    answer: Json = {"event_id": result.event_id, "deliveries": result.deliveries, "duplicate": result.duplicate}
    if not result.deliveries and services.registry.paused(workspace.seq):
        answer["paused_by"] = "plan"
    return answer


async def _array(request: web.Request, body: bytes) -> web.Response:
    batch_ingest = BatchIngest(services_of(request), workspace_of(request), request.app[REFUSED], trace_of(request))
    await batch_ingest.accept(await batch_ingest.check_array(body))
    return ReadyResponse(batch_ingest.summary.body(), batch_ingest.summary.status())


async def _stream(request: web.Request) -> web.Response:
    streams = request.app[STREAMS]
    stream = IngestStream(request, request.app[REFUSED])
    streams.add(stream)
    try:
        return await stream.run()
    finally:
        streams.discard(stream)


async def end_streams(app: web.Application) -> None:
    """The daemon stops: each stream takes nothing more and answers how far it came."""
    why = ApiError("unavailable", "webhookd is stopping. Go on from next_index in a moment.", retry_after_seconds=2)
    for stream in app[STREAMS]:
        stream.stop(why)
