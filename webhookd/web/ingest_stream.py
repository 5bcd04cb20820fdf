"""A stream of events, one per line: committed as it arrives, for as long as the caller keeps it open.

Two things go on at once.  *Reading* cuts what comes into lines, and stops reading the socket while too much waits to
be committed.  *Committing* takes whatever lines have come by now, checks them while the batch before is still being
committed, and hands them over only when that is done.  So batches are as large as the moment makes them (nobody waits
for more to come), the order of the lines is the order of acceptance, and when a batch is refused (the disk is full,
the daemon stops) nothing after it was taken: the answer says where to go on.

A connection that ends in the middle of a line leaves that line out; the lines before it stand.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from aiohttp import web

from webhookd.errors import Refusal
from webhookd.rules.events import Line, LineSplitter
from webhookd.web.http import PATIENCE, json_response, read_some, services, workspace_id
from webhookd.web.intake import Checked, Intake, note_refusal

UNCOMMITTED_BYTES = 4 * 1024 * 1024
READ_BYTES = 32 * 1024
BATCH_LINES = 250
BATCH_BYTES = 1024 * 1024
# What a line costs in memory beside its bytes: a flood of tiny ones must count as what it is.
LINE_BYTES = 128
# White space around an event is trimmed before it is measured.
WHITE_SPACE_BYTES = 1024


class IngestStream:
    """One request's stream."""

    def __init__(self, request: web.Request, refusals: Counter[str]) -> None:
        self._request = request
        self._refusals = refusals
        self._patience = request.app[PATIENCE]
        self._intake = Intake(services(request), workspace_id(request), refusals)
        self._splitter = LineSplitter(self._intake.max_bytes + WHITE_SPACE_BYTES)
        self._uncommitted_max = max(UNCOMMITTED_BYTES - self._intake.max_bytes, READ_BYTES)
        self._lines: deque[Line] = deque()
        self._uncommitted_bytes = 0
        self._all_read = False
        self._news = asyncio.Event()  # lines have come, the end has, or a stop
        self._room = asyncio.Event()
        self._reading_failed: Refusal | None = None
        self._stopped: Refusal | None = None

    def stop(self, why: Refusal) -> None:
        """Take no further line: what is being committed is the last."""
        self._stopped = self._stopped or why
        self._news.set()

    async def run(self) -> web.Response:
        """Take events until the stream ends, or has to; the answer tells what became of them."""
        reading = asyncio.create_task(self._read())
        try:
            await self._commit()
        finally:
            reading.cancel()
            await asyncio.wait([reading])
        if not reading.cancelled():
            reading.result()
        return self._answer(self._stopped or self._reading_failed)

    def _answer(self, refusal: Refusal | None) -> web.Response:
        tally = self._intake.tally
        if refusal is None:
            return json_response(tally.body(), tally.status())
        note_refusal(self._refusals, workspace_id(self._request), refusal.code)
        after = refusal.retry_after_seconds
        return json_response(
            {**refusal.body(), **tally.body(), "next_index": tally.next_index},
            refusal.status,
            {} if after is None else {"Retry-After": str(after)},
        )

    # Reading

    async def _read(self) -> None:
        try:
            await self._read_lines()
        except Refusal as refusal:
            self._reading_failed = refusal
        finally:
            self._all_read = True
            self._news.set()

    async def _read_lines(self) -> None:
        now = asyncio.get_running_loop().time
        line_due: float | None = None
        while chunk := await self._read_some(line_due):
            self._take(self._splitter.feed(chunk))
            if not self._splitter.pending_bytes:
                line_due = None
            elif line_due is None or b"\n" in chunk:
                line_due = now() + self._patience.line_seconds
            began = now()
            await self._wait_for_room()
            if line_due is not None:
                line_due += now() - began  # what we kept it waiting for is not the caller's time
        self._take(self._splitter.finish())

    async def _read_some(self, line_due: float | None) -> bytes:
        now = asyncio.get_running_loop().time()
        seconds = self._patience.idle_seconds if line_due is None else line_due - now
        try:
            return await read_some(self._request, READ_BYTES, seconds)
        except TimeoutError:
            raise self._too_late(line_due) from None

    def _too_late(self, line_due: float | None) -> Refusal:
        if line_due is None:
            what = f"No line came for {self._patience.idle_seconds:g} seconds"
        else:
            what = f"A line was begun and not ended within {self._patience.line_seconds:g} seconds"
        return Refusal("request_timeout", f"{what}; the lines up to next_index stand. Go on from there.")

    def _take(self, lines: list[Line]) -> None:
        if lines:
            self._lines.extend(lines)
            self._uncommitted_bytes += sum(map(_cost, lines))
            self._news.set()

    async def _wait_for_room(self) -> None:
        await asyncio.sleep(0)  # what is buffered is read without waiting: others have to get a turn as well
        while self._uncommitted_bytes > self._uncommitted_max:
            self._room.clear()
            await self._room.wait()

    # Committing

    async def _commit(self) -> None:
        committing: asyncio.Task[None] | None = None
        while True:
            if self._lines and self._stopped is None:
                lines = self._next_lines()
                batch = await self._intake.check(lines)
                if committing is not None:
                    await committing
                if self._stopped is None:
                    committing = asyncio.create_task(self._accept(batch, sum(map(_cost, lines))))
            elif committing is not None:
                await committing
                committing = None
            elif self._all_read or self._stopped is not None:
                return
            else:
                self._news.clear()
                await self._news.wait()

    def _next_lines(self) -> list[Line]:
        lines: list[Line] = []
        size = 0
        while self._lines and len(lines) < BATCH_LINES and size < BATCH_BYTES:
            lines.append(self._lines.popleft())
            size += _cost(lines[-1])
        return lines

    async def _accept(self, batch: list[Checked], size: int) -> None:
        try:
            await self._intake.accept(batch)
        except Refusal as refusal:
            self.stop(refusal)
            return
        self._uncommitted_bytes -= size
        self._room.set()


def _cost(line: Line) -> int:
    return len(line.data or b"") + LINE_BYTES
