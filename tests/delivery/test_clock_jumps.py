"""The wall clock is set an hour or a day forward or back, while webhookd runs and while it doesn't."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.delivery.test_failure_budget import NO_RETRIES, ONE, WELL, failing, state_of
from tests.support.clock import ManualClock
from tests.support.engine import Engine, ScriptedNetwork, engine
from webhookd.config import Budget, Config, Hold
from webhookd.models import EndpointState

HOUR, DAY = 3600.0, 86400.0
JUMPS = pytest.mark.parametrize("jump_seconds", [HOUR, -HOUR, DAY, -DAY], ids=["+1h", "-1h", "+1d", "-1d"])
WIDE = Config(budget=Budget(limit=1000))


def times(network: ScriptedNetwork, url: str) -> list[float]:
    """When the requests of an endpoint began, counted from the first."""
    began = [posted.at for posted in network.posted if posted.url == url]
    return [round(at - began[0], 3) for at in began]


async def states(e: Engine) -> list[str]:
    """The state of each delivery, oldest first."""
    found = await e.app.store.read(lambda db: db.execute("SELECT state FROM deliveries ORDER BY seq").fetchall())
    return [("pending", "delivered", "dropped", "expired")[state] for (state,) in found]


@JUMPS
async def test_waits_of_a_running_daemon_dont_notice(jump_seconds: float, tmp_path: Path) -> None:
    """30, 60, 90 seconds, whatever the clock on the wall says in the middle of each."""
    async with engine(tmp_path, WIDE) as e:
        e.network.answer = failing
        await e.endpoint(ONE)
        await e.send("a")
        await e.quiet()
        for wait_seconds in (30, 60, 90):
            await e.advance(wait_seconds / 2)
            e.clock.jump_wall(jump_seconds)
            await e.advance(wait_seconds / 2)
        assert [0.0, 30.0, 90.0, 180.0] == times(e.network, ONE)
        assert ["dropped"] == await states(e)


@JUMPS
async def test_a_restored_wait_is_never_longer_than_its_step(jump_seconds: float, tmp_path: Path) -> None:
    """Stopped 10 s into a wait of 60 s, the clock set, started: at once if that is past, else within the 60 s."""
    clock = ManualClock()
    network = ScriptedNetwork(clock, answer=failing)
    async with engine(tmp_path, WIDE, clock=clock, network=network) as e:
        await e.endpoint(ONE)
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
        assert ["delivered", "delivered"] == await states(e)
        assert ["a", "b"] == network.ids(ONE, delivered_only=True)


@JUMPS
async def test_the_window_of_a_running_daemon_doesnt_notice(jump_seconds: float, tmp_path: Path) -> None:
    """30 failures on both sides of a jump are 30; the 31st disables; after 30 real minutes they are forgotten."""
    async with engine(tmp_path, NO_RETRIES) as e:
        e.network.answer = failing
        one = await e.endpoint(ONE)
        await e.send(*[f"a{n}" for n in range(20)])
        await e.quiet()
        e.clock.jump_wall(jump_seconds)
        await e.send(*[f"b{n}" for n in range(10)])
        await e.advance(1799)
        assert EndpointState.ACTIVE == await state_of(e, one)
        await e.advance(1)
        await e.send(*[f"c{n}" for n in range(30)])
        await e.quiet()
        assert EndpointState.ACTIVE == await state_of(e, one)
        e.clock.jump_wall(-jump_seconds)
        await e.send("d")
        await e.quiet()
        assert EndpointState.AUTO_DISABLED == await state_of(e, one)


@JUMPS
async def test_the_window_restored_after_a_jump_disables_nobody_falsely(jump_seconds: float, tmp_path: Path) -> None:
    """Failures that the clock has put into the future or far into the past count as over."""
    clock = ManualClock()
    network = ScriptedNetwork(clock, answer=failing)
    async with engine(tmp_path, NO_RETRIES, clock=clock, network=network) as e:
        one = await e.endpoint(ONE)
        await e.send(*[f"a{n}" for n in range(30)])
        await e.quiet()
    clock.jump_wall(jump_seconds)
    async with engine(tmp_path, NO_RETRIES, clock=clock, network=network) as e:
        await e.send(*[f"b{n}" for n in range(30)])
        await e.quiet()
        assert EndpointState.ACTIVE == await state_of(e, one)
        await e.send("c")
        await e.quiet()
        assert EndpointState.AUTO_DISABLED == await state_of(e, one)


@JUMPS
async def test_held_events_dont_expire_by_a_jump(jump_seconds: float, tmp_path: Path) -> None:
    """With ten jumps, ten days: what is held for an hour stays, live and over a restart, and goes out in order."""
    clock = ManualClock()
    network = ScriptedNetwork(clock)
    config = replace(NO_RETRIES, hold=Hold(max_age_hours=48))
    async with engine(tmp_path, config, clock=clock, network=network) as e:
        one = await e.endpoint(WELL)
        await e.app.services.endpoints.disable("default", one.id)
        await e.send("a", "b")
        for _ in range(10):
            clock.jump_wall(jump_seconds)
            await e.advance(6)
        assert ["pending", "pending"] == await states(e)
    clock.jump_wall(-9 * jump_seconds)
    async with engine(tmp_path, config, clock=clock, network=network) as e:
        await e.advance(5)
        assert ["pending", "pending"] == await states(e)
        await e.app.services.endpoints.enable("default", one.id)
        await e.quiet()
        assert ["a", "b"] == network.ids(WELL)


async def test_held_events_expire_when_their_time_has_really_passed(tmp_path: Path) -> None:
    """A clock set forward makes it no sooner; one that stands right, exactly then."""
    config = replace(NO_RETRIES, hold=Hold(max_age_hours=0.01))  # 36 s
    async with engine(tmp_path, config) as e:
        one = await e.endpoint(WELL)
        await e.app.services.endpoints.disable("default", one.id)
        await e.send("a")
        await e.advance(20)
        e.clock.jump_wall(DAY)
        await e.advance(15)
        assert ["pending"] == await states(e)
        await e.advance(3)
        assert ["expired"] == await states(e)


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
