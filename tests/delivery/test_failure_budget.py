"""The shared failure budget, holding and enabling, on an injected clock and a real table."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
from msgspec.structs import replace

from tests.support.clock import ManualClock
from tests.support.engine import Engine, ScriptedNetwork, engine
from webhookd.config import Budget, Config, Delivery, Hold, Mail
from webhookd.models import DeliveryState, Endpoint, EndpointState, Reason
from webhookd.store import delivery_log
from webhookd.store.delivery_log import LogFilter

ONE, TWO, WELL = "https://one.example/", "https://two.example/", "https://well.example/"
# Failures come fast: no retries, so each event is one failed attempt.
NO_RETRIES = Config(delivery=Delivery(retry_seconds=()), mail=Mail(host="mail.example", notify=("ops@example.com",)))


def failing(url: str, webhook_id: str) -> int:
    """Two endpoints fail, the third is well."""
    return 500 if url in (ONE, TWO) else 200


async def state_of(e: Engine, endpoint: Endpoint) -> EndpointState:
    """The state as the table has it."""
    return e.app.registry.endpoint("default", endpoint.id).state


async def states(e: Engine, endpoint: Endpoint) -> dict[str, int]:
    """How many deliveries of an endpoint read as each state."""
    wanted = LogFilter(workspace_seq=endpoint.workspace_seq, paused=False, endpoint_seq=endpoint.seq)
    views = await e.app.store.read(lambda db: delivery_log.page(db, wanted, before_seq=None, limit=500))
    counts: dict[str, int] = {}
    for view in views:
        counts[view.state] = counts.get(view.state, 0) + 1
    return counts


async def mails(e: Engine) -> list[dict[str, object]]:
    """The payloads in the outbox."""
    rows = await e.app.store.read(lambda db: db.execute("SELECT kind, payload FROM outbox ORDER BY seq").fetchall())
    return [{"kind": kind, **orjson.loads(payload)} for kind, payload in rows]


async def test_the_31st_failure_disables_its_own_endpoint_and_no_other(tmp_path: Path) -> None:
    """Whoever has the 31st goes at that moment; the other failing one at its own next failure; the third never."""
    async with engine(tmp_path, NO_RETRIES) as e:
        e.network.answer = failing
        one = await e.endpoint(ONE, ["message.received"])
        two = await e.endpoint(TWO, ["message.sent"])
        well = await e.endpoint(WELL)
        await e.send(*[f"a{n}" for n in range(15)])
        await e.send(*[f"b{n}" for n in range(15)], event_type="message.sent")
        await e.quiet()
        assert [EndpointState.ACTIVE] * 3 == [await state_of(e, each) for each in (one, two, well)]
        await e.send("a15", "a16", "a17")
        await e.quiet()
        assert EndpointState.AUTO_DISABLED == await state_of(e, one)
        assert EndpointState.ACTIVE == await state_of(e, two)
        assert 16 == len(e.network.ids(ONE))
        await e.send("b15", "b16", event_type="message.sent")
        await e.quiet()
        assert EndpointState.AUTO_DISABLED == await state_of(e, two)
        assert 16 == len(e.network.ids(TWO))
        assert EndpointState.ACTIVE == await state_of(e, well)
        assert 35 == len(e.network.ids(WELL))


async def test_disabling_all_stops_every_endpoint_of_the_workspace(tmp_path: Path) -> None:
    """With `budget.disables = "all"` the healthy one goes too, and each gets its own notice."""
    async with engine(tmp_path, replace(NO_RETRIES, budget=Budget(limit=2, disables="all"))) as e:
        e.network.answer = failing
        one, well = await e.endpoint(ONE), await e.endpoint(WELL)
        await e.send("a", "b", "c")
        await e.quiet()
        assert [EndpointState.AUTO_DISABLED] * 2 == [await state_of(e, each) for each in (one, well)]
        assert [one.id, well.id] == [mail["endpoint"]["id"] for mail in await mails(e)]  # type: ignore[index]


async def test_the_last_retry_that_exceeds_also_drops(tmp_path: Path) -> None:
    """The delivery whose last attempt disables its endpoint is dropped; what came after it is held."""
    async with engine(tmp_path, replace(NO_RETRIES, budget=Budget(limit=2))) as e:
        e.network.answer = failing
        one = await e.endpoint(ONE)
        await e.send("a", "b", "c", "d", "e")
        await e.quiet()
        assert {"dropped": 3, "held": 2} == await states(e, one)


async def test_one_mail_with_the_facts(tmp_path: Path) -> None:
    """The notice says which endpoint, why, the last failures, how many wait and until when the budget is spent."""
    async with engine(tmp_path, replace(NO_RETRIES, budget=Budget(limit=3))) as e:
        e.network.answer = failing
        one = await e.endpoint(ONE)
        await e.send(*"abcdefg")
        await e.quiet()
        (mail,) = await mails(e)
        assert "auto_disabled" == mail["kind"]
        assert {"id": one.id, "url": ONE, "description": ""} == mail["endpoint"]
        failures = mail["failures"]
        assert isinstance(failures, list)
        assert [500] * 4 == [failure["status"] for failure in failures]
        assert 4 == mail["waiting"]  # the failing one is dropped by the same transaction
        assert mail["spent_until"] is not None


async def test_the_window_slides(tmp_path: Path) -> None:
    """30 failures, 30 minutes, 30 more: nothing is disabled; a 31st within the window is."""
    async with engine(tmp_path, NO_RETRIES) as e:
        e.network.answer = failing
        one = await e.endpoint(ONE)
        await e.send(*[f"a{n}" for n in range(30)])
        await e.advance(1800)
        await e.send(*[f"b{n}" for n in range(30)])
        await e.quiet()
        assert EndpointState.ACTIVE == await state_of(e, one)
        await e.send("c")
        await e.quiet()
        assert EndpointState.AUTO_DISABLED == await state_of(e, one)


async def test_wall_clock_jumps_disable_nothing_falsely(tmp_path: Path) -> None:
    """An hour forward or back, with a restart after it, makes no failure count that shouldn't."""
    clock = ManualClock()
    network = ScriptedNetwork(clock, answer=failing)
    for jump_seconds in (3600, -7200):
        async with engine(tmp_path, NO_RETRIES, clock=clock, network=network) as e:
            one = await e.endpoint(f"{ONE}{jump_seconds}")
            network.answer = lambda url, _, dead=one.url: 500 if url == dead else 200  # type: ignore[misc]
            await e.send(*[f"{jump_seconds}-{n}" for n in range(20)])
            await e.quiet()
            clock.jump_wall(jump_seconds)
            await e.send(*[f"{jump_seconds}-more-{n}" for n in range(10)])
            await e.quiet()
            assert EndpointState.ACTIVE == await state_of(e, one)
        async with engine(tmp_path, NO_RETRIES, clock=clock, network=network) as e:
            await e.quiet()
            assert EndpointState.ACTIVE == await state_of(e, one)
            await e.app.services.endpoints.delete("default", one.id)


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
        assert EndpointState.ACTIVE == await state_of(e, one)
        await e.send("c", "d")
        await e.quiet()
        assert EndpointState.AUTO_DISABLED == await state_of(e, one)
        assert 31 == len(network.ids(ONE))


async def test_enabled_again_the_held_go_out_in_order_across_a_restart(tmp_path: Path) -> None:
    """The delivery that waited starts its schedule afresh, its number goes on, and the rest follow in order."""
    clock = ManualClock()
    network = ScriptedNetwork(clock, answer=failing)
    config = Config(budget=Budget(limit=2))
    async with engine(tmp_path, config, clock=clock, network=network) as e:
        one = await e.endpoint(ONE)
        await e.send("a", "b", "c")
        await e.advance(91)
        assert EndpointState.AUTO_DISABLED == await state_of(e, one)
        assert {"held": 3} == await states(e, one)
    async with engine(tmp_path, config, clock=clock, network=network) as e:
        await e.advance(1000)
        assert 3 == len(network.posted)
        await e.send("d")
        network.answer = lambda url, _: 200
        await e.app.services.endpoints.enable("default", one.id)
        await e.quiet()
        assert ["a", "a", "a", "a", "b", "c", "d"] == network.ids(ONE)
        assert 4 == network.posted[3].number
        assert 0 == e.app.watchdog.view("default").failures


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
        assert {"dropped": 1} == await states(e, one)


async def test_skip_held_skips_what_waits_and_nothing_after(tmp_path: Path) -> None:
    """The mark takes effect at once; later events go out."""
    async with engine(tmp_path) as e:
        well = await e.endpoint(WELL)
        await e.app.services.endpoints.disable("default", well.id)
        await e.send("a", "b", "c")
        assert {"held": 3} == await states(e, well)
        await e.app.services.endpoints.enable("default", well.id, skip_held=True)
        assert {"skipped": 3} == await states(e, well)
        assert 0 == e.app.dispatcher.view(well.seq).waiting
        await e.send("d")
        await e.advance(2)
        assert ["d"] == e.network.ids(WELL)
        assert {"skipped": 3, "delivered": 1} == await states(e, well)


async def test_hold_expires_the_oldest_by_number(tmp_path: Path) -> None:
    """Past `hold.max_events` the oldest expire, in order, and enabling delivers the rest."""
    async with engine(tmp_path, Config(hold=Hold(max_events=3))) as e:
        well = await e.endpoint(WELL)
        await e.app.services.endpoints.disable("default", well.id)
        await e.send(*"abcdefg")
        await e.advance(2)
        assert {"expired": 4, "held": 3} == await states(e, well)
        await e.app.services.endpoints.enable("default", well.id)
        await e.quiet()
        assert ["e", "f", "g"] == e.network.ids(WELL)


async def test_hold_expires_by_age(tmp_path: Path) -> None:
    """After `hold.max_age_hours` an event that is held expires; a younger one stays."""
    async with engine(tmp_path, Config(hold=Hold(max_age_hours=1))) as e:
        well = await e.endpoint(WELL)
        await e.app.services.endpoints.disable("default", well.id)
        await e.send("a")
        await e.advance(1800)
        await e.send("b")
        await e.advance(1802)
        assert {"expired": 1, "held": 1} == await states(e, well)


async def test_local_failures_are_recorded_not_counted_and_never_drop(tmp_path: Path) -> None:
    """A machine without a network tries every 30 s for as long as it takes, and disables nobody."""
    async with engine(tmp_path) as e:
        e.network.answer = lambda url, _: Reason.LOCAL
        one = await e.endpoint(ONE)
        await e.send("a")
        await e.advance(3600)
        assert 121 == len(e.network.posted)
        assert EndpointState.ACTIVE == await state_of(e, one)
        assert 0 == e.app.watchdog.view("default").failures
        e.network.answer = failing
        await e.advance(30 + 180)
        assert {"dropped": 1} == await states(e, one)


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
        assert {"delivered": 2} == await states(e, well)


async def test_delete_cancels_what_waits_and_records_what_is_in_flight(tmp_path: Path) -> None:
    """A success that was under way makes it delivered; the rest reads cancelled at once and for ever."""
    async with engine(tmp_path) as e:
        gate = e.network.gates[WELL] = asyncio.Event()
        well = await e.endpoint(WELL)
        await e.send("a", "b", "c")
        await e.quiet()
        await e.app.services.endpoints.delete("default", well.id)
        assert {"cancelled": 3} == await states(e, well)
        gate.set()
        await e.advance(2)
        assert {"delivered": 1, "cancelled": 2} == await states(e, well)
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


async def test_a_plan_without_webhooks_pauses_and_its_return_delivers(tmp_path: Path) -> None:
    """Events during the pause have no deliveries; what waited is held and goes out when the plan returns."""
    async with engine(tmp_path) as e:
        e.network.answer = failing
        one = await e.endpoint(ONE)
        await e.send("a", "b")
        await e.quiet()
        await e.app.services.workspaces.change("default", plan="growth")
        await e.advance(300)
        (accepted,) = await e.send("c")
        assert 0 == accepted.deliveries
        assert 1 == len(e.network.posted)
        e.network.answer = lambda url, _: 200
        await e.app.services.workspaces.change("default", plan="advanced")
        await e.quiet()
        assert ["a", "a", "b"] == e.network.ids(ONE)
        assert DeliveryState.DELIVERED in await states(e, one)
