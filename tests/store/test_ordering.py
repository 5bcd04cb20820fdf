"""Order by key in the table: the hash, the numbers and the barriers, in the transactions that they belong to."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.support.stores import add_endpoint, add_workspace, deliver, fail, new_endpoint
from webhookd.models import STRICT, Accepted, Barrier, Endpoint, NewEvent, Ordering, QueuedDelivery
from webhookd.rules.ordering import NO_KEY, lane_hash
from webhookd.store import attempts, deliveries, endpoints, retention
from webhookd.store.events import ACCEPT, Ingested
from webhookd.store.store import Store

BY_CONTACT, BY_TEAM = Ordering("contact.id", 8), Ordering("team", 4)


@pytest.fixture
async def keyed(store: Store) -> Endpoint:
    """The second of a workspace's two endpoints orders by key."""
    workspace = await add_workspace(store)
    await add_endpoint(store, workspace)
    endpoint = new_endpoint(workspace.seq, workspace.id, url="https://keyed.example/", ordering=BY_CONTACT)
    return await store.write(lambda db: endpoints.insert(db, endpoint))


def body(contact: Any, team: Any = None) -> bytes:
    return orjson.dumps({"event_type": "message.sent", "contact": {"id": contact}, "team": team})


def by(contact: Any, path: str = "contact.id") -> int:
    return lane_hash(path, body(contact, contact))


async def accept(store: Store, *contacts: Any, known: Iterable[str] = ("contact.id",)) -> list[QueuedDelivery]:
    """Each event in a request of its own, all in one batch, with the hashes by the paths that are `known`."""
    prefix = secrets.token_hex(4)
    results: list[list[Accepted]] = await asyncio.gather(
        *(
            store.write(
                ACCEPT.of(
                    Ingested(
                        1,
                        [NewEvent(f"{prefix}-{number}", "message.sent", body(each, each))],
                        True,
                        7,
                        body_facts=[{path: by(each, path) for path in known} or None],
                    )
                )
            )
            for number, each in enumerate(contacts)
        )
    )
    return [delivery for result in results for accepted in result for delivery in accepted.queued]


async def ordered(store: Store, endpoint: Endpoint, ordering: Ordering) -> Endpoint:
    return await store.write(lambda db: endpoints.update(db, replace(endpoint, ordering=ordering)))


async def page(store: Store, endpoint: Endpoint, **of: Any) -> list[QueuedDelivery]:
    return await store.read(lambda db: deliveries.page(db, endpoint.seq, 0, 100, 1000, **of))


@pytest.mark.parametrize("known", [("contact.id",), (), ("another",)], ids=["", "none", "another"])
async def test_a_batch_gives_each_delivery_its_hash_and_number(store: Store, keyed: Endpoint, known: list[str]) -> None:
    """Also where the path changed since the request came; one endpoint orders by key, the other pays nothing."""
    queued = await accept(store, 1, 2, 1, None, known=known)
    plain, lanes = ([each for each in queued if each.endpoint_seq == seq] for seq in (1, keyed.seq))
    assert {(None, None)} == {(each.lane_hash, each.sequence) for each in plain}
    assert [(by(1), 1), (by(2), 2), (by(1), 3), (NO_KEY, 4)] == [(each.lane_hash, each.sequence) for each in lanes]
    assert lanes == await page(store, keyed)
    found = await page(store, keyed, lane_hash=by(1))
    assert [(1, None), (3, lanes[0].event_id)] == [(each.sequence, each.lane_previous) for each in found]


async def test_one_by_one_is_the_same_as_in_a_batch(store: Store, keyed: Endpoint) -> None:
    """An event whose id is known keeps the others of its transaction from going together."""
    (first,) = await asyncio.gather(
        store.write(ACCEPT.of(Ingested(1, [NewEvent("x", "message.sent", body(1))], True, 7)))
    )
    again = Ingested(1, [NewEvent(each, "message.sent", body(each)) for each in ("x", "y", "z")], True, 7)
    results = await store.write(ACCEPT.of(again))
    assert [True, False, False] == [each.duplicate or each.conflict for each in results]
    queued = [d for each in (*first, *results) for d in each.queued if d.endpoint_seq == keyed.seq]
    assert [(by(1), 1), (by("y"), 2), (by("z"), 3)] == [(each.lane_hash, each.sequence) for each in queued]


async def test_numbers_go_on_over_replays_backfills_and_other_orders(store: Store, keyed: Endpoint) -> None:
    """A refused transaction leaves no gap; what is queued in strict order has no number."""
    queued = [each for each in await accept(store, 1, 2) if each.endpoint_seq == keyed.seq]
    await deliver(store, queued[0].seq)
    with pytest.raises(ZeroDivisionError):
        await store.write(lambda db: (deliveries.replay(db, [queued[0].seq], 9), 1 // 0))
    (again,) = await store.write(lambda db: deliveries.replay(db, [queued[0].seq], 9))
    assert (by(1), 3) == (again.lane_hash, again.sequence)
    strict = await ordered(store, keyed, STRICT)
    assert [None] == [each.sequence for each in await accept(store, 3) if each.endpoint_seq == keyed.seq]
    await ordered(store, strict, BY_CONTACT)
    assert [4] == [each.sequence for each in await accept(store, 4) if each.endpoint_seq == keyed.seq]
    late = new_endpoint(keyed.workspace_seq, keyed.workspace, url="https://late.example/", ordering=BY_TEAM)
    late = await store.write(lambda db: endpoints.insert(db, late))
    wanted = deliveries.Backfill(1, late.seq, ("*",), since_ms=0, until_ms=None, paused=False)
    reserved = await store.write(lambda db: deliveries.reserve(db, wanted, 10, 9))
    filled = await store.write(lambda db: deliveries.backfill(db, reserved, [1, 2, 3]))
    expected = [(by(contact, "team"), number) for number, contact in enumerate((1, 2, 3), 1)]
    assert expected == [(each.lane_hash, each.sequence) for each in filled]


async def test_another_key_is_a_barrier_for_what_waits(store: Store, keyed: Endpoint) -> None:
    """Kept until nothing waits before it; another number of lanes is none; too many become one, in strict order."""
    assert () == (await ordered(store, keyed, STRICT)).ordering.barriers  # nothing waits
    keyed = await ordered(store, keyed, BY_CONTACT)
    first = (await accept(store, 1))[-1]
    keyed = await ordered(store, keyed, replace(BY_CONTACT, lanes=64))
    assert () == keyed.ordering.barriers
    keyed = await ordered(store, keyed, STRICT)
    second = (await accept(store, 1))[-1]
    keyed = await ordered(store, keyed, BY_TEAM)
    assert (Barrier(first.seq, keyed=True), Barrier(second.seq, keyed=False)) == keyed.ordering.barriers
    assert keyed == await store.read(lambda db: endpoints.get(db, keyed.seq))
    await deliver(store, first.seq)
    keyed = await ordered(store, keyed, replace(BY_TEAM, lanes=2))
    assert 2 == len(keyed.ordering.barriers)
    third = (await accept(store, 1))[-1]
    keyed = await ordered(store, keyed, BY_CONTACT)
    assert (Barrier(second.seq, keyed=False), Barrier(third.seq, keyed=True)) == keyed.ordering.barriers
    for number in range(endpoints.BARRIERS_MAX):
        last = (await accept(store, number))[-1]
        keyed = await ordered(store, keyed, Ordering(f"k{number}", 2))
    merged, *_ = keyed.ordering.barriers
    assert (False, True) == (merged.keyed, third.seq < merged.upto_seq < last.seq)
    assert len(keyed.ordering.barriers) < endpoints.BARRIERS_MAX


async def test_what_waits_is_counted_by_hash(store: Store, keyed: Endpoint) -> None:
    """Also in strict order, if it was accepted by key; what was skipped doesn't count."""
    queued = [each for each in await accept(store, 1, 2, 1) if each.endpoint_seq == keyed.seq]
    await deliver(store, queued[1].seq)

    async def counted() -> dict[int, dict[int, int]]:
        return {each.endpoint_seq: each.by_hash for each in await store.read(deliveries.waiting)}

    assert {1: {}, keyed.seq: {by(1): 2}} == await counted()
    await ordered(store, keyed, STRICT)
    assert {1: {}, keyed.seq: {by(1): 2}} == await counted()
    await store.write(lambda db: endpoints.enable(db, keyed.seq, skip_held=True, now_ms=9))
    assert {1: {}} == await counted()


async def test_enabled_again_the_first_of_every_lane_starts_afresh(store: Store, keyed: Endpoint) -> None:
    queued = [each for each in await accept(store, 1, 2, 1, 3) if each.endpoint_seq == keyed.seq]
    for each in queued[:2]:
        await fail(store, each, next_ms=99)
    await store.write(lambda db: endpoints.enable(db, keyed.seq, skip_held=False, now_ms=9))
    assert [(0, None, 1), (0, None, 1)] == [
        (d.tries, d.next_attempt_at_ms, d.attempt_count) for d in (await page(store, keyed))[:2]
    ]


async def test_drops_are_counted_by_time_whatever_their_numbers(store: Store, keyed: Endpoint) -> None:
    """Lanes finish beside each other, so numbers don't tell what came last."""
    queued = [each for each in await accept(store, *range(9)) if each.endpoint_seq == keyed.seq]
    for now_ms, number in enumerate((8, 7, 6, 0, 1, 5), 100):
        await fail(store, queued[number], now_ms=now_ms)
    await deliver(store, queued[2].seq, now_ms=200)
    for since_ms, count in ((0, 6), (102, 4), (103, 3), (105, 1), (106, 0)):
        assert count == await store.read(lambda db, at=since_ms: attempts.dropped_since(db, keyed, at))  # type: ignore[misc]


async def test_an_endpoint_goes_with_its_number(store: Store, keyed: Endpoint) -> None:
    await accept(store, 1)
    terms = retention.Terms(10**15, 10**15, 10**15, 10**15, 10**15, 10**15)

    def all_gone(db: Any) -> list[Any]:
        db.execute("DELETE FROM deliveries")
        endpoints.delete(db, keyed.seq, 1)
        retention.forget_endpoints(db, terms, out_of_time=lambda: False)
        return db.execute("SELECT * FROM sequences").fetchall()  # type: ignore[no-any-return]

    assert [] == await store.write(all_gone)


async def test_an_order_that_cannot_be_read_stops_the_endpoint(store: Store, keyed: Endpoint) -> None:
    for text in (
        "{",
        '{"key": 5}',
        '{"key": "a b", "lanes": 8}',
        '{"key": "a", "lanes": 1}',
        '{"key": "a", "lanes": 65}',
    ):
        await store.write(lambda db, text=text: db.execute("UPDATE endpoints SET ordering = ? WHERE seq = 2", (text,)))  # type: ignore[misc]
        found = await store.read(lambda db: endpoints.get(db, 2))
        assert (("ordering",), STRICT, False) == (found.malformed, found.ordering, found.active)
