"""`GET …/deliveries/stream`: what happens, as it happens, as server-sent events (WHATWG HTML, section 9.2).

Each message has the id of the happening, its kind (`delivery.accepted`, `delivery.attempted`) and, as data, the
delivery as it then was.  A client that lost its connection says the last id that it saw in `Last-Event-ID` and is told
what it missed: from the ring in memory, else from the table.  Where even that would be too much, one message of the
kind `reset` tells it to read the list again.

A client that reads too slowly is cut off and may come back the same way; it never makes memory grow.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from contextlib import suppress

import orjson
from aiohttp import web

from webhookd.admin.tokens import Scope
from webhookd.delivery.live_feed import FeedEvent, Subscription
from webhookd.models import DeliveryView, Json
from webhookd.store import delivery_log
from webhookd.store.delivery_log import LogFilter
from webhookd.web.api.deliveries import DeliveryFilter, wanted_of
from webhookd.web.api.schemas import show_delivery
from webhookd.web.server.requests import Route, caller, read_query, services_of, workspace_id
from webhookd.web.server.responses import SECURITY_HEADERS
from webhookd.web.services import Services

HEARTBEAT_SECONDS = 15.0
# How long a client may read nothing at all before it is cut off.
WRITE_SECONDS = 30.0
# After a lost connection a browser waits this long.
RETRY_MS = 2000
MISSED = 1000
_CHUNK_BYTES = 32 * 1024

_ID = re.compile(r"([0-9]{1,15})-[0-9]{1,15}")
_RESET = {"reason": "More happened than can be told one by one. Read the list again."}


async def stream_deliveries(request: web.Request) -> web.StreamResponse:
    """What happens to the deliveries of a filter."""
    services, workspace = services_of(request), workspace_id(request)
    wanted = await wanted_of(services, workspace, read_query(request, DeliveryFilter))
    token = caller(request)

    def allowed() -> bool:
        known = {each.id for each in services.tokens.list()}
        return token is None or token.id in known

    return await stream(request, services, workspace, wanted, allowed)


async def stream(
    request: web.Request, services: Services, workspace: str, wanted: LogFilter, allowed: Callable[[], bool]
) -> web.StreamResponse:
    """Answer with the live stream until the client leaves, is too slow, or the daemon stops.

    `allowed` is asked with each heartbeat: the stream ends with whatever allowed it, and with its workspace.
    """
    subscription = services.live_feed.subscribe()
    try:
        response = web.StreamResponse(
            headers={**SECURITY_HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        with suppress(ConnectionError):  # the client has gone, which is how most streams end
            await _Telling(response, services, workspace, wanted, allowed).tell(subscription, _last_id(request))
    except TimeoutError:  # it reads nothing: nothing more can be said to it
        if request.transport is not None:
            request.transport.abort()
    finally:
        services.live_feed.unsubscribe(subscription)
    return response


class _Telling:
    """One stream on its way to one client."""

    def __init__(
        self,
        response: web.StreamResponse,
        services: Services,
        workspace: str,
        wanted: LogFilter,
        allowed: Callable[[], bool],
    ) -> None:
        self._response = response
        self._services = services
        self._workspace = workspace
        self._wanted = wanted
        self._allowed = allowed
        self._seen_id = ""

    async def tell(self, subscription: Subscription, last_id: str) -> None:
        """Tell what was missed, then what comes."""
        await self._begin(last_id)
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    happened = await subscription.next()
            except TimeoutError:
                if not self._allowed() or not self._exists():
                    return
                await self._write([_frame(comment="", id=self._seen_id)])
                continue
            if not happened:
                return
            self._seen_id = happened[-1].id
            await self._write(self._frames(happened))

    async def _begin(self, last_id: str) -> None:
        # Whoever listens already is handed what comes, so nothing falls between these and the first look at that.
        self._seen_id = self._services.live_feed.now_id
        missed = self._services.live_feed.since(last_id) if last_id else []
        frames = [f"retry: {RETRY_MS}\n\n".encode()]
        if missed is not None:
            frames += self._frames(missed)
        else:
            frames += await self._missed(last_id)
        await self._write([*frames, _frame(comment="", id=self._seen_id)])

    async def _missed(self, last_id: str) -> list[bytes]:
        """What the ring doesn't know, as far as the table does."""
        found = _ID.fullmatch(last_id)
        since_ms = int(found[1]) if found is not None else None
        views: list[DeliveryView] | None = None
        if since_ms is not None and since_ms <= self._services.clock.wall_ms():
            views = await self._services.store.read(
                lambda db: delivery_log.changed_since(db, self._wanted, since_ms, MISSED)
            )
        if views is None:
            return [_frame(kind="reset", data=_RESET)]
        # They have no ids of their own: a client that loses the connection amidst them begins again where it was.
        return [_frame(kind=_kind(view), data=show_delivery(view)) for view in views]

    def _frames(self, happened: Iterable[FeedEvent]) -> list[bytes]:
        return [
            _frame(id=each.id, kind=each.kind, data=show_delivery(each.delivery))
            for each in happened
            if each.delivery.workspace == self._workspace and self._wanted.matches(each.delivery)
        ]

    def _exists(self) -> bool:
        return any(each.seq == self._wanted.workspace_seq for each in self._services.registry.workspaces())

    async def _write(self, frames: Iterable[bytes]) -> None:
        """Write frames in pieces; TimeoutError if the client takes none of it for `WRITE_SECONDS`."""
        piece = bytearray()
        for frame in frames:
            piece += frame
            if len(piece) >= _CHUNK_BYTES:
                await self._write_piece(piece)
                piece = bytearray()
        if piece:
            await self._write_piece(piece)

    async def _write_piece(self, piece: bytearray) -> None:
        async with asyncio.timeout(WRITE_SECONDS):
            await self._response.write(bytes(piece))


def _last_id(request: web.Request) -> str:
    return request.headers.get("Last-Event-ID", "").strip()[:64]


def _kind(view: DeliveryView) -> str:
    return "delivery.attempted" if view.attempt_count else "delivery.accepted"


def _frame(*, comment: str | None = None, id: str = "", kind: str = "", data: Json | None = None) -> bytes:  # noqa: A002 - the name of the field on the wire
    lines = [] if comment is None else [b":" + comment.encode()]
    if id:
        lines.append(b"id: " + id.encode())
    if kind:
        lines.append(b"event: " + kind.encode())
    if data is not None:
        lines.append(b"data: " + orjson.dumps(data))
    return b"\n".join([*lines, b"", b""])


ROUTES = [
    Route(
        "GET",
        "/deliveries/stream",
        stream_deliveries,
        Scope.ADMIN,
        "Follow the deliveries live",
        answers={200: "text/event-stream"},
        query=DeliveryFilter,
        errors=("unavailable",),
        workspaced=True,
        description="Server-sent events: `id` is the happening's, `event` is `delivery.accepted` or "
        "`delivery.attempted`, `data` the delivery as it then was. `Last-Event-ID` brings what was missed; an event "
        "`reset` means that this is too much, and that the list should be read again.",
    ),
]
