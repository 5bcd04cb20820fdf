"""The dispatcher: the queue in memory, disabling and deleting while an attempt is in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.engine import WELL, engine
from webhookd.store.store import Db


async def test_more_than_the_queue_holds_arrives_in_order(tmp_path: Path) -> None:
    """1,000 events accepted while the first is in flight overflow the queue and still come in order."""
    async with engine(tmp_path) as e:
        gate = e.network.gates[WELL] = asyncio.Event()
        await e.endpoint(WELL)
        ids = [f"e{number}" for number in range(1000)]
        for start in range(0, 1000, 50):
            await e.send(*ids[start : start + 50])
        gate.set()
        await e.quiet()
        assert ids == e.network.ids(WELL)


async def test_what_was_just_accepted_is_not_read_again(tmp_path: Path) -> None:
    """Neither for an endpoint that was idle nor for one that is busy: deliveries are queued in memory."""
    async with engine(tmp_path) as e:
        await e.endpoint("https://a.example.com/")
        asked = 0
        read = e.app.store.read_for_delivery

        async def counted(question: Callable[[Db], Any]) -> Any:
            nonlocal asked
            asked += 1
            return await read(question)

        e.app.store.read_for_delivery = counted  # type: ignore[method-assign]
        for group in (["a"], ["b", "c", "d"], ["e"]):
            await e.send(*group)
            await e.quiet()
        assert list("abcde") == e.network.ids("https://a.example.com/")
        assert 0 == asked


async def test_a_person_s_disable_lets_the_attempt_in_flight_end(tmp_path: Path) -> None:
    """It is recorded; nothing further starts; enable waits for it."""
    async with engine(tmp_path) as e:
        gate = e.network.gates[WELL] = asyncio.Event()
        well = await e.endpoint(WELL)
        await e.send("a", "b")
        await e.quiet()
        await e.app.services.endpoints.disable("default", well.id)
        enabling = asyncio.create_task(e.app.services.endpoints.enable("default", well.id))
        await e.quiet()
        assert not enabling.done()
        gate.set()
        await enabling
        await e.quiet()
        assert ["a", "b"] == e.network.ids(WELL)
        assert {"delivered": 2} == await e.states(well)


async def test_delete_cancels_what_waits_and_records_what_is_in_flight(tmp_path: Path) -> None:
    """A success that was under way makes it delivered; the rest reads cancelled at once and for ever."""
    async with engine(tmp_path) as e:
        gate = e.network.gates[WELL] = asyncio.Event()
        well = await e.endpoint(WELL)
        await e.send("a", "b", "c")
        await e.quiet()
        await e.app.services.endpoints.delete("default", well.id)
        assert {"cancelled": 3} == await e.states(well)
        gate.set()
        await e.advance(2)
        assert {"delivered": 1, "cancelled": 2} == await e.states(well)
        assert 0 == e.app.dispatcher.backlog(well.workspace_seq).waiting
        assert {} == e.app.recorder.durations_ms


async def test_the_durations_of_a_deleted_endpoint_are_forgotten(tmp_path: Path) -> None:
    """What an endpoint took is kept as long as the endpoint."""
    async with engine(tmp_path) as e:
        well = await e.endpoint(WELL)
        await e.send("a")
        await e.quiet()
        assert [well.seq] == list(e.app.recorder.durations_ms)
        await e.app.services.endpoints.delete("default", well.id)
        assert {} == e.app.recorder.durations_ms
