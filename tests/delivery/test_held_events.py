"""What the log tells of stopping and starting, field by field; holding beside changes made meanwhile; plans."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from msgspec.structs import replace

from tests.delivery.test_failure_budget import NO_RETRIES, ONE, WELL, failing, states
from tests.support.engine import Engine, engine
from webhookd import log
from webhookd.config import Config, Hold, Plans
from webhookd.log import LOG_EVENTS
from webhookd.models import Endpoint, Json


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.BytesIO]:
    """What a log of the test's own writes."""
    fresh, sink = log._Journal(), io.BytesIO()
    monkeypatch.setattr(log, "_JOURNAL", fresh)
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    log.configure("json", "debug", sink)
    yield sink
    assert fresh._stream is not None
    fresh._stream.close(1.0)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(written: io.BytesIO, event: str) -> list[Json]:
    """The lines of one event."""
    assert log.flush()
    return [line for line in map(orjson.loads, written.getvalue().splitlines()) if line["event"] == event]


async def test_each_line_of_an_endpoints_life_has_the_fields_of_its_row(tmp_path: Path, written: io.BytesIO) -> None:
    """Made, stopped by the budget, started, changed, stopped by a person, deleted: nothing of the table is missing."""
    config = replace(NO_RETRIES, hold=Hold(max_events=2))
    async with engine(tmp_path, config) as e:
        e.network.answer = failing
        one = await e.endpoint(ONE)
        await e.send(*[f"a{n}" for n in range(40)])
        await e.advance(3)
        endpoints = e.app.services.endpoints
        await endpoints.enable("default", one.id, skip_held=True)
        await endpoints.change("default", one.id, {"description": "x"})
        await endpoints.disable("default", one.id)
        await e.send("b")
        await e.quiet()
        await endpoints.delete("default", one.id)
        await e.advance(2)
        for event in (
            *("endpoint.created", "endpoint.auto_disabled", "endpoint.enabled", "endpoint.changed"),
            *("endpoint.disabled", "endpoint.deleted", "delivery.expired", "delivery.skipped", "delivery.cancelled"),
            "delivery.dropped",
        ):
            told = lines(written, event)[-1]
            assert set(LOG_EVENTS[event].fields) == set(told) - {"timestamp", "level", "event"}, event
            assert ("default", one.id) == (told["workspace"], told["endpoint_id"])
        stopped = lines(written, "endpoint.auto_disabled")
        assert [("a30", "failure_budget", 31, 30)] == [
            (each["event_id"], each["reason"], each["failures"], each["limit"]) for each in stopped
        ]
        assert {"max_events"} == {each["reason"] for each in lines(written, "delivery.expired")}


async def held_past_the_limit(e: Engine) -> Endpoint:
    """An endpoint that a person stopped, with ten events where two may be held."""
    well = await e.endpoint(WELL)
    await e.app.services.endpoints.disable("default", well.id)
    await e.send(*[f"e{n}" for n in range(10)])
    await e.quiet()
    return well


async def test_what_was_skipped_since_somebody_looked_does_not_expire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enabled without the held ones and stopped again between the look and its step: skipped, and counted once."""
    async with engine(tmp_path, replace(NO_RETRIES, hold=Hold(max_events=2))) as e:
        well = await held_past_the_limit(e)
        look, endpoints = e.app.held_events._due, e.app.services.endpoints

        async def late(endpoint: Endpoint) -> object:
            due = await look(endpoint)
            monkeypatch.setattr(e.app.held_events, "_due", look)
            await endpoints.enable("default", well.id, skip_held=True)
            await endpoints.disable("default", well.id)
            return due

        monkeypatch.setattr(e.app.held_events, "_due", late)
        await e.advance(3)
        assert {"skipped": 10} == await states(e, well)
        assert 0 == e.app.dispatcher.view(well.seq).waiting


async def test_two_changes_of_a_workspace_at_once_both_hold(tmp_path: Path) -> None:
    """The name given by one doesn't bring back the plan that the other took away."""
    async with engine(tmp_path) as e:
        workspaces = e.app.services.workspaces
        await asyncio.gather(
            workspaces.change("default", plan="starter"), workspaces.change("default", notify=("ops@example.com",))
        )
        default = e.app.registry.workspace("default")
        assert ("starter", ("ops@example.com",)) == (default.plan, default.notify)


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
        await e.clock.advance(71 * 3600)
        await workspaces.change("default", plan="growth")
        await e.clock.advance(3601)
        await e.app.held_events.look()
        assert {"delivered": 1, "expired": 1} == await states(e, well)


async def test_a_workspace_made_without_a_plan_is_on_advanced(tmp_path: Path) -> None:
    """Also where lower plans have webhooks; the lowest with webhooks only where there is no such plan."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with engine(tmp_path / "one", Config(plans=Plans(webhooks_from="growth"))) as e:
        made = await e.app.services.workspaces.create("acme")
        assert ["advanced"] * 2 == [e.app.registry.workspace("default").plan, made.plan]
    async with engine(tmp_path / "two", Config(plans=Plans(order=("free", "paid"), webhooks_from="paid"))) as e:
        assert "paid" == e.app.registry.workspace("default").plan
