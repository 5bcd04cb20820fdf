"""Many events in one request: written in parts that hold the writer for milliseconds, accepted all or none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Engine, engine
from webhookd.config import Config, Limits
from webhookd.delivery.ingest import Ingest
from webhookd.errors import ApiError
from webhookd.models import NewEvent
from webhookd.store import writer
from webhookd.store.store import Store

URL = "https://example.com/hook"


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events each command of ingest has; a batch is ten rows."""
    for name in ("LEAST_SIZE", "BATCH_SIZE", "MOST_SIZE"):
        monkeypatch.setattr(writer, name, 10)
    found: list[int] = []
    add: Callable[..., Any] = Store.add

    async def noting(store: Store, at_ms: int, run: Any, **options: Any) -> Any:
        found.append(len(run.item.events))
        return await add(store, at_ms, run, **options)

    monkeypatch.setattr(Store, "add", noting)
    return found


async def test_many_events_are_written_in_parts_by_their_rows(tmp_path: Path, sizes: list[int]) -> None:
    """Each event costs a row and one more per endpoint that wants it; the order and the results are those of all."""
    async with engine(tmp_path) as e:
        await e.endpoint(URL)
        first = await e.endpoint(f"{URL}/2")
        await e.endpoint(f"{URL}/3", ["message.sent"])
        ids = [f"e{number}" for number in range(8)]
        assert ids == [accepted.event_id for accepted in await e.send(*ids)]
        assert [3, 3, 2] == sizes
        await e.quiet()
        assert ids == e.network.ids(first.url)
        assert e.app.services.ingest.accepted_count == 8


async def test_a_disk_that_gets_full_in_the_middle_refuses_nothing_that_was_begun(
    tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first part may be refused, and then nothing was accepted; the others wait for space."""
    async with engine(tmp_path) as e:
        retried: list[bool] = []
        add = Ingest._add

        async def noting(ingest: Ingest, ingested: Any, *, retry_when_full: bool) -> Any:
            retried.append(retry_when_full)
            return await add(ingest, ingested, retry_when_full=retry_when_full)

        monkeypatch.setattr(Ingest, "_add", noting)
        await e.send(*(f"e{number}" for number in range(25)))
        assert [False, True, True] == retried
        monkeypatch.setattr(e.app.store.disk_space, "short", lambda: True)
        with pytest.raises(ApiError, match="nearly full"):
            await e.send("more")


async def test_a_workspace_over_its_quota_waits_and_is_refused_alone(tmp_path: Path) -> None:
    """For a second; others go on meanwhile, and it goes on itself as soon as its log is shorter."""
    config = Config(limits=Limits(log_mb_per_workspace=0.01))
    async with engine(tmp_path, config) as e:
        for name in ("full", "other"):
            await e.app.services.workspaces.create(name, plan="advanced")
        held = await e.endpoint(URL, workspace="full")
        await e.app.services.endpoints.disable("full", held.id)
        for number in range(20):
            if e.app.retention.over_quota(held.workspace_seq):
                break
            await e.send(f"e{number}", workspace="full")
        accepted = e.app.services.ingest.accepted_count
        for action in (e.send("more", workspace="full"), e.app.services.test_events.send("full", held.id)):
            over = asyncio.create_task(action)
            await e.send(f"meanwhile {accepted}".replace(" ", "-"), workspace="other")
            await e.clock.advance(0.9)
            assert not over.done()
            await e.clock.advance(0.2)
            with pytest.raises(ApiError, match="log_mb_per_workspace") as refused:
                await over
            assert "workspace_full" == refused.value.code
        await e.app.services.endpoints.enable("full", held.id)
        for _ in range(50):  # as a producer does; on a busy machine retention takes more than a second of this clock
            with contextlib.suppress(ApiError):
                await moving(e, asyncio.create_task(e.send("at-last", workspace="full")))
                break
        assert accepted + 2 == e.app.services.ingest.accepted_count


async def moving(e: Engine, task: asyncio.Task[Any]) -> Any:
    """The result of a task that waits for retention, whose clock goes on."""
    while not task.done():
        await e.clock.advance(0.1)
        await asyncio.sleep(0.01)
    return await task


async def test_more_events_a_second_than_allowed_are_refused(tmp_path: Path) -> None:
    """429 with the time to wait, for one workspace alone; a stream waits instead, until the daemon stops."""
    async with engine(tmp_path, Config(limits=Limits(events_per_second=2))) as e:
        await e.app.services.workspaces.create("other", plan="advanced")
        await e.send("a", "b")
        with pytest.raises(ApiError, match="2 events a second") as refused:
            await e.send("c")
        assert ("rate_limited", 429, 1) == (
            refused.value.code,
            refused.value.status,
            refused.value.retry_after_seconds,
        )
        await e.send("a", workspace="other")
        ingest, stopping = e.app.services.ingest, asyncio.Event()
        event = NewEvent("c", "message.sent", b'{"event_type":"message.sent","event_id":"c"}')
        workspace = e.app.registry.workspace("default")
        slow = asyncio.create_task(ingest.accept(workspace.seq, [event], stopping=stopping))
        await e.clock.advance(0.4)
        assert not slow.done()
        assert ["c"] == [each.event_id for each in await moving(e, slow)]
        stopped = asyncio.create_task(ingest.accept(workspace.seq, [event] * 2, stopping=stopping))
        await e.clock.until_waiters(1)
        stopping.set()
        with pytest.raises(ApiError, match="stopping"):
            await stopped


@pytest.mark.parametrize("reason", ["storage_full", "too_far_behind"])
async def test_a_test_event_is_refused_where_an_event_would_be(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For want of space on the disk, or because too much waits; nothing goes out then."""
    async with engine(tmp_path, Config(limits=Limits(waiting_per_workspace=1))) as e:
        endpoint = await e.endpoint(URL)
        await e.app.services.endpoints.disable("default", endpoint.id)
        if reason == "too_far_behind":
            await e.send("waits")
        else:
            monkeypatch.setattr(e.app.store.disk_space, "short", lambda: True)
        with pytest.raises(ApiError) as refused:
            await e.app.services.test_events.send("default", endpoint.id)
        assert (reason, []) == (refused.value.code, e.network.posted)
