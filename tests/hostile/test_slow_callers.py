"""Callers that are slow on purpose: each is given up after its own time, and nothing of theirs is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.api import Api, Wire, head, running_api, wire
from webhookd.web.api.event_stream import STREAMS
from webhookd.web.server.requests import RequestTimeouts

REQUEST_TIMEOUTS = RequestTimeouts(body_seconds=0.4, line_seconds=0.4, idle_seconds=0.4)
EVENT = b'{"event_type":"message.received"}'
NDJSON = "application/x-ndjson"

# What is sent at once, and what follows, a byte at a time.
SLOW: dict[str, tuple[dict[str, str], bytes, bytes]] = {
    "a body that stops": ({"Content_Length": "1000"}, EVENT, b""),
    "a body of which nothing comes": ({"Content_Length": "1000"}, b"", b""),
    "a byte at a time": ({"Content_Length": "100000"}, b"", b" "),
    "chunks that stop": ({"Transfer_Encoding": "chunked"}, b"5\r\n     \r\n", b""),
    "chunks without end": ({"Transfer_Encoding": "chunked"}, b"", b"1\r\n \r\n"),
    "a chunk that stops": ({"Transfer_Encoding": "chunked"}, b"ffff\r\n{", b""),
    "a chunk's size without end": ({"Transfer_Encoding": "chunked"}, b"1;", b"x"),
    "a stream that says nothing": ({"Transfer_Encoding": "chunked", "Content_Type": NDJSON}, b"", b""),
    "a line that stops": ({"Transfer_Encoding": "chunked", "Content_Type": NDJSON}, b"1\r\n{\r\n", b""),
    "a line a byte at a time": ({"Transfer_Encoding": "chunked", "Content_Type": NDJSON}, b"", b"1\r\n{\r\n"),
    "a line of known length that stops": ({"Content_Length": "1000", "Content_Type": NDJSON}, EVENT, b""),
    "an array that stops": ({"Content_Length": "1000"}, b"[" + EVENT, b""),
}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path, timeouts=REQUEST_TIMEOUTS) as running:
        yield running


async def dribble(line: Wire, drop: bytes, answering: asyncio.Task[tuple[int, object]]) -> None:
    """Send a drop every few milliseconds until the answer comes."""
    for _ in range(2000):
        if drop:
            line.send(drop)
        await asyncio.wait([answering], timeout=0.01)
        if answering.done():
            return


@pytest.mark.parametrize("name", SLOW)
async def test_a_slow_caller_is_given_up(api: Api, name: str) -> None:
    """408 once the time is over, nothing accepted; and a caller beside it is answered meanwhile."""
    headers, at_once, drop = SLOW[name]
    async with wire(api.port) as line:
        line.send(head(api, **headers).encode() + at_once)
        answering = asyncio.create_task(line.json())
        dribbling = asyncio.create_task(dribble(line, drop, answering))
        beside = await api.post("/v1/events", data=EVENT)
        status, report = await answering
        await dribbling
        assert (408, "request_timeout") == (status, report["error"]["code"])
        assert 202 == beside.status
    assert 1 == api.app.services.ingest.accepted_count
    assert not api.application[STREAMS]


@pytest.mark.parametrize("begun", [b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: "])
async def test_slow_headers_are_given_up(tmp_path: Path, begun: bytes) -> None:
    """Nothing, one byte, or half a header of which more keeps coming: the connection ends."""
    async with running_api(tmp_path, keep_alive_seconds=0.2) as api, wire(api.port) as line:
        line.send(begun)
        ending = asyncio.create_task(line.ended())
        for _ in range(500):
            if len(begun) > 1 and not ending.done():
                line.send(b"x")
            await asyncio.wait([ending], timeout=0.01)
            if ending.done():
                break
        assert b"" == await ending
