"""Held events: delivered in order once enabled, skipped, or expired by number and by age; pauses by the plan."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import orjson
import pytest
from msgspec.structs import replace

from tests.support.clock import ManualClock
from tests.support.engine import DAY, HOUR, JUMPS, NO_RETRIES, ONE, WELL, Engine, ScriptedNetwork, engine, failing, full
from webhookd.config import Budget, Config, Hold, Mail
from webhookd.models import DeliveryState, Endpoint, EndpointState
from webhookd.store import deliveries


async def stopped(e: Engine, *held: str) -> Endpoint:
    """An endpoint that a person disabled, and these events held for it."""
    endpoint = await e.endpoint(WELL)
    await e.app.services.endpoints.disable("default", endpoint.id)
    await e.send(*held)
    return endpoint


async def test_enabled_again_the_held_go_out_in_order_across_a_restart(tmp_path: Path) -> None:
    """The delivery that waited starts its schedule afresh, its number goes on, and the rest follow in order."""
    clock = ManualClock()
    network = ScriptedNetwork(clock, answer=failing)
    config = Config(budget=Budget(limit=2))
    async with engine(tmp_path, config, clock=clock, network=network) as e:
        one = await e.endpoint(ONE)
        await e.send("a", "b", "c")
        await e.advance(91)
        assert EndpointState.AUTO_DISABLED == e.state(one)
        assert {"held": 3} == await e.states(one)
    async with engine(tmp_path, config, clock=clock, network=network) as e:
        await e.leap(1000)
        assert 3 == len(network.posted)
        await e.send("d")
        network.answer = lambda url, _: 200
        await e.app.services.endpoints.enable("default", one.id)
        await e.quiet()
        assert ["a", "a", "a", "a", "b", "c", "d"] == network.ids(ONE)
        assert 4 == network.posted[3].number
        assert 0 == e.app.watchdog.view("default").failures


async def test_what_is_accepted_while_an_endpoint_is_disabled_waits_for_its_turn(tmp_path: Path) -> None:
    """Held events go first once it is enabled, and those accepted after that follow."""
    async with engine(tmp_path) as e:
        well = await stopped(e, "held-1", "held-2")
        await e.app.services.endpoints.enable("default", well.id, skip_held=False)
        await e.send("new-1")
        await e.quiet()
        assert ["held-1", "held-2", "new-1"] == e.network.ids(WELL)


async def test_skip_held_skips_what_waits_and_nothing_after(tmp_path: Path) -> None:
    """The mark takes effect at once; later events go out."""
    async with engine(tmp_path) as e:
        well = await stopped(e, "a", "b", "c")
        assert {"held": 3} == await e.states(well)
        await e.app.services.endpoints.enable("default", well.id, skip_held=True)
        assert {"skipped": 3} == await e.states(well)
        assert 0 == e.app.dispatcher.view(well.seq).waiting
        await e.send("d")
        await e.advance(2)
        assert ["d"] == e.network.ids(WELL)
        assert {"skipped": 3, "delivered": 1} == await e.states(well)


async def test_hold_expires_the_oldest_by_number(tmp_path: Path) -> None:
    """Past `hold.max_events` the oldest expire, in order, and enabling delivers the rest."""
    async with engine(tmp_path, Config(hold=Hold(max_events=3))) as e:
        well = await stopped(e, *"abcdefg")
        await e.advance(2)
        assert {"expired": 4, "held": 3} == await e.states(well)
        await e.app.services.endpoints.enable("default", well.id)
        await e.quiet()
        assert ["e", "f", "g"] == e.network.ids(WELL)


@pytest.mark.slow
async def test_hold_expires_by_age(tmp_path: Path) -> None:
    """After `hold.max_age_hours` an event that is held expires; a younger one stays."""
    async with engine(tmp_path, Config(hold=Hold(max_age_hours=1))) as e:
        well = await stopped(e, "a")
        await e.advance(1800)
        await e.send("b")
        await e.advance(1802)
        assert {"expired": 1, "held": 1} == await e.states(well)


async def test_what_was_skipped_since_the_look_does_not_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enabled without the held ones and stopped again between the look and its step: skipped, and counted once."""
    async with engine(tmp_path, replace(NO_RETRIES, hold=Hold(max_events=2))) as e:
        look, endpoints = e.app.held_events._due, e.app.services.endpoints
        well = await stopped(e, *[f"e{n}" for n in range(10)])
        await e.quiet()

        async def late(endpoint: Endpoint) -> object:
            due = await look(endpoint)
            monkeypatch.setattr(e.app.held_events, "_due", look)
            await endpoints.enable("default", well.id, skip_held=True)
            await endpoints.disable("default", well.id)
            return due

        monkeypatch.setattr(e.app.held_events, "_due", late)
        await e.advance(3)
        assert {"skipped": 10} == await e.states(well)
        assert 0 == e.app.dispatcher.view(well.seq).waiting


@JUMPS
async def test_held_events_dont_expire_by_a_jump(jump_seconds: float, tmp_path: Path) -> None:
    """With ten jumps, ten days: what is held for an hour stays, live and over a restart, and goes out in order."""
    clock = ManualClock()
    network = ScriptedNetwork(clock)
    config = replace(NO_RETRIES, hold=Hold(max_age_hours=48))
    async with engine(tmp_path, config, clock=clock, network=network) as e:
        one = await stopped(e, "a", "b")
        for _ in range(10):
            clock.jump_wall(jump_seconds)
            await e.advance(6)
        assert {"held": 2} == await e.states(one)
    clock.jump_wall(-9 * jump_seconds)
    async with engine(tmp_path, config, clock=clock, network=network) as e:
        await e.advance(5)
        assert {"held": 2} == await e.states(one)
        await e.app.services.endpoints.enable("default", one.id)
        await e.quiet()
        assert ["a", "b"] == network.ids(WELL)


async def test_held_events_expire_when_their_time_has_really_passed(tmp_path: Path) -> None:
    """A clock set forward makes it no sooner; one that stands right, exactly then."""
    config = replace(NO_RETRIES, hold=Hold(max_age_hours=0.01))  # 36 s
    async with engine(tmp_path, config) as e:
        one = await stopped(e, "a")
        await e.advance(20)
        e.clock.jump_wall(DAY)
        await e.advance(15)
        assert {"held": 1} == await e.states(one)
        await e.advance(3)
        assert {"expired": 1} == await e.states(one)


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
        assert DeliveryState.DELIVERED in await e.states(one)


async def test_from_one_plan_without_webhooks_to_another_the_held_go_on_ageing(tmp_path: Path) -> None:
    """They expire 72 hours after delivery stopped, whatever the plan is called meanwhile."""
    async with engine(tmp_path, Config()) as e:
        well = await e.endpoint(WELL)
        e.network.gates[WELL] = asyncio.Event()
        await e.send("a", "b")
        workspaces = e.app.services.workspaces
        await workspaces.change("default", plan="starter")
        e.network.gates.pop(WELL).set()
        await e.quiet()
        await e.clock.leap(71 * 3600)
        await workspaces.change("default", plan="growth")
        await e.clock.leap(3601)
        await e.app.held_events.look()
        assert {"delivered": 1, "expired": 1} == await e.states(well)


async def test_rows_behind_a_mark_follow_when_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full store is tried again a second later, and doesn't end the daemon."""
    async with engine(tmp_path) as e:
        well = await stopped(e, "a", "b")
        await e.app.services.endpoints.delete("default", well.id)
        for finishing, state in ((full, deliveries.PENDING), (deliveries.finish_some, deliveries.CANCELLED)):
            monkeypatch.setattr(deliveries, "finish_some", finishing)
            await e.advance(3)
            states = await e.app.store.read(lambda db: db.execute("SELECT state FROM deliveries").fetchall())
            assert [(state,)] * 2 == states


MAIL = Mail(host="mail.example", notify=("ops@example.com",))


async def _notices(e: Engine) -> list[tuple[str, str, int, str]]:
    """Of each mail: its kind, when the first event expires or why it did, how many wait, which endpoint."""
    rows = await e.app.store.read(lambda db: db.execute("SELECT kind, payload FROM outbox ORDER BY seq").fetchall())
    found = [(kind, orjson.loads(payload)) for kind, payload in rows]
    return [
        (kind, each.get("expires_at") or each["reason"], each.get("waiting", 0), each["endpoint"]["id"])
        for kind, each in found
    ]


async def _look_after(e: Engine, seconds: float) -> None:
    """Let that time pass, and one look at the held events begin and end after it."""
    looked, look = asyncio.Event(), e.app.held_events.look

    async def looking() -> None:
        await look()
        looked.set()

    e.app.held_events.look = looking  # type: ignore[method-assign]
    while not looked.is_set():
        await e.clock.leap(seconds)
        seconds = 1
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(looked.wait(), 1)
    e.app.held_events.look = look  # type: ignore[method-assign]
    await e.quiet()


async def test_one_mail_before_held_events_expire_and_one_when_the_first_did(tmp_path: Path) -> None:
    """12 hours before the oldest; neither comes again, nor after a restart, until the endpoint is stopped anew."""
    clock = ManualClock()
    config = Config(hold=Hold(max_age_hours=72), mail=MAIL)
    async with engine(tmp_path, config, clock=clock) as e:
        well, untouched = await e.endpoint(WELL), await e.endpoint(ONE)
        await e.app.services.endpoints.disable("default", well.id)
        await e.app.services.endpoints.disable("default", untouched.id)
        await _look_after(e, HOUR)
        await e.send("a")  # expires at 73 h
        await e.app.services.endpoints.enable("default", untouched.id, skip_held=True)
        await _look_after(e, 59 * HOUR)
        await e.send("b")
        await _look_after(e, 0.99 * HOUR)
        assert [] == await _notices(e)
        await _look_after(e, 0.02 * HOUR)
        warning = ("expiring", "2026-01-04T01:00:00.000Z", 2, well.id)
        assert [warning] == await _notices(e)
        await _look_after(e, 1)
    async with engine(tmp_path, config, clock=clock) as e:
        await _look_after(e, HOUR)
        assert [warning] == await _notices(e)
        await _look_after(e, 12 * HOUR)
        expired = ("expired", "max_age_hours", 0, well.id)
        assert ({"expired": 1, "held": 1}, [warning, expired]) == (await e.states(well), await _notices(e))
    async with engine(tmp_path, config, clock=clock) as e:
        await _look_after(e, 60 * HOUR)
        assert ({"expired": 2}, [warning, expired]) == (await e.states(well), await _notices(e))
        await e.app.services.endpoints.enable("default", well.id)
        await e.app.services.endpoints.disable("default", well.id)
        await e.send("c")
        await _look_after(e, 71 * HOUR)
        assert ["expiring", "expired", "expiring"] == [kind for kind, *_ in await _notices(e)]


async def test_what_expires_by_number_is_reported_once_and_no_warning_follows(tmp_path: Path) -> None:
    """Neither without a mail server, whose setting brings it later."""
    config = Config(hold=Hold(max_events=2), mail=MAIL)
    async with engine(tmp_path, replace(config, mail=Mail())) as e:
        well = await stopped(e, *"abc")
        await _look_after(e, 1)
        assert ({"expired": 1, "held": 2}, []) == (await e.states(well), await _notices(e))
        e.app.reload(config)
        for event_id in "de":
            await e.send(event_id)
            await _look_after(e, 1)
        await _look_after(e, 71 * HOUR)
        assert ({"expired": 3, "held": 2}, [("expired", "max_events", 0, well.id)]) == (
            await e.states(well),
            await _notices(e),
        )


async def test_what_a_plan_without_webhooks_holds_is_reported_as_well(tmp_path: Path) -> None:
    """Held since the plan changed; the mail says so."""
    async with engine(tmp_path, Config(mail=MAIL)) as e:
        await e.endpoint(WELL)
        e.network.gates[WELL] = asyncio.Event()
        await e.send("a", "b")
        await e.app.services.workspaces.change("default", plan="starter")
        e.network.gates[WELL].set()
        await _look_after(e, 61 * HOUR)
        ((kind, *_),) = await _notices(e)
        (payload,) = await e.app.store.read(lambda db: db.execute("SELECT payload FROM outbox").fetchall()[0])
        assert ("expiring", True) == (kind, orjson.loads(payload)["paused"])


async def test_a_look_asks_the_table_only_after_a_mark_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once at the start, for the marks of earlier daemons, and again after each one."""
    async with engine(tmp_path) as e:
        well = await e.endpoint(WELL)
        asked: list[object] = []
        ask = deliveries.marked
        monkeypatch.setattr(deliveries, "marked", lambda db: (asked.append(db), ask(db))[1])
        for _ in range(3):
            await e.app.held_events.look()
        at_first = len(asked)
        await e.app.services.endpoints.disable("default", well.id)
        await e.send("held")
        await e.app.services.endpoints.enable("default", well.id, skip_held=True)
        for _ in range(3):
            await e.app.held_events.look()
        assert (1, {"skipped": 1}) == (len(asked) - at_first, await e.states(well))
        assert at_first <= 1
