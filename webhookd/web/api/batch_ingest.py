"""Batch ingest: check the events of one request one by one, accept them together, count the outcomes."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple

from aiohttp import web

from webhookd import log
from webhookd.errors import ApiError
from webhookd.models import Accepted, Json, NewEvent, Workspace
from webhookd.rules.ids import RANDOM_BYTES, uuid7
from webhookd.rules.parsing import Line, parse_array, parse_event, split_array, too_large
from webhookd.rules.trace_context import parse_trace
from webhookd.web.services import Services

# How many events and requests of events were refused since the start, by code.
REFUSED = web.AppKey("refused", Counter[str])

LISTED_REJECTIONS = 100
# Checking a thousand events takes longer than other tasks on the event loop should wait.
SLICE_SECONDS = 0.001
# An array of so many bytes is checked in one pass, which takes no longer than that.
ONE_PASS_BYTES = 128 * 1024
RANDOM_BYTES_AT_ONCE = 4096


class Checked(NamedTuple):
    """One event of many: its place, and the event, or why it is refused."""

    place: int
    event: NewEvent | ApiError
    warning: ApiError | None = None


@dataclass(slots=True)
class Summary:
    """The outcome of many events.  `next_index` is the first that was not processed."""

    accepted: int = 0
    duplicates: int = 0
    rejected: list[Json] = field(default_factory=list)
    rejected_count: int = 0
    next_index: int = 0
    warnings: list[Json] = field(default_factory=list)
    warned_count: int = 0
    unsubscribed: Counter[str] = field(default_factory=Counter)
    below_plan: bool = False

    def status(self) -> int:
        """The HTTP status of the answer."""
        return 422 if self.rejected_count else 202

    def body(self) -> Json:
        """The answer's body, as `manual/api.md` defines it; the last three only where there is something to tell."""
        body: Json = {"accepted": self.accepted, "duplicates": self.duplicates, "rejected": self.rejected}
        if self.rejected_count:
            body["rejected_count"] = self.rejected_count
        if self.warned_count:
            body |= {"warnings": self.warnings, "warned_count": self.warned_count}
        if self.unsubscribed:
            body["unsubscribed"] = dict(self.unsubscribed)
        if self.below_plan:
            body["paused_by"] = "plan"
        return body


class BatchIngest:
    """The events of one request, on their way into one workspace."""

    def __init__(
        self, services: Services, workspace: Workspace, refused: Counter[str], trace: str | None = None
    ) -> None:
        self.summary = Summary()
        self._services = services
        self._workspace = workspace
        self._refused = refused
        self._trace = trace
        self._warnings: list[ApiError] = []  # of the event that is being checked
        self._random = RandomBytes()

    @property
    def max_bytes(self) -> int:
        """How large one event may be."""
        return max_event_bytes(self._services)

    def most_at_once(self, count: int) -> int:
        """How many of `count` events to accept at once, so that a rate limit holds others up for a second at most."""
        rate = self._services.settings().limits.events_per_second
        return min(count, max(1, int(rate))) if rate else count

    async def check_array(self, raw: bytes) -> list[Checked]:
        """Check the events of an array; ApiError as `split_array` has it."""
        elements = split_array(raw)
        if len(raw) <= ONE_PASS_BYTES:
            await self._services.ingest.loop_turns.next(self._workspace.seq)
            types = self._services.event_types()
            events = parse_array(raw, elements, max_bytes=self.max_bytes, event_types=types)
            if events is not None:
                return list(map(Checked, range(len(events)), events))
        return await self.check([Line(index, element) for index, element in enumerate(elements)])

    async def check(self, lines: Sequence[Line]) -> list[Checked]:
        """Check each event, a slice of the event loop's time after the other, in turns with other workspaces."""
        checked = []
        turns = self._services.ingest.loop_turns
        await turns.next(self._workspace.seq)
        began = perf_counter()
        for line in lines:
            checked.append(self._check_one(line))
            if perf_counter() - began > SLICE_SECONDS:
                await turns.next(self._workspace.seq)
                began = perf_counter()
        return checked

    async def accept(self, batch: Sequence[Checked], *, stopping: asyncio.Event | None = None) -> None:
        """Accept the good ones together, in their order, and count all in the summary; see `Ingest.accept`."""
        good = [each.event for each in batch if isinstance(each.event, NewEvent)]
        ingest = self._services.ingest
        accepted = await ingest.accept(self._workspace.seq, good, stopping=stopping, trace=self._trace) if good else ()
        results = iter(accepted)
        refused: Counter[str] = Counter()
        for place, event, warning in batch:
            error = event if isinstance(event, ApiError) else self._enter(event, next(results))
            if error is not None:
                refused[error.code] += 1
                self._reject(place, error)
            elif warning is not None:
                self._warn(place, warning)
        for code, count in refused.items():
            count_refused(self._refused, self._workspace.id, code, count)
        if batch:
            self.summary.next_index = batch[-1].place + 1

    def _check_one(self, line: Line) -> Checked:
        try:
            if line.data is None:
                raise too_large(self.max_bytes)
            event = check_event(self._services, line.data, self._warnings, self._random)
        except ApiError as error:
            # Its traceback would keep the frames, and with them the bytes, of each.
            return Checked(line.index, error.with_traceback(None))
        return Checked(line.index, event, self._warnings.pop() if self._warnings else None)

    def _enter(self, event: NewEvent, result: Accepted) -> ApiError | None:
        if result.conflict:
            return conflict(result.event_id)
        if result.duplicate:
            self.summary.duplicates += 1
        else:
            self.summary.accepted += 1
            if not result.deliveries and self._services.registry.paused(self._workspace.seq):
                self.summary.below_plan = True
            elif not result.deliveries and not self._services.registry.fan_out(self._workspace.seq, event.type):
                self.summary.unsubscribed[event.type] += 1
        return None

    def _warn(self, place: int, warning: ApiError) -> None:
        note_mismatch(self._services, self._workspace.id, warning)
        self.summary.warned_count += 1
        if len(self.summary.warnings) < LISTED_REJECTIONS:
            self.summary.warnings.append({"index": place, "warning": warning.body()["error"]})

    def _reject(self, place: int, error: ApiError) -> None:
        self.summary.rejected_count += 1
        if len(self.summary.rejected) < LISTED_REJECTIONS:
            self.summary.rejected.append({"index": place, **error.body()})


class RandomBytes:
    """Random bytes for the ids of many events.

    Each `os.urandom` lets the interpreter's lock go for a moment, which wakes SQLite's thread in vain: one for every
    event took a quarter of a stream's rate.
    """

    def __init__(self) -> None:
        self._left = memoryview(b"")

    def __call__(self, count: int) -> bytes:
        """So many of them."""
        if len(self._left) < count:
            self._left = memoryview(os.urandom(RANDOM_BYTES_AT_ONCE))
        taken, self._left = self._left[:count], self._left[count:]
        return bytes(taken)


def check_event(
    services: Services, raw: bytes, warnings: list[ApiError], random_bytes: Callable[[int], bytes] = os.urandom
) -> NewEvent:
    """One event, checked against the catalogue and the limits as they are now; ApiError as `parse_event` has it."""

    def new_id() -> str:
        return uuid7(services.clock.wall_ms(), random_bytes(RANDOM_BYTES))

    types = services.event_types()
    return parse_event(raw, max_bytes=max_event_bytes(services), event_types=types, new_id=new_id, warnings=warnings)


def note_mismatch(services: Services, workspace_id: str, mismatch: ApiError) -> None:
    """Count and log an event that was accepted though it doesn't fit its type's schema."""
    services.ingest.mismatched += 1
    event_type, first = mismatch.details["event_type"], mismatch.details["problems"][0]
    log.throttled(
        "event.mismatched",
        key=(workspace_id, event_type),
        workspace=workspace_id,
        event_type=event_type,
        path=first["path"],
        problem=first["reason"],
    )


def trace_of(request: web.Request) -> str | None:
    """The trace that a request belongs to, if its headers have one."""
    if "traceparent" not in request.headers:
        return None
    return parse_trace(request.headers.getall("traceparent"), request.headers.getall("tracestate", [])) or None


def max_event_bytes(services: Services) -> int:
    """How large one event may be."""
    return int(services.settings().delivery.max_body_kb * 1024)


def conflict(event_id: str) -> ApiError:
    """The error of an id that was accepted with another body."""
    return ApiError(
        "event_id_conflict",
        f"event_id {event_id!r} was accepted before with another body. Each event needs an id of its own; the same "
        "event sent again needs the same bytes.",
        details={"event_id": event_id},
    )


def count_refused(refused: Counter[str], workspace_id: str, code: str, count: int = 1) -> None:
    """Count and log events that were not accepted."""
    refused[code] += count
    log.emit("event.refused", workspace=workspace_id, reason=code, count=count)
