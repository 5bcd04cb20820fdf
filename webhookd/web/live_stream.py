"""The live stream, for the API and the page: the live feed as server-sent events (WHATWG HTML, section 9.2).

A client that comes back with `Last-Event-ID` gets what it missed: from the feed's ring in memory, else from the table;
if that is too much, one message `reset`.  A client that reads too slowly is disconnected.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from contextlib import suppress

import orjson
from aiohttp import web

from webhookd.delivery.live_feed import FeedEvent, Subscription
from webhookd.models import DeliveryView, Json
from webhookd.store import delivery_log
from webhookd.store.delivery_log.log_filter import LogFilter
from webhookd.web.server.requests import services_of
from webhookd.web.server.responses import SECURITY_HEADERS

HEARTBEAT_SECONDS = 15.0
# How long a client may read nothing at all before it is disconnected.
WRITE_SECONDS = 30.0
# How often the stream asks whether its caller may still read it, whatever the traffic.
RIGHTS_SECONDS = 2.0
# How long a browser waits before it connects again.
RETRY_MS = 2000
MISSED = 1000
_CHUNK_BYTES = 32 * 1024

_ID = re.compile(r"([0-9]{1,15})-[0-9]{1,15}")
_RESET = {"reason": "More happened than is kept for the stream. Read the list again."}


async def live_stream(
    request: web.Request,
    wanted: LogFilter,
    *,
    allowed: Callable[[], bool],
    data: Callable[[DeliveryView], Json],
    after: str = "",
) -> web.StreamResponse:
    """Answer with the live stream while the client reads and is `allowed`; `data` makes a message's data.

    It begins after the message that the client saw last, else after the one with the id `after`, else with what is new.
    """
    live_feed = services_of(request).live_feed
    subscription = live_feed.subscribe(wanted.workspace_seq, wanted.matches)
    try:
        response = web.StreamResponse(
            headers={**SECURITY_HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        with suppress(ConnectionError):  # the client has gone, which is how most streams end
            await _LiveStream(request, response, wanted, allowed, data, subscription, after).run()
    except TimeoutError:  # it reads nothing, so no end of the stream would reach it
        if request.transport is not None:
            request.transport.abort()
    finally:
        live_feed.unsubscribe(subscription)
    return response


class _LiveStream:
    """One stream to one client."""

    def __init__(
        self,
        request: web.Request,
        response: web.StreamResponse,
        wanted: LogFilter,
        allowed: Callable[[], bool],
        data: Callable[[DeliveryView], Json],
        subscription: Subscription,
        after: str,
    ) -> None:
        self._subscription = subscription
        self._transport = request.transport
        self._writing = False
        self._response = response
        self._services = services_of(request)
        self._last_id = request.headers.get("Last-Event-ID", after).strip()[:64]
        self._wanted = wanted
        self._allowed = allowed
        self._data = data
        self._seen_id = ""

    async def run(self) -> None:
        """Send what was missed, then what comes, until the caller may no longer read it."""
        asking = asyncio.create_task(self._end_with_rights())
        try:
            await self._send()
        finally:
            asking.cancel()

    async def _end_with_rights(self) -> None:
        registry = self._services.registry
        while True:
            await asyncio.sleep(RIGHTS_SECONDS)
            if not self._allowed() or registry.find_workspace(self._wanted.workspace_seq) is None:
                break
        self._subscription.end()
        if self._writing and self._transport is not None:  # the client doesn't read, and what is buffered is not for it
            self._transport.abort()

    async def _send(self) -> None:
        await self._begin()
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    feed_events = await self._subscription.next()
            except TimeoutError:
                self._seen_id = self._services.live_feed.now_id  # all that came since was filtered out
                await self._write([_frame(comment="", id=self._seen_id)])
                continue
            if not feed_events:
                return
            self._seen_id = feed_events[-1].id
            await self._write(self._frames(feed_events))

    async def _begin(self) -> None:
        # The subscription exists already, so no event falls between these and the first that it brings.
        live_feed = self._services.live_feed
        self._seen_id = live_feed.now_id
        missed = live_feed.since(self._last_id) if self._last_id else []
        frames = [f"retry: {RETRY_MS}\n\n".encode()]
        if missed is None:
            frames += await self._missed()
        else:
            frames += self._frames(each for each in missed if self._wanted.matches(each.delivery))
        await self._write([*frames, _frame(comment="", id=self._seen_id)])

    async def _missed(self) -> list[bytes]:
        found = _ID.fullmatch(self._last_id)
        since_ms = int(found[1]) if found is not None else None
        views: list[DeliveryView] | None = None
        if since_ms is not None and since_ms <= self._services.clock.wall_ms():
            views = await self._services.store.search(
                self._wanted.workspace_seq,
                lambda db, _: delivery_log.changed_since(db, self._wanted, since_ms, MISSED),
            )
        if views is None:
            return [_frame(kind="reset", data=_RESET)]
        # They have no ids of their own: a client that loses the connection in between starts again from its last id.
        kinds = ["delivery.attempted" if view.attempt_count else "delivery.accepted" for view in views]
        return [_frame(kind=kind, data=self._data(view)) for kind, view in zip(kinds, views, strict=True)]

    def _frames(self, feed_events: Iterable[FeedEvent]) -> list[bytes]:
        return [_frame(id=each.id, kind=each.kind, data=self._data(each.delivery)) for each in feed_events]

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
        self._writing = True
        async with asyncio.timeout(WRITE_SECONDS):
            await self._response.write(bytes(piece))
        self._writing = False


def _frame(*, comment: str | None = None, id: str = "", kind: str = "", data: Json | None = None) -> bytes:  # noqa: A002 - the name of the field on the wire
    lines = [] if comment is None else [b":" + comment.encode()]
    if id:
        lines.append(b"id: " + id.encode())
    if kind:
        lines.append(b"event: " + kind.encode())
    if data is not None:
        lines.append(b"data: " + orjson.dumps(data))
    return b"\n".join([*lines, b"", b""])
