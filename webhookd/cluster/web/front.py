"""The one HTTP server before all partitions: each request goes to the app of its workspace, here or elsewhere.

A request names its workspace in its path or query, else it is `default`'s.  What concerns all workspaces is gathered
(`gather`); what is named by an id alone is looked for in every partition.  The rest is answered by the partition of
`default`, the *home*.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qs

import orjson
from aiohttp import hdrs, web

from webhookd.admin.tokens import secret_digest
from webhookd.cluster.names import (
    CALLER_HEADER,
    PARTITION_CHOICE_HEADER,
    PASSED_EVENTS_PATH,
    TOKEN_HEADER,
    partition_of,
)
from webhookd.cluster.web import gather
from webhookd.cluster.web.forward import FORWARDED_FROM, Forwarder, Owner
from webhookd.cluster.web.passed_events import EventCollector, event_of
from webhookd.errors import ApiError
from webhookd.models import DEFAULT_WORKSPACE
from webhookd.web.server.caller_address import AddressOf
from webhookd.web.server.http_server import ReadyResponse
from webhookd.web.server.requests import Handler
from webhookd.web.server.responses import SECURITY_HEADERS, error_response, internal_error, json_response
from webhookd.web.ui.pages import PORTAL

# How long a request waits for a partition that is moving, before it is refused.
MOVING_SECONDS = 3.0
POLL_SECONDS = 0.05
PEEKED_BYTES = 256 * 1024
_EVENTS = re.compile(r"/v1/(?:workspaces/([^/]+)/)?events")
_NAMED = re.compile(r"/(?:v1/)?workspaces/([^/]+)")
# Found by an id that says nothing of its partition: asked one after the other until one knows it.
_SEARCHED = re.compile(r"/v1/(?:tokens|sessions)/[^/]+|/access/(?:tokens|sessions)/[^/]+/[a-z]+|/confirm-address")
_OF_THIS_MACHINE = ("/healthz", "/readyz", "/v1/backup")
# The same by a secret or a code in the form.
_SEARCHED_BY_FORM = ("/sign-in", "/portal", "/confirm-address")
# The body says which workspace it is about: the path, and the field.
_IN_BODY = {"/v1/workspaces": "id", "/v1/tokens": "workspace", "/access/tokens": "workspace"}


@dataclass(frozen=True, slots=True)
class Places:
    """Where partitions are: `local` answers for one that is served here, `owner` is the address of another's."""

    partitions: int
    local: Callable[[int], Handler | None]
    owner: Callable[[int], str]
    ready: Callable[[], Awaitable[str]]
    metrics: Callable[[], Awaitable[str]]
    workspace_of_session: Callable[[str], str]
    # What a program of this machine that needs no token gets where another machine answers.
    trusted: Callable[[web.Request], dict[str, str]]


class Front:
    """Routes requests; `answer` is all that the server calls."""

    def __init__(
        self,
        places: Places,
        forwarder: Forwarder,
        collector: EventCollector,
        token: str,
        address_of: AddressOf,
    ) -> None:
        self._places = places
        self._forwarder = forwarder
        self._collector = collector
        self._token = token.encode()
        self._address_of = address_of
        self._home = partition_of(DEFAULT_WORKSPACE, places.partitions)
        self._order = [self._home, *(each for each in range(places.partitions) if each != self._home)]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        try:
            response = await self._answer(request)
        except ApiError as error:
            response = error_response(error)
        except ConnectionError:
            raise
        except Exception as error:
            fault = internal_error(request.method, request.path, error)
            if request.writer.output_size > 0:
                raise ConnectionResetError("the answer had begun") from error
            response = error_response(fault)
        if not response.prepared:
            for name, value in SECURITY_HEADERS.items():
                response.headers.setdefault(name, value)
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path in _OF_THIS_MACHINE:
            return await self._of_this_machine(path)
        if TOKEN_HEADER in request.headers:
            return await self._for_another(request)
        if path == PASSED_EVENTS_PATH:
            raise ApiError("not_found", "This path is for the other machines of the cluster.")
        if request.method in ("GET", "HEAD") and path in gather.LISTS:
            return await gather.pages(request, self._places.partitions, self._home, self._ask)
        if request.method == "GET" and path == "/v1/status":
            return await gather.status(request, self._places.partitions, self._ask)
        if request.method == "GET" and path == "/metrics":
            return await self._metrics(request)
        if _SEARCHED.fullmatch(path) and not request.body_exists:
            return await self._search(request)
        if request.method == "POST" and path in _SEARCHED_BY_FORM:
            return await self._search_by_form(request)
        return await self._send(request, await self._partition_of(request))

    async def _of_this_machine(self, path: str) -> web.StreamResponse:
        if path == "/healthz":
            return json_response({"status": "ok"})
        if path == "/v1/backup":
            raise ApiError("not_found", "In a cluster the events are in NATS: back up its streams, not a database.")
        trouble = await self._places.ready()
        if trouble:
            raise ApiError("unavailable", f"Not ready: {trouble}.", retry_after_seconds=2)
        return json_response({"status": "ready"})

    async def _for_another(self, request: web.Request) -> web.StreamResponse:
        """Another machine passed it on: it is answered here or not at all, so that none goes in a circle."""
        if not hmac.compare_digest(request.headers[TOKEN_HEADER].encode(), self._token):
            raise ApiError("unauthorized", "The machines of this cluster don't have the same cluster.token_file.")
        request[FORWARDED_FROM] = request.headers.get(CALLER_HEADER, "unknown")
        choice = request.headers.get(PARTITION_CHOICE_HEADER, "")
        number = int(choice) if choice.isdecimal() else self._home
        handler = await self._served(number, lambda: False)
        if handler is None:
            raise _moving(number)
        return await handler(request)

    async def _partition_of(self, request: web.Request) -> int:
        found = _NAMED.match(request.path)
        if request.path.startswith("/v1/cluster"):
            return next((each for each in self._order if self._places.local(each)), self._home)
        if found or request.path.startswith("/v1/"):
            named = found[1] if found else ""
        else:
            named = self._of_session(request) or request.rel_url.query.get("workspace", "")
        field = _IN_BODY.get(request.path)
        if field is not None and request.method == "POST":
            named = await _peek(request, field)
        return partition_of(named or DEFAULT_WORKSPACE, self._places.partitions)

    def _of_session(self, request: web.Request) -> str:
        """The one workspace that the reader of the page may see; "" for those who choose."""
        portal = "portal_" if request.path.startswith(PORTAL) else ""
        for name in (f"webhookd_{portal}session", f"__Host-webhookd_{portal}session"):
            if secret := request.cookies.get(name):
                return self._places.workspace_of_session(secret_digest(secret).hex())
        return ""

    async def _send(self, request: web.Request, number: int, body: bytes | None = None) -> web.StreamResponse:
        """`body` is the request's, where it has been read: then it goes as it came."""
        handler = await self._served(number, lambda: bool(self._places.owner(number)))
        if handler is not None:
            return await handler(request)
        advertise = self._places.owner(number)
        if not advertise:
            raise _moving(number)
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        extra = self._places.trusted(request)
        owner = Owner(advertise, number, lambda: self._places.owner(number) == advertise)
        if request.method == "POST" and body is None and (found := _EVENTS.fullmatch(request.path)):
            event = event_of(request, found[1] or DEFAULT_WORKSPACE, extra)
            if event is not None:
                answer = await self._collector.post(event, owner)
                if answer is not None:
                    return ReadyResponse(answer, 202)
                request.content.unread_data(event.body)
                return await self._send(request, number, body=event.body)
        caller = self._address_of(request)
        return await self._forwarder.forward(request, owner, caller=caller, extra=extra, body=body)

    async def _served(self, number: int, elsewhere: Callable[[], bool]) -> Handler | None:
        """The handler of a partition once it is served here; None if it is `elsewhere`, or for too long nowhere."""
        until = asyncio.get_running_loop().time() + MOVING_SECONDS
        while True:
            handler = self._places.local(number)
            if handler is not None:
                return handler
            if elsewhere() or asyncio.get_running_loop().time() > until:
                return None
            await asyncio.sleep(POLL_SECONDS)

    async def _ask(self, request: web.Request, number: int, path_qs: str) -> gather.Answer:
        """A partition's answer to a GET with another query."""
        handler = await self._served(number, lambda: bool(self._places.owner(number)))
        if handler is not None:
            response = await handler(request.clone(rel_url=path_qs))
            body = response.body if isinstance(response, web.Response) else b""
            assert isinstance(body, bytes | bytearray | None)
            return gather.Answer(response.status, bytes(body or b""), dict(response.headers))
        owner = self._places.owner(number)
        if not owner:
            raise _moving(number)
        caller = self._address_of(request)
        found = await self._forwarder.ask(request, owner, caller=caller, partition=number, path_qs=path_qs)
        return gather.Answer(*found)

    async def _search(self, request: web.Request) -> web.StreamResponse:
        """Ask one partition after the other, the home first, until one knows it."""
        answer = None
        for number in self._order:
            answer = await self._ask(request, number, request.raw_path)
            if answer.status not in (401, 404):
                break
        assert answer is not None
        return answer.response()

    async def _search_by_form(self, request: web.Request) -> web.StreamResponse:
        """Try a secret or a code in one partition after the other: only its own knows it."""
        if (request.content_length or PEEKED_BYTES) >= PEEKED_BYTES:
            return await self._send(request, self._home)
        body = await request.content.read()
        refused: web.StreamResponse | None = None
        for number in self._order:
            request.content.unread_data(body)
            response = await self._send(request, number, body=body)
            if response.status == 303:
                return response
            refused = refused or response
            request.content.read_nowait()  # what its handler left
        assert refused is not None
        return refused

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        """Of the partitions that are served here: each machine is scraped by itself."""
        numbers = [each for each in range(self._places.partitions) if self._places.local(each) is not None]
        answers = [await self._ask(request, number, request.raw_path) for number in numbers]
        if not answers:
            raise ApiError("unavailable", "This machine has no partition just now.", retry_after_seconds=2)
        return gather.metrics(answers, await self._places.metrics())


async def _peek(request: web.Request, field: str) -> str:
    """A field of the body, which is left to be read; "" if it has none."""
    if (request.content_length or 0) > PEEKED_BYTES:
        return ""
    body = await request.content.read()
    request.content.unread_data(body)
    if request.content_type == "application/x-www-form-urlencoded":
        return parse_qs(body.decode("utf-8", "replace")).get(field, [""])[-1]
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    named = value.get(field) if isinstance(value, dict) else None
    return named if isinstance(named, str) else ""


def _moving(number: int) -> ApiError:
    return ApiError(
        "unavailable",
        f"No machine has partition {number} just now; one takes it within seconds.",
        retry_after_seconds=2,
    )
