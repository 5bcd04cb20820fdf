"""The limits of the process itself, reached for real: no descriptor, no memory, too much of bodies at once."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.api import Wire, wire
from tests.support.process import Daemon, cpu_seconds, daemon
from webhookd.web.server.memory_limit import FULL_BYTES

pytestmark = pytest.mark.skipif(
    not hasattr(resource, "prlimit"), reason="no prlimit(2) here, which changes the limits of a running process"
)
MIB = 1024 * 1024
EVENT = b'{"event_type":"message.received"}'
LARGE_EVENT = b'{"event_type":"message.received","x":"%b"}' % (b"x" * 200_000)
OF_THE_TEST = ("state.tightened", "heartbeat.missed")
ARRAY = b"[" + b",".join([LARGE_EVENT] * 40) + b"]"


@pytest.fixture
async def d(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with daemon(tmp_path / "state") as running:
        yield running


def head_of(d: Daemon, length: int) -> bytes:
    token = (d.state_dir / "ingest-token").read_text().strip()
    lines = [
        "POST /v1/events HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {token}",
        f"Content-Length: {length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def post(d: Daemon, body: bytes = EVENT) -> tuple[int, str, bool]:
    """One event on a connection of its own: the status, the error's code, and whether Retry-After was said."""
    async with wire(d.port) as line:
        line.send(head_of(d, len(body)) + body)
        status, headers, report = await line.answer()
        return status, json.loads(report).get("error", {}).get("code", ""), "retry-after" in headers


async def post_many(d: Daemon, count: int, body: bytes = EVENT) -> Counter[tuple[int, str, bool]]:
    return Counter(await asyncio.gather(*(post(d, body) for _ in range(count))))


def limit(d: Daemon, which: int, soft: int) -> tuple[int, int]:
    before = resource.prlimit(d.process.pid, which)
    resource.prlimit(d.process.pid, which, (soft, before[1]))
    return before


def descriptors(d: Daemon) -> int:
    return len(os.listdir(f"/proc/{d.process.pid}/fd"))


async def settled_descriptors(d: Daemon) -> int:
    found = -1
    async with asyncio.timeout(20):
        while found != descriptors(d):
            found = descriptors(d)
            await asyncio.sleep(0.1)
    return found


def address_space(d: Daemon) -> int:
    pages = int(Path(f"/proc/{d.process.pid}/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def log_events(d: Daemon, levels: Sequence[str] = ("warning", "error")) -> list[str]:
    """The events of those levels that it logged, in order, but for those that the test is to blame for."""
    lines = [json.loads(line) for line in d.log_file.read_text().splitlines()]
    return [line["event"] for line in lines if line["level"] in levels and line["event"] not in OF_THE_TEST]


OVERLOAD = (503, "unavailable", True)
TAKEN = (202, "", False)


async def test_without_descriptors_callers_are_asked_to_come_back(d: Daemon) -> None:
    """503 with Retry-After for each new caller; who is connected is served; afterwards everybody is; one log line."""
    async with wire(d.port) as standing:
        standing.send(head_of(d, len(EVENT)) + EVENT)
        assert 202 == (await standing.answer())[0]
        held = await settled_descriptors(d)
        before = limit(d, resource.RLIMIT_NOFILE, held)
        assert OVERLOAD == await post(d)
        assert {OVERLOAD: 200} == await post_many(d, 200)
        standing.send(head_of(d, len(EVENT)) + EVENT)
        assert 202 == (await standing.answer())[0]
        limit(d, resource.RLIMIT_NOFILE, before[0])
        assert {TAKEN: 50} == await post_many(d, 50)
        assert held == await settled_descriptors(d)
    assert 0 == await d.stop()
    assert ["resource.exhausted"] == sorted(set(log_events(d)))
    assert len(log_events(d)) <= 2  # the second tells at the end how many the first stands for


async def test_without_descriptors_silent_callers_cost_no_processor_and_no_answers(d: Daemon) -> None:
    """100 connections that ask for nothing: each is answered 503 and ended, a caller after them is too, all at rest."""
    async with AsyncExitStack() as stack:
        before = limit(d, resource.RLIMIT_NOFILE, await settled_descriptors(d))
        began = cpu_seconds([d.process.pid])
        silent = [await stack.enter_async_context(wire(d.port)) for _ in range(100)]
        assert OVERLOAD == await post(d)
        for each in silent:
            assert 503 == (await each.answer())[0]
            assert b"" == await each.ended()
        await asyncio.sleep(0.5)
        assert cpu_seconds([d.process.pid]) - began < 0.3
        limit(d, resource.RLIMIT_NOFILE, before[0])
        assert TAKEN == await post(d)


async def test_without_memory_callers_are_asked_to_come_back(d: Daemon) -> None:
    """With 64 MiB of address space left: most arrays 503, single events taken; with none left: 503; then all again."""
    before = limit(d, resource.RLIMIT_AS, address_space(d) + 64 * MIB)
    arrays = await post_many(d, 12, ARRAY)
    assert arrays[OVERLOAD] >= 6 and {OVERLOAD, TAKEN} >= set(arrays)
    assert {TAKEN: 60} == await post_many(d, 60)
    limit(d, resource.RLIMIT_AS, address_space(d) + 8 * MIB)
    assert {OVERLOAD: 30} == await post_many(d, 30)
    limit(d, resource.RLIMIT_AS, before[0])
    assert {TAKEN: 1} == await post_many(d, 1, ARRAY)
    assert 0 == await d.stop()
    assert {"resource.exhausted"} == set(log_events(d))
    assert len(log_events(d)) <= 2


async def slow_array(d: Daemon, line: Wire, send_bytes: int) -> None:
    """Announce an array of 8 MiB, send the beginning, and leave it at that."""
    line.send(head_of(d, len(ARRAY)) + ARRAY[:send_bytes])
    await line.sent()


async def test_all_bodies_together_are_bounded(d: Daemon) -> None:
    """300 arrays begun, 300 MiB: those past 64 MiB are refused, memory stays small, single events are taken."""
    async with AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(wire(d.port)) for _ in range(300)]
        at_rest = d.resident_bytes()
        await asyncio.gather(*(slow_array(d, line, MIB) for line in lines))
        answers = [asyncio.create_task(line.answer()) for line in lines]
        async with asyncio.timeout(20):
            while sum(each.done() for each in answers) < len(lines) - FULL_BYTES // MIB:
                await asyncio.sleep(0.01)
        assert d.resident_bytes() - at_rest < 200 * MIB
        assert {TAKEN: 20} == await post_many(d, 20)
        report = Counter(
            (status, "retry-after" in headers) for status, headers, _ in (a.result() for a in answers if a.done())
        )
        assert {(503, True)} == set(report)
        for each in answers:
            each.cancel()
        await asyncio.gather(*answers, return_exceptions=True)
    async with asyncio.timeout(20):
        while await post(d, ARRAY) != TAKEN:
            await asyncio.sleep(0.05)
    assert [] == log_events(d)
