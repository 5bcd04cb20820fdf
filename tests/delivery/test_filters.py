"""Filters: decided when an event is accepted, by whatever way it comes, and when a backfill queues it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.engine import NO_RETRIES, ONE, TWO, WELL, Engine, engine
from webhookd.delivery import ingest
from webhookd.errors import ApiError
from webhookd.models import Accepted, Endpoint, NewEvent
from webhookd.rules.filters import Filters
from webhookd.store import endpoints

CLOSED, OPENED = "conversation.closed", "conversation.opened"
BY_USER = {CLOSED: {"conversation": {"closedBySource": ["user"]}}}


def event(event_id: str, source: str = "user", event_type: str = CLOSED) -> NewEvent:
    fields = {"event_type": event_type, "event_id": event_id, "conversation": {"closedBySource": source}}
    return NewEvent(event_id, event_type, orjson.dumps(fields))


async def filtered(e: Engine, url: str = WELL, filters: Any = BY_USER, types: tuple[str, ...] = ("*",)) -> Endpoint:
    return await e.app.services.endpoints.create("default", url=url, event_types=types, filters=filters)


async def accept(e: Engine, *new: NewEvent) -> list[Accepted]:
    accepted = await e.app.services.ingest.accept("default", new)
    await e.quiet()
    return accepted


async def rows(e: Engine) -> int:
    return await e.app.store.read(lambda db: db.execute("SELECT count(*) FROM deliveries").fetchall()[0][0])


@pytest.mark.parametrize("together", [False, True])
async def test_an_event_goes_where_it_is_wanted(tmp_path: Path, *, together: bool) -> None:
    """By itself, in a batch, and one by one where an id of the batch is known; elsewhere it makes no row."""
    async with engine(tmp_path, NO_RETRIES) as e:
        await filtered(e)
        await e.endpoint(ONE, [CLOSED])
        await filtered(e, TWO, {"*": {"conversation": {"closedBySource": [{"anything-but": "bot"}]}}}, (CLOSED,))
        new = [event("a"), event("b", "bot"), event("c", "api"), event("d", event_type=OPENED), event("a", "user")]
        results = await accept(e, *new) if together else [(await accept(e, each))[0] for each in new]
        assert [3, 1, 2, 1, 3] == [each.deliveries for each in results]
        assert [False, False, False, False, True] == [each.duplicate for each in results]
        assert (["a", "d"], ["a", "b", "c"], ["a", "c"]) == tuple(e.network.ids(url) for url in (WELL, ONE, TWO))
        assert 7 == await rows(e)


async def test_what_never_matches_costs_no_row_and_what_isnt_filtered_isnt_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only types that a filter of a subscribed endpoint is about are parsed, and each event once for all endpoints."""
    read: list[bytes] = []
    parsed = ingest.parsed
    monkeypatch.setattr(ingest, "parsed", lambda body: read.append(body) or parsed(body))
    async with engine(tmp_path, NO_RETRIES) as e:
        never = {CLOSED: {"conversation": {"closedBySource": ["nobody"]}}}
        for number in range(3):
            await filtered(e, f"https://h.example/{number}", never, (CLOSED,))
        await e.endpoint(WELL, [OPENED])
        await accept(e, *[event(f"o-{number}", event_type=OPENED) for number in range(5)])
        assert ([], 5) == (read, await rows(e))
        assert [0, 0] == [each.deliveries for each in await accept(e, event("x"), event("y"))]
        assert (2, 5) == (len(read), await rows(e))


async def test_another_filter_is_for_what_is_accepted_after_it(tmp_path: Path) -> None:
    """What waits still goes out; none at all is {}; a reload of the table finds the same; the mark of the change."""
    async with engine(tmp_path, NO_RETRIES) as e:
        endpoint = await filtered(e)
        change = partial(e.app.services.endpoints.change, "default", endpoint.id)
        await e.app.services.endpoints.disable("default", endpoint.id)
        await accept(e, event("before"), event("not", "bot"))
        await e.clock.advance(5)
        changed = await change({"filters": {CLOSED: {"conversation": {"closedBySource": ["bot"]}}}})
        assert endpoint.selected_at_ms + 5000 == changed.selected_at_ms == changed.updated_at_ms
        await e.clock.advance(5)
        assert changed.selected_at_ms == (await change({"description": "x"})).selected_at_ms
        assert [changed.filters] == [each.filters for each in await e.app.store.read(endpoints.load)]
        await accept(e, event("not either"), event("after", "bot"))
        await e.app.services.endpoints.enable("default", endpoint.id)
        await e.quiet()
        assert ["before", "after"] == e.network.ids(WELL)
        await change({"filters": {}})
        await accept(e, event("every"))
        assert ["before", "after", "every"] == e.network.ids(WELL)
        with pytest.raises(ApiError, match="no event type 'contact\\.x'"):
            await change({"filters": {"contact.x": {"a": ["b"]}}})


async def test_a_filter_that_changes_while_an_event_is_on_its_way_is_the_one_that_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit's order counts: what was found before it, for another filter, is of no use."""
    async with engine(tmp_path, NO_RETRIES) as e:
        endpoint = await filtered(e)
        old = e.app.registry.needed_facts(endpoint.workspace_seq, CLOSED)
        bot = {CLOSED: {"conversation": {"closedBySource": ["bot"]}}}
        await e.app.services.endpoints.change("default", endpoint.id, {"filters": bot})
        monkeypatch.setattr(e.app.registry, "needed_facts", lambda *_: old)
        accepted = await accept(e, event("a"), event("b", "bot"))
        assert [0, 1] == [each.deliveries for each in accepted]
        assert [0, 1] == [(await accept(e, each))[0].deliveries for each in (event("c"), event("d", "bot"))]


async def test_a_backfill_leaves_out_what_the_endpoint_doesnt_want(tmp_path: Path) -> None:
    """And says how many; a replay is somebody's own wish."""
    async with engine(tmp_path, NO_RETRIES) as e:
        await accept(e, event("a"), event("b", "bot"), event("c", event_type=OPENED))
        endpoint = await filtered(e)
        backfill = partial(e.app.services.replayer.backfill, endpoint, event_type=None, since_ms=0, until_ms=None)
        for dry_run in (True, False):
            done = await backfill(dry_run=dry_run)
            assert (2, {"filtered": 1}) == (done.count, done.left_out)
        await e.quiet()
        assert ["a", "c"] == e.network.ids(WELL)


async def test_a_filter_that_cant_be_read_loses_nothing(tmp_path: Path) -> None:
    """The endpoint gets nothing until its filters are set again; what is accepted meanwhile waits for it."""
    async with engine(tmp_path, NO_RETRIES) as e:
        endpoint = await filtered(e)
        await e.app.store.write(lambda db: db.execute("UPDATE endpoints SET filters = '{'").rowcount)
    async with engine(tmp_path, NO_RETRIES) as e:
        assert ("filters",) == e.app.registry.endpoint("default", endpoint.id).malformed
        assert [1] == [each.deliveries for each in await accept(e, event("a", "bot"))]
        with pytest.raises(ApiError, match="filters of this endpoint can't be read"):
            await e.app.services.endpoints.enable("default", endpoint.id)
        await e.app.services.endpoints.change("default", endpoint.id, {"filters": BY_USER})
        await e.app.services.endpoints.enable("default", endpoint.id)
        await e.quiet()
        assert ["a"] == e.network.ids(WELL)


async def test_filters_and_keys_are_found_together(tmp_path: Path) -> None:
    """An endpoint may have both; its id among the facts is no path."""
    async with engine(tmp_path, NO_RETRIES) as e:
        ordering = {"key": "conversation.closedBySource", "lanes": 4}
        both = await e.app.services.endpoints.create(
            "default", url=WELL, event_types=["*"], filters=BY_USER, ordering=ordering
        )
        results = await accept(e, event("a"), event("b", "bot"))
        assert [1, 0] == [each.deliveries for each in results]
        assert results[0].queued[0].lane_hash is not None
        needed = e.app.registry.needed_facts(both.workspace_seq, CLOSED)
        assert (("conversation.closedBySource",), 1) == (needed.key_paths, len(needed.filters))
        assert isinstance(needed.filters[0], Filters) and needed.filters[0].id.startswith("~")
        await e.app.services.endpoints.delete("default", both.id)
        assert not e.app.registry.needs_body_facts(both.workspace_seq)
