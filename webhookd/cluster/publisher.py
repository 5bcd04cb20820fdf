"""What the API accepts goes to the partition's stream: what comes together goes as one message, as the writer does it.

Few messages are on their way at a time, so the load sets how much goes together.  A caller waits until its own events
are applied, and learns then what became of each.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from webhookd import log
from webhookd.cluster import names
from webhookd.cluster.jetstream import JetStream
from webhookd.cluster.linger import Linger
from webhookd.errors import ApiError
from webhookd.models import Accepted, NewEvent, Workspace
from webhookd.rules.trace_context import trace_headers

PUBLISH_SECONDS = 8.0
APPLY_SECONDS = 10.0
BATCH_EVENTS = 250
PAYLOAD_SHARE = 0.75
ENTRY_BYTES = 100
DRAIN_SECONDS = 1.0
# Messages on their way at once.
AT_ONCE = 1

Result = Accepted | ApiError


@dataclass(slots=True, eq=False)
class Entry:
    """Events of one caller that go together."""

    workspace_id: str
    events: Sequence[NewEvent]
    trace: str | None
    results: asyncio.Future[list[Result]]
    size: int
    until: float  # by the loop's clock: who waits longer is refused rather than published


class Publisher:
    """Publishes to the stream of one partition; `run` is a root task."""

    def __init__(self, jetstream: JetStream, partition: int) -> None:
        self._jetstream = jetstream
        self._partition = partition
        self._name = names.stream_name(partition)
        self._boot = uuid.uuid4().hex[:12]
        self._numbers = itertools.count()
        self._queue: deque[Entry] = deque()
        self._wake = asyncio.Event()
        self._sent: dict[str, list[Entry]] = {}  # by what their message's header says
        self._room = asyncio.Semaphore(AT_ONCE)
        self._sending: set[asyncio.Task[None]] = set()
        self._linger = Linger()
        self._closed = False

    async def publish(self, workspace: Workspace, new: Sequence[NewEvent], trace: str | None) -> list[Accepted]:
        """Publish events of a workspace, of one `trace`; returns what became of each, once they are applied.

        Raises ApiError: `unavailable` (they may be accepted, or some of them), `payload_too_large`, `not_found`.
        """
        results: list[Accepted] = []
        for chunk, size in self._chunks(new):
            if size > self._most_bytes:
                raise ApiError("payload_too_large", "The event is larger than the NATS servers' max_payload allows.")
            results += await self._publish(workspace.id, chunk, trace, size)
        return results

    @property
    def _most_bytes(self) -> int:
        return int(self._jetstream.max_payload_bytes * PAYLOAD_SHARE)

    def _chunks(self, new: Sequence[NewEvent]) -> Iterator[tuple[Sequence[NewEvent], int]]:
        begin, size = 0, 0
        for end, event in enumerate(new):
            own = len(event.body) + ENTRY_BYTES
            if end > begin and (end - begin >= BATCH_EVENTS or size + own > self._most_bytes):
                yield new[begin:end], size
                begin, size = end, 0
            size += own
        if new:
            yield new[begin:], size

    async def _publish(
        self, workspace_id: str, new: Sequence[NewEvent], trace: str | None, size: int
    ) -> list[Accepted]:
        if self._closed:
            raise _moved()
        loop = asyncio.get_running_loop()
        entry = Entry(workspace_id, new, trace, loop.create_future(), size, loop.time() + PUBLISH_SECONDS)
        self._queue.append(entry)
        self._wake.set()
        accepted = []
        for each in await entry.results:
            if isinstance(each, ApiError):
                raise each
            accepted.append(each)
        return accepted

    async def run(self) -> None:
        """Publish until cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    await self._room.acquire()
                    await self._linger.wait()
                    entries = self._next()
                    if not entries:  # all of them were refused meanwhile
                        self._room.release()
                        break
                    task = asyncio.ensure_future(self._send(entries))
                    self._sending.add(task)
                    task.add_done_callback(self._sending.discard)
        finally:
            for task in self._sending:
                task.cancel()

    def _next(self) -> list[Entry]:
        now = asyncio.get_running_loop().time()
        entries: list[Entry] = []
        count = size = 0
        while self._queue:
            if self._queue[0].until < now:
                self._fail([self._queue.popleft()], _unavailable())
                continue
            more, more_bytes = len(self._queue[0].events), self._queue[0].size
            if entries and (count + more > BATCH_EVENTS or size + more_bytes > self._most_bytes):
                break
            count, size = count + more, size + more_bytes
            entries.append(self._queue.popleft())
        self._linger.took(len(entries))
        return entries

    async def _send(self, entries: list[Entry]) -> None:
        request = f"{self._boot}.{next(self._numbers)}"
        self._sent[request] = entries
        try:
            await self._publish_message(request, entries)
        except Exception as error:  # noqa: BLE001  whoever waits gets an answer
            log.throttled("cluster.nats_failed", key="publish", what="publish an event", error=str(error))
            # It may be applied all the same, and those behind it are not to wait as long again.
            waiting = [*self._sent.pop(request, []), *self._queue]
            self._queue.clear()
            self._fail(waiting, _unavailable())
            return
        finally:
            self._room.release()
        del entries  # it isn't kept for so long
        await asyncio.sleep(APPLY_SECONDS)
        self._fail(self._sent.pop(request, []), _unavailable())

    async def _publish_message(self, request: str, entries: list[Entry]) -> None:
        subject, body, headers = self._message(entries)
        # An id of its own: a publish that is tried again counts once.  Events that were sent before are found when
        # they are applied.
        headers |= {names.MSG_ID_HEADER: uuid.uuid4().hex, names.REQUEST_HEADER: request}
        await self._jetstream.ask(
            f"publish to {self._name}",
            lambda: self._jetstream.publish(subject, body, headers, self._name),
            within_seconds=PUBLISH_SECONDS,
        )

    def _message(self, entries: list[Entry]) -> tuple[str, bytes, dict[str, str]]:
        first = entries[0]
        if len(entries) == 1 and len(first.events) == 1:
            headers = dict(trace_headers(first.trace)) if first.trace else {}
            return names.subject_of(self._partition, first.workspace_id), first.events[0].body, headers
        items = [(each.workspace_id, event.body, each.trace) for each in entries for event in each.events]
        return names.subject_of(self._partition, names.MANY), msgspec.msgpack.encode(items), {names.BATCH_HEADER: "1"}

    def waits_for(self, request: str) -> bool:
        """Whether callers wait for the message with this header."""
        return request in self._sent

    def applied(self, request: str, results: Sequence[Result]) -> None:
        """The message with this header is applied: `results` are those of its events, in their order."""
        begin = 0
        for entry in self._sent.pop(request, ()):
            end = begin + len(entry.events)
            if not entry.results.done():
                entry.results.set_result(list(results[begin:end]))
            begin = end

    async def drained(self) -> None:
        """Return when nobody waits any more, or after a moment."""
        sent = [entry for entries in self._sent.values() for entry in entries]
        waiting = [entry.results for entry in (*sent, *self._queue) if not entry.results.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=DRAIN_SECONDS)

    def close(self) -> None:
        """The partition ends here: whoever waits gets 503, and the same event sent again is recognised elsewhere."""
        self._closed = True
        for entries in self._sent.values():
            self._fail(entries, _moved())
        self._fail(list(self._queue), _moved())
        self._queue.clear()

    @staticmethod
    def _fail(entries: Sequence[Entry], error: ApiError) -> None:
        for entry in entries:
            if not entry.results.done():
                entry.results.set_exception(error)


def _unavailable() -> ApiError:
    return ApiError(
        "unavailable",
        "The cluster has no majority just now: send it again in a moment, with the same event_id.",
        retry_after_seconds=2,
    )


def _moved() -> ApiError:
    return ApiError(
        "unavailable",
        "The workspace is moving to another machine: send it again in a moment, with the same event_id.",
        retry_after_seconds=1,
    )
