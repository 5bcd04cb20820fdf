"""Backfill: past events to an endpoint that wasn't there or wasn't subscribed, in order and once each."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.clock import ManualClock
from tests.support.engine import ONE, TWO, Engine, ScriptedNetwork, engine, failing
from webhookd.config import Config, Limits
from webhookd.delivery import replay
from webhookd.delivery.replay import Replayed
from webhookd.errors import ApiError
from webhookd.models import Endpoint, EndpointState

PAST = [f"e{number}" for number in range(10)]


async def _backfill(e: Engine, endpoint: Endpoint, *, event_type: str | None = None, dry_run: bool = False) -> Replayed:
    now = e.app.registry.endpoint(endpoint.workspace, endpoint.id)
    return await e.app.services.replayer.backfill(
        now, event_type=event_type, since_ms=0, until_ms=None, dry_run=dry_run
    )


async def test_past_events_go_out_in_order_once_and_marked(tmp_path: Path) -> None:
    """What the endpoint had is left out, in whatever state it is; so are tests and types that it doesn't want."""
    async with engine(tmp_path) as e:
        await e.send(*PAST[:4])
        await e.send("unwanted", event_type="message.sent")
        endpoint = await e.endpoint(ONE, ["message.received"])
        await e.app.services.test_events.send("default", endpoint.id, None)
        await e.send(*PAST[4:6])
        await e.quiet()
        e.network.posted.clear()
        assert Replayed(4, {"already_had": 2}) == await _backfill(e, endpoint, dry_run=True)
        assert [] == e.network.posted
        assert Replayed(4, {"already_had": 2}) == await _backfill(e, endpoint)
        await e.quiet()
        assert PAST[:4] == e.network.ids(ONE)
        assert {"true"} == {each.headers["X-Webhook-Backfill"] for each in e.network.posted}
        assert Replayed(0, {"already_had": 6}) == await _backfill(e, endpoint)
        with pytest.raises(ApiError, match="doesn't subscribe to message"):
            await _backfill(e, endpoint, event_type="message.sent")
        await e.app.services.endpoints.change("default", endpoint.id, {"event_types": ["*"]})
        assert Replayed(1, {}) == await _backfill(e, endpoint, event_type="message.sent")
        await e.quiet()
        assert [*PAST[:4], "unwanted"] == e.network.ids(ONE)


async def test_what_waits_goes_before_it_and_what_comes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live events are accepted between the steps of a backfill, for every endpoint, and delivered after all of it."""
    monkeypatch.setattr(replay, "STEP", 2)
    clock = ManualClock()
    network = ScriptedNetwork(clock, answer=failing)
    async with engine(tmp_path, clock=clock, network=network) as e:
        await e.send(*PAST)
        endpoint, other = await e.endpoint(ONE), await e.endpoint(TWO)
        await e.send("waits")
        await e.quiet()
        network.answer = lambda *_: 200
        backfilling = asyncio.create_task(_backfill(e, endpoint))
        live = []
        while not backfilling.done():
            live.append(f"live{len(live)}")
            await e.send(live[-1])
            assert e.app.dispatcher.stuck() == ""
        assert Replayed(10, {"already_had": 1}) == await backfilling
        assert len(live) > 3
        await e.advance(31)
        assert ["waits", "waits", *PAST, *live] == network.ids(ONE)
        assert ["waits", "waits", *live] == network.ids(TWO)
        assert {"delivered": 11 + len(live)} == await e.states(endpoint)
        assert (0, 0) == (e.app.dispatcher.view(endpoint.seq).waiting, e.app.dispatcher.view(other.seq).waiting)


async def test_a_restart_amid_a_backfill_keeps_the_order_and_the_rest_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was queued is before what came after; the same backfill again sends what is missing, and nothing twice."""
    monkeypatch.setattr(replay, "STEP", 1)
    async with engine(tmp_path) as e:
        await e.send(*PAST)
        endpoint = await e.endpoint(ONE)
        backfilling = asyncio.create_task(_backfill(e, endpoint))
        while e.app.dispatcher.view(endpoint.seq).waiting < 3:
            await asyncio.sleep(0)
        await e.send("live")
        e.app.stop_delivering()
        backfilling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await backfilling
    async with engine(tmp_path) as e:
        await e.quiet()
        *first, last = e.network.ids(ONE)
        assert (PAST[: len(first)], "live") == (first, last)
        assert Replayed(10 - len(first), {"already_had": len(first) + 1}) == await _backfill(e, endpoint)
        await e.quiet()
        assert [*first, "live", *PAST[len(first) :]] == e.network.ids(ONE)


async def test_a_backfill_fills_half_of_what_may_wait(tmp_path: Path) -> None:
    """The oldest are taken; the rest is left out, and can follow once there is room."""
    async with engine(tmp_path, Config(limits=Limits(waiting_per_workspace=12))) as e:
        await e.send(*PAST)
        endpoint = await e.endpoint(ONE)
        e.network.gates[ONE] = asyncio.Event()
        for dry_run in (True, False):
            assert Replayed(6, {"no_room": 4}) == await _backfill(e, endpoint, dry_run=dry_run)
        assert Replayed(0, {"already_had": 6, "no_room": 4}) == await _backfill(e, endpoint)
        await e.send("live")
        e.network.gates[ONE].set()
        await e.quiet()
        assert Replayed(4, {"already_had": 7}) == await _backfill(e, endpoint)
        await e.quiet()
        assert [*PAST[:6], "live", *PAST[6:]] == e.network.ids(ONE)


async def test_one_at_a_time_and_only_to_an_active_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one is refused; one that is disabled meanwhile gets no more, and what it got is held."""
    monkeypatch.setattr(replay, "STEP", 1)
    async with engine(tmp_path) as e:
        await e.send(*PAST)
        endpoint = await e.endpoint(ONE)
        first = asyncio.create_task(_backfill(e, endpoint))
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as refused:
            await _backfill(e, endpoint)
        assert "replay_running" == refused.value.code
        while e.app.dispatcher.view(endpoint.seq).waiting < 2:
            await asyncio.sleep(0)
        endpoints = e.app.services.endpoints
        await endpoints.disable("default", endpoint.id)
        done = await first
        assert Replayed(done.count, {"not_active": 10 - done.count}) == done
        assert {"held": done.count} == await e.states(endpoint)
        with pytest.raises(ApiError) as refused:
            await _backfill(e, endpoint)
        assert ("endpoint_not_active", EndpointState.DISABLED) == (refused.value.code, e.state(endpoint))
        await endpoints.enable("default", endpoint.id)
        await e.quiet()
        assert PAST[: done.count] == e.network.ids(ONE)


async def test_skipping_amid_a_backfill_skips_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disabled, and enabled without what waits: nothing of it is sent, and nothing counts as waiting for ever."""
    monkeypatch.setattr(replay, "STEP", 1)
    async with engine(tmp_path) as e:
        await e.send(*PAST)
        endpoint = await e.endpoint(ONE)
        backfilling = asyncio.create_task(_backfill(e, endpoint))
        while e.app.dispatcher.view(endpoint.seq).waiting < 2:
            await asyncio.sleep(0)
        await e.send("live")
        await e.app.services.endpoints.disable("default", endpoint.id)
        await e.app.services.endpoints.enable("default", endpoint.id, skip_held=True)
        done = await backfilling
        assert 10 == done.count + done.left_out["not_active"]
        await e.send("after")
        await e.advance(2)
        assert (["after"], 0) == (e.network.ids(ONE), e.app.dispatcher.view(endpoint.seq).waiting)
