"""What is sent to receivers, for programs that generate code: OpenAPI's `webhooks`, and an AsyncAPI document.

https://spec.openapis.org/oas/v3.1.0#fixed-fields, https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from webhookd.catalogue.json_schema import Schema, Schemas, pascal
from webhookd.catalogue.types import EventType

# The schema of any event: one of all types.
ANY_EVENT = "WebhookEvent"
SCHEMAS = "#/components/schemas/{name}"
_JSON = "application/json"
_SIGNED = "Standard Webhooks 1.0.0"
# Header, whether each request has it, what it holds, its type.
_HEADERS: tuple[tuple[str, bool, str, str], ...] = (
    ("webhook-id", True, f"The event's id ({_SIGNED}): the same over retries and replays", "string"),
    ("webhook-timestamp", True, f"When the attempt was signed, in seconds since 1970 ({_SIGNED})", "string"),
    ("webhook-signature", True, f"The signatures of id, timestamp and body ({_SIGNED})", "string"),
    ("X-Webhook-Signature", False, "base64(HMAC-SHA256(key, body)), of the older convention", "string"),
    ("X-Webhook-Attempt", True, "Which attempt of this delivery it is, from 1", "integer"),
    ("X-Webhook-Replay", False, "`true` for a replay", "string"),
    ("X-Webhook-Backfill", False, "`true` for a backfill", "string"),
    ("X-Webhook-Test", False, "`true` for a test", "string"),
    ("webhook-sequence", False, "Of an endpoint that orders by key: counts its deliveries", "integer"),
    ("webhook-lane-previous", False, "Of an endpoint that orders by key: the event before in its lane", "string"),
    ("traceparent", False, "The trace of the request that the event came with", "string"),
    ("tracestate", False, "What belongs to that trace", "string"),
)


def webhooks(types: Iterable[EventType]) -> tuple[dict[str, Any], dict[str, Schema]]:
    """OpenAPI's `webhooks`, and the schemas that it refers to in `components`."""
    types = list(types)
    return {each.name: {"post": _webhook(each)} for each in types}, _schemas(types)


def _webhook(of: EventType) -> dict[str, Any]:
    name = pascal(of.name)
    return {
        "operationId": f"receive{name}",
        "summary": of.label,
        "description": of.description,
        "tags": ["webhooks"],
        "security": [],
        "parameters": [
            {"name": header, "in": "header", "required": required, "description": what, "schema": {"type": kind}}
            for header, required, what, kind in _HEADERS
        ],
        "requestBody": {
            "required": True,
            "content": {
                _JSON: {
                    "schema": {"$ref": SCHEMAS.format(name=name)},
                    "examples": {variant or "sample": {"value": sample} for variant, sample in of.samples()},
                }
            },
        },
        "responses": {"200": {"description": "The receiver has it. Anything else is a failure, and is tried again."}},
    }


def _schemas(types: Iterable[EventType]) -> dict[str, Schema]:
    """The schemas of the types and of what they share; last the choice of all."""
    schemas = Schemas(SCHEMAS)
    found = {pascal(each.name): (each.name, schemas.of_type(each)) for each in types}
    refs = {event_type: SCHEMAS.format(name=name) for name, (event_type, _) in found.items()}
    any_event: Schema = {
        "title": ANY_EVENT,
        "oneOf": [{"$ref": ref} for ref in refs.values()],
        "discriminator": {"propertyName": "event_type", "mapping": refs},
    }
    return {**schemas.shared, **{name: schema for name, (_, schema) in found.items()}, ANY_EVENT: any_event}


def asyncapi(types: Iterable[EventType], version: str) -> dict[str, Any]:
    """The AsyncAPI document: one channel, the receiver's URL, and a message for each type."""
    types = list(types)
    names = [pascal(each.name) for each in types]
    schemas = _schemas(types)
    schemas[ANY_EVENT] = {name: part for name, part in schemas[ANY_EVENT].items() if name != "discriminator"}
    headers = {header: {"type": kind, "description": what} for header, _, what, kind in _HEADERS}
    required = [header for header, needed, _, _ in _HEADERS if needed]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "webhookd",
            "version": version,
            "description": "What webhookd sends to the URL of an endpoint: one signed POST for each event.",
        },
        "defaultContentType": _JSON,
        "channels": {
            "webhook": {
                "address": None,
                "description": "The URL of an endpoint, one request after the other. It answers 200 to what it has.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
            }
        },
        "operations": {
            "sendEvents": {
                "action": "send",
                "channel": {"$ref": "#/channels/webhook"},
                "messages": [{"$ref": f"#/channels/webhook/messages/{name}"} for name in names],
                "bindings": {"http": {"method": "POST", "bindingVersion": "0.3.0"}},
            }
        },
        "components": {
            "messages": {name: _message(name, each) for name, each in zip(names, types, strict=True)},
            "schemas": {**schemas, "Headers": {"type": "object", "properties": headers, "required": required}},
        },
    }


def _message(name: str, of: EventType) -> dict[str, Any]:
    return {
        "name": of.name,
        "title": of.label,
        "summary": of.description,
        "contentType": _JSON,
        "headers": {"$ref": SCHEMAS.format(name="Headers")},
        "payload": {"$ref": SCHEMAS.format(name=name)},
        "examples": [{"name": variant or "sample", "payload": sample} for variant, sample in of.samples()],
    }
