"""Endpoints: the log lines of an endpoint's life, no locks left behind."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from msgspec.structs import replace

from tests.support.engine import NO_RETRIES, ONE, engine, failing
from webhookd import log
from webhookd.config import Hold
from webhookd.errors import ApiError
from webhookd.log import LOG_EVENTS
from webhookd.log.logger import Logger
from webhookd.models import Json


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.BytesIO]:
    fresh, sink = Logger(), io.BytesIO()
    monkeypatch.setattr(log, "_LOGGER", fresh)
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    log.configure("json", "debug", sink)
    yield sink
    assert fresh._stream is not None
    fresh._stream.close(1.0)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(written: io.BytesIO, event: str) -> list[Json]:
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
            line = lines(written, event)[-1]
            assert set(LOG_EVENTS[event].fields) == set(line) - {"timestamp", "level", "event"}, event
            assert ("default", one.id) == (line["workspace"], line["endpoint_id"])
        stopped = lines(written, "endpoint.auto_disabled")
        assert [("a30", "failure_budget", 31, 30)] == [
            (each["event_id"], each["reason"], each["failures"], each["limit"]) for each in stopped
        ]
        assert {"max_events"} == {each["reason"] for each in lines(written, "delivery.expired")}


async def test_ids_of_no_endpoint_leave_no_lock(tmp_path: Path) -> None:
    """Whatever ids are asked for, and however many endpoints come and go."""
    async with engine(tmp_path) as e:
        service = e.app.services.endpoints
        for number in range(20):
            with pytest.raises(ApiError):
                await service.enable("default", f"ep_{number}")
            made = await e.endpoint(f"https://{number}.example/hook")
            await service.disable("default", made.id)
            await service.delete("default", made.id)
        assert 0 == len(service._locks)
