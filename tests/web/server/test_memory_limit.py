"""All bodies together are bounded: whom that refuses, whom it slows down, and that nothing is counted twice."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from tests.support.api import Api, head, running_api, wire
from webhookd.errors import ApiError
from webhookd.web.server import memory_limit
from webhookd.web.server.memory_limit import MEMORY_LIMIT, SMALL_BODY_BYTES, MemoryLimit

EVENT = b'{"event_type":"message.received"}'
FULL, CRAMMED = 1_000_000, 2_000_000


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setattr(memory_limit, "FULL_BYTES", FULL)
    monkeypatch.setattr(memory_limit, "SMALL_FULL_BYTES", CRAMMED)
    async with running_api(tmp_path) as running:
        yield running
        assert 0 == running.application[MEMORY_LIMIT].byte_count


def array(byte_count: int) -> bytes:
    return b'[{"event_type":"message.received","x":"%b"}]' % (b"x" * (byte_count - 43))


async def test_large_bodies_are_refused_first(api: Api) -> None:
    """Past the first bound an array is 503 with Retry-After and one event is taken; past the second nothing is."""
    held = api.application[MEMORY_LIMIT]
    for others, of_array, of_event in ((0, 422, 202), (FULL, 503, 202), (CRAMMED, 503, 503)):
        held.byte_count += others
        large = await api.post("/v1/events", data=array(SMALL_BODY_BYTES + 1000))
        small = await api.post("/v1/events", data=EVENT)
        assert (of_array, of_event) == (large.status, small.status)
        for answer in (large, small):
            if answer.status == 503:
                assert ("unavailable", "1") == (answer.code, answer.headers["Retry-After"])
        held.byte_count -= others


async def test_a_stream_goes_on_as_far_as_it_is_committed(api: Api) -> None:
    """Past the first bound lines are still taken, no faster than they become durable."""
    held = api.application[MEMORY_LIMIT]
    held.byte_count += FULL
    lines = b"".join(b'{"event_type":"message.received","n":%d}\n' % number for number in range(3000))
    answer = await api.post("/v1/events", data=lines, headers={"Content-Type": "application/x-ndjson"})
    assert (202, 3000) == (answer.status, answer.json["accepted"])
    held.byte_count -= FULL


async def test_a_stream_past_the_second_bound_is_reported_where_to_go_on(api: Api) -> None:
    """503 with the summary: accepted lines stand."""
    async with wire(api.port) as line:
        line.send(head(api, Transfer_Encoding="chunked", Content_Type="application/x-ndjson"))
        line.chunk(EVENT + b"\n")
        async with asyncio.timeout(20):
            while not api.app.services.ingest.accepted_count:
                await asyncio.sleep(0.001)
        api.application[MEMORY_LIMIT].byte_count += CRAMMED
        line.chunk(EVENT + b"\n" + EVENT)
        status, headers, body = await line.answer()
        report = orjson.loads(body)
        assert (503, "1", "unavailable") == (status, headers["retry-after"], report["error"]["code"])
        assert report["accepted"] == report["next_index"] >= 1
        api.application[MEMORY_LIMIT].byte_count -= CRAMMED


async def test_whatever_ends_a_request_gives_back_what_it_held(api: Api) -> None:
    """Refused, cut off, too late, of a wrong type: the fixture looks at the count at the end."""
    await api.post("/v1/events", data=b"nonsense")
    await api.post("/v1/endpoints", data=b"{" * 5000)
    for kind in ("application/json", "application/x-ndjson"):
        async with wire(api.port) as line:
            line.send(head(api, Content_Length="5000", Content_Type=kind) + "x" * 4000)
            async with asyncio.timeout(20):
                while not api.application[MEMORY_LIMIT].byte_count:
                    await asyncio.sleep(0.001)
            line.reset()
        async with asyncio.timeout(20):
            while api.application[MEMORY_LIMIT].byte_count:
                await asyncio.sleep(0.001)


async def test_one_workspaces_bodies_leave_another_its_room(api: Api) -> None:
    """While one holds more than half, its next large body is 503, and another's is taken."""
    await api.post("/v1/workspaces", {"id": "noisy"})
    seq = api.app.registry.workspace("noisy").seq
    held = api.application[MEMORY_LIMIT]
    held.count(600_000, seq)
    for workspace, status in (("noisy", 503), ("default", 422)):
        large = await api.post(f"/v1/workspaces/{workspace}/events", data=array(SMALL_BODY_BYTES + 1000))
        assert status == large.status
    held.count(-600_000, seq)


def test_the_last_of_the_address_space_is_kept() -> None:
    """Under RLIMIT_AS what would leave less than the headroom is refused; without a limit nothing is looked at."""
    memory_limit.refuse_if_memory_is_short(2**50)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**44, before[1]))
    try:
        memory_limit.refuse_if_memory_is_short(1000)
        with pytest.raises(MemoryError, match="nearly used up"):
            memory_limit.refuse_if_memory_is_short(2**43)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_the_bounds() -> None:
    """A small body is refused past the second bound alone, a larger one past the first."""
    held = MemoryLimit()
    held.acquire(memory_limit.FULL_BYTES, memory_limit.FULL_BYTES)
    assert not held.full()
    held.acquire(1, 1)
    assert held.full()
    with pytest.raises(ApiError, match="holds as much"):
        held.acquire(1, SMALL_BODY_BYTES + 1)
    held.acquire(memory_limit.SMALL_FULL_BYTES - held.byte_count, SMALL_BODY_BYTES)
    with pytest.raises(ApiError, match="Try again"):
        held.acquire(1, 1)


def test_a_workspace_leaves_room_for_others() -> None:
    """It may hold three times what is free: three quarters alone, less beside others; those without one all."""
    held, bound = MemoryLimit(), memory_limit.FULL_BYTES
    held.acquire(bound * 3 // 4, bound, 1)
    assert not held.full(1)
    with pytest.raises(ApiError, match="holds as much"):
        held.acquire(1, bound, 1)
    assert held.full(1)
    held.acquire(bound // 8, bound, 2)
    assert not held.full(2)
    assert not held.full()
    held.count(-1 - bound * 3 // 4, 1)
    assert not held.full(1)
    assert bound // 8 == held.byte_count
