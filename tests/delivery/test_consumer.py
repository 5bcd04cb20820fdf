"""A consumer: order, one request at a time, the schedule, the drop; over restarts and JUMPS of the wall clock."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from tests.support.clock import ManualClock
from tests.support.engine import JUMPS, ONE, WELL, ScriptedNetwork, engine, failing, full
from webhookd.config import Budget, Config, Delivery
from webhookd.delivery.queue import INLINE_BYTES
from webhookd.models import NewEvent, Reason
from webhookd.store import writer

WIDE = Config(budget=Budget(limit=1000))


def times(network: ScriptedNetwork, url: str) -> list[float]:
    """When the requests of an endpoint began, counted from the first."""
    began = [posted.at for posted in network.posted if posted.url == url]
    return [round(at - began[0], 3) for at in began]


async def test_a_failing_event_is_tried_four_times_and_then_the_next_goes(tmp_path: Path) -> None:
    """0, 30, 60 and 90 seconds between the attempts, by the defaults; then dropped, then the next event."""
    async with engine(tmp_path) as e:
        e.network.answer = failing
        await e.endpoint(ONE)
        await e.send("a", "b")
        await e.advance(179)
        assert ["a"] * 3 == e.network.ids(ONE)
        await e.advance(1)
        posted = [p for p in e.network.posted if p.url == ONE]
        assert ["a", "a", "a", "a", "b"] == [p.webhook_id for p in posted]
        assert [1, 2, 3, 4, 1] == [p.number for p in posted]
        gaps = [round(after.at - before.at, 3) for before, after in itertools.pairwise(posted)]
        assert [30, 60, 90, 0] == gaps


async def test_the_endpoint_beside_a_dead_one_gets_everything_meanwhile(tmp_path: Path) -> None:
    """300 events reach a healthy endpoint before the dead one's first retry is due."""
    async with engine(tmp_path) as e:
        e.network.answer = failing
        await e.endpoint(ONE)
        await e.endpoint(WELL)
        ids = [f"e{number}" for number in range(300)]
        await e.send(*ids)
        await e.quiet()
        assert ids == e.network.ids(WELL)
        assert ["e0"] == e.network.ids(ONE)
        assert {ONE: 1, WELL: 1} == e.network.most_under_way


async def test_a_wait_begins_when_the_attempt_before_it_ended(tmp_path: Path) -> None:
    """Attempts that take 4 seconds are 34, 64 and 94 seconds apart."""
    async with engine(tmp_path) as e:
        e.network.answer = failing
        e.network.takes_seconds = 4
        await e.endpoint(ONE)
        await e.send("a")
        await e.advance(300)
        at = [p.at for p in e.network.posted]
        assert [34, 64, 94] == [round(after - before, 3) for before, after in itertools.pairwise(at)]


@pytest.mark.parametrize(
    ("waits", "at"),
    [
        ((20.0, 20.0, 90.0), [0, 20, 40, 130]),
        ((5.0, 5.0, 5.0), [0, 10, 15, 20]),
        ((), [0, 10]),
        ((300.0, 300.0, 300.0), [0, 30, 330]),
    ],
)
async def test_a_wait_follows_a_schedule_that_a_reload_shortens(
    waits: tuple[float, ...], at: list[float], tmp_path: Path
) -> None:
    """Ten seconds into a wait of 30: it ends with the new step, if that is shorter; at once where it is over."""
    async with engine(tmp_path) as e:
        e.network.answer = failing
        await e.endpoint(ONE)
        await e.send("a")
        await e.advance(10)
        e.app.reload(Config(delivery=Delivery(retry_seconds=waits)))
        await e.quiet()
        await e.advance(400)
        assert at == times(e.network, ONE)


async def test_a_fresh_schedule_after_enable(tmp_path: Path) -> None:
    """Enabled after its second attempt, the delivery has all four attempts again before it is dropped."""
    async with engine(tmp_path) as e:
        e.network.answer = failing
        one = await e.endpoint(ONE)
        await e.send("a")
        await e.advance(31)
        await e.app.services.endpoints.disable("default", one.id)
        await e.app.services.endpoints.enable("default", one.id)
        await e.advance(179)
        assert [1, 2, 3, 4, 5] == [p.number for p in e.network.posted]
        await e.advance(1)
        assert [1, 2, 3, 4, 5, 6] == [p.number for p in e.network.posted]
        assert {"dropped": 1} == await e.states(one)


async def test_a_restart_keeps_order_attempts_and_waits(tmp_path: Path) -> None:
    """Stopped in the middle of a wait and started again, the event goes on where it was."""
    clock = ManualClock()
    network = ScriptedNetwork(clock, answer=failing)
    async with engine(tmp_path, clock=clock, network=network) as e:
        await e.endpoint(ONE)
        await e.send("a", "b")
        await e.advance(40)
    async with engine(tmp_path, clock=clock, network=network) as e:
        await e.advance(49)
        assert [1, 2] == [p.number for p in network.posted]
        await e.advance(1)
        assert [1, 2, 3] == [p.number for p in network.posted]
        await e.advance(90)
        assert ["a", "a", "a", "a", "b"] == network.ids(ONE)


async def test_a_large_event_waits_no_longer_after_a_restart(tmp_path: Path) -> None:
    """Its body is read from the table when its wait is over; it doesn't wait a second time for that."""
    clock = ManualClock()
    network = ScriptedNetwork(clock, answer=failing)
    async with engine(tmp_path, clock=clock, network=network) as e:
        await e.endpoint(ONE)
        body = b'{"event_type":"message.received","text":"%b"}' % (b"x" * INLINE_BYTES)
        await e.app.services.ingest.accept("default", [NewEvent("a", "message.received", body)])
        await e.advance(10)
    async with engine(tmp_path, clock=clock, network=network) as e:
        await e.advance(20)
        assert [1, 2] == [p.number for p in network.posted]
        assert [body, body] == [p.body for p in network.posted]


async def test_a_wait_for_the_own_machine_is_kept_over_a_restart(tmp_path: Path) -> None:
    """Also after a failed attempt, of a schedule whose steps are shorter."""
    clock = ManualClock()
    answers = [500, Reason.LOCAL, 200]
    network = ScriptedNetwork(clock, answer=lambda url, webhook_id: answers.pop(0))
    config = Config(delivery=Delivery(retry_seconds=(5.0,)))
    async with engine(tmp_path, config, clock=clock, network=network) as e:
        await e.endpoint(ONE)
        await e.send("a")
        await e.advance(10)
        assert [1, 2] == [p.number for p in network.posted]
    async with engine(tmp_path, config, clock=clock, network=network) as e:
        await e.advance(24)
        assert [1, 2] == [p.number for p in network.posted]
        await e.advance(1)
        assert [1, 2, 3] == [p.number for p in network.posted]


async def test_an_outcome_waits_for_room_and_with_it_its_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is kept in memory, recorded once there is room, and only then the next event goes."""
    async with engine(tmp_path) as e:
        url = "https://example.com/hook"
        gate = e.network.gates[url] = asyncio.Event()
        await e.endpoint(url)
        await e.send("a", "b", "c")
        await e.quiet()
        with monkeypatch.context() as patched:
            patched.setattr(writer, "_timed", full)
            patched.setattr(writer, "FULL_RETRY_SECONDS", 0.01)
            gate.set()
            async with asyncio.timeout(10):
                while not e.app.store.writer.full:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert ["a"] == e.network.ids(url)
        await e.quiet()
        assert ["a", "b", "c"] == e.network.ids(url)


@JUMPS
async def test_waits_of_a_running_daemon_dont_notice(jump_seconds: float, tmp_path: Path) -> None:
    """30, 60, 90 seconds, whatever the clock on the wall says in the middle of each."""
    async with engine(tmp_path, WIDE) as e:
        e.network.answer = failing
        one = await e.endpoint(ONE)
        await e.send("a")
        await e.quiet()
        for wait_seconds in (30, 60, 90):
            await e.advance(wait_seconds / 2)
            e.clock.jump_wall(jump_seconds)
            await e.advance(wait_seconds / 2)
        assert [0.0, 30.0, 90.0, 180.0] == times(e.network, ONE)
        assert {"dropped": 1} == await e.states(one)


@JUMPS
async def test_a_restored_wait_is_never_longer_than_its_step(jump_seconds: float, tmp_path: Path) -> None:
    """Stopped 10 s into a wait of 60 s, the clock set, started: at once if that is past, else within the 60 s."""
    clock = ManualClock()
    network = ScriptedNetwork(clock, answer=failing)
    async with engine(tmp_path, WIDE, clock=clock, network=network) as e:
        one = await e.endpoint(ONE)
        await e.send("a", "b")
        await e.advance(30)
        await e.advance(10)
    clock.jump_wall(jump_seconds)
    async with engine(tmp_path, WIDE, clock=clock, network=network) as e:
        await e.quiet()
        forward = jump_seconds > 0
        assert (3 if forward else 2) == len(network.posted)
        await e.advance(60)
        assert [0.0, 30.0, 40.0 if forward else 100.0] == times(network, ONE)[:3]
        network.answer = lambda url, webhook_id: 200
        await e.advance(90)
        assert {"delivered": 2} == await e.states(one)
        assert ["a", "b"] == network.ids(ONE, delivered_only=True)


@JUMPS
async def test_order_holds_over_jumps(jump_seconds: float, tmp_path: Path) -> None:
    """Events accepted around jumps go out as they were accepted, also those that a restart finds waiting."""
    clock = ManualClock()
    network = ScriptedNetwork(clock)
    network.gates[WELL] = asyncio.Event()
    expected = []
    async with engine(tmp_path, WIDE, clock=clock, network=network) as e:
        await e.endpoint(WELL)
        for number in range(5):
            await e.send(f"e{number}")
            expected.append(f"e{number}")
            clock.jump_wall(jump_seconds)
        network.gates.pop(WELL).set()
        await e.quiet()
        assert expected == network.ids(WELL)
        network.answer = lambda url, webhook_id: 500
        for number in range(5, 10):
            await e.send(f"e{number}")
            expected.append(f"e{number}")
            clock.jump_wall(-jump_seconds)
    network.answer = lambda url, webhook_id: 200
    network.posted.clear()
    async with engine(tmp_path, WIDE, clock=clock, network=network) as e:
        await e.advance(30)
        assert expected[5:] == network.ids(WELL)
