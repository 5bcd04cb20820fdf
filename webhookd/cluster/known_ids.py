"""Ids of events that were accepted before this machine took the partition over with an empty disk.

A producer that sends an event again gets its first answer for as long as `retention.idempotency_hours` says.  The last
events are known before the partition is served; the rest of the stream is read in the background, the newest first,
and again after a restart from where it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator

import msgspec

from webhookd import log
from webhookd.app import App
from webhookd.cluster import names
from webhookd.cluster.feed import Feed, Message
from webhookd.cluster.jetstream import JetStream
from webhookd.cluster.stream import Stream, items_of
from webhookd.errors import ApiError
from webhookd.rules.parsing import parse_event
from webhookd.store.cluster import stream as table
from webhookd.store.cluster.stream import POSITIONS, Known

# Read forward at a time, from the newest such piece to the oldest.
PIECE_MESSAGES = 20_000
BATCH_MESSAGES = 250
BATCH_BYTES = 2 * 1024 * 1024
ROWS_AT_ONCE = 200
HOUR_MS = 3_600_000
# A turn among the workspaces that write, of its own.
TURNS_OF = -1


class KnownIds:
    """Reads past messages of one partition's stream; `run` is a root task.  `turn`: one partition at a time."""

    def __init__(self, jetstream: JetStream, partition: int, turn: asyncio.Semaphore) -> None:
        self._jetstream = jetstream
        self._partition = partition
        self._turn = turn

    async def run(self, app: App, stream: Stream) -> None:
        """Read what is missing, then rest."""
        await stream.caught_up.wait()
        began, count = time.monotonic(), 0
        while (gap := await app.store.read(table.newest_gap)) is not None:
            async with self._turn:
                count += await self._read_piece(app, *gap)
        if count:
            seconds = round(time.monotonic() - began, 1)
            log.emit("cluster.ids_known", partition=self._partition, count=count, seconds=seconds)
        await asyncio.Event().wait()

    async def _read_piece(self, app: App, after: int, upto: int) -> int:
        """Read the newest messages of a gap; returns how many events are known by that."""
        low, count = max(after, upto - PIECE_MESSAGES), 0
        since_ms = app.deps.clock.wall_ms() - round(app.settings().retention.idempotency_hours * HOUR_MS)
        feed = Feed(self._jetstream, names.stream_name(self._partition), after=low)
        try:
            sequence = low
            while sequence < upto:
                messages = await feed.next(BATCH_MESSAGES, BATCH_BYTES)
                began = time.monotonic()
                sequence = messages[-1].sequence
                known = [
                    each for message in messages if message.sequence <= upto for each in _known(app, message, since_ms)
                ]
                for begin in range(0, len(known), ROWS_AT_ONCE):
                    await self._remember(app, known[begin : begin + ROWS_AT_ONCE])
                count += len(known)
                await asyncio.sleep(time.monotonic() - began)  # what is delivered meanwhile has half of the time
        finally:
            await feed.close()
        if messages[-1].at_ms < since_ms:
            low = after  # all that is older may be forgotten
        await app.store.write(lambda db: table.narrow_gap(db, after, low), retry_when_full=True)
        return count

    @staticmethod
    async def _remember(app: App, known: list[Known]) -> None:
        await app.store.write(
            lambda db: table.remember(db, known), workspace_seq=TURNS_OF, size=len(known), retry_when_full=True
        )


def _known(app: App, message: Message, since_ms: int) -> Iterator[Known]:
    """The events of a message that have an id of their producer's, of workspaces that there were then."""
    if message.at_ms < since_ms:
        return
    try:
        items = items_of(message)
    except msgspec.DecodeError:
        return
    for place, item in enumerate(items):
        workspace = app.registry.find_workspace(item.workspace_id)
        if workspace is None or workspace.created_at_ms > message.at_ms:
            continue
        try:
            event = parse_event(
                item.body,
                max_bytes=len(item.body),
                event_types=app.deps.event_types(),
                new_id=lambda given=item.event_id: _given(given),  # type: ignore[misc]
            )
        except ApiError:
            continue
        digest = hashlib.sha256(event.body).digest()
        yield Known(message.sequence * POSITIONS + place, workspace.seq, event.id, event.type, message.at_ms, digest)


def _given(event_id: str) -> str:
    """The id that came beside the body; without one nobody can send the event again."""
    if not event_id:
        raise ApiError("invalid_event_id", "It has none.")
    return event_id
