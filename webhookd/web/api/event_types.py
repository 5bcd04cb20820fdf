"""The catalogue of event types, for people and for programs: types, schemas, and documents to generate code from."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

import webhookd
from webhookd.admin.tokens import Scope
from webhookd.catalogue.documents import asyncapi
from webhookd.catalogue.json_schema import type_schema
from webhookd.catalogue.types import EventType, Field
from webhookd.errors import ApiError, did_you_mean
from webhookd.models import Json
from webhookd.web.api.openapi import with_webhooks
from webhookd.web.api.schemas import PageSchema
from webhookd.web.server.paging import Paging
from webhookd.web.server.requests import Routes, read_query, services_of
from webhookd.web.server.responses import json_response, list_response

DOCUMENT = web.AppKey("document", bytes)

ROUTES = Routes()


class EventTypeSchema(Struct):
    """One type of the catalogue."""

    name: str
    label: str
    description: str
    notes: Annotated[list[str], Meta(description="What receivers should know, as where public material disagrees")]
    fields: list[Field]
    sample: dict[str, Any]


class EventTypeListSchema(PageSchema[EventTypeSchema]):
    """A page of the catalogue."""


@ROUTES("GET", "/v1/event-types", {200: EventTypeListSchema}, query=Paging)
async def list_event_types(request: web.Request) -> web.Response:
    """List the event types."""
    query = read_query(request, Paging)
    event_types = services_of(request).event_types()
    begin = query.seq or 0
    names = event_types.names[begin : begin + query.limit]
    end = begin + len(names)
    shown = [_shown(event_types.require(name)) for name in names]
    return list_response(shown, end if end < len(event_types.names) else None)


def _shown(event_type: EventType) -> Json:
    return {
        "name": event_type.name,
        "label": event_type.label,
        "description": event_type.description,
        "notes": event_type.notes,
        "fields": msgspec.to_builtins(event_type.fields),
        "sample": event_type.sample,
    }


@ROUTES("GET", "/v1/event-types/{type}/schema", {200: dict[str, Any]}, scope=Scope.OBSERVE)
async def show_schema(request: web.Request) -> web.Response:
    """Get the JSON Schema (2020-12) of a type's events, with samples as its examples."""
    event_types, name = services_of(request).event_types(), request.match_info["type"]
    found = event_types.get(name)
    if found is None:
        nearest = did_you_mean(name, event_types.names, cutoff=0.0)
        raise ApiError("not_found", f'There is no event type {name[:100]!r}: did you mean "{nearest}"?')
    return json_response(type_schema(found))


@ROUTES("GET", "/openapi.json", {200: dict[str, Any]}, scope=Scope.OBSERVE)
async def show_openapi(request: web.Request) -> web.Response:
    """Get this document."""
    body = with_webhooks(request.app[DOCUMENT], services_of(request).event_types().all())
    return web.Response(body=body, headers={"Content-Type": "application/json; charset=utf-8"})


@ROUTES("GET", "/asyncapi.json", {200: dict[str, Any]}, scope=Scope.OBSERVE)
async def show_asyncapi(request: web.Request) -> web.Response:
    """Get what is sent to receivers as an AsyncAPI 3.0 document."""
    return json_response(asyncapi(services_of(request).event_types().all(), webhookd.__version__))
