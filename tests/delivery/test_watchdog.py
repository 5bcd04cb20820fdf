"""The shared failure budget: the 31st failure, the window, notices, restarts, JUMPS of the wall clock."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from msgspec.structs import replace

from tests.support.clock import ManualClock
from tests.support.engine import HOUR, JUMPS, NO_RETRIES, ONE, TWO, WELL, Engine, ScriptedNetwork, engine, failing
from webhookd.config import Budget
from webhookd.models import EndpointState, Reason


async def outbox(e: Engine) -> list[dict[str, object]]:
    rows = await e.app.store.read(lambda db: db.execute("SELECT kind, payload FROM outbox ORDER BY seq").fetchall())
    return [{"kind": kind, **orjson.loads(payload)} for kind, payload in rows]


async def test_the_31st_failure_disables_its_own_endpoint_and_no_other(tmp_path: Path) -> None:
    """The endpoint of the 31st at that moment; the other failing one at its own next failure; the third never."""
    async with engine(tmp_path, NO_RETRIES) as e:
        e.network.answer = failing
        one = await e.endpoint(ONE, ["message.received"])
        two = await e.endpoint(TWO, ["message.sent"])
        well = await e.endpoint(WELL)
        await e.send(*[f"a{n}" for n in range(15)])
        await e.send(*[f"b{n}" for n in range(15)], event_type="message.sent")
        await e.quiet()
        assert [EndpointState.ACTIVE] * 3 == [e.state(each) for each in (one, two, well)]
        await e.send("a15", "a16", "a17")
        await e.quiet()
        assert EndpointState.AUTO_DISABLED == e.state(one)
        assert EndpointState.ACTIVE == e.state(two)
        assert 16 == len(e.network.ids(ONE))
        await e.send("b15", "b16", event_type="message.sent")
        await e.quiet()
        assert EndpointState.AUTO_DISABLED == e.state(two)
        assert 16 == len(e.network.ids(TWO))
        assert EndpointState.ACTIVE == e.state(well)
        assert 35 == len(e.network.ids(WELL))


async def test_disabling_all_stops_every_endpoint_of_the_workspace(tmp_path: Path) -> None:
    """With `budget.disables = "all"` the healthy one goes too, and each gets its own notice."""
    async with engine(tmp_path, replace(NO_RETRIES, budget=Budget(limit=2, disables="all"))) as e:
        e.network.answer = failing
        one, well = await e.endpoint(ONE), await e.endpoint(WELL)
        await e.send("a", "b", "c")
        await e.quiet()
        assert [EndpointState.AUTO_DISABLED] * 2 == [e.state(each) for each in (one, well)]
        assert [one.id, well.id] == [mail["endpoint"]["id"] for mail in await outbox(e)]  # type: ignore[index]


async def test_the_last_retry_that_exceeds_also_drops(tmp_path: Path) -> None:
    """The delivery whose last attempt disables its endpoint is dropped; what came after it is held."""
    async with engine(tmp_path, replace(NO_RETRIES, budget=Budget(limit=2))) as e:
        e.network.answer = failing
        one = await e.endpoint(ONE)
        await e.send("a", "b", "c", "d", "e")
        await e.quiet()
        assert {"dropped": 3, "held": 2} == await e.states(one)


async def test_one_mail_with_the_facts(tmp_path: Path) -> None:
    """The notice says which endpoint, why, the last failures, how many wait and until when the budget is spent."""
    async with engine(tmp_path, replace(NO_RETRIES, budget=Budget(limit=3))) as e:
        e.network.answer = failing
        one = await e.endpoint(ONE)
        await e.send(*"abcdefg")
        await e.quiet()
        (mail,) = await outbox(e)
        assert "auto_disabled" == mail["kind"]
        assert {"id": one.id, "url": ONE, "description": ""} == mail["endpoint"]
        failures = mail["failures"]
        assert isinstance(failures, list)
        assert [500] * 4 == [failure["status"] for failure in failures]
        assert 4 == mail["waiting"]  # the failing one is dropped by the same transaction
        assert mail["spent_until"] is not None


async def test_each_crossing_of_a_threshold_warns_once(tmp_path: Path) -> None:
    """Half and four fifths of the budget: a notice each, with what each endpoint spent; again after the window."""
    async with engine(tmp_path, replace(NO_RETRIES, budget=Budget(limit=10, warn_by_mail=True))) as e:
        e.network.answer = failing
        one = await e.endpoint(ONE)
        for _ in range(2):
            await e.send(*[f"{e.clock.monotonic()}-{n}".replace(".", "-") for n in range(9)])
            await e.leap(1801)
        mails = await outbox(e)
        assert [(0.5, 5), (0.8, 8)] * 2 == [(mail["fraction"], mail["failures"]) for mail in mails]
        assert [{"id": one.id, "url": ONE, "failures": 8}] == mails[1]["by_endpoint"]
        assert {"budget_warned"} == {mail["kind"] for mail in mails}


async def test_the_count_survives_a_restart(tmp_path: Path) -> None:
    """20 failures before and 11 after a restart are 31."""
    clock = ManualClock()
    network = ScriptedNetwork(clock, answer=failing)
    async with engine(tmp_path, NO_RETRIES, clock=clock, network=network) as e:
        one = await e.endpoint(ONE)
        await e.send(*[f"a{n}" for n in range(20)])
        await e.quiet()
    async with engine(tmp_path, NO_RETRIES, clock=clock, network=network) as e:
        await e.send(*[f"b{n}" for n in range(10)])
        await e.quiet()
        assert EndpointState.ACTIVE == e.state(one)
        await e.send("c", "d")
        await e.quiet()
        assert EndpointState.AUTO_DISABLED == e.state(one)
        assert 31 == len(network.ids(ONE))


@pytest.mark.slow
async def test_local_failures_are_recorded_not_counted_and_never_drop(tmp_path: Path) -> None:
    """A machine without a network tries every 30 s for as long as it takes, and disables no endpoint."""
    async with engine(tmp_path) as e:
        e.network.answer = lambda url, _: Reason.LOCAL
        one = await e.endpoint(ONE)
        await e.send("a")
        await e.advance(3600)
        assert 121 == len(e.network.posted)
        assert EndpointState.ACTIVE == e.state(one)
        assert 0 == e.app.watchdog.view("default").failures
        e.network.answer = failing
        await e.advance(30 + 180)
        assert {"dropped": 1} == await e.states(one)


@pytest.mark.slow
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
        assert EndpointState.ACTIVE == e.state(one)
        await e.advance(1)
        await e.send(*[f"c{n}" for n in range(30)])
        await e.quiet()
        assert EndpointState.ACTIVE == e.state(one)
        e.clock.jump_wall(-jump_seconds)
        await e.send("d")
        await e.quiet()
        assert EndpointState.AUTO_DISABLED == e.state(one)


@JUMPS
async def test_the_window_restored_after_a_jump_disables_no_endpoint(jump_seconds: float, tmp_path: Path) -> None:
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
        assert EndpointState.ACTIVE == e.state(one)
        await e.send("c")
        await e.quiet()
        assert EndpointState.AUTO_DISABLED == e.state(one)


async def test_one_mail_at_the_first_drop(tmp_path: Path) -> None:
    """Ten of ten dropped: one mail, and the status names the endpoint for an hour; the next after it has delivered."""
    config = replace(NO_RETRIES, mail=replace(NO_RETRIES.mail, on_drop=True))
    async with engine(tmp_path, config) as e:
        one, well = await e.endpoint(f"{ONE}?key=in-the-query"), await e.endpoint(WELL)
        e.network.answer = lambda url, webhook_id: 200 if url == WELL else 500
        await e.send(*[f"a{n}" for n in range(10)])
        await e.quiet()
        (mail,) = await outbox(e)
        assert ("dropped", one.id, "a0") == (mail["kind"], mail["endpoint"]["id"], mail["event_id"])  # type: ignore[index]
        assert 1 == len(mail["failures"])  # type: ignore[arg-type]
        assert EndpointState.ACTIVE == e.state(one)
        look = await e.app.services.status()
        dropping = [{"id": one.id, "workspace": "default", "url": ONE, "dropped": 10}]
        assert dropping == look["dropping_endpoints"]
        assert "in-the-query" not in str(look)  # an `observe` token reads this
        await e.app.services.test_events.send("default", one.id)
        await e.send("b")
        await e.quiet()
        assert 1 == len(await outbox(e))  # a test that arrives says nothing
        e.network.answer = lambda url, webhook_id: 200
        await e.send("c")
        await e.quiet()
        e.network.answer = lambda url, webhook_id: 200 if url == WELL else 500
        await e.leap(HOUR + 1)
        await e.send("d", "e")
        await e.quiet()
        assert ["a0", "d"] == [each["event_id"] for each in await outbox(e)]
        assert [2] == [each["dropped"] for each in (await e.app.services.status())["dropping_endpoints"]]
        assert well.id not in str(look["dropping_endpoints"])
