"""Deliveries in the table: what waits, what came of an attempt, what follows a mark, what is replayed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from msgspec import structs

from tests.support.stores import accept, add_endpoint, add_test, add_workspace, deliver, fail
from webhookd.models import DeliveryState, DeliveryView, Endpoint, QueuedDelivery, Workspace
from webhookd.store import deliveries, delivery_log, endpoints
from webhookd.store.delivery_log.log_filter import LogFilter
from webhookd.store.store import Db, Store

BODY = b'{"event_type":"message.sent"}'


@dataclass
class Table:
    store: Store
    workspace: Workspace
    endpoint: Endpoint

    async def accept(self, *ids: str, now_ms: int = 10, body: bytes = BODY) -> list[QueuedDelivery]:
        return await accept(self.store, self.workspace, *ids, now_ms=now_ms, body=body)

    async def deliver(self, seq: int, *, now_ms: int = 20) -> bool:
        return await deliver(self.store, seq, now_ms=now_ms)

    async def fail(self, delivery: QueuedDelivery, *, next_ms: int | None = None, now_ms: int = 20) -> bool:
        return await fail(self.store, delivery, next_ms=next_ms, now_ms=now_ms)

    async def finish(self, state: int, *, upto: int = 2**62, after: int = 0, limit: int = 9) -> list[tuple[int, int]]:
        finished = await self.store.write(
            lambda db: deliveries.finish_some(
                db, self.endpoint.seq, state=state, upto_seq=upto, after_seq=after, limit=limit, now_ms=30
            )
        )
        return [(seq, size) for seq, size, _ in finished]

    async def page(self, *, after: int = 0, limit: int = 9, inline_bytes: int = 1000) -> list[QueuedDelivery]:
        return await self.store.read(lambda db: deliveries.page(db, self.endpoint.seq, after, limit, inline_bytes))

    async def view(self, seq: int) -> DeliveryView:
        found = await self.store.read(lambda db: delivery_log.get(db, self.workspace.seq, seq, paused=False))
        assert found is not None
        return found

    async def changed(self, since_ms: int, limit: int = 100, **wanted: Any) -> list[str] | None:
        """The events of what changed since a moment, allowing nothing for the time of a commit."""
        asked = replace(LogFilter(self.workspace.seq, paused=False), **wanted)
        found = await self.store.read(
            lambda db: delivery_log.changed_since(db, asked, since_ms + delivery_log.COMMIT_MS, limit)
        )
        return None if found is None else [view.event_id for view in found]


@pytest.fixture
async def table(store: Store) -> Table:
    workspace = await add_workspace(store)
    return Table(store, workspace, await add_endpoint(store, workspace))


async def test_what_waits_is_read_in_order_in_pages(table: Table) -> None:
    """After a number, as many as asked for; large bodies are left for later."""
    queued = await table.accept("a", "b", "c")
    assert queued == await table.page()
    assert queued[1:2] == await table.page(after=queued[0].seq, limit=1)
    assert [None] * 3 == [delivery.body for delivery in await table.page(inline_bytes=len(BODY) - 1)]
    assert BODY == await table.store.read(lambda db: deliveries.body(db, queued[0].seq))


async def test_what_waits_is_counted_per_living_endpoint(table: Table) -> None:
    """Count, bytes and newest number, marks taken into account."""
    other = await add_endpoint(table.store, table.workspace, "https://e.example/2")
    queued = await table.accept("a", "b")
    size = len(BODY)
    assert [
        deliveries.Waiting(table.endpoint.seq, 2, 2 * size, queued[2].seq),
        deliveries.Waiting(other.seq, 2, 2 * size, queued[3].seq),
    ] == await table.store.read(deliveries.waiting)
    await table.deliver(queued[0].seq)
    await table.store.write(lambda db: endpoints.delete(db, other.seq, 5))
    assert [deliveries.Waiting(table.endpoint.seq, 1, size, queued[2].seq)] == await table.store.read(
        deliveries.waiting
    )


async def test_the_oldest_that_waits_is_known(table: Table) -> None:
    """Its number, since when, and when it is due; None where nothing waits after the mark."""

    async def oldest(after: int) -> tuple[int, int, int | None] | None:
        return await table.store.read(lambda db: deliveries.oldest_waiting(db, table.endpoint.seq, after))

    assert None is await oldest(0)
    first, second = await table.accept("a", "b", now_ms=11)
    await table.fail(first, next_ms=99)
    assert (first.seq, 11, 99) == await oldest(0)
    assert (second.seq, 11, None) == await oldest(first.seq)
    assert None is await oldest(second.seq)


async def test_a_success_finishes_whatever_it_was_meanwhile(table: Table) -> None:
    """The receiver has it: also a delivery that expired or was cancelled under way becomes delivered."""
    first, second = await table.accept("a", "b")
    assert await table.deliver(first.seq)
    await table.finish(deliveries.CANCELLED)
    assert not await table.deliver(second.seq)
    for delivery in (first, second):
        view = await table.view(delivery.seq)
        assert (DeliveryState.DELIVERED, 20, {"number": 1}) == (view.state, view.finished_at_ms, view.last_attempt)
    assert [] == await table.page()


async def test_a_failure_waits_again_or_drops(table: Table) -> None:
    """With a next attempt it keeps its place; without, it is finished; of a cancelled one only the attempt counts."""
    first, second, third = await table.accept("a", "b", "c")
    assert await table.fail(first, next_ms=99)
    waiting = await table.view(first.seq)
    assert (DeliveryState.PENDING, 99) == (waiting.state, waiting.next_attempt_at_ms)
    assert (None, 1) == (waiting.finished_at_ms, waiting.attempt_count)
    assert await table.fail(second)
    dropped = await table.view(second.seq)
    assert (DeliveryState.DROPPED, None, 20) == (dropped.state, dropped.next_attempt_at_ms, dropped.finished_at_ms)
    await table.finish(deliveries.CANCELLED, after=second.seq)
    assert not await table.fail(third)
    cancelled = await table.view(third.seq)
    assert (DeliveryState.CANCELLED, 30, 1) == (cancelled.state, cancelled.finished_at_ms, cancelled.attempt_count)


async def test_many_are_finished_in_small_steps(table: Table) -> None:
    """The oldest first, between two numbers, as many as asked for; the sizes come along."""
    queued = await table.accept("a", "b", "c", "d")
    seqs = [delivery.seq for delivery in queued]
    size = len(BODY)
    first = await table.finish(deliveries.EXPIRED, after=seqs[0], upto=seqs[2], limit=1)
    assert [(seqs[1], size)] == first
    assert [(seqs[2], size)] == await table.finish(deliveries.EXPIRED, after=seqs[0], upto=seqs[2])
    assert [] == await table.finish(deliveries.EXPIRED, after=seqs[0], upto=seqs[2])
    assert [seqs[0], seqs[3]] == [delivery.seq for delivery in await table.page()]


async def test_what_has_to_go_is_found_by_size_and_by_age(table: Table) -> None:
    """How many of the oldest make up so many bytes, or were accepted so long ago; never more than the limit."""
    for number in range(5):
        await table.accept(f"e{number}", now_ms=10 * number, body=b"x" * 100)

    async def found(question: Any, *bounds: tuple[int, int]) -> list[int]:
        seq = table.endpoint.seq
        return await table.store.read(lambda db: [question(db, seq, 0, bound, limit) for bound, limit in bounds])

    assert [1, 1, 2, 5, 2] == await found(deliveries.oldest_of_size, (1, 9), (100, 9), (101, 9), (10_000, 9), (400, 2))
    assert [0, 1, 2, 5, 3] == await found(deliveries.oldest_before, (-1, 9), (0, 9), (19, 9), (99, 9), (99, 3))


async def test_rows_behind_a_mark_are_found(table: Table) -> None:
    """With the state that they are to have, as long as there are any."""
    other = await add_endpoint(table.store, table.workspace, "https://e.example/2")
    await table.accept("a")
    assert [] == await table.store.read(deliveries.marked)
    await table.store.write(lambda db: endpoints.delete(db, other.seq, 5))
    skipped = await table.store.write(lambda db: endpoints.enable(db, table.endpoint.seq, skip_held=True, now_ms=6))
    marked = await table.store.read(deliveries.marked)
    assert [
        (table.endpoint.seq, skipped.skipped_upto, deliveries.SKIPPED),
        (other.seq, 2**63 - 1, deliveries.CANCELLED),
    ] == marked
    await table.finish(deliveries.SKIPPED, upto=skipped.skipped_upto)
    assert [other.seq] == [seq for seq, _, _ in await table.store.read(deliveries.marked)]


async def test_a_replay_is_a_new_delivery_of_the_same_event(table: Table) -> None:
    """At the end, in the order given, with the body that went out before (read in its turn); if it has one."""
    queued = await table.accept("a", "b", "c")
    for delivery in queued:
        await table.deliver(delivery.seq)
    await table.store.write(lambda db: db.execute("UPDATE events SET body = NULL WHERE id = 'b'").fetchall())
    seqs = [delivery.seq for delivery in reversed(queued)]
    again = await table.store.write(lambda db: deliveries.replay(db, seqs, 77))
    assert [("c", queued[2].seq, None, 77, 0), ("a", queued[0].seq, None, 77, 0)] == [
        (each.event_id, each.replay_of, each.body, each.accepted_at_ms, each.attempt_count) for each in again
    ]
    assert [structs.replace(each, body=BODY) for each in again] == await table.page()
    shown = await table.view(again[0].seq)
    assert ("message.sent", queued[2].seq, False) == (shown.event_type, shown.replay_of, shown.is_test)
    found = await table.store.read(
        lambda db: delivery_log.page(
            db, LogFilter(table.workspace.seq, paused=False, event_type="message.sent"), before_seq=None, limit=9
        )
    )
    assert 5 == len(found)


async def test_what_changed_since_a_moment_is_found(table: Table) -> None:
    """Accepted, failed, delivered or tested since then; each once, in the order of acceptance."""
    first, second, third, fourth = await table.accept("a", "b", "c", "d", now_ms=100)
    await table.deliver(first.seq, now_ms=200)
    await table.fail(second, now_ms=300)
    await table.deliver(third.seq, now_ms=400)
    await table.fail(fourth, next_ms=999, now_ms=500)
    await add_test(table.store, table.endpoint, delivered=True, started_at_ms=50, now_ms=450)
    await table.accept("e", now_ms=600)
    assert ["a", "b", "c", "d", "test_1", "e"] == await table.changed(100)
    assert ["b", "c", "d", "test_1", "e"] == await table.changed(201)
    assert ["c", "d", "test_1", "e"] == await table.changed(301)
    assert ["d", "test_1", "e"] == await table.changed(401)
    assert ["d", "e"] == await table.changed(451)
    assert ["e"] == await table.changed(501)
    assert [] == await table.changed(601)
    assert ["c"] == await table.changed(201, event_id="c")
    assert ["b"] == await table.changed(201, state=DeliveryState.DROPPED)


async def test_too_much_that_changed_is_not_found(table: Table) -> None:
    """More deliveries than asked for, or too many of others to look through; another workspace's are never found."""
    await table.accept("a", "b", "c", now_ms=100)
    assert ["a", "b", "c"] == await table.changed(100, limit=3)
    assert None is await table.changed(100, limit=2)
    other = await add_workspace(table.store, "other")
    await add_endpoint(table.store, other)
    await accept(table.store, other, *(f"o{number}" for number in range(40)), now_ms=200)
    assert ["a", "b", "c"] == await table.changed(100, limit=3)
    assert [] == await table.changed(150, limit=3)
    assert None is await table.changed(150, limit=1)


async def test_what_waits_is_counted_without_sorting_it(store: Store) -> None:
    """At the start with a million waiting the sorted copy would take 40 MB."""

    def plan(db: Db) -> str:
        asked: list[str] = []
        db.set_trace_callback(asked.append)
        deliveries.waiting(db)
        db.set_trace_callback(None)
        return str(db.execute(f"EXPLAIN QUERY PLAN {asked[0]}").fetchall())

    found = await store.write(plan)
    assert "deliveries_waiting" in found
    assert "TEMP B-TREE" not in found
