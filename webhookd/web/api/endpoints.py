"""Endpoints: listed, made, changed, deleted, and the actions on them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType, structs, to_builtins

from webhookd import log
from webhookd.admin.endpoints import DESCRIPTION_CHARACTERS, OVERLAP_SECONDS_MAX
from webhookd.clock import rfc3339
from webhookd.models import Json
from webhookd.rules.signing import BODY_KEY_CHARACTERS_MAX, BODY_KEY_CHARACTERS_MIN
from webhookd.rules.urls import MAX_HEADER_CHARACTERS, MAX_HEADERS, MAX_URL_CHARACTERS
from webhookd.web.api.schemas import (
    FILTERS,
    ORDERING,
    AttemptSchema,
    EndpointSchema,
    KeyOrdering,
    PageSchema,
    Schema,
    Time,
    budget_json,
    endpoint_json,
    endpoints_json,
    time_json,
)
from webhookd.web.server.paging import Paging
from webhookd.web.server.requests import (
    WRITE_ERRORS,
    NoFields,
    Routes,
    caller,
    read_fields,
    read_query,
    services_of,
    workspace_of,
)
from webhookd.web.server.responses import json_response, list_response, no_content, one_page
from webhookd.web.services import Services

ONE_DAY_SECONDS = 86_400

# What only the rules check, with words of their own, is in the document by `extra_json_schema`.
Url = Annotated[str, Meta(extra_json_schema={"format": "uri", "minLength": 1, "maxLength": MAX_URL_CHARACTERS})]
Headers = Annotated[
    dict[str, str],
    Meta(
        description="Sent with every request; masked in the log",
        extra_json_schema={
            "maxProperties": MAX_HEADERS,
            "propertyNames": {"pattern": r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}$"},
            "additionalProperties": {"type": "string", "pattern": rf"^[\x20-\x7e]{{0,{MAX_HEADER_CHARACTERS}}}$"},
        },
    ),
]
SigningKey = Annotated[
    str,
    Meta(
        description="`whsec_` and base64 of 24 to 64 bytes",
        extra_json_schema={"pattern": "^whsec_[A-Za-z0-9+/]{32,86}={0,2}$"},
    ),
]
BodySignature = Annotated[bool, Meta(description="Whether X-Webhook-Signature is sent")]
BodyKey = Annotated[
    str | None,
    Meta(
        description="The key that the receiver has: X-Webhook-Signature uses it as it is; null: the signing key",
        extra_json_schema={"minLength": BODY_KEY_CHARACTERS_MIN, "maxLength": BODY_KEY_CHARACTERS_MAX},
    ),
]
Description = Annotated[str, Meta(extra_json_schema={"maxLength": DESCRIPTION_CHARACTERS})]
SuccessRule = Annotated[Literal["200", "2xx"], Meta(description="Which answers count as delivered")]
Types = Annotated[
    list[str], Meta(description='Names of the catalogue, or ["*"] for all', extra_json_schema={"minItems": 1})
]

FiltersField = Annotated[
    dict[str, dict[str, Any]],
    Meta(description=FILTERS, extra_json_schema={"additionalProperties": {"type": "object", "minProperties": 1}}),
]
OrderingField = Annotated[Literal["endpoint"] | KeyOrdering, Meta(description=ORDERING)]

ROUTES = Routes(workspaced=True)
_OF_URL = ("invalid_url", "blocked_address", "unknown_event_type", "endpoint_exists")


class NewEndpoint(Struct, frozen=True, kw_only=True):
    """An endpoint to be made; without a key webhookd makes one."""

    url: Url
    event_types: Types
    description: Description | UnsetType = UNSET
    success: SuccessRule | UnsetType = UNSET
    headers: Headers | UnsetType = UNSET
    signing_key: SigningKey | UnsetType = UNSET
    x_webhook_signature: BodySignature | UnsetType = UNSET
    x_webhook_signature_key: BodyKey | UnsetType = UNSET
    ordering: OrderingField | UnsetType = UNSET
    filters: FiltersField | UnsetType = UNSET


class EndpointChanges(Struct, frozen=True, kw_only=True):
    """What is to change of an endpoint; what is left out stays."""

    url: Url | UnsetType = UNSET
    event_types: Types | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    success: SuccessRule | UnsetType = UNSET
    headers: Headers | UnsetType = UNSET
    signing_key: SigningKey | UnsetType = UNSET
    x_webhook_signature: BodySignature | UnsetType = UNSET
    x_webhook_signature_key: BodyKey | UnsetType = UNSET
    ordering: OrderingField | UnsetType = UNSET
    filters: FiltersField | UnsetType = UNSET


class EnableRequest(Struct, frozen=True, kw_only=True):
    """How an endpoint is to start again."""

    skip_held: Annotated[bool, Meta(description="Leave out the events that were held meanwhile")] = False


class TestRequest(Struct, frozen=True, kw_only=True):
    """What a test is to send."""

    event_type: Annotated[str | None, Meta(description="Else the first that the endpoint wants")] = None


class RotateRequest(Struct, frozen=True, kw_only=True):
    """How an endpoint's signing key is to be replaced."""

    overlap_seconds: Annotated[
        float,
        Meta(
            description="How long the key before it signs too",
            extra_json_schema={"minimum": 0, "maximum": OVERLAP_SECONDS_MAX},
        ),
    ] = ONE_DAY_SECONDS


class EndpointListSchema(PageSchema[EndpointSchema]):
    """A page of endpoints."""


class CreatedEndpointSchema(EndpointSchema):
    """An endpoint that was just made, with its signing key."""

    signing_key: str


class BudgetSpentSchema(Schema):
    """The failure budget is spent: the next failure disables its endpoint."""

    spent_until: Time
    message: str


class EnabledEndpointSchema(EndpointSchema):
    """An endpoint that was just enabled; `budget` is there while the failure budget is spent."""

    budget: BudgetSpentSchema | UnsetType = UNSET


class PreviousKeySchema(Schema):
    """A signing key that was replaced, and until when it signs too."""

    signing_key: str
    until: Time


class SigningKeysSchema(Schema):
    """An endpoint's signing key, and those before it that still sign; `previous_key` is the newest of these."""

    signing_key: str
    x_webhook_signature_key: Annotated[
        str | None, Meta(description="The key of X-Webhook-Signature, where the receiver had one")
    ]
    previous_key: str | None
    previous_key_until: Time | None
    previous_keys: Annotated[list[PreviousKeySchema], Meta(description="Those that still sign, newest first")]


@ROUTES("GET", "/endpoints", {200: EndpointListSchema}, query=Paging)
async def list_endpoints(request: web.Request) -> web.Response:
    """List the endpoints, oldest first; values of their headers are masked."""
    query = read_query(request, Paging)
    services = services_of(request)
    workspace = workspace_of(request)
    after_seq = query.seq or 0
    found = [each for each in services.registry.endpoints(workspace.seq) if each.seq > after_seq]
    page, after = one_page(sorted(found, key=lambda endpoint: endpoint.seq), query.limit)
    return list_response(await endpoints_json(services, page, masked=True), after)


@ROUTES(
    "POST",
    "/endpoints",
    {201: CreatedEndpointSchema},
    body=NewEndpoint,
    errors=(*_OF_URL, "plan_required", "too_many_endpoints", *WRITE_ERRORS),
)
async def make_endpoint(request: web.Request) -> web.Response:
    """Create an endpoint.

    The answer has the signing key; later only GET …/signing-key tells it. One URL once per workspace: events are
    grouped by endpoint.
    """
    fields = await read_fields(request, NewEndpoint)
    services = services_of(request)
    endpoint = await services.endpoints.create(workspace_of(request).seq, **_given(fields))
    return json_response({**await endpoint_json(services, endpoint), "signing_key": endpoint.signing_key}, 201)


@ROUTES("GET", "/endpoints/{endpoint}", {200: EndpointSchema})
async def get_endpoint(request: web.Request) -> web.Response:
    """Get an endpoint: its settings, its state, its queue, its last attempt."""
    services = services_of(request)
    return json_response(await endpoint_json(services, services.registry.endpoint(*_names(request))))


@ROUTES(
    "PATCH",
    "/endpoints/{endpoint}",
    {200: EndpointSchema},
    body=EndpointChanges,
    errors=(*_OF_URL, "endpoint_malformed", "replay_running", *WRITE_ERRORS),
)
async def change_endpoint(request: web.Request) -> web.Response:
    """Change an endpoint.

    A request in flight ends as it was, everything after uses the new values; event types and filters apply to
    events accepted after the change. A key that is set here holds at once and alone; to let two overlap, rotate. With
    another key in `ordering`, what was accepted before is finished before anything accepted after it starts.
    """
    changes = _given(await read_fields(request, EndpointChanges))
    services = services_of(request)
    endpoint = services.registry.endpoint(*_names(request))
    if changes:
        endpoint = await services.endpoints.change(*_names(request), changes)
    return json_response(await endpoint_json(services, endpoint))


@ROUTES("DELETE", "/endpoints/{endpoint}", {204: None}, errors=WRITE_ERRORS)
async def delete_endpoint(request: web.Request) -> web.Response:
    """Delete an endpoint; its waiting deliveries are cancelled, its log stays."""
    await services_of(request).endpoints.delete(*_names(request))
    return no_content()


@ROUTES(
    "POST",
    "/endpoints/{endpoint}/enable",
    {200: EnabledEndpointSchema},
    body=EnableRequest,
    errors=("plan_required", "endpoint_malformed", *WRITE_ERRORS),
)
async def enable_endpoint(request: web.Request) -> web.Response:
    """Enable an endpoint; its held events go out in order, or are skipped."""
    fields = await read_fields(request, EnableRequest)
    services = services_of(request)
    endpoint = await services.endpoints.enable(*_names(request), skip_held=fields.skip_held)
    answer = await endpoint_json(services, endpoint)
    spent = _budget_spent(services, endpoint.workspace_seq)
    return json_response(answer if spent is None else {**answer, "budget": spent})


@ROUTES("POST", "/endpoints/{endpoint}/disable", {200: EndpointSchema}, body=NoFields, errors=WRITE_ERRORS)
async def disable_endpoint(request: web.Request) -> web.Response:
    """Disable an endpoint; its events are held."""
    await read_fields(request, NoFields)
    services = services_of(request)
    return json_response(await endpoint_json(services, await services.endpoints.disable(*_names(request))))


@ROUTES(
    "POST",
    "/endpoints/{endpoint}/test",
    {200: AttemptSchema},
    body=TestRequest,
    errors=(
        *("plan_required", "unknown_event_type", "endpoint_malformed", "too_far_behind", "workspace_full"),
        *WRITE_ERRORS,
    ),
)
async def test_endpoint(request: web.Request) -> web.Response:
    """Send a test event to an endpoint, in any state; answers with the attempt."""
    fields = await read_fields(request, TestRequest)
    return json_response(await services_of(request).test_events.send(*_names(request), fields.event_type))


@ROUTES(
    "POST",
    "/endpoints/{endpoint}/rotate-key",
    {200: EndpointSchema},
    body=RotateRequest,
    errors=("too_many_keys", "endpoint_malformed", *WRITE_ERRORS),
)
async def rotate_key(request: web.Request) -> web.Response:
    """Replace the signing key; both sign for a while.

    Until the overlap ends, webhook-signature has the signatures of all keys that sign and X-Webhook-Signature that of
    the oldest; without an overlap the latter has the new one's at once. Rotating again changes no overlap that is under
    way. GET …/signing-key tells the new one.
    """
    fields = await read_fields(request, RotateRequest)
    services = services_of(request)
    endpoint = await services.endpoints.rotate_key(*_names(request), fields.overlap_seconds)
    return json_response(await endpoint_json(services, endpoint))


@ROUTES("GET", "/endpoints/{endpoint}/signing-key", {200: SigningKeysSchema})
async def reveal_signing_key(request: web.Request) -> web.Response:
    """Reveal the signing key; this is logged."""
    services = services_of(request)
    endpoint = services.registry.endpoint(*_names(request))
    previous = endpoint.live_previous_keys(services.clock.wall_ms())
    newest = previous[0] if previous else None
    who = caller(request)
    log.emit(
        "key.revealed",
        workspace=endpoint.workspace,
        endpoint_id=endpoint.id,
        token_id=who.id if who is not None else None,
    )
    return json_response(
        {
            "signing_key": endpoint.signing_key,
            "x_webhook_signature_key": endpoint.x_webhook_signature_key,
            "previous_key": newest and newest.key,
            "previous_key_until": time_json(newest and newest.until_ms),
            "previous_keys": [{"signing_key": each.key, "until": rfc3339(each.until_ms)} for each in previous],
        }
    )


def _names(request: web.Request) -> tuple[int, str]:
    return workspace_of(request).seq, request.match_info["endpoint"]


def _given(fields: Struct) -> Json:
    given = {name: value for name, value in structs.asdict(fields).items() if value is not UNSET}
    return to_builtins(given)  # type: ignore[no-any-return]


def _budget_spent(services: Services, workspace_seq: int) -> Json | None:
    until_ms = services.watchdog.spent_until_ms(workspace_seq)
    if until_ms is None:
        return None
    budget = budget_json(services, workspace_seq)
    clock_time = f"{datetime.fromtimestamp(until_ms / 1000, UTC):%H:%M} UTC"
    return {
        "spent_until": time_json(until_ms),
        "message": f"The failure budget ({budget['failures']} of {budget['limit']}) is spent until {clock_time}, "
        "one more failure disables again.",
    }
