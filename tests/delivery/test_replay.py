"""Replays keep the limits of ingest, and let live events through."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.engine import Engine, engine
from webhookd.delivery import replay
from webhookd.errors import ApiError
from webhookd.models import DeliveryState, Endpoint
from webhookd.store import delivery_log, writer
from webhookd.store.delivery_log.log_filter import LogFilter

URL = "https://example.com/hook"


def _everything_of(endpoint: Endpoint) -> LogFilter:
    return LogFilter(endpoint.workspace_seq, paused=False, endpoint_seq=endpoint.seq, state=DeliveryState.DELIVERED)


async def _delivered(e: Engine, count: int) -> Endpoint:
    endpoint = await e.endpoint(URL)
    await e.send(*(f"e{number}" for number in range(count)))
    await e.quiet()
    return endpoint


async def test_one_replay_at_a_time_for_an_endpoint(tmp_path: Path) -> None:
    """A second one for it, or for all endpoints, is refused; one for another endpoint isn't, nor once it ended."""
    async with engine(tmp_path) as e:
        endpoint, other = await _delivered(e, 3), await e.endpoint(f"{URL}/2")
        everything = LogFilter(endpoint.workspace_seq, paused=False)
        many = e.app.services.replayer.many
        first = asyncio.create_task(many(_everything_of(endpoint), dry_run=False))
        await asyncio.sleep(0)
        for wanted in (_everything_of(endpoint), everything):
            with pytest.raises(ApiError) as refused:
                await many(wanted, dry_run=False)
            assert "replay_running" == refused.value.code
        assert 0 == (await many(_everything_of(other), dry_run=False)).count
        assert 3 == (await first).count
        await e.quiet()
        assert 3 == (await many(_everything_of(endpoint), dry_run=False)).count
        await e.quiet()


@pytest.mark.parametrize("busy", [False, True])
async def test_live_events_go_between_the_steps_of_a_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, busy: bool
) -> None:
    """An event that is accepted while a replay runs is not behind all of it: steps have a limit, the writer's too."""
    monkeypatch.setattr(*((writer, "MOST_SIZE", 2) if busy else (replay, "STEP", 1)))
    monkeypatch.setattr(writer, "LEAST_SIZE", 1)
    async with engine(tmp_path) as e:
        e.app.store.writer._batch_size = writer.MOST_SIZE
        endpoint = await _delivered(e, 40)
        replaying = asyncio.create_task(e.app.services.replayer.many(_everything_of(endpoint), dry_run=False))
        while e.app.dispatcher.view(endpoint.seq).waiting == 0:
            await asyncio.sleep(0)
        await e.send("live")
        assert not replaying.done()
        assert 40 == (await replaying).count
        await e.quiet()


async def test_what_was_pruned_since_it_was_looked_at_is_not_found(tmp_path: Path) -> None:
    """Retention may remove it between the page and the button."""
    async with engine(tmp_path) as e:
        endpoint = await _delivered(e, 1)
        store, replayer = e.app.store, e.app.services.replayer
        view = await store.read(lambda db: delivery_log.get(db, endpoint.workspace_seq, 1, paused=False))
        assert view is not None
        await store.write(lambda db: db.execute("DELETE FROM deliveries"))
        assert "pruned" == await replayer.why_not(view)
        with pytest.raises(ApiError) as refused:
            await replayer.one(view)
        assert "not_found" == refused.value.code
