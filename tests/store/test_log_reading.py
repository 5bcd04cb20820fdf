"""Searching the log for what no index has, its histogram, and what is before and after a delivery."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.store.test_delivery_log import Log, S
from tests.store.test_records import ANSWERED, record_of
from tests.support.stores import accept, add_endpoint, add_workspace, deliver, fail
from webhookd.models import Endpoint
from webhookd.rules.ids import delivery_id
from webhookd.store import delivery_log
from webhookd.store.delivery_log import histogram
from webhookd.store.records import shortened
from webhookd.store.store import Store


@pytest.fixture
async def log(store: Store) -> Log:
    return Log(store, await add_workspace(store))


@pytest.fixture
async def endpoint(log: Log) -> Endpoint:
    return await add_endpoint(log.store, log.workspace)


async def test_text_status_and_retrying_are_searched_for(log: Log, endpoint: Endpoint) -> None:
    """In ids and bodies, however JSON spells a character; by the last answer's status; an id finds its event alone."""
    accepted = {}
    for name, body in (
        ("plain", '{"text":"Xin chào 50% of_it"}'),
        ("escaped", json.dumps({"text": "Xin chào"})),
        ("quoted", json.dumps({"text": 'say "hi"'})),
        ("other", '{"text":"50 of it, see plain"}'),
    ):
        log.clock_ms += 1
        (accepted[name],) = await accept(log.store, log.workspace, name, now_ms=log.clock_ms, body=body.encode())
    for name, number, status in (("plain", 1, 503), ("escaped", 1, None)):
        record = orjson.dumps({"number": number, "outcome": "failed", "status": status})
        await fail(log.store, accepted[name], number=1, next_ms=9_999_999, record=record, now_ms=log.clock_ms)
    await fail(log.store, accepted["other"], next_ms=9_999_999, record=b"no JSON", now_ms=log.clock_ms)

    async def found(**fields: Any) -> list[str]:
        for small in (1, delivery_log.READ_ROWS):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(delivery_log, "READ_ROWS", small)
                ids = [view.event_id for view in await log.page(replace(log.filter(), **fields))]
                rest = [
                    view.event_id for view in await log.page(replace(log.filter(), endpoint_seq=endpoint.seq, **fields))
                ]
            assert ids == rest
        return ids

    assert ["escaped", "plain"] == await found(text="XIN chào")
    assert ["plain"] == await found(text="50% of_it")
    assert ["quoted"] == await found(text='say "hi"')
    assert ["plain"] == await found(text="plain")
    assert ["quoted"] == await found(text="uote") and ["other"] == await found(text="OTHE")
    assert ["quoted"] == await found(text=delivery_id(accepted["quoted"].seq))
    assert ["plain"] == await found(status="503") and ["plain"] == await found(status="5xx")
    assert ["other", "escaped"] == await found(status="none")
    assert ["escaped"] == await found(status="none", text="xin")
    assert [] == await found(status="200")
    await deliver(log.store, accepted["quoted"].seq, record=shortened(record_of(ANSWERED)))
    assert ["quoted"] == await found(status="200") == await found(status="2xx")
    assert ["other", "escaped", "plain"] == await found(retrying=True)
    assert [] == await found(retrying=True, paused=True)


async def test_a_search_for_text_stops_and_goes_on(
    log: Log, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is late it says how far it came; going on from there finds the rest, nothing twice."""
    monkeypatch.setattr(delivery_log, "READ_ROWS", 3)
    for number in range(40):
        await log.accept(f"{'needle' if number % 20 == 0 else 'hay'}-{number}")
    for fields in ({}, {"endpoint_seq": endpoint.seq}):
        wanted = replace(log.filter(), text="needle", **fields)
        found, steps, before = list[str](), 0, None
        while True:
            rows, before = await log.store.read(
                lambda db, wanted=wanted, before=before: delivery_log.search(  # type: ignore[misc]
                    db, wanted, before_seq=before, limit=9, late=lambda: True
                )
            )
            found += [view.event_id for view in rows]
            steps += 1
            if before is None:
                break
        assert ["needle-20", "needle-0"] == found
        assert steps > 2


@pytest.mark.parametrize("counted", [5_000, 1], ids=["counted", "sampled"])
async def test_the_histogram_counts_what_is_found(
    log: Log, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, counted: int
) -> None:
    """By bar, failed and all; a sample of every number is the truth too; the filter is kept to."""
    monkeypatch.setattr(histogram, "COUNTED_ROWS", counted)
    for number in range(30):
        (delivery,) = await log.accept(f"e{number}", "message.sent" if number % 2 else "contact.created")
        if number < 10:
            await log.deliver(delivery.seq)
        elif number < 14:
            await log.fail(delivery)

    async def bars(**fields: Any) -> list[tuple[int, int]]:
        wanted = replace(log.filter(), **fields)
        made = await log.store.read(lambda db: histogram.histogram(db, wanted, since_ms=1_000, width_ms=20, count=4))
        assert made.exact == (counted == 5_000)
        shown = [view for view in await log.page(wanted) if view.accepted_at_ms < 1_080]
        assert len(shown) == sum(bar.total for bar in made.bars)
        return [(bar.total, bar.failed) for bar in made.bars]

    assert (30, 4) == tuple(map(sum, zip(*await bars(), strict=True)))
    assert (4, 4) == tuple(map(sum, zip(*await bars(state=S.DROPPED), strict=True)))
    assert 16 == sum(total for total, _ in await bars(state=S.PENDING))
    assert 15 == sum(total for total, _ in await bars(event_type="message.sent", endpoint_seq=endpoint.seq))


async def test_neighbours_are_of_the_same_endpoint(log: Log, endpoint: Endpoint) -> None:
    """The ones before and after, whatever their states; none at either end."""
    await add_endpoint(log.store, log.workspace, "https://example.com/other")
    seqs = [next(d.seq for d in await log.accept(f"e{n}") if d.endpoint_seq == endpoint.seq) for n in range(3)]
    await log.deliver(seqs[0])
    wanted = replace(log.filter(), endpoint_seq=endpoint.seq)
    found = [await log.store.read(lambda db, seq=seq: delivery_log.neighbours(db, wanted, seq)) for seq in seqs]  # type: ignore[misc]
    assert [(None, seqs[1]), (seqs[0], seqs[2]), (seqs[1], None)] == found
