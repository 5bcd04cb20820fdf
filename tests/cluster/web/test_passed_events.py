"""Single events on their way to their owner, a real server that answers for it: whoever waits gets an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest
from aiohttp import web

from tests.support.listening import served
from webhookd.cluster.names import PASSED_EVENTS_PATH
from webhookd.cluster.web.forward import Owner
from webhookd.cluster.web.passed_events import AT_ONCE, EVENTS, EventCollector, PassedEvent
from webhookd.errors import ApiError


@dataclass
class Machine:
    """Answers as `fates` says, after `may_answer`; notes how many events came together."""

    fates: Callable[[list[PassedEvent]], object]
    status: int = 200
    counts: list[int] = field(default_factory=list)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.BaseRequest) -> web.Response:
        assert PASSED_EVENTS_PATH == request.path
        events = msgspec.msgpack.decode(await request.read(), type=list[PassedEvent])
        self.counts.append(len(events))
        await self.may_answer.wait()
        return web.Response(status=self.status, body=msgspec.msgpack.encode(self.fates(events)))


def accepted(events: list[PassedEvent]) -> list[dict[str, str]]:
    return [{"event_id": each.body.decode()} for each in events]


@asynccontextmanager
async def machine(fates: Callable[[list[PassedEvent]], object] = accepted) -> AsyncIterator[tuple[Machine, Owner]]:
    made = Machine(fates)
    async with served(made.answer) as url:
        yield made, Owner(url, 0, lambda: True)


@pytest.fixture
async def collector() -> AsyncIterator[EventCollector]:
    made = EventCollector("secret")
    yield made
    await made.close()


def event(number: int) -> PassedEvent:
    return PassedEvent("Bearer x", "acme", None, str(number).encode())


async def post(collector: EventCollector, owner: Owner, count: int) -> list[object]:
    posts = (collector.post(event(number), owner) for number in range(count))
    async with asyncio.timeout(20):
        return list(await asyncio.gather(*posts, return_exceptions=True))


async def test_each_caller_gets_its_own_answer(collector: EventCollector) -> None:
    """Hundreds at once go in few requests; one after the other, and at the end of a request, none is forgotten."""
    async with machine() as (owner_machine, owner):
        owner_machine.may_answer.set()
        found = await post(collector, owner, 300)
        assert [{"event_id": str(number)} for number in range(300)] == found
        assert len(owner_machine.counts) <= 300 / EVENTS + 2
        for number in range(50):
            assert {"event_id": "0"} == (await post(collector, owner, 1))[0], number


async def test_a_failure_is_everybodys_at_once(collector: EventCollector) -> None:
    """Who waits behind a request that fails doesn't wait for the next one to fail."""
    async with machine() as (owner_machine, owner):
        first = asyncio.ensure_future(post(collector, owner, 1))
        while not owner_machine.counts:
            await asyncio.sleep(0.01)
        others = asyncio.ensure_future(post(collector, owner, 200))
        await asyncio.sleep(0.05)
        owner_machine.status = 500
        owner_machine.may_answer.set()
        found = await first + await others
        assert len(owner_machine.counts) <= AT_ONCE
        assert 201 == sum(isinstance(each, ApiError) and each.code == "unavailable" for each in found)


@pytest.mark.parametrize("status", [401, 404, 503])
async def test_what_the_owner_does_not_look_at_is_declined(collector: EventCollector, status: int) -> None:
    """An older version has no such path; a partition that moves is answered for when it has moved."""
    async with machine() as (owner_machine, owner):
        owner_machine.status = status
        owner_machine.may_answer.set()
        assert [None] * 3 == await post(collector, owner, 3)


@pytest.mark.parametrize("fates", [lambda events: "nonsense", lambda events: [None] * (len(events) + 1)])
async def test_an_answer_that_cannot_be_read_is_an_error(
    collector: EventCollector, fates: Callable[[list[PassedEvent]], object]
) -> None:
    async with machine(fates) as (owner_machine, owner):
        owner_machine.may_answer.set()
        found = await post(collector, owner, 2)
        assert all(isinstance(each, ApiError) and each.status in (500, 503) for each in found), found


async def test_a_machine_that_stands_still_is_not_waited_for_once_another_has_taken_over(
    collector: EventCollector,
) -> None:
    async with machine() as (owner_machine, lost):
        owner = Owner(lost.advertise, 0, lambda: False)
        found = await post(collector, owner, 2)
        assert all(isinstance(each, ApiError) and each.code == "unavailable" for each in found), found
        owner_machine.may_answer.set()


async def test_a_code_of_a_newer_version_is_unavailable(collector: EventCollector) -> None:
    def refused(events: list[PassedEvent]) -> object:
        return [["Refusal", "not_invented_yet", "Why.", {}, 3]] * len(events)

    async with machine(refused) as (owner_machine, owner):
        owner_machine.may_answer.set()
        (found,) = await post(collector, owner, 1)
        assert isinstance(found, ApiError) and (found.code, found.message) == ("unavailable", "Why.")
