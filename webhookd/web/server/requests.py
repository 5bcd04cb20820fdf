"""Routes, and reading requests: bodies and queries.

A msgspec Struct describes a body's fields or a query's parameters, for handlers, validation and the OpenAPI document.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct, inspect

from webhookd.admin.tokens import Scope
from webhookd.errors import ApiError, did_you_mean
from webhookd.models import Token, Workspace
from webhookd.rules.parsing import raise_if_memory_ran_out
from webhookd.web.server.memory_limit import acquire_memory
from webhookd.web.server.paging import decode_own
from webhookd.web.services import Services

S = TypeVar("S", bound=Struct)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SERVICES = web.AppKey("services", Services)
CALLER = web.RequestKey("caller", Token)
WORKSPACE = web.RequestKey("workspace", Workspace)

WRITE_ERRORS = ("storage_full", "unavailable")  # of what is written to the database
FIELDS_MAX_BYTES = 256 * 1024
# What aiohttp raises on reading a body whose connection or framing broke; RuntimeError if it broke before.
_BROKEN = (OSError, web.RequestPayloadError, HttpProcessingError, RuntimeError)


@dataclass(frozen=True, slots=True)
class RequestTimeouts:
    """How long a caller may take, in seconds: a whole body, one begun line of a stream, the pause between two lines."""

    body_seconds: float = 30.0
    line_seconds: float = 30.0
    idle_seconds: float = 300.0


REQUEST_TIMEOUTS = web.AppKey("request_timeouts", RequestTimeouts)


@dataclass(frozen=True, slots=True)
class Route:
    """One route: who may call it, and what it answers.

    `path` of a `workspaced` route begins below `/v1/workspaces/{workspace}` and below `/v1` (for `default`); any other
    path is complete.  `scope` None means open to all.  `unbound` routes refuse tokens bound to a workspace.  `answers`
    maps each success status to its schema: a Struct or a type made of them, None for no body, or the media type of
    what isn't JSON.  `errors` are the codes of this route besides the usual ones.
    """

    method: str
    path: str
    handler: Handler
    scope: Scope | None
    summary: str
    answers: Mapping[int, Any]
    description: str = ""
    body: type[Struct] | None = None
    query: type[Struct] | None = None
    errors: Sequence[str] = ()
    workspaced: bool = False
    unbound: bool = False
    media: Mapping[str, Any] = field(default_factory=dict)  # of a body that isn't one JSON object: type and schema


def is_question(route: Route) -> bool:
    """Whether it only reads, and has an end; `QuestionLimit` bounds these."""
    return route.method == "GET" and route.scope is not None and "text/event-stream" not in route.answers.values()


class Routes(list[Route]):
    """The routes of a module, in order.  Called with a route's row, it is the decorator of its handler.

    The handler's docstring is what the document says: its first line the summary, the rest the description.
    """

    def __init__(self, *, workspaced: bool = False) -> None:
        super().__init__()
        self._workspaced = workspaced

    def __call__(
        self, method: str, path: str, answers: Mapping[int, Any], *, scope: Scope | None = Scope.ADMIN, **row: Any
    ) -> Callable[[Handler], Handler]:
        """A decorator that adds its handler with this row; see `Route` for the rest of it."""

        def add(handler: Handler) -> Handler:
            summary, _, more = (handler.__doc__ or "").partition("\n")
            row.setdefault("workspaced", self._workspaced)
            description = " ".join(more.split())
            self.append(Route(method, path, handler, scope, summary.rstrip("."), answers, description, **row))
            return handler

        return add


class ErrorDetail(Struct):
    """What went wrong: a code for programs, a message for people, values for both."""

    code: str
    message: str
    details: dict[str, Any]


class Error(Struct):
    """The one form of an error."""

    error: ErrorDetail


class NoFields(Struct, frozen=True, kw_only=True):
    """An empty body or query."""


def services_of(request: web.Request) -> Services:
    """The services of the application."""
    return request.app[SERVICES]


def caller(request: web.Request) -> Token | None:
    """The caller's token; None where a route is open or local callers are trusted."""
    return request.get(CALLER)


def workspace_of(request: web.Request) -> Workspace:
    """The workspace that the path names, or `default`, as it was when the guard let the request in.

    Over an `await` only its number is sure to mean the same workspace.
    """
    return request[WORKSPACE]


def read_query(request: web.Request, struct_type: type[S]) -> S:
    """The query's parameters.  An empty one counts as left out.

    Raises ApiError: `unknown_field` (all of them), `invalid_field`, `invalid_request` (the cursor).
    """
    query = request.rel_url.query
    values: dict[str, str] = {}
    for name, value in query.items():
        if name in values:
            raise invalid_field(name, "is given twice")
        values[name] = value
    _refuse_unknown(values, struct_type, "parameter")
    given = {name: value for name, value in values.items() if value}
    read = _convert(given, struct_type, strict=False)
    for name, value in given.items():
        if getattr(read, name) is None:  # msgspec reads the word null as None where it expects no string
            raise invalid_field(name, f"is not as it should be: {value!r}")
    return read


async def read_fields(request: web.Request, struct_type: type[S]) -> S:
    """The body's fields; no body counts as `{}`.

    Raises ApiError: `unknown_field` (all of them), `invalid_field`, `invalid_json`, `unsupported_media_type`,
    `payload_too_large`, `request_timeout`.
    """
    if request.body_exists:
        check_encoding(request)
        if media_type(request) != "application/json":
            raise unsupported_media_type(request, "application/json")
    body = await read_body(request, FIELDS_MAX_BYTES)
    try:
        fields = orjson.loads(body) if body.strip() else {}
    except orjson.JSONDecodeError as error:
        raise_if_memory_ran_out(error)
        raise ApiError(
            "invalid_json",
            f"The body is not JSON: {error.msg}, at line {error.lineno}, column {error.colno}.",
            details={"line": error.lineno, "column": error.colno},
        ) from None
    if not isinstance(fields, dict):
        raise ApiError("invalid_field", "The body must be one JSON object.", details={"field": ""})
    _refuse_unknown(fields, struct_type, "field")
    return _convert(fields, struct_type, strict=True)


def check_encoding(request: web.Request) -> None:
    """Refuse a compressed body: webhookd signs and keeps the text itself, and this rules out decompression bombs."""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise ApiError(
            "unsupported_media_type", f"Content-Encoding {encoding[:40]!r} is not taken: send the body as it is."
        )


def media_type(request: web.Request) -> str:
    """The body's media type in lower case, without parameters; JSON if none is given, "" for a charset but UTF-8."""
    given = request.headers.get("Content-Type", "application/json")
    if given == "application/json":
        return given
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
        return ""
    return request.content_type


def unsupported_media_type(request: web.Request, *takes: str) -> ApiError:
    """The error for a body of another media type than those that the path accepts."""
    given = request.headers.get("Content-Type", "")[:100]
    return ApiError(
        "unsupported_media_type",
        f"Content-Type {given!r} is not taken here: send {' or '.join(takes)}, in UTF-8.",
        details={"takes": list(takes)},
    )


async def read_body(request: web.Request, max_bytes: int) -> bytes:
    """The whole body.  ApiError `payload_too_large` before more is in memory, `request_timeout`, `unavailable`."""
    if (request.content_length or 0) > max_bytes:
        raise request_too_large(max_bytes)
    content, workspace_seq = request.content, request[WORKSPACE].seq if WORKSPACE in request else None
    if content.is_eof() and content.exception() is None:  # it came with its headers: no timer is needed
        body = content.read_nowait(-1)
        if len(body) > max_bytes:
            raise request_too_large(max_bytes)
        acquire_memory(request, len(body), workspace_seq)
        return body
    timeout_seconds = request.app[REQUEST_TIMEOUTS].body_seconds
    until = asyncio.get_running_loop().time() + timeout_seconds
    parts = bytearray()
    try:
        while chunk := await read_some(request, until - asyncio.get_running_loop().time()):
            if len(parts) + len(chunk) > max_bytes:
                raise request_too_large(max_bytes)
            acquire_memory(request, len(chunk), workspace_seq)
            parts += chunk
    except TimeoutError:
        message = f"The body did not arrive within {timeout_seconds:g} seconds; nothing was done."
        raise ApiError("request_timeout", message) from None
    return bytes(parts)


async def read_some(request: web.Request, seconds: float) -> bytes:
    """The next part of the body, as soon as there is any; b"" at its end.

    Raises TimeoutError after `seconds`; ApiError `invalid_request` if the connection ended or the framing is wrong.
    """
    try:
        async with asyncio.timeout(max(seconds, 0)) as limit:
            return await request.content.readany()
    except _BROKEN as error:
        if limit.expired() and isinstance(error, TimeoutError):
            raise
        raise ApiError("invalid_request", "The body broke off, or its framing is wrong.") from None


def read_arrived(request: web.Request) -> bytes:
    """The part of the body that has arrived, without waiting."""
    try:
        return request.content.read_nowait()
    except _BROKEN:
        return b""


def request_too_large(max_bytes: int) -> ApiError:
    """The error for a request of more than `max_bytes`."""
    return ApiError(
        "payload_too_large", f"The request is larger than {max_bytes} bytes.", details={"max_bytes": max_bytes}
    )


def invalid_field(name: str, fault: str) -> ApiError:
    """The error for a field or a parameter: `fault` follows its name in the message."""
    return ApiError("invalid_field", f"{name} {fault}.", details={"field": name})


def _refuse_unknown(given: Mapping[str, Any], struct_type: type[Struct], kind: str) -> None:
    known = [each.encode_name for each in msgspec.structs.fields(struct_type)]
    unknown = [name for name in given if name not in known]
    if not unknown:
        return
    shown = [name[:100] for name in unknown[:20]]
    nearest = did_you_mean(shown[0], known)
    advice = f'did you mean "{nearest}"?' if nearest else f"known are: {', '.join(known) or 'none'}."
    plural = "s" if len(unknown) > 1 else ""
    raise ApiError(
        "unknown_field", f"Unknown {kind}{plural} {', '.join(map(repr, shown))}: {advice}", details={"fields": shown}
    )


def _convert(given: Mapping[str, Any], struct_type: type[S], *, strict: bool) -> S:
    try:
        return msgspec.convert(given, struct_type, strict=strict, dec_hook=decode_own)
    except msgspec.ValidationError as error:
        raise _unknown_word(given, struct_type, str(error)) or _validation_error(str(error)) from None


def _unknown_word(given: Mapping[str, Any], struct_type: type[Struct], fault: str) -> ApiError | None:
    """The error for a word that a field doesn't have (`state=droped`), with the nearest that it has; else None."""
    found = re.fullmatch(r"Invalid enum value .* - at `\$\.(\w+)`", fault, re.DOTALL)
    if found is None:
        return None
    words, or_else = _words(struct_type, found[1])
    given_word = str(given[found[1]])[:100]
    nearest = did_you_mean(given_word, words, cutoff=0.0)
    advice = f'did you mean "{nearest}"? It is one of {", ".join(words)}{or_else}'
    error = invalid_field(found[1], f"is {given_word!r}: {advice}")
    error.details["nearest"] = nearest
    return error


def _words(struct_type: type[Struct], name: str) -> tuple[list[str], str]:
    """The words that a field may have, and what it may be instead."""
    info = inspect.type_info(struct_type)
    assert isinstance(info, inspect.StructType)
    [wanted] = [field.type for field in info.fields if field.encode_name == name]
    words: list[str] = []
    or_else = ""
    kinds = [wanted]
    for kind in kinds:  # it grows
        if isinstance(kind, inspect.Metadata):
            kinds.append(kind.type)
        elif isinstance(kind, inspect.UnionType):
            kinds += kind.types
        elif isinstance(kind, inspect.EnumType):
            words += [each.value for each in kind.cls]
        elif isinstance(kind, inspect.LiteralType):
            words += map(str, kind.values)
        elif isinstance(kind, inspect.StructType):
            or_else = ", or an object"
    return words, or_else


def _validation_error(fault: str) -> ApiError:
    """The error for msgspec's message (`… - at `$.name``), with the field that it names."""
    missing = re.fullmatch(r"Object missing required field `([^`]+)`(?: - at `\$\.(\w+).*`)?", fault)
    if missing:
        return (
            invalid_field(missing[2], f"has no {missing[1]}")
            if missing[2]
            else invalid_field(missing[1], "is required")
        )
    found = re.fullmatch(r"(.*) - at `(?:key in )?\$\.?(.*)`", fault, re.DOTALL)
    what, path = (found[1], found[2]) if found else (fault, "")
    name = re.split(r"[.\[]", path)[0]
    where = f" (at {path})" if path != name else ""
    return invalid_field(name, f"is not as it should be: {what[:1].lower()}{what[1:]}{where}".replace("`", ""))
