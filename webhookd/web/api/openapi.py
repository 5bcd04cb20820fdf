"""The API, described by itself: an OpenAPI 3.1 document made from the routes' own rows.

What a row says (its Structs, scope, codes) is what the server acts on, so the document can't say anything else; a
test holds the two together.  https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import orjson

import webhookd
from webhookd.admin.tokens import Scope
from webhookd.catalogue.documents import webhooks
from webhookd.catalogue.types import EventType
from webhookd.errors import ERRORS, ApiError
from webhookd.models import DEFAULT_WORKSPACE, Json
from webhookd.web.server.paging import Cursor, Moment
from webhookd.web.server.requests import Error, Route, is_question

_REF = "#/components/schemas/{name}"
_JSON = "application/json"
_USUAL = ("invalid_request", "wrong_host", "internal_error")
_OF_TOKEN = ("unauthorized", "forbidden")
_OF_FIELDS = ("invalid_json", "payload_too_large", "unsupported_media_type", "request_timeout")
_OF_VALUES = ("unknown_field", "invalid_field")
_OWN_TYPES: dict[type, Json] = {
    Moment: {"type": "string", "format": "date-time"},
    Cursor: {"type": "string", "description": "`next` of the page before"},
}
_RETRY_AFTER = {
    "Retry-After": {"description": "Seconds until it makes sense to try again", "schema": {"type": "integer"}}
}


def document(routes: Iterable[Route]) -> bytes:
    """The document, as JSON."""
    routes = list(routes)
    schemas = _Schemas(routes)
    paths: defaultdict[str, Json] = defaultdict(dict)
    for route in routes:
        for path in paths_of(route):
            paths[path][route.method.lower()] = _operation(route, path, schemas)
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "webhookd",
                "version": webhookd.__version__,
                "description": "Outgoing webhooks as one small daemon: signed, in order, never lost once accepted. "
                "Every path below /v1/workspaces/{workspace} also exists below /v1, for the workspace `default`.",
            },
            "servers": [{"url": "/"}],
            "security": [{"token": []}],
            "paths": dict(sorted(paths.items())),
            "components": {
                "schemas": schemas.components,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def with_webhooks(document: bytes, types: Iterable[EventType]) -> bytes:
    """The document with a webhook for each event type."""
    whole = orjson.loads(document)
    whole["webhooks"], schemas = webhooks(types)
    whole["components"]["schemas"] |= schemas
    return orjson.dumps(whole)


def paths_of(route: Route) -> list[str]:
    """The paths that a route is registered under."""
    if not route.workspaced:
        return [route.path]
    return [f"/v1/workspaces/{{workspace}}{route.path}", f"/v1{route.path}"]


class _Schemas:
    """The schemas of everything that the routes name."""

    def __init__(self, routes: Iterable[Route]) -> None:
        types = list(dict.fromkeys(each for route in routes for each in _types(route)))
        found, self.components = msgspec.json.schema_components(
            types, schema_hook=_OWN_TYPES.__getitem__, ref_template=_REF
        )
        self._by_type = dict(zip(types, found, strict=True))
        for body in {route.body for route in routes if route.body is not None}:
            self.components[body.__name__]["additionalProperties"] = False  # `unknown_field`
        self.components["Error"]["properties"]["error"] = {"$ref": _REF.format(name="ErrorDetail")}
        self.components["ErrorDetail"]["properties"]["code"] = {"type": "string", "enum": list(ERRORS)}

    def of(self, form: Any) -> Json:
        """The schema of a type, or of any of several."""
        if isinstance(form, tuple):
            return {"anyOf": [self.of(each) for each in form]}
        schema: Json = self._by_type[form]
        return schema

    def fields(self, struct: type[msgspec.Struct]) -> list[tuple[str, Json, bool]]:
        """Name, schema and whether it is required, of each field of a Struct."""
        shown = self.components[struct.__name__]
        return [(name, schema, name in shown.get("required", [])) for name, schema in shown["properties"].items()]


def _types(route: Route) -> Iterator[Any]:
    yield Error
    for form in (*route.answers.values(), *route.media.values(), route.body, route.query):
        for each in form if isinstance(form, tuple) else (form,):
            if each is not None and not isinstance(each, str):
                yield each


def _operation(route: Route, path: str, schemas: _Schemas) -> Json:
    shorthand = route.workspaced and "{workspace}" not in path
    sentences = [route.description, _who(route), f"Shorthand for workspace `{DEFAULT_WORKSPACE}`." if shorthand else ""]
    operation: Json = {
        "operationId": route.handler.__name__ + ("_default" if shorthand else ""),
        "summary": route.summary,
        "description": " ".join(filter(None, sentences)),
        "tags": [_tag(route)],
        "parameters": [*_path_parameters(path), *_query_parameters(route, schemas)],
        "responses": {
            **{str(status): _answer(status, form, schemas) for status, form in route.answers.items()},
            **_error_answers(route),
        },
    }
    if route.scope is None:
        operation["security"] = []
    if route.body is not None or route.media:
        operation["requestBody"] = _request_body(route, schemas)
    return operation


def _who(route: Route) -> str:
    if route.scope is None:
        return "Open to all."
    scopes = "admin" if route.scope is Scope.ADMIN else f"{route.scope.value} or admin"
    return f"Scope {scopes}" + ("; not for a token bound to a workspace." if route.unbound else ".")


def _tag(route: Route) -> str:
    parts = [part for part in route.path.split("/") if part and part != "v1" and not part.startswith("{")]
    return parts[0]


def _path_parameters(path: str) -> list[Json]:
    names = [part[1:-1].partition(":")[0] for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(route: Route, schemas: _Schemas) -> list[Json]:
    if route.query is None:
        return []
    return [
        {"name": name, "in": "query", "required": required, "allowEmptyValue": True, "schema": _not_null(schema)}
        for name, schema, required in schemas.fields(route.query)
    ]


def _not_null(schema: Json) -> Json:
    """A parameter is there or not; null is how the server sees one that is left out."""
    kept = [each for each in schema.get("anyOf", []) if each != {"type": "null"}]
    return kept[0] if len(kept) == 1 else {name: value for name, value in schema.items() if value is not None}


def _request_body(route: Route, schemas: _Schemas) -> Json:
    if route.body is not None:
        required = bool(schemas.components[route.body.__name__].get("required"))
        return {"required": required, "content": {_JSON: {"schema": schemas.of(route.body)}}}
    content = {
        media: {"schema": {"type": "string", "description": form} if isinstance(form, str) else schemas.of(form)}
        for media, form in route.media.items()
    }
    return {"required": True, "content": content}


def _answer(status: int, form: Any, schemas: _Schemas) -> Json:
    if form is None:
        return {"description": "Done"}
    if isinstance(form, str):
        return {"description": "Done", "content": {form: {"schema": {"type": "string"}}}}
    description = "Some were refused; the accepted ones stand" if status == 422 else "Done"
    return {"description": description, "content": {_JSON: {"schema": schemas.of(form)}}}


def _error_answers(route: Route) -> Json:
    """Per status, the codes that this route may answer with; a status that the row itself gives is left to it."""
    by_status: defaultdict[int, list[str]] = defaultdict(list)
    for code in dict.fromkeys(_codes(route)):
        by_status[ERRORS[code].status].append(code)
    return {
        str(status): _error_answer(status, codes)
        for status, codes in sorted(by_status.items())
        if status not in route.answers
    }


def _codes(route: Route) -> Iterator[str]:
    yield from _USUAL
    if route.scope is not None:
        yield from _OF_TOKEN
        yield from _OF_VALUES
    if route.body is not None:
        yield from _OF_FIELDS
    if "{" in route.path or route.workspaced:
        yield "not_found"
    if is_question(route):
        yield "too_many_questions"
        yield "unavailable"
    yield from route.errors


def _error_answer(status: int, codes: list[str]) -> Json:
    description = " ".join(f"`{code}`: {ERRORS[code].meaning}" for code in codes)
    examples = {code: {"value": ApiError(code, ERRORS[code].meaning).body()} for code in codes}
    content = {_JSON: {"schema": {"$ref": _REF.format(name="Error")}, "examples": examples}}
    answer: Json = {"description": description, "content": content}
    if status in (429, 503, 507):
        answer["headers"] = _RETRY_AFTER
    return answer
