"""A partition's stream, by its owner: publishes what the API accepts, and applies everything in the stream's order.

The stream is the truth, the database its index.  A batch of messages is committed together with the sequence that it
comes to, so each is applied once.  A caller that publishes waits until its own message is applied, and learns then what
became of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import uuid
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from webhookd import log
from webhookd.app import App
from webhookd.cluster import names
from webhookd.cluster.feed import Feed, Message
from webhookd.cluster.jetstream import JetStream, Unreachable
from webhookd.errors import ApiError
from webhookd.models import Accepted, NewEvent, Workspace
from webhookd.rules.ids import uuid7
from webhookd.rules.parsing import parse_event
from webhookd.rules.trace_context import parse_trace, trace_headers
from webhookd.store.cluster import stream as table
from webhookd.store.cluster.stream import Finished, Part
from webhookd.store.events import ACCEPT, Ingested

PUBLISH_SECONDS = 8.0
APPLY_SECONDS = 10.0
BATCH_MESSAGES = 500
BATCH_BYTES = 4 * 1024 * 1024
# Of one request in one message.
BATCH_EVENTS = 250
PAYLOAD_SHARE = 0.75
# All of a stream's commands take the turns of one workspace: they are in the stream's order as they are.
TURNS_OF = 0

Result = list[Accepted] | ApiError


class Stream:
    """Publishes to and applies the stream of one partition; `run` is a root task.

    `finished` tells which deliveries another machine has finished; asked up to the sequence `asked_upto`.
    """

    def __init__(self, jetstream: JetStream, partition: int, partitions: int) -> None:
        self._jetstream = jetstream
        self._partition = partition
        self._partitions = partitions
        self._name = names.stream_name(partition)
        self._calls = itertools.count()
        self._boot = uuid.uuid4().hex[:12]
        self._waiting: dict[str, asyncio.Future[Result]] = {}
        self._progressed = asyncio.Event()
        self._finished: Finished | None = None
        self._asked_upto = 0
        self._closed = False
        self.applied = 0
        self.applied_count = self.dead_count = 0

    # Publishing

    async def publish(
        self, app: App, workspace: Workspace, new: Sequence[NewEvent], trace: str | None
    ) -> list[Accepted]:
        """Publish events of a workspace, of one `trace`; returns what became of each, once they are applied.

        Raises ApiError: `unavailable` (they may be accepted, or some of them), `not_found`.
        """
        results: list[Accepted] = []
        for chunk in self._chunks(new):
            results += await self._publish(app, workspace, chunk, trace)
        return results

    def _chunks(self, new: Sequence[NewEvent]) -> Iterator[Sequence[NewEvent]]:
        most_bytes = int(self._jetstream.max_payload_bytes * PAYLOAD_SHARE)
        begin, size = 0, 0
        for end, event in enumerate(new):
            size += len(event.body)
            if end > begin and (end - begin >= BATCH_EVENTS or size > most_bytes):
                yield new[begin:end]
                begin, size = end, len(event.body)
        if new:
            yield new[begin:]

    async def _publish(
        self, app: App, workspace: Workspace, new: Sequence[NewEvent], trace: str | None
    ) -> list[Accepted]:
        if len(new[0].body) > self._jetstream.max_payload_bytes * PAYLOAD_SHARE:
            raise ApiError("payload_too_large", "The event is larger than the NATS servers' max_payload allows.")
        alone = new[0] if len(new) == 1 else None
        own_id = names.message_id(workspace.id, alone.id) if alone else uuid.uuid4().hex
        while True:
            result = await self._publish_once(workspace, new, trace, own_id)
            if result is not None:
                if isinstance(result, ApiError):
                    raise result
                return result
            # The stream had this id before, from another call.
            assert alone is not None
            known = await app.store.read_for_sign_in(lambda db: table.find(db, workspace.seq, alone))
            if known is not None:
                return [known]
            own_id = f"{own_id}.{uuid.uuid4().hex}"  # it was no event of this workspace: a dead letter, say

    async def _publish_once(
        self, workspace: Workspace, new: Sequence[NewEvent], trace: str | None, own_id: str
    ) -> Result | None:
        """Publish one message; None for a result if it is a duplicate of another call's, which is applied."""
        request = f"{self._boot}.{next(self._calls)}"
        headers = {names.MSG_ID_HEADER: own_id, names.REQUEST_HEADER: request}
        if trace:
            headers |= dict(trace_headers(trace))
        body = new[0].body
        if len(new) > 1:
            headers[names.BATCH_HEADER] = "1"
            body = msgspec.msgpack.encode([(event.id, event.body) for event in new])
        subject = names.event_subject(workspace.id, self._partitions)
        waiting: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting[request] = waiting
        try:
            if self._closed:
                raise _moved()
            published = await self._jetstream.ask(
                f"publish to {self._name}",
                lambda: self._jetstream.publish(subject, body, headers, self._name),
                within_seconds=PUBLISH_SECONDS,
            )
            async with asyncio.timeout(APPLY_SECONDS):
                if published.duplicate:
                    await self._applied_upto(published.sequence)
                    return waiting.result() if waiting.done() else None
                return await waiting
        except (Unreachable, TimeoutError) as error:
            log.throttled("cluster.nats_failed", key="publish", what="publish an event", error=str(error) or "timeout")
            raise ApiError(
                "unavailable",
                "The cluster has no majority just now: send it again in a moment, with the same event_id.",
                retry_after_seconds=2,
            ) from error
        finally:
            del self._waiting[request]

    async def _applied_upto(self, sequence: int) -> None:
        while self.applied < sequence:
            if self._closed:
                raise _moved()
            self._progressed.clear()
            await self._progressed.wait()

    def close(self) -> None:
        """The partition ends here: whoever waits gets 503, and the same event sent again is recognised elsewhere."""
        self._closed = True
        self._progressed.set()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(_moved())

    # Applying

    def begin(self, after: int, asked_upto: int, finished: Finished) -> None:
        """Apply what comes after a sequence; `finished` is asked for deliveries of events up to `asked_upto`."""
        self.applied = after
        self._asked_upto, self._finished = asked_upto, finished

    async def run(self, app: App) -> None:
        """A root task: apply what the stream has, and what comes."""
        feed = Feed(self._jetstream, self._name, after=self.applied)
        try:
            while True:
                await self._apply(app, await feed.next(BATCH_MESSAGES, BATCH_BYTES))
        finally:
            await feed.close()

    async def _apply(self, app: App, messages: Sequence[Message]) -> None:
        read = [(message, self._read(app, message)) for message in messages]
        for message, what in read:
            if isinstance(what, ApiError):
                await self._refuse(message, what)
        good = [(message, what) for message, what in read if isinstance(what, Part)]
        asks = bool(good) and good[0][0].sequence <= self._asked_upto
        finished = self._finished if asks else None

        def on_commit(results: list[list[Accepted] | ApiError]) -> None:
            self._committed(app, good, results, messages[-1].sequence)

        results = await app.store.add(
            good[-1][1].ingested.now_ms if good else messages[-1].at_ms,
            lambda db: table.apply(db, [part for _, part in good], messages[-1].sequence, finished),
            workspace_seq=TURNS_OF,
            on_commit=on_commit,
            retry_when_full=True,
            size=sum(ACCEPT.size(part.ingested) for _, part in good) + 1,
        )
        for (message, _), result in zip(good, results, strict=True):
            if isinstance(result, ApiError):
                await self._refuse(message, result)

    def _committed(self, app: App, good: Sequence[tuple[Message, Part]], results: Sequence[Result], upto: int) -> None:
        """Right after the commit, in its order."""
        self.applied = upto
        self._progressed.set()
        ingest = app.services.ingest
        for (message, part), result in zip(good, results, strict=True):
            waiting = self._waiting.get(message.headers.get(names.REQUEST_HEADER, ""))
            if waiting is not None and not waiting.done():
                waiting.set_result(result)
            if isinstance(result, ApiError):
                continue
            self.applied_count += len(result)
            ingest.offer(result)
            workspace = app.registry.find_workspace(part.ingested.workspace_seq)
            if workspace is not None:
                ingest.note(workspace, part.ingested.events, result)

    def _read(self, app: App, message: Message) -> Part | ApiError:
        try:
            workspace = app.registry.workspace(message.subject.rpartition(".")[2])
            events = tuple(self._events(app, message))
        except ApiError as error:
            return error
        except msgspec.DecodeError as error:
            return ApiError("invalid_event", f"The batch is no msgpack array of [event_id, body]: {error}")
        delivery_count = sum(app.registry.fan_out(workspace.seq, event.type) for event in events)
        deliver = not app.registry.paused(workspace.seq)
        trace = _trace(message.headers)
        hashes = app.services.ingest.hashes(workspace.seq, events) if deliver else ()
        return Part(
            message.sequence, Ingested(workspace.seq, events, deliver, message.at_ms, delivery_count, trace, hashes)
        )

    def _events(self, app: App, message: Message) -> Iterator[NewEvent]:
        max_bytes, types = int(app.settings().delivery.max_body_kb * 1024), app.deps.event_types()
        bodies: Sequence[tuple[str, bytes]] = [(message.headers.get(names.EVENT_ID_HEADER, ""), message.body)]
        if names.BATCH_HEADER in message.headers:
            bodies = msgspec.msgpack.decode(message.body, type=list[tuple[str, bytes]])
            if len(bodies) >= table.POSITIONS:
                raise ApiError("payload_too_large", f"A batch has at most {table.POSITIONS - 1} events.")
        for place, (event_id, body) in enumerate(bodies):

            def new_id(place: int = place, event_id: str = event_id) -> str:
                return event_id or self._derived_id(message, place)

            yield parse_event(body, max_bytes=max_bytes, event_types=types, new_id=new_id)

    def _derived_id(self, message: Message, place: int) -> str:
        """The id of an event that came without one: the same whenever it is applied."""
        text = f"{self._name}.{message.sequence}.{place}"
        return uuid7(message.at_ms, hashlib.sha256(text.encode()).digest())

    async def _refuse(self, message: Message, error: ApiError) -> None:
        """The message can't be applied: its caller learns it, or else it becomes a dead letter."""
        waiting = self._waiting.get(message.headers.get(names.REQUEST_HEADER, ""))
        if waiting is not None and not waiting.done():
            waiting.set_result(error)
            return
        if message.sequence <= self._asked_upto:
            return  # the machine before did it
        workspace_id = message.subject.rpartition(".")[2]
        self.dead_count += 1
        log.emit("cluster.dead_letter", workspace=workspace_id, reason=error.code, message=error.message)
        headers = {
            names.MSG_ID_HEADER: f"dead.{self._name}.{message.sequence}",
            names.REASON_HEADER: error.code,
            names.MESSAGE_HEADER: " ".join(error.message.encode("ascii", "replace").decode().split()),
            names.PARTITION_HEADER: str(self._partition),
            names.SEQUENCE_HEADER: str(message.sequence),
        }
        subject = f"{names.DEAD}.{workspace_id}"
        while not self._closed:
            try:
                await self._jetstream.publish(subject, message.body, headers, names.DEAD_STREAM)
            except Unreachable:
                await asyncio.sleep(0.5)  # nothing after it is applied before it is kept
            else:
                return


def _trace(headers: Mapping[str, str]) -> str | None:
    parent = headers.get("traceparent")
    return parse_trace([parent], [headers.get("tracestate", "")]) or None if parent else None


def _moved() -> ApiError:
    return ApiError(
        "unavailable",
        "The workspace is moving to another machine: send it again in a moment, with the same event_id.",
        retry_after_seconds=1,
    )
