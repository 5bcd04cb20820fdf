"""Responses: JSON, lists, and every error in one form; also as bytes, where there is no request to answer."""

from __future__ import annotations

import base64
import hashlib
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import orjson
from aiohttp import web

from webhookd import log
from webhookd.errors import ApiError
from webhookd.models import Json
from webhookd.sender.host import SHORTAGES

# On every answer that does not set its own: data, not a page; private; not to be stored; no version of Python or
# aiohttp.
SECURITY_HEADERS = {
    "Server": "webhookd",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
T = TypeVar("T")

JSON_TYPE = "application/json; charset=utf-8"
SHORTAGE_RETRY_SECONDS = 2


def json_response(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer in JSON."""
    return web.Response(body=orjson.dumps(data), status=status, headers={"Content-Type": JSON_TYPE, **(headers or {})})


def one_page(found: Sequence[T], limit: int, *, key: str = "seq") -> tuple[Sequence[T], str | int | None]:
    """The first `limit` of what was found, and the `key` of the last of them if there are more."""
    page = found[:limit]
    return page, getattr(page[-1], key) if len(found) > limit else None


def list_response(data: Sequence[Json], next_cursor: str | int | None) -> web.Response:
    """A page of a list; `next_cursor` is the `Paging.cursor` of the next page, None at the end."""
    encoded = base64.urlsafe_b64encode(str(next_cursor).encode()).decode().rstrip("=")
    return json_response({"data": data, "next": None if next_cursor is None else encoded})


def no_content() -> web.Response:
    """The answer to DELETE."""
    return web.Response(status=204)


def error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error as an answer."""
    extra = dict(headers or {})
    if error.retry_after_seconds is not None:
        extra["Retry-After"] = str(error.retry_after_seconds)
    if error.status == 401:
        extra["WWW-Authenticate"] = 'Bearer realm="webhookd"'
    return json_response(error.body(), error.status, extra)


def wire_bytes(answer: web.Response) -> bytes:
    """An answer as its bytes on the wire, for a connection on which no request was read; it closes the connection."""
    body = answer.body
    assert isinstance(body, bytes)
    headers = {**SECURITY_HEADERS, **answer.headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {answer.status} {answer.reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def internal_error(method: str, path: str, error: BaseException) -> ApiError:
    """The error for an unexpected exception, which is logged in full; `unavailable` where a resource ran out."""
    if is_shortage(error):
        log.throttled("resource.exhausted", error=f"{type(error).__name__}: {error}")
        return ApiError(
            "unavailable",
            "The machine has no descriptor, memory or thread left for this. Try again in a moment.",
            retry_after_seconds=SHORTAGE_RETRY_SECONDS,
        )
    text = "".join(traceback.format_exception(error))
    places = [f"{each.filename}:{each.lineno}" for each in traceback.extract_tb(error.__traceback__)]
    incident = hashlib.sha256("\n".join([type(error).__name__, *places]).encode()).hexdigest()[:12]
    log.throttled("request.failed", key=incident, incident=incident, method=method, path=path, status=500, error=text)
    return ApiError(
        "internal_error",
        f"webhookd failed at this, which is a fault of its own. Its log has it as incident {incident}.",
        details={"incident": incident},
    )


def is_shortage(error: BaseException) -> bool:
    """Whether the machine ran out of a resource, which passes by itself."""
    if isinstance(error, OSError):
        return error.errno in SHORTAGES
    return isinstance(error, MemoryError) or "can't start new thread" in str(error)
