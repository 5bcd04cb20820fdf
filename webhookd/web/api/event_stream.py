"""A stream of events, one per line, committed as they arrive, for as long as the caller keeps it open.

One task reads and cuts lines, and stops reading while too much waits; another checks and commits them, each batch after
the one before it, so that the load sets the size of a batch.  When a batch is refused, nothing after it is accepted:
the answer says where to go on.  A connection that ends in the middle of a line leaves that line out.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from aiohttp import web

from webhookd.errors import ApiError
from webhookd.rules.parsing import Line, LineSplitter
from webhookd.web.api.batch_ingest import BatchIngest, Checked, count_refused, trace_of
from webhookd.web.server.memory_limit import MEMORY_LIMIT
from webhookd.web.server.requests import REQUEST_TIMEOUTS, caller, read_arrived, read_some, services_of, workspace_of
from webhookd.web.server.responses import json_response

UNCOMMITTED_BYTES = 4 * 1024 * 1024
# Cut into lines at once: enough for a batch, and no more than milliseconds of work however short the lines are.
SPLIT_BYTES = 8 * 1024
BATCH_LINES = 500
BATCH_BYTES = 1024 * 1024
# White space around an event is trimmed before it is measured.
WHITE_SPACE_BYTES = 1024


class IngestStream:
    """One request's stream."""

    def __init__(self, request: web.Request, refused: Counter[str]) -> None:
        self._request = request
        self._refused = refused
        self._timeouts = request.app[REQUEST_TIMEOUTS]
        self._memory_limit = request.app[MEMORY_LIMIT]
        self._workspace_seq = workspace_of(request).seq
        self._tokens, self._token = services_of(request).tokens, caller(request)
        self._batch_ingest = BatchIngest(services_of(request), workspace_of(request), refused, trace_of(request))
        self._line_max = self._batch_ingest.max_bytes + WHITE_SPACE_BYTES
        self._splitter = LineSplitter(self._line_max)
        self._uncommitted_max = max(UNCOMMITTED_BYTES - self._batch_ingest.max_bytes, SPLIT_BYTES)
        self._pieces: deque[bytes] = deque()  # as they came
        self._lines: deque[Line] = deque()  # cut, and not yet checked
        self.uncommitted_bytes = 0
        self._now = asyncio.get_running_loop().time
        self._line_due: float | None = None  # when a line that is begun has to be complete
        self._all_read = False
        self._news = asyncio.Event()  # something has come, the end has, or a stop
        self._released = asyncio.Event()
        self._reading_failed: ApiError | None = None
        self._stopped: ApiError | None = None
        self._stopping = asyncio.Event()

    def stop(self, why: ApiError) -> None:
        """Take no further line: what is being committed is the last."""
        self._stopped = self._stopped or why
        self._stopping.set()
        self._news.set()

    async def run(self) -> web.Response:
        """Take events until the stream ends, or has to; the answer tells what became of them."""
        # Now, not when the task comes to it: should the connection end meanwhile, aiohttp would drop what has come.
        self._take(read_arrived(self._request))
        reading = asyncio.create_task(self._read())
        try:
            await self._commit()
        finally:
            reading.cancel()
            await asyncio.wait([reading])
            self._memory_limit.count(-self.uncommitted_bytes, self._workspace_seq)
        if not reading.cancelled():
            reading.result()
        return self._answer(self._stopped or self._reading_failed)

    def _answer(self, error: ApiError | None) -> web.Response:
        summary = self._batch_ingest.summary
        if error is None:
            return json_response(summary.body(), summary.status())
        count_refused(self._refused, workspace_of(self._request).id, error.code)
        after = error.retry_after_seconds
        return json_response(
            {**error.body(), **summary.body(), "next_index": summary.next_index},
            error.status,
            {} if after is None else {"Retry-After": str(after)},
        )

    # Reading

    async def _read(self) -> None:
        try:
            await self._read_pieces()
        except ApiError as error:
            self._reading_failed = error
        finally:
            self._all_read = True
            self._news.set()

    async def _read_pieces(self) -> None:
        while piece := await self._read_some():
            self._take(piece)
            began = self._now()
            await self._wait_for_memory()
            if self._line_due is not None:
                self._line_due += self._now() - began  # what we kept it waiting for is not the caller's time

    async def _read_some(self) -> bytes:
        due = self._line_due
        try:
            return await read_some(self._request, self._timeouts.idle_seconds if due is None else due - self._now())
        except TimeoutError:
            raise self._too_late() from None

    def _too_late(self) -> ApiError:
        if self._line_due is None:
            what = f"No line came for {self._timeouts.idle_seconds:g} seconds"
        else:
            what = f"A line was begun and not ended within {self._timeouts.line_seconds:g} seconds"
        return ApiError("request_timeout", f"{what}; the lines up to next_index stand. Go on from there.")

    def _take(self, piece: bytes) -> None:
        if piece:
            self._pieces.extend(piece[begin : begin + SPLIT_BYTES] for begin in range(0, len(piece), SPLIT_BYTES))
            self.uncommitted_bytes += len(piece)
            self._memory_limit.count(len(piece), self._workspace_seq)
            if piece.endswith(b"\n"):
                self._line_due = None
            elif self._line_due is None or b"\n" in piece:  # another line is begun
                self._line_due = self._now() + self._timeouts.line_seconds
            self._news.set()

    async def _wait_for_memory(self) -> None:
        while self._has_enough():
            self._released.clear()
            await self._released.wait()
        self._memory_limit.acquire(0, 0, self._workspace_seq)

    def _has_enough(self) -> bool:
        # A begun line is not counted: no commit makes room of it, only its own end does, which must be read.
        ended = self.uncommitted_bytes - self._splitter.pending_bytes
        return ended > self._uncommitted_max or (ended > 0 and self._memory_limit.full(self._workspace_seq))

    # Committing

    async def _commit(self) -> None:
        committing: asyncio.Task[None] | None = None
        while True:
            self._cut()
            if self._lines and self._stopped is None:
                if self._token is not None and not self._tokens.lasts(self._token):
                    self.stop(ApiError("unauthorized", "This token has ended; the lines up to next_index stand."))
                    continue
                lines, size = self._next_lines()
                batch = await self._batch_ingest.check(lines)
                if committing is not None:
                    await committing
                if self._stopped is None:
                    committing = asyncio.create_task(self._accept(batch, size))
            elif committing is not None:
                await committing
                committing = None
            elif self._stopped is not None or (self._all_read and not self._pieces):
                return
            elif not self._pieces:
                self._news.clear()
                await self._news.wait()

    def _cut(self) -> None:
        """Cut what has come into lines, until a batch is there; at the clean end also what is left."""
        size = 0
        while self._pieces and len(self._lines) < BATCH_LINES and size < BATCH_BYTES:
            piece = self._pieces.popleft()
            begun = self._begun_bytes()
            lines = self._splitter.feed(piece)
            self._gather(lines, begun + len(piece) - self._begun_bytes())
            size += len(piece)
        if self._all_read and not self._pieces and self._reading_failed is None:
            begun = self._begun_bytes()
            self._gather(self._splitter.finish(), begun)

    def _begun_bytes(self) -> int:
        """How much of a begun line is kept: nothing of one that is too long."""
        pending = self._splitter.pending_bytes
        return pending if pending <= self._line_max + 1 else 0

    def _gather(self, lines: list[Line], ended_bytes: int) -> None:
        """Take the lines that so many bytes ended in; some belong to none: blank lines, those that are too long."""
        self._lines.extend(lines)
        self._release(ended_bytes - sum(map(_size, lines)))

    def _next_lines(self) -> tuple[list[Line], int]:
        lines: list[Line] = []
        size = 0
        most = self._batch_ingest.most_at_once(BATCH_LINES)
        while self._lines and len(lines) < most and size < BATCH_BYTES:
            lines.append(self._lines.popleft())
            size += _size(lines[-1])
        return lines, size

    def _release(self, byte_count: int) -> None:
        self.uncommitted_bytes -= byte_count
        self._memory_limit.count(-byte_count, self._workspace_seq)
        self._released.set()

    async def _accept(self, batch: list[Checked], size: int) -> None:
        try:
            await self._batch_ingest.accept(batch, stopping=self._stopping)
        except ApiError as error:
            self.stop(error)
            return
        self._release(size)


STREAMS = web.AppKey("streams", set[IngestStream])


def _size(line: Line) -> int:
    return len(line.data or b"") + 1
