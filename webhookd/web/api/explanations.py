"""Why an event was sent to an endpoint, or wasn't."""

from __future__ import annotations

import json
from typing import Annotated, Any

import orjson
from aiohttp import web
from msgspec import Meta

from webhookd.delivery import explanation
from webhookd.models import Json
from webhookd.rules.filters import Mismatch
from webhookd.web.api.schemas import DeliverySchema, Schema, Time, delivery_json, time_json
from webhookd.web.server.requests import Routes, services_of, workspace_of
from webhookd.web.server.responses import json_response

ROUTES = Routes(workspaced=True)


class MismatchSchema(Schema):
    """A field that keeps an event back."""

    pattern: Annotated[str, Meta(description="Whose pattern: an event type, or `*`")]
    path: str
    wanted: Annotated[list[Any], Meta(description="The pattern's rules, of which one would have to match")]
    missing: Annotated[bool, Meta(description="Whether the event has no such field")]
    found: Annotated[Any, Meta(description="What the event has there")]


class ExplanationSchema(Schema):
    """Why an event was sent to an endpoint, or wasn't."""

    endpoint_id: str
    event_id: str
    event_type: str
    accepted_at: Time
    reason: explanation.Why
    message: Annotated[str, Meta(description="The reason, for a person")]
    changed_since: Annotated[
        bool,
        Meta(description="Whether event types or filters were changed after the event was accepted"),
    ]
    mismatches: Annotated[list[MismatchSchema], Meta(description="With `filtered`: each field that keeps it back")]
    deliveries: Annotated[list[DeliverySchema], Meta(description="Of this event to this endpoint, the newest first")]


@ROUTES("GET", "/endpoints/{endpoint}/explain/{event}", {200: ExplanationSchema})
async def explain(request: web.Request) -> web.Response:
    """Explain why an event was sent to an endpoint, or wasn't.

    Filters are held against the event as they are now; `changed_since` says whether they were others when it was
    accepted. The endpoint may be deleted.
    """
    services, workspace = services_of(request), workspace_of(request)
    question = explanation.question(
        workspace,
        request.match_info["endpoint"],
        request.match_info["event"],
        paused=services.registry.paused(workspace.seq),
    )
    found = await services.store.search(workspace.seq, question)
    return json_response(
        {
            "endpoint_id": found.endpoint.id,
            "event_id": found.event.id,
            "event_type": found.event.type,
            "accepted_at": time_json(found.event.accepted_at_ms),
            "reason": found.reason,
            "message": found.message,
            "changed_since": found.has_changed,
            "mismatches": [_mismatch_json(each) for each in found.mismatches],
            "deliveries": [delivery_json(view) for view in found.deliveries],
        }
    )


def _mismatch_json(each: Mismatch) -> Json:
    return {
        "pattern": each.event_type,
        "path": each.path,
        "wanted": _fragment(each.wanted),
        "missing": each.is_missing,
        "found": _fragment(each.found),
    }


def _fragment(value: Any) -> orjson.Fragment:
    """A value of an event as JSON, with integers of any length."""
    try:
        return orjson.Fragment(json.dumps(value, allow_nan=False))
    except ValueError:  # a number beyond a double
        return orjson.Fragment(json.dumps(str(value)))
