"""Single events for another machine: those that come at once go to their owner as one request.

Only the usual kind: one small event, with a token, nothing to refuse.  What the owner would refuse, or has to hold up,
it declines before it has accepted anything, and the request is passed on as it came (`forward`): so a refusal has one
place.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import hdrs, web
from msgspec import Struct

from webhookd.clock import SystemClock
from webhookd.cluster.linger import Linger
from webhookd.cluster.names import PARTITION_CHOICE_HEADER, PASSED_EVENTS_PATH, TOKEN_HEADER
from webhookd.cluster.web.forward import unreachable, while_it_goes_on
from webhookd.config import networks
from webhookd.errors import ERRORS, ApiError
from webhookd.models import Json, NewEvent, Request, Workspace
from webhookd.sender.client import HttpSender
from webhookd.sender.egress import DnsResolver, Egress
from webhookd.web.api.batch_ingest import REFUSED, check_event, conflict, count_refused, trace_of
from webhookd.web.api.events import accepted_answer
from webhookd.web.server.guard import GUARD
from webhookd.web.server.memory_limit import MEMORY_LIMIT
from webhookd.web.server.requests import SERVICES
from webhookd.web.server.responses import internal_error

EVENT_BYTES = 16 * 1024
# Of one request: its answer has to fit into what the sender keeps of one (16 KiB).
EVENTS = 32
REQUEST_BYTES = EVENTS * (EVENT_BYTES + 16 * 1024)  # with the headers that go with each
POST_SECONDS = 20.0
# Nothing was accepted: the partition is just moving, or that machine is of a version without this path (which asks for
# a token before it says so).
_DECLINED = (401, 404, 503)


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
_EVENTS = msgspec.msgpack.Decoder(list[PassedEvent])


def event_of(request: web.Request, workspace_id: str, extra: Mapping[str, str]) -> PassedEvent | None:
    """The event of a request that can go together with others, whose body is read then; else None.

    `extra` headers replace the caller's.
    """
    headers, content = request.headers, request.content
    authorization = extra.get(hdrs.AUTHORIZATION) or headers.get(hdrs.AUTHORIZATION)
    is_usual = (
        authorization is not None
        and authorization.isascii()
        and headers.get(hdrs.CONTENT_TYPE) == "application/json"
        and hdrs.CONTENT_ENCODING not in headers
        and not request.rel_url.raw_query_string
        and 0 < (request.content_length or 0) <= EVENT_BYTES
        and content.is_eof()
        and content.exception() is None
    )
    if not is_usual:
        return None
    assert authorization is not None
    body = content.read_nowait(-1)
    if not body.startswith(b"{"):
        content.unread_data(body)
        return None
    return PassedEvent(authorization, workspace_id, trace_of(request), body)


@dataclass(frozen=True, slots=True)
class Owner:
    """The machine that has a partition, by its address, as long as the partition `goes_on` there."""

    advertise: str
    partition: int
    goes_on: Callable[[], bool] = field(compare=False)


@dataclass(slots=True)
class _Waiting:
    """Events for one owner; they go one request at a time, so the load sets how many go together."""

    events: deque[tuple[PassedEvent, asyncio.Future[Fate]]] = field(default_factory=deque)
    linger: Linger = field(default_factory=Linger)
    sending: asyncio.Task[None] | None = None


class EventCollector:
    """Collects events for their owners and posts them there."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._http: HttpSender | None = None
        self._waiting: defaultdict[Owner, _Waiting] = defaultdict(_Waiting)

    async def post(self, event: PassedEvent, owner: Owner) -> Json | None:
        """The body of its 202; None if the request is to be passed on as it came.  Raises ApiError."""
        fate: asyncio.Future[Fate] = asyncio.get_running_loop().create_future()
        waiting = self._waiting[owner]
        waiting.events.append((event, fate))
        if waiting.sending is None:
            waiting.sending = asyncio.ensure_future(self._send(owner, waiting))
        found = await fate
        if isinstance(found, Refusal):
            raise found.error()
        return found

    async def close(self) -> None:
        """End all connections."""
        if self._http is not None:
            await self._http.close()

    async def _send(self, owner: Owner, waiting: _Waiting) -> None:
        try:
            while waiting.events:
                await waiting.linger.wait()
                taken = [waiting.events.popleft() for _ in range(min(len(waiting.events), EVENTS))]
                waiting.linger.took(len(taken))
                fates = await self._fates(owner, [event for event, _ in taken])
                if not isinstance(fates, list):  # nobody is to wait until the next try fails as well
                    taken += waiting.events
                    waiting.events.clear()
                    fates = [fates] * len(taken)
                for (_, future), fate in zip(taken, fates, strict=True):
                    if not future.done():  # else its caller has gone
                        future.set_result(fate)
        finally:
            waiting.sending = None

    async def _fates(self, owner: Owner, events: Sequence[PassedEvent]) -> list[Fate] | Fate:
        """What became of each; one fate of all where the owner didn't look at them."""
        try:
            return await self._ask(owner, events)
        except ApiError as error:
            return Refusal.of(error)
        except Exception as error:  # noqa: BLE001  whoever waits gets an answer
            return Refusal.of(internal_error("POST", PASSED_EVENTS_PATH, error))

    async def _ask(self, owner: Owner, events: Sequence[PassedEvent]) -> list[Fate] | None:
        headers = {
            TOKEN_HEADER: self._token,
            PARTITION_CHOICE_HEADER: str(owner.partition),
            hdrs.CONTENT_TYPE: "application/msgpack",
        }
        url = owner.advertise.rstrip("/") + PASSED_EVENTS_PATH
        request = Request(url, tuple(headers.items()), msgspec.msgpack.encode(events), accept_any_2xx=False)
        outcome = await while_it_goes_on(self._sender().post(request), owner.goes_on, owner.advertise)
        if outcome.status in _DECLINED and not outcome.connection_retried:
            return None
        fates = _FATES.decode(outcome.response_body) if outcome.status == 200 and not outcome.truncated else []
        if len(fates) != len(events):
            raise unreachable(owner.advertise)
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
    passed = _EVENTS.decode(await request.content.read())
    fates: list[Fate] = [None] * len(passed)
    groups = _groups(app, passed)
    for group, found in zip(groups, await asyncio.gather(*(_accept(app, each) for each in groups)), strict=True):
        for (place, _), fate in zip(group.events, found, strict=True):
            fates[place] = fate
    return web.Response(body=msgspec.msgpack.encode(fates), content_type="application/msgpack")


def _groups(app: web.Application, passed: Sequence[PassedEvent]) -> Sequence[_Group]:
    """What goes together: all of one workspace and trace, but where a rate limit may have room for some of them."""
    services = app[SERVICES]
    limited = bool(services.settings().limits.events_per_second)
    groups: dict[object, _Group] = {}
    for place, each in enumerate(passed):
        warnings: list[ApiError] = []
        try:
            workspace = app[GUARD].producers_workspace(each.authorization, each.workspace_id)
            event = check_event(services, each.body, warnings)
        except ApiError:
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
