"""Single events for another machine: those that come at once go to their owner as one request.

Only the usual kind: one small event, with a token.  What is wrong with the event or its caller the owner declines
before it has accepted anything, as it does what would hold the others up, and the request is passed on as it came
(`forward`).  What `Ingest.accept` refuses comes back as a `Refusal`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import msgspec
from aiohttp import hdrs, web
from msgspec import Struct

from webhookd.clock import SystemClock
from webhookd.cluster.linger import Linger
from webhookd.cluster.names import PARTITION_CHOICE_HEADER, PASSED_EVENTS_PATH, TOKEN_HEADER
from webhookd.cluster.web.forward import Owner, unreachable, while_it_goes_on
from webhookd.config import networks
from webhookd.errors import ERRORS, ApiError
from webhookd.models import Json, NewEvent, Request, Workspace
from webhookd.sender.client import HttpSender
from webhookd.sender.egress import DnsResolver, Egress
from webhookd.web.api.batch_ingest import REFUSED, SLICE_SECONDS, check_event, conflict, count_refused, trace_of
from webhookd.web.api.events import accepted_answer
from webhookd.web.server.guard import GUARD
from webhookd.web.server.memory_limit import MEMORY_LIMIT
from webhookd.web.server.requests import SERVICES, media_type
from webhookd.web.server.responses import internal_error

EVENT_BYTES = 16 * 1024
AUTHORIZATION_BYTES = 1024
# Of one request: its answer has to fit into what the sender keeps of one (16 KiB).
EVENTS = 32
REQUEST_BYTES = EVENTS * (EVENT_BYTES + 4 * 1024)  # with what goes with each
# Requests on their way at once to one partition: one, so the load sets how much goes together; more only where whole
# ones wait.
AT_ONCE = 4
POST_SECONDS = 30.0  # longer than the owner takes to say that NATS doesn't answer
# Nothing was accepted: the partition is just moving, or that machine is of a version without this path (which asks for
# a token before it says so), or one that reads something else there.
_DECLINED = (400, 401, 404, 503)


class PassedEvent(Struct, frozen=True, array_like=True, gc=False):
    """An event on its way to its owner: who posts it (`Authorization`), to which workspace, in which trace."""

    authorization: str
    workspace_id: str
    trace: str | None
    body: bytes


class Refusal(Struct, frozen=True, array_like=True, tag=True):
    """An ApiError on its way back."""

    code: str
    message: str
    details: dict[str, Any]
    retry_after_seconds: int | None

    @classmethod
    def of(cls, error: ApiError) -> Refusal:
        """What the caller is to get."""
        return cls(error.code, error.message, error.details, error.retry_after_seconds)

    def error(self) -> ApiError:
        """The same; `unavailable` for a code that only a newer version has."""
        code = self.code if self.code in ERRORS else "unavailable"
        return ApiError(code, self.message, details=self.details, retry_after_seconds=self.retry_after_seconds)


# What became of an event: the body of its 202, or why it was refused; None where the owner declined it.
Fate = dict[str, Any] | Refusal | None
_FATES = msgspec.msgpack.Decoder(list[Fate])
_PASSED = msgspec.msgpack.Decoder(list[PassedEvent])


def event_of(request: web.Request, workspace_id: str, extra: Mapping[str, str]) -> PassedEvent | None:
    """The event of a request that can go together with others, whose body is read then; else None.

    `extra` headers replace the caller's.
    """
    headers, content, trace = request.headers, request.content, trace_of(request)
    authorization = extra.get(hdrs.AUTHORIZATION, headers.get(hdrs.AUTHORIZATION, ""))
    is_usual = (
        authorization
        # What isn't ASCII may be no text at all, and would break the request of all others.
        and f"{authorization}{workspace_id}{trace}".isascii()
        and len(authorization) + len(workspace_id) <= AUTHORIZATION_BYTES
        and media_type(request) == "application/json"
        and hdrs.CONTENT_ENCODING not in headers
        and not request.rel_url.raw_query_string
        and 0 < (request.content_length or 0) <= EVENT_BYTES
        and content.is_eof()
        and content.exception() is None
    )
    if not is_usual:
        return None
    body = content.read_nowait(-1)
    if not body.startswith(b"{"):
        content.unread_data(body)
        return None
    return PassedEvent(authorization, workspace_id, trace, body)


@dataclass(slots=True, eq=False)
class _Post:
    """An event whose caller waits, at most until a time of the loop's clock."""

    event: PassedEvent
    fate: asyncio.Future[Fate]
    until: float

    def end(self, fate: Fate) -> None:
        """Answer the caller, unless it has gone."""
        if not self.fate.done():
            self.fate.set_result(fate)


@dataclass(slots=True)
class _Waiting:
    """What waits for one owner, and how many requests are on their way there."""

    posts: deque[_Post] = field(default_factory=deque)
    linger: Linger = field(default_factory=Linger)
    on_way: int = 0

    def take(self, late: Fate) -> list[_Post]:
        """The next ones for a request; those that have waited too long get `late`."""
        now = asyncio.get_running_loop().time()
        taken: list[_Post] = []
        while self.posts and len(taken) < EVENTS:
            post = self.posts.popleft()
            if post.until < now:
                post.end(late)
            else:
                taken.append(post)
        self.linger.took(len(taken))
        return taken


class _NotLookedAt(Exception):
    """The owner looked at none of the events: all that wait for it share a fate."""

    def __init__(self, fate: Fate) -> None:
        self.fate = fate


class EventCollector:
    """Collects events for their owners and posts them there."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._http: HttpSender | None = None
        self._waiting: defaultdict[Owner, _Waiting] = defaultdict(_Waiting)
        self._sending: set[asyncio.Task[None]] = set()

    async def post(self, event: PassedEvent, owner: Owner) -> Json | None:
        """The body of its 202; None if the request is to be passed on as it came.  Raises ApiError."""
        loop, waiting = asyncio.get_running_loop(), self._waiting[owner]
        post = _Post(event, loop.create_future(), loop.time() + POST_SECONDS)
        waiting.posts.append(post)
        if not waiting.on_way or (waiting.on_way < AT_ONCE and len(waiting.posts) >= EVENTS):
            waiting.on_way += 1
            task = asyncio.ensure_future(self._send(owner, waiting))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        found = await post.fate
        if isinstance(found, Refusal):
            raise found.error()
        return found

    async def close(self) -> None:
        """End all connections."""
        if self._http is not None:
            await self._http.close()

    async def _send(self, owner: Owner, waiting: _Waiting) -> None:
        try:
            while waiting.posts:
                if len(waiting.posts) < EVENTS:
                    await waiting.linger.wait()
                if not (posts := waiting.take(Refusal.of(unreachable(owner.advertise)))):
                    continue
                try:
                    fates = await self._ask(owner, [post.event for post in posts])
                except _NotLookedAt as error:  # nobody is to wait until the next try fails as well
                    fates = [error.fate] * len(posts)
                    for post in waiting.posts:
                        post.end(error.fate if owner.goes_on() else None)
                    waiting.posts.clear()
                for post, fate in zip(posts, fates, strict=True):
                    post.end(fate)
        finally:
            waiting.on_way -= 1

    async def _ask(self, owner: Owner, events: Sequence[PassedEvent]) -> list[Fate]:
        """What became of each.  Raises _NotLookedAt."""
        headers = (
            (TOKEN_HEADER, self._token),
            (PARTITION_CHOICE_HEADER, str(owner.partition)),
            (hdrs.CONTENT_TYPE, "application/msgpack"),
        )
        url = owner.advertise.rstrip("/") + PASSED_EVENTS_PATH
        try:
            request = Request(url, headers, msgspec.msgpack.encode(events), accept_any_2xx=False)
            outcome = await while_it_goes_on(self._sender().post(request), owner)
            fates = _FATES.decode(outcome.response_body) if outcome.reason is None and not outcome.truncated else []
        except ApiError as error:
            raise _NotLookedAt(Refusal.of(error)) from error
        except Exception as error:
            raise _NotLookedAt(Refusal.of(internal_error("POST", PASSED_EVENTS_PATH, error))) from error
        if outcome.status in _DECLINED and not outcome.connection_retried:
            raise _NotLookedAt(None)
        if len(fates) != len(events):
            raise _NotLookedAt(Refusal.of(unreachable(owner.advertise)))
        return fates

    def _sender(self) -> HttpSender:
        if self._http is None:
            everywhere = networks(("0.0.0.0/0", "::/0"))
            egress = Egress(everywhere, allow_http=True, resolver=DnsResolver())
            self._http = HttpSender(egress, timeout_seconds=POST_SECONDS, clock=SystemClock(), keeps_answers=True)
        return self._http


@dataclass(frozen=True, slots=True)
class _Group:
    """Events that are accepted together, each with its place in the request."""

    workspace: Workspace
    trace: str | None
    events: list[tuple[int, NewEvent]]


async def accept(request: web.Request, app: web.Application) -> web.Response:
    """The owner's side: accept what another machine passes on, each event as if it had come by itself."""
    if request.method != hdrs.METH_POST or not 0 < (request.content_length or 0) <= REQUEST_BYTES:
        raise ApiError("invalid_request", "This path is for the other machines of the cluster.")
    try:
        passed = _PASSED.decode(await request.content.read())
    except msgspec.DecodeError as error:
        raise ApiError("invalid_request", f"These are no events as this version passes them on: {error}") from error
    fates: list[Fate] = [None] * len(passed)
    groups = await _groups(app, passed)
    for group, found in zip(groups, await asyncio.gather(*(_accept(app, each) for each in groups)), strict=True):
        for (place, _), fate in zip(group.events, found, strict=True):
            fates[place] = fate
    return web.Response(body=msgspec.msgpack.encode(fates), content_type="application/msgpack")


async def _groups(app: web.Application, passed: Sequence[PassedEvent]) -> Sequence[_Group]:
    """What goes together: all of one workspace and trace, but where a rate limit may have room for some of them."""
    services = app[SERVICES]
    limited = bool(services.settings().limits.events_per_second)
    groups: dict[object, _Group] = {}
    began = perf_counter()
    for place, each in enumerate(passed):
        if perf_counter() - began > SLICE_SECONDS:
            await asyncio.sleep(0)
            began = perf_counter()
        warnings: list[ApiError] = []
        try:
            workspace = app[GUARD].producers_workspace(each.authorization, each.workspace_id)
            event = check_event(services, each.body, warnings)
        except Exception:  # noqa: BLE001, S112  it gets its own answer when it is passed on as it came
            continue
        if not warnings and not services.ingest.waits_for_space(workspace):
            key = (workspace.seq, each.trace, place if limited else None)
            groups.setdefault(key, _Group(workspace, each.trace, [])).events.append((place, event))
    return tuple(groups.values())


async def _accept(app: web.Application, group: _Group) -> Sequence[Fate]:
    services, workspace = app[SERVICES], group.workspace
    events = [event for _, event in group.events]
    size = sum(len(event.body) for event in events)
    memory_limit, refused = app[MEMORY_LIMIT], app[REFUSED]
    try:
        memory_limit.acquire(size, EVENT_BYTES, workspace.seq)
        results = await services.ingest.accept(workspace.seq, events, trace=group.trace)
    except ApiError as error:
        count_refused(refused, workspace.id, error.code, len(events))
        return [Refusal.of(error)] * len(events)
    except Exception as error:  # noqa: BLE001  the others' answers are not to be lost
        return [Refusal.of(internal_error("POST", PASSED_EVENTS_PATH, error))] * len(events)
    finally:
        memory_limit.count(-size, workspace.seq)
    fates: list[Fate] = []
    for result in results:
        if result.conflict:
            clash = conflict(result.event_id)
            count_refused(refused, workspace.id, clash.code)
            fates.append(Refusal.of(clash))
        else:
            fates.append(accepted_answer(services, workspace, result))
    return fates
