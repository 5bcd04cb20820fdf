"""Events of a stream, applied with their sequence in one transaction; progress, and what another machine finished."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.support.stores import add_endpoint, add_workspace
from webhookd.errors import ApiError
from webhookd.models import NewEvent, Ordering
from webhookd.store import credentials, endpoints, events, workspaces
from webhookd.store.cluster import config, stream
from webhookd.store.cluster.stream import POSITIONS, Before, Known, Part
from webhookd.store.events import Ingested
from webhookd.store.store import Store

BODY = b'{"event_type":"message.sent"}'


def part(sequence: int, *ids: str, place: int = 0, workspace_seq: int = 1, body: bytes = BODY) -> Part:
    events = [NewEvent(each, "message.sent", body) for each in ids]
    return Part(sequence, place, Ingested(workspace_seq, events, deliver=True, now_ms=7))


@dataclass
class Left:
    """A machine that has finished everything before a position; beside it, whom events waited for."""

    first: int
    waited: Mapping[int, list[str]] = field(default_factory=dict)
    numbers: Mapping[int, dict[str, int]] = field(default_factory=dict)

    def finished(self, endpoint_id: str | None, lane_hash: int | None, position: int) -> bool:
        return position < self.first

    def waited_at(self, position: int) -> list[str]:
        return self.waited.get(position, [])

    def numbers_at(self, position: int) -> dict[str, int]:
        return self.numbers.get(position, {})


async def apply(store: Store, *parts: Part, upto: int, before: Before | None = None) -> list[Any]:
    return await store.write(lambda db: stream.apply(db, parts, upto, before))


async def positions(store: Store, *endpoint_seqs: int) -> dict[tuple[int, int | None], int]:
    return await store.read(lambda db: stream.first_waiting(db, endpoint_seqs))


@pytest.mark.parametrize("known", [False, True])
async def test_events_and_the_sequence_are_one_transaction(store: Store, known: bool) -> None:
    """Packed where all are new, one by one where an id is known: each event keeps its place in the stream."""
    workspace = await add_workspace(store)
    endpoint = await add_endpoint(store, workspace)
    if known:
        await apply(store, part(1, "b"), upto=1)
    results = await apply(store, part(3, "a", "b"), part(4, "c", place=5), upto=6)
    assert [[(each.event_id, each.duplicate) for each in result] for result in results] == [
        [("a", False), ("b", known)],
        [("c", False)],
    ]
    assert await store.read(stream.applied) == 6
    assert await positions(store, endpoint.seq) == {(endpoint.seq, None): (1 if known else 3) * POSITIONS}
    found = await store.read(lambda db: db.execute("SELECT position FROM stream_events ORDER BY 1").fetchall())
    expected = [POSITIONS, 3 * POSITIONS] if known else [3 * POSITIONS, 3 * POSITIONS + 1]
    assert [position for (position,) in found] == [*expected, 4 * POSITIONS + 5]


async def test_a_workspace_that_is_gone_refuses_its_part_alone(store: Store) -> None:
    """The others are applied, and the sequence is noted all the same."""
    await add_endpoint(store, await add_workspace(store))
    good, gone = await apply(store, part(1, "a"), part(2, "b", workspace_seq=99), upto=2)
    assert good[0].deliveries == 1
    assert isinstance(gone, ApiError)
    assert await store.read(stream.applied) == 2


async def test_what_another_machine_finished_is_not_delivered_again(store: Store) -> None:
    """Neither what comes from the stream nor what waited here; with others' replays, those that waited too."""
    workspace = await add_workspace(store)
    endpoint = await add_endpoint(store, workspace)
    await apply(store, part(1, "a", "b", "c"), upto=1)
    removed = await store.write(lambda db: stream.drop_finished(db, Left(POSITIONS + 2), others=True))
    assert removed == 2
    assert await positions(store, endpoint.seq) == {(endpoint.seq, None): POSITIONS + 2}
    results = await apply(store, part(2, "d"), part(3, "e"), upto=3, before=Left(3 * POSITIONS))
    assert [[len(each.queued) for each in result] for result in results] == [[0], [1]]


async def test_what_waited_for_an_endpoint_waits_whatever_it_asks_for_now(store: Store) -> None:
    """By an order of its own too, unless it is finished; and what waits is told with its place in the stream."""
    workspace = await add_workspace(store)
    other = await add_endpoint(store, workspace)
    body = b'{"event_type":"message.sent","contact":{"id":7}}'
    asks = replace(other, ordering=Ordering("contact.id", 2), event_types=("contact.created",))
    keyed = await store.write(lambda db: endpoints.update(db, asks))
    left = Left(2 * POSITIONS, {POSITIONS: [keyed.id], 2 * POSITIONS: [keyed.id, "ep_gone"]})
    results = await apply(store, part(1, "a"), part(2, "b", body=body), part(3, "c"), upto=3, before=left)
    queued = [[(each.endpoint_seq, each.event_id) for each in result[0].queued] for result in results]
    assert queued == [[], [(keyed.seq, "b")], []]
    lane_hash = results[1][0].queued[0].lane_hash
    assert lane_hash is not None and results[1][0].queued[0].sequence == 1
    upto, found = await store.read(lambda db: stream.waiting(db, [keyed.id]))
    assert (upto // POSITIONS, found) == (3, {keyed.id: [(2 * POSITIONS, lane_hash)]})


async def test_deliveries_by_key_go_on_counting(store: Store) -> None:
    """Where one waits it has its number again, and so have those after it; else behind the newest."""
    workspace = await add_workspace(store)
    both = [await add_endpoint(store, workspace, url=f"https://{each}.example/") for each in "ab"]
    asks = [replace(each, ordering=Ordering("event_id", 2)) for each in both]
    waits, rests = [await store.write(lambda db, each=each: endpoints.update(db, each)) for each in asks]
    told = {waits.id: (42, 2 * POSITIONS + 1, 40), rests.id: (7, 0, 0)}
    await store.write(lambda db: stream.put_lane_numbers(db, told))
    left = Left(2 * POSITIONS + 1, numbers={2 * POSITIONS + 1: {waits.id: 40}})
    results = await apply(store, part(2, "a", "b", "c"), part(3, "d"), upto=3, before=left)
    queued = [each for result in results for accepted in result for each in accepted.queued]
    assert [each.sequence for each in queued if each.endpoint_seq == waits.seq] == [40, 41, 42]
    assert [each.sequence for each in queued if each.endpoint_seq == rests.seq] == [9, 10, 11]
    numbers = await store.read(stream.lane_numbers)
    assert numbers == {waits.id: (42, 2 * POSITIONS + 1, 40), rests.id: (11, 2 * POSITIONS + 1, 9)}


async def test_links_that_were_sent_come_along(store: Store) -> None:
    """Those into the portal by a token that is there, and those by which an address confirms."""
    workspace = await add_workspace(store)
    link = {
        "workspace": "default", "code_sha256": "AB", "token_sha256": "CD", "token_id": "tok_1", "read_only": 1,
        "language": "vi", "return_url": "", "created_at": 1, "expires_at": 9,
    }  # fmt: skip
    asked = {"workspace": "default", "code_sha256": "EF", "address": "a@b.c", "asked_at": 1, "expires_at": 9, "done": 0}
    await store.write(
        lambda db: credentials.put_token(
            db, token_id="tok_1", scope="admin", workspace_seq=None, secret_sha256=b"x", note="", now_ms=1
        )
    )

    def command(db: Any) -> None:
        config.put_links(db, [link, link | {"code_sha256": "AC", "token_id": "tok_gone"}])
        config.put_confirmations(db, [asked, asked | {"code_sha256": "FF", "workspace": "gone"}])

    await store.write(command)
    await store.write(command)
    assert await store.read(config.link_items) == {"AB": link}
    assert await store.read(config.confirmation_items) == {"EF": asked}
    assert (await store.read(workspaces.load))[0].pending[0].address == "a@b.c"
    assert await store.read(lambda db: workspaces.to_confirm(db, b"\xef", 5)) == (workspace.seq, "a@b.c")


async def test_ids_of_a_gap_are_known_and_nowhere_in_the_log(store: Store) -> None:
    """An event of one is a duplicate, or a conflict with another body; the gap is narrowed from its newest end."""
    workspace = await add_workspace(store)
    await store.write(lambda db: stream.begin_after(db, 10, 50))
    assert await store.read(stream.applied) == 50
    await apply(store, part(51, "new"), upto=51)
    digest = hashlib.sha256(BODY).digest()
    known = [Known(40 * POSITIONS + at, workspace.seq, each, "message.sent", 5, digest) for at, each in enumerate("ab")]
    await store.write(lambda db: stream.remember(db, [*known, *known]))
    same, other = await apply(store, part(52, "a"), part(53, "b", body=BODY + b" "), upto=53)
    assert same[0].duplicate and other[0].conflict
    log = await store.read(
        lambda db: events.page(
            db,
            workspace.seq,
            event_type=None,
            since_ms=None,
            until_ms=None,
            before_seq=None,
            limit=9,
            late=lambda: False,
        )
    )
    assert [each.id for each in log[0]] == ["new"]
    await store.write(lambda db: stream.narrow_gap(db, 10, 30))
    assert await store.read(stream.newest_gap) == (10, 30)
    await store.write(lambda db: stream.narrow_gap(db, 10, 10))
    assert await store.read(stream.newest_gap) is None


async def test_configuration_becomes_what_stands_in_the_cluster(store: Store) -> None:
    """What is there is changed, what is gone is deleted, what is new is added, with states and secrets."""
    workspace = await add_workspace(store)
    kept, gone = await add_endpoint(store, workspace), await add_endpoint(store, workspace, url="https://b.example/")
    item = config.endpoint_item(kept) | {"url": "https://c.example/", "state": "disabled", "disabled_reason": "person"}
    new = item | {"id": "ep_new", "url": "https://d.example/", "state": "active", "disabled_reason": None}

    def command(db: Any) -> None:
        there = config.workspace_item(workspace) | {"name": "Renamed"}
        seqs = config.put_workspaces(db, [there, there | {"id": "second", "created_at_ms": 5}], 9)
        config.put_endpoints(db, [item, new], seqs, 9)

    await store.write(command)
    await store.write(command)  # the same once more changes nothing
    assert {each.id: each.name for each in await store.read(workspaces.load)} == {
        workspace.id: "Renamed",
        "second": "Renamed",
    }
    found = {each.id: each for each in await store.read(endpoints.load)}
    assert set(found) == {kept.id, "ep_new"}
    assert (found[kept.id].url, found[kept.id].state.value) == ("https://c.example/", "disabled")
    assert found["ep_new"].signing_key == kept.signing_key
    assert gone.id not in found
