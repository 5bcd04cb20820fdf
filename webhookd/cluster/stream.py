"""A partition's stream, applied by its owner: everything, in its order, each message once.

The stream is the truth, the database its index.  A batch of messages is committed together with the sequence that it
comes to.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import msgspec

from webhookd import log
from webhookd.app import App
from webhookd.cluster import names
from webhookd.cluster.feed import Feed, Message
from webhookd.cluster.jetstream import JetStream, Unreachable
from webhookd.cluster.publisher import Publisher, Result
from webhookd.cluster.waited import Before
from webhookd.errors import ApiError
from webhookd.models import Accepted, NewEvent, Workspace
from webhookd.rules.ids import uuid7
from webhookd.rules.parsing import parse_event
from webhookd.rules.trace_context import parse_trace
from webhookd.store.cluster import stream as table
from webhookd.store.cluster.stream import Part
from webhookd.store.events import ACCEPT, Ingested
from webhookd.web.api.batch_ingest import note_mismatch

BATCH_MESSAGES = 500
BATCH_BYTES = 4 * 1024 * 1024
DEAD_LETTER_RETRY_SECONDS = 0.5
# All of a stream's commands take the turns of one workspace: they are in the stream's order as they are.
TURNS_OF = 0


class Item(msgspec.Struct, frozen=True, array_like=True):
    """One event of a message."""

    workspace_id: str
    body: bytes
    trace: str | None = None
    event_id: str = ""  # where the body has none


@dataclass(slots=True)
class Read:
    """A message as it was read: its events in parts, and what can't be applied by its place."""

    message: Message
    items: Sequence[Item]
    parts: list[Part] = field(default_factory=list)
    refused: dict[int, ApiError] = field(default_factory=dict)
    is_answered: bool = False  # a caller waited, and has learned all of it


class Stream:
    """Applies the stream of one partition; `run` is a root task.

    `begin` says where, and what another machine has done before.  `read_upto`: up to there it is decided whether
    events are to be delivered.
    """

    def __init__(self, jetstream: JetStream, partition: int, publisher: Publisher) -> None:
        self._jetstream = jetstream
        self._partition = partition
        self._publisher = publisher
        self._name = names.stream_name(partition)
        self._before: Before | None = None
        self._finished_upto = self._asked_upto = self._caught_up_at = 0
        self.applied = self.read_upto = 0
        self.caught_up = asyncio.Event()  # everything is applied that another machine had
        self.dead_count = 0

    def begin(self, after: int, before: Before, last: int) -> None:
        """Apply what comes after a sequence; `last` is the stream's last one."""
        self.read_upto = after
        self._before, self._finished_upto, self._asked_upto = before, before.finished_upto, before.asked_upto
        self._caught_up_at = min(self._asked_upto, last)
        self._note_applied(after)

    async def run(self, app: App) -> None:
        """Apply what the stream has, and what comes."""
        feed = Feed(self._jetstream, self._name, after=self.applied)
        try:
            while True:
                await self._apply(app, await feed.next(BATCH_MESSAGES, BATCH_BYTES))
        finally:
            await feed.close()

    async def _apply(self, app: App, messages: Sequence[Message]) -> None:
        reads = [self._read(app, message) for message in messages]
        self.read_upto = messages[-1].sequence
        for read in reads:
            await self._bury(read, read.refused)
        parts = [part for read in reads for part in read.parts]
        upto = messages[-1].sequence
        asks = messages[0].sequence <= self._asked_upto and upto > self._finished_upto
        before = self._before if asks else None

        def on_commit(results: list[list[Accepted] | ApiError]) -> None:
            self._committed(app, reads, results, upto)

        results = await app.store.add(
            messages[-1].at_ms,
            lambda db: table.apply(db, parts, upto, before),
            workspace_seq=TURNS_OF,
            on_commit=on_commit,
            retry_when_full=True,
            size=sum(ACCEPT.size(part.ingested) for part in parts) + 1,
        )
        if any(isinstance(each, ApiError) for each in results):  # a workspace was deleted in between
            left = iter(results)
            for read in reads:
                await self._bury(read, _by_place(read, [next(left) for _ in read.parts]))

    def _committed(
        self, app: App, reads: Sequence[Read], results: Sequence[list[Accepted] | ApiError], upto: int
    ) -> None:
        """Right after the commit, in its order."""
        self._note_applied(upto)
        ingest, left = app.services.ingest, iter(results)
        for read in reads:
            of_parts = [next(left) for _ in read.parts]
            for part, result in zip(read.parts, of_parts, strict=True):
                if isinstance(result, ApiError) or part.sequence <= self._finished_upto:
                    continue
                ingest.offer(result)
                workspace = app.registry.find_workspace(part.ingested.workspace_seq)
                if workspace is not None:
                    ingest.note(workspace, part.ingested.events, result)
            request = read.message.headers.get(names.REQUEST_HEADER, "")
            if self._publisher.waits_for(request):
                read.is_answered = True
                self._publisher.applied(request, _results(read, of_parts))

    def _note_applied(self, sequence: int) -> None:
        self.applied = sequence
        if sequence >= self._caught_up_at:
            self.caught_up.set()

    # Reading

    def _read(self, app: App, message: Message) -> Read:
        try:
            items = items_of(message)
        except msgspec.DecodeError as error:
            read = Read(message, [Item(names.MANY, message.body)])
            read.refused[0] = ApiError("invalid_event", f"This is no batch of events: {error}")
            return read
        read = Read(message, items)
        for _, group in groupby(enumerate(items), lambda each: (each[1].workspace_id, each[1].trace)):
            self._read_part(app, read, list(group))
        return read

    def _read_part(self, app: App, read: Read, group: Sequence[tuple[int, Item]]) -> None:
        """Events of one workspace and trace that follow each other: a part, unless one is refused, which splits it."""
        workspace_id, trace = group[0][1].workspace_id, group[0][1].trace
        message, registry, ingest = read.message, app.registry, app.services.ingest
        workspace = registry.find_workspace(workspace_id)
        if workspace is None:
            error = ApiError("not_found", f"There is no workspace {workspace_id!r}.")
            read.refused |= {place: error for place, _ in group}
            return
        deliver = message.sequence > self._finished_upto and not self._paused(app, workspace, message.sequence)
        for begin, events in self._runs(app, read, group):
            count = sum(registry.fan_out(workspace.seq, event.type) for event in events) if deliver else 0
            facts = ingest.body_facts(workspace.seq, events) if deliver else ()
            ingested = Ingested(workspace.seq, events, deliver, message.at_ms, count, trace, facts)
            read.parts.append(Part(message.sequence, begin, ingested))

    def _paused(self, app: App, workspace: Workspace, sequence: int) -> bool:
        if self._before is not None and sequence <= self._asked_upto and workspace.id in self._before.paused:
            return self._before.paused[workspace.id]
        return app.registry.paused(workspace.seq)

    def _runs(
        self, app: App, read: Read, group: Sequence[tuple[int, Item]]
    ) -> Iterator[tuple[int, Sequence[NewEvent]]]:
        max_bytes, types = int(app.settings().delivery.max_body_kb * 1024), app.deps.event_types()
        begin, events = group[0][0], list[NewEvent]()
        # What a daemon published was looked at when it came.
        is_producers = types.validation != "off" and names.REQUEST_HEADER not in read.message.headers
        warnings: list[ApiError] | None = [] if is_producers else None
        for place, item in group:

            def new_id(item: Item = item, place: int = place) -> str:
                return item.event_id or self._derived_id(read.message, place)

            try:
                events.append(
                    parse_event(item.body, max_bytes=max_bytes, event_types=types, new_id=new_id, warnings=warnings)
                )
            except ApiError as error:
                read.refused[place] = error
                if events:
                    yield begin, events
                begin, events = place + 1, []
            if warnings and read.message.sequence > self._asked_upto:
                note_mismatch(app.services, item.workspace_id, warnings[0])
            if warnings is not None:
                warnings.clear()
        if events:
            yield begin, events

    def _derived_id(self, message: Message, place: int) -> str:
        """The id of an event that came without one: the same whenever it is applied."""
        text = f"{self._name}.{message.sequence}.{place}"
        return uuid7(message.at_ms, hashlib.sha256(text.encode()).digest())

    # Dead letters

    async def _bury(self, read: Read, refused: Mapping[int, ApiError]) -> None:
        """Keep what can't be applied as dead letters, unless a caller learns it, or the machine before did it."""
        message = read.message
        waits = self._publisher.waits_for(message.headers.get(names.REQUEST_HEADER, ""))
        if waits or read.is_answered or message.sequence <= self._asked_upto:
            return
        for place, error in refused.items():
            item = read.items[place]
            self.dead_count += 1
            log.emit("cluster.dead_letter", workspace=item.workspace_id, reason=error.code, message=error.message)
            headers = {
                names.MSG_ID_HEADER: f"dead.{self._name}.{message.sequence}.{place}",
                names.REASON_HEADER: error.code,
                names.MESSAGE_HEADER: " ".join(error.message.encode("ascii", "replace").decode().split()),
                names.PARTITION_HEADER: str(self._partition),
                names.SEQUENCE_HEADER: str(message.sequence),
            }
            await self._publish_dead(f"{names.DEAD}.{item.workspace_id}", item.body, headers)

    async def _publish_dead(self, subject: str, body: bytes, headers: Mapping[str, str]) -> None:
        while True:  # nothing after it is applied before it is kept
            try:
                await self._jetstream.publish(subject, body, headers, names.DEAD_STREAM)
            except Unreachable:
                await asyncio.sleep(DEAD_LETTER_RETRY_SECONDS)
            else:
                return


def items_of(message: Message) -> Sequence[Item]:
    """The events of a message.  Raises DecodeError where it is a batch that can't be read."""
    headers = message.headers
    if names.BATCH_HEADER in headers:
        items = msgspec.msgpack.decode(message.body, type=list[Item])
        if not 0 < len(items) < table.POSITIONS:
            raise msgspec.DecodeError(f"it has {len(items)} events, not 1 to {table.POSITIONS - 1}")
        return items
    parent = headers.get("traceparent")
    trace = parse_trace([parent], [headers.get("tracestate", "")]) or None if parent else None
    workspace_id = message.subject.rpartition(".")[2]
    return [Item(workspace_id, message.body, trace, headers.get(names.EVENT_ID_HEADER, ""))]


def _by_place(read: Read, of_parts: Sequence[list[Accepted] | ApiError]) -> dict[int, ApiError]:
    """Which events of a message were refused when they were applied."""
    return {
        part.place + at: result
        for part, result in zip(read.parts, of_parts, strict=True)
        if isinstance(result, ApiError)
        for at in range(len(part.ingested.events))
    }


def _results(read: Read, of_parts: Sequence[list[Accepted] | ApiError]) -> list[Result]:
    """What became of each event of a message, in their order."""
    found: dict[int, Result] = {**read.refused, **_by_place(read, of_parts)}
    for part, result in zip(read.parts, of_parts, strict=True):
        if not isinstance(result, ApiError):
            found |= {part.place + at: each for at, each in enumerate(result)}
    return [found[place] for place in range(len(read.items))]
