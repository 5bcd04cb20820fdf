"""How far a partition is: what another machine needs to go on without repeating what was delivered."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable

import msgspec

from webhookd import log
from webhookd.app import App
from webhookd.cluster.jetstream import Conflict, JetStream, Unreachable
from webhookd.cluster.names import PROGRESS_BUCKET, progress_key
from webhookd.errors import ApiError
from webhookd.store.cluster import stream as table
from webhookd.store.cluster.stream import POSITIONS

WRITE_SECONDS = 1.0
# What was delivered longer ago than this is saved, unless writing it takes longer.
SAVED_SECONDS = 1.5
LEAST_SECONDS = 0.1
RESTORE_SECONDS = 10.0


class ProgressValue(msgspec.Struct, frozen=True):
    """What stands in the bucket: see `names`."""

    node: str = ""
    applied: int = 0
    behind: dict[str, int] = {}
    numbers: dict[str, tuple[int, int, int]] = {}

    @property
    def lowest(self) -> int:
        """The sequence after which a machine without a database begins."""
        return min([self.applied, *(position // POSITIONS - 1 for position in self.behind.values())])


class Progress:
    """Reads a partition's progress when it is taken over, and writes it once a second from then on."""

    def __init__(
        self,
        jetstream: JetStream,
        partition: int,
        node: str,
        *,
        applied: Callable[[], int],
        may_write: Callable[[], bool],
    ) -> None:
        self._jetstream = jetstream
        self._key = progress_key(partition)
        self._node = node
        self._applied = applied
        self._may_write = may_write
        self._revision = 0
        self._written = ProgressValue()
        self._least = 0
        self._lock = asyncio.Lock()

    @property
    def written(self) -> ProgressValue:
        """What was written last."""
        return self._written

    async def take_over(self) -> ProgressValue:
        """The progress as the machine before left it, which can write no more from now on.  Raises Unreachable."""
        return await self._jetstream.ask("take over the progress", self._take_over, within_seconds=RESTORE_SECONDS)

    async def _take_over(self) -> ProgressValue:
        self._revision = await self._jetstream.revision(PROGRESS_BUCKET, self._key)
        found = await self._jetstream.get(PROGRESS_BUCKET, self._key) if self._revision else None
        before = decode(found.value) if found is not None else ProgressValue()
        try:
            # As it was: only the revision changes, which everything that the machine before writes depends on.
            await self._put(before)
        except Conflict as error:
            raise Unreachable("the machine before has just written") from error
        self._least = before.applied
        return before

    async def run(self, app: App) -> None:
        """A root task: write it once a second, sooner where writing takes long."""
        wait_seconds = WRITE_SECONDS
        while True:
            await asyncio.sleep(wait_seconds)
            began = time.monotonic()
            try:
                await self.write(app)
            except (Unreachable, Conflict, ApiError) as error:
                log.throttled("cluster.nats_failed", key="progress", what="write the progress", error=f"{error}")
                wait_seconds = LEAST_SECONDS
            else:
                wait_seconds = seconds_until_next(time.monotonic() - began)

    async def write_last(self, app: App, *, within_seconds: float) -> None:
        """Write it before the partition is handed over.  Raises Unreachable, Conflict."""

        async def write() -> None:
            if not await self.write(app):
                raise Unreachable("it can't be written yet")

        await self._jetstream.ask("write the progress", write, within_seconds=within_seconds)

    async def write(self, app: App) -> bool:
        """Write it now, if it has changed; False if that can't be yet.

        Raises Unreachable, Conflict (another machine has the partition).
        """
        async with self._lock:
            applied = self._applied()  # first: what is applied meanwhile counts as not finished
            if applied < self._least:
                return False  # what the machine before finished is still being read: its progress says more
            waiting = {each.seq: each.id for each in app.dispatcher.waiting_endpoints()}
            written = self._written
            if not waiting and not written.behind and (written.node, written.applied) == (self._node, applied):
                return True
            first, numbers = await app.store.read_for_delivery(
                lambda db: (table.first_waiting(db, list(waiting)) if waiting else {}, table.lane_numbers(db))
            )
            behind = {
                behind_key(waiting[seq], lane_hash): position
                for (seq, lane_hash), position in first.items()
                if position // POSITIONS <= applied
            }
            value = ProgressValue(self._node, applied, behind, numbers)
            if value == self._written or not self._may_write():
                return value == self._written
            try:
                await self._put(value)
            except Conflict:
                # An earlier write that wasn't answered, as long as the lease holds; else another machine's.
                if not self._may_write():
                    raise
                self._revision = await self._jetstream.revision(PROGRESS_BUCKET, self._key)
                await self._put(value)
            return True

    async def _put(self, value: ProgressValue) -> None:
        self._revision = await self._jetstream.put(PROGRESS_BUCKET, self._key, encode(value), self._revision)
        self._written = value


def seconds_until_next(took_seconds: float) -> float:
    """How long to wait before the next write, when one took so long.

    What finishes right after a write has looked is saved by the next one: after this write, the wait, and the next.
    """
    return max(LEAST_SECONDS, min(WRITE_SECONDS, SAVED_SECONDS - 2 * took_seconds))


def behind_key(endpoint_id: str, lane_hash: int | None) -> str:
    """The key in `behind` of what goes one by one, or of what has a key with that hash."""
    return endpoint_id if lane_hash is None else f"{endpoint_id}/{lane_hash}"


def encode(value: ProgressValue) -> bytes:
    """The value's bytes in the bucket."""
    return zlib.compress(msgspec.json.encode(value), 1)


def decode(value: bytes) -> ProgressValue:
    """The value of its bytes in the bucket."""
    return msgspec.json.decode(zlib.decompress(value), type=ProgressValue)
