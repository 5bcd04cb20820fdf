"""What every handler speaks: routes, bodies, queries, answers, pages of a list.

Requests are described by msgspec Structs, a body's fields and a query's parameters alike: the Struct is what a handler
gets, what a caller's mistakes are judged by, and what the OpenAPI document shows.  Unknown names are refused, all of
them at once, so that a typing mistake never passes for "left out".
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import msgspec
import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Meta, Struct

from webhookd.admin.tokens import Scope
from webhookd.clock import parse_rfc3339
from webhookd.errors import ApiError, did_you_mean
from webhookd.models import DEFAULT_WORKSPACE, Json, Token
from webhookd.rules.parsing import raise_if_memory_ran_out
from webhookd.web.server.memory_limit import hold
from webhookd.web.services import Services

S = TypeVar("S", bound=Struct)

SERVICES = web.AppKey("services", Services)
CALLER = web.RequestKey("caller", Token)

# For every answer that doesn't say otherwise: it is data, not a page; it is nobody else's; it may not be kept.  And it
# doesn't tell which Python and aiohttp made it.
SECURITY_HEADERS = {
    "Server": "webhookd",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}

JSON_TYPE = "application/json; charset=utf-8"
FIELDS_MAX_BYTES = 256 * 1024
# What aiohttp raises from reading a body whose connection or framing broke; RuntimeError where it did so beforehand.
_BROKEN = (OSError, web.RequestPayloadError, HttpProcessingError, RuntimeError)
_MAX_SEQ = 2**63 - 1  # SQLite's largest rowid; a larger number must not reach a query


@dataclass(frozen=True, slots=True)
class RequestTimeouts:
    """How long a caller may take, in seconds: a whole body, one begun line of a stream, the pause between two lines."""

    body_seconds: float = 30.0
    line_seconds: float = 30.0
    idle_seconds: float = 300.0


PATIENCE = web.AppKey("patience", RequestTimeouts)


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the table of routes: who may call what, and what comes back.

    `path` of a `workspaced` route begins below `/v1/workspaces/{workspace}` and below `/v1` (for `default`); any other
    path is whole.  `scope` None means open to all.  `unbound` routes are refused to tokens bound to a workspace.
    `answers` gives each status of success its form: a Struct or a type made of them, None for no body, or the media
    type of what isn't JSON.  `errors` are the codes that callers of this route should expect beside the usual ones.
    """

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    scope: Scope | None
    summary: str
    answers: Mapping[int, Any]
    body: type[Struct] | None = None
    query: type[Struct] | None = None
    errors: Sequence[str] = ()
    workspaced: bool = False
    unbound: bool = False
    description: str = ""
    media: Mapping[str, Any] = field(default_factory=dict)  # of a body that isn't one JSON object: type and form


class ErrorDetail(Struct):
    """What went wrong: a code for programs, a message for people, values for both."""

    code: str
    message: str
    details: dict[str, Any]


class Error(Struct):
    """The one form of an error."""

    error: ErrorDetail


class Moment(int):
    """A time in a query or a body, RFC 3339 on the wire: milliseconds since 1970."""


class Cursor(str):
    """Where the next page of a list begins; opaque on the wire, the text that `list_response` was given in here."""

    __slots__ = ()

    @property
    def seq(self) -> int:
        """The cursor of a list that is in the order of a table's numbers; Refusal `invalid_request` if it isn't one."""
        if not re.fullmatch(r"[0-9]{1,19}", self) or int(self) > _MAX_SEQ:
            raise _bad_cursor()
        return int(self)


PageSize = Annotated[int, Meta(ge=1, le=500, description="How many at most, from 1 to 500")]


class Paging(Struct, frozen=True, kw_only=True):
    """The parameters of every list."""

    limit: PageSize = 50
    cursor: Cursor | None = None


class NoFields(Struct, frozen=True, kw_only=True):
    """A body or a query that has nothing to say."""


def services_of(request: web.Request) -> Services:
    """The parts of the house."""
    return request.app[SERVICES]


def caller(request: web.Request) -> Token | None:
    """The token that the caller showed; None where a route is open or local callers are trusted."""
    return request.get(CALLER)


def workspace_id(request: web.Request) -> str:
    """The workspace that the path names, or `default`."""
    return request.match_info.get("workspace", DEFAULT_WORKSPACE)


def json_response(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer in JSON."""
    return web.Response(body=orjson.dumps(data), status=status, headers={"Content-Type": JSON_TYPE, **(headers or {})})


def list_response(data: Sequence[Json], next_cursor: str | int | None) -> web.Response:
    """A page of a list; `next_cursor` is what `Paging.cursor` will hold for the next one, None at the end."""
    return json_response({"data": data, "next": None if next_cursor is None else _encode_cursor(str(next_cursor))})


def no_content() -> web.Response:
    """The answer to DELETE."""
    return web.Response(status=204)


def read_query(request: web.Request, struct_type: type[S]) -> S:
    """The query's parameters.  One that is there and empty counts as left out.

    Raises Refusal: `unknown_field` (all of them), `invalid_field`, `invalid_request` (the cursor).
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
        if getattr(read, name) is None:  # msgspec takes the word null for None where a text isn't expected
            raise invalid_field(name, f"is not as it should be: {value!r}")
    return read


async def read_fields(request: web.Request, struct_type: type[S]) -> S:
    """The body's fields; no body counts as `{}`.

    Raises Refusal: `unknown_field` (all of them), `invalid_field`, `invalid_json`, `unsupported_media_type`,
    `payload_too_large`, `request_timeout`.
    """
    if request.body_exists:
        check_encoding(request)
        if media_type(request) != "application/json":
            raise media_type_refused(request, "application/json")
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
    """Refuse a body that is compressed: what is signed and kept is the text itself, and a bomb can't be sent."""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise ApiError(
            "unsupported_media_type",
            f"Content-Encoding {encoding[:40]!r} is not taken: send the body as it is.",
        )


def media_type(request: web.Request) -> str:
    """The body's media type, lower case and bare; JSON where none is given, "" for text in another encoding."""
    given = request.headers.get("Content-Type", "application/json")
    if given == "application/json":
        return given
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
        return ""
    return request.content_type


def media_type_refused(request: web.Request, *takes: str) -> ApiError:
    """The refusal of a body of another type than those that the path takes."""
    given = request.headers.get("Content-Type", "")[:100]
    return ApiError(
        "unsupported_media_type",
        f"Content-Type {given!r} is not taken here: send {' or '.join(takes)}, in UTF-8.",
        details={"takes": list(takes)},
    )


async def read_body(request: web.Request, max_bytes: int) -> bytes:
    """The whole body.  Refusal `payload_too_large` before anything larger is held, `request_timeout`, `unavailable`."""
    if (request.content_length or 0) > max_bytes:
        raise request_too_large(max_bytes)
    content = request.content
    if content.is_eof() and content.exception() is None:  # it came in one piece with its headers: no waiting, no timer
        body = content.read_nowait(-1)
        if len(body) > max_bytes:
            raise request_too_large(max_bytes)
        hold(request, len(body))
        return body
    timeouts = request.app[PATIENCE].body_seconds
    until = asyncio.get_running_loop().time() + timeouts
    parts = bytearray()
    try:
        while chunk := await read_some(request, until - asyncio.get_running_loop().time()):
            if len(parts) + len(chunk) > max_bytes:
                raise request_too_large(max_bytes)
            hold(request, len(chunk))
            parts += chunk
    except TimeoutError:
        message = f"The body did not arrive within {timeouts:g} seconds; nothing was done."
        raise ApiError("request_timeout", message) from None
    return bytes(parts)


async def read_some(request: web.Request, seconds: float) -> bytes:
    """What has come of the body as soon as anything has, b"" at its end.

    Raises TimeoutError after `seconds`; Refusal `invalid_request` if the connection ended or the framing is wrong.
    """
    try:
        async with asyncio.timeout(max(seconds, 0)) as limit:
            return await request.content.readany()
    except _BROKEN as error:
        if limit.expired() and isinstance(error, TimeoutError):
            raise
        raise ApiError("invalid_request", "The body broke off, or its framing is wrong.") from None


def read_arrived(request: web.Request) -> bytes:
    """What has come of the body so far, without waiting."""
    try:
        return request.content.read_nowait()
    except _BROKEN:
        return b""


def request_too_large(max_bytes: int) -> ApiError:
    """The refusal of a request of more than `max_bytes`."""
    return ApiError(
        "payload_too_large", f"The request is larger than {max_bytes} bytes.", details={"max_bytes": max_bytes}
    )


def invalid_field(name: str, fault: str) -> ApiError:
    """The refusal of a field or a parameter: `fault` goes on from its name."""
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
        return msgspec.convert(given, struct_type, strict=strict, dec_hook=_decode_own)
    except msgspec.ValidationError as error:
        raise _as_refusal(str(error)) from None


def _decode_own(wanted: type, value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("expected a string")
    if wanted is Cursor:
        return Cursor(_decode_cursor(value))
    if wanted is Moment:
        try:
            return Moment(parse_rfc3339(value))
        except (ValueError, OverflowError):
            raise ValueError("expected a time as RFC 3339 has it: 2026-01-31T12:00:00Z") from None
    raise NotImplementedError(wanted)


def _as_refusal(fault: str) -> ApiError:
    """msgspec's one sentence about a fault (`… - at `$.name``), said of the field that it names."""
    missing = re.fullmatch(r"Object missing required field `(.+)`", fault)
    if missing:
        return invalid_field(missing[1], "is required")
    found = re.fullmatch(r"(.*) - at `(?:key in )?\$\.?(.*)`", fault, re.DOTALL)
    what, path = (found[1], found[2]) if found else (fault, "")
    name = re.split(r"[.\[]", path)[0]
    where = f" (at {path})" if path != name else ""
    return invalid_field(name, f"is not as it should be: {what[:1].lower()}{what[1:]}{where}".replace("`", ""))


def _encode_cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> str:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise _bad_cursor() from None
    if not text or len(text) > 200:
        raise _bad_cursor()
    return text


def _bad_cursor() -> ApiError:
    return ApiError("invalid_request", "The cursor is none of this list's: take `next` of the page before, as it is.")
