"""Many events in one request: written in parts that hold the writer for milliseconds, accepted all or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import engine
from webhookd.delivery.ingest import Ingest
from webhookd.errors import ApiError
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
