"""Order by key: lanes beside each other, each key in order, whatever is changed meanwhile."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.engine import NO_RETRIES, WELL, Engine, engine
from webhookd.config import Config, Hold
from webhookd.errors import ApiError
from webhookd.models import Endpoint, NewEvent
from webhookd.rules.ordering import lane_hash

BY_CONTACT = {"key": "contact.id", "lanes": 8}


async def by_key(e: Engine, ordering: Any = BY_CONTACT) -> Endpoint:
    return await e.app.services.endpoints.create("default", url=WELL, event_types=["*"], ordering=ordering)


async def send(e: Engine, *ids: str) -> None:
    """Events `key-…` of a contact and `other/…` of a conversation: `a-1` has contact a, `a/b-1` conversation b too."""
    new = []
    for each in ids:
        contact, _, conversation = each.rpartition("-")[0].partition("/")
        fields: dict[str, Any] = {"event_type": "message.received", "event_id": each}
        fields |= {"contact": {"id": contact}} if contact else {}
        fields |= {"conversation": {"id": conversation}} if conversation else {}
        new.append(NewEvent(each, "message.received", orjson.dumps(fields)))
    await e.app.services.ingest.accept("default", new)


async def order(e: Engine, endpoint: Endpoint, ordering: Any) -> None:
    await e.app.services.endpoints.change("default", endpoint.id, {"ordering": ordering})


def fail_for(e: Engine, webhook_id: str, seconds: float) -> None:
    """Until then the receiver fails for this event."""
    until = e.clock.monotonic() + seconds
    e.network.answer = lambda url, found: 500 if found == webhook_id and e.clock.monotonic() < until else 200


def by(ids: list[str], separator: str = "-") -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for each in ids:
        found[each.split(separator)[0]].append(each)
    return found


def lane(key: str) -> int:
    return lane_hash("contact.id", orjson.dumps({"contact": {"id": key}}))


def busy(e: Engine, endpoint: Endpoint) -> int:
    lanes = e.app.dispatcher.view(endpoint.seq).lanes
    assert lanes is not None
    return lanes.busy


# Keys of different lanes, `A` in that of events without a key.
KEYS = {lane(key): key for key in map(str, range(3000))}
A, B, C = KEYS[0], KEYS[1], KEYS[2]


async def test_each_key_goes_in_order_and_others_beside_it(tmp_path: Path) -> None:
    """At most as many requests as there may be are in flight; a lane at rest has no task."""
    async with engine(tmp_path) as e:
        gate = e.network.gates[WELL] = asyncio.Event()
        well = await by_key(e)
        ids = [f"{key}-{number}" for number in range(3) for key in map(str, range(40))]
        await send(e, *ids)
        await e.quiet()
        assert 8 == e.network.under_way[WELL] == e.app.dispatcher.view(well.seq).in_flight
        gate.set()
        await e.quiet()
        assert by(ids) == by(e.network.ids(WELL))
        assert 8 == e.network.most_under_way[WELL]
        assert 0 == e.app.dispatcher.alive


async def test_a_retry_holds_its_own_lane_only(tmp_path: Path) -> None:
    """Events without the key share one lane, with any key whose hash it has."""
    async with engine(tmp_path) as e:
        await by_key(e)
        fail_for(e, "-1", 30)
        await send(e, "-1", "-2", *(f"{B}-{number}" for number in range(40)), f"{A}-1")
        await e.quiet()
        assert ["-1", *(f"{B}-{number}" for number in range(40))] == sorted(
            e.network.ids(WELL), key=e.network.ids(WELL).index
        )
        await e.advance(30)
        assert ["-1", "-2", f"{A}-1"] == e.network.ids(WELL)[-3:]


async def test_lanes_that_fail_leave_their_slots_to_others_but_for_some(tmp_path: Path) -> None:
    """A receiver that is down isn't asked by every lane; keys that fail don't slow down all others."""
    async with engine(tmp_path) as e:
        well = await by_key(e, {"key": "contact.id", "lanes": 4})
        keys = list(KEYS.values())[:40]
        failing = set(keys[:4])
        e.network.answer = lambda url, webhook_id: 500 if webhook_id.split("-")[0] in failing else 200
        await send(e, *(f"{key}-{number}" for number in range(3) for key in keys[:20]))
        await e.quiet()
        view = e.app.dispatcher.view(well.seq)
        assert (4, 3, 16 * 3) == (view.retrying, busy(e, well), len(e.network.ids(WELL, delivered_only=True)))
        failing = set(keys)
        await send(e, *(f"{key}-{number}" for number in range(3) for key in keys[20:]))
        await e.quiet()
        view = e.app.dispatcher.view(well.seq)
        assert (5, 4, 40 - 20 - 1) == (view.retrying, busy(e, well), view.queued)
        assert 16 * 3 + 5 == len(e.network.posted)
        assert "" == e.app.dispatcher.stuck()
        failing = set()
        await e.advance(29)
        assert "" == e.app.dispatcher.stuck(), "who waits for a slot is not late"
        await e.advance(61)
        assert by([f"{key}-{n}" for n in range(3) for key in keys]) == by(e.network.ids(WELL, delivered_only=True))
        assert 0 == e.app.dispatcher.alive == busy(e, well)


async def test_a_lane_that_is_blocked_by_more_than_it_holds_keeps_no_other_waiting(tmp_path: Path) -> None:
    async with engine(tmp_path) as e:
        well = await by_key(e)
        fail_for(e, f"{A}-0", 30)
        blocked = [f"{A}-{number}" for number in range(30)]
        await send(e, *blocked)
        others = [f"{B}-{number}" for number in range(30)]
        await send(e, *others)
        await e.quiet()
        assert [f"{A}-0", *others] == e.network.ids(WELL)
        view = e.app.dispatcher.view(well.seq)
        assert (30, 1, 0) == (view.waiting, view.retrying, busy(e, well))
        await e.advance(30)
        assert blocked == e.network.ids(WELL)[-30:]
        assert 0 == e.app.dispatcher.view(well.seq).waiting


async def test_a_restart_goes_on_in_every_lane(tmp_path: Path) -> None:
    """With what a lane waited for."""
    ids = [f"{key}-{number}" for number in range(40) for key in (A, B, C)]
    async with engine(tmp_path) as e:
        e.network.gates[WELL] = asyncio.Event()
        well = await by_key(e)
        await send(e, *ids)
        await e.quiet()
        e.app.stop_delivering()
        e.network.gates[WELL].set()
    first = e.network.ids(WELL)
    assert {f"{A}-0", f"{B}-0", f"{C}-0"} == set(first)
    async with engine(tmp_path) as e:
        await e.quiet()
        assert by(ids) == by(first + e.network.ids(WELL))
        assert {"delivered": 120} == await e.states(well)


async def test_lanes_can_change_at_any_time(tmp_path: Path) -> None:
    """What is in flight ends first; then each key goes on with its first that waits."""
    async with engine(tmp_path) as e:
        gate = e.network.gates[WELL] = asyncio.Event()
        well = await by_key(e)
        ids = [f"{key}-{number}" for number in range(12) for key in map(str, range(20))]
        await send(e, *ids)
        await e.quiet()
        for lanes, in_flight in ((3, 8), (16, 8), (2, 8)):
            await order(e, well, BY_CONTACT | {"lanes": lanes})
            await e.quiet()
            assert in_flight == e.network.under_way[WELL]
        del e.network.gates[WELL]
        gate.set()
        await e.quiet()
        assert by(ids) == by(e.network.ids(WELL))
        late = e.network.posted[8:]
        assert len(ids) - 8 == len(late)
        assert {"delivered": len(ids)} == await e.states(well)
        assert 0 == e.app.dispatcher.view(well.seq).waiting


@pytest.mark.parametrize("restart", [False, True], ids=["", "restart"])
async def test_what_was_accepted_under_another_path_is_finished_first(tmp_path: Path, restart: bool) -> None:
    """Through three orders; one event of the first waits for its retry, and so does everything behind its barrier."""
    first = [f"{key}/x-{number}" for key in (A, B, C) for number in range(20)]
    strict = [f"{A}/y-{number}" for number in range(20, 23)]
    last = [f"{B}/{key}-{number}" for key in (A, B, C) for number in range(30, 50)]
    async with engine(tmp_path) as e:
        fail_for(e, first[0], 50)
        well = await by_key(e)
        await send(e, *first)
        await e.quiet()
        await order(e, well, "endpoint")
        await send(e, *strict)
        await e.quiet()
        await order(e, well, {"key": "conversation.id", "lanes": 4})
        await send(e, *last)
        await e.quiet()
        waiting = first[:20]
        assert set(first) - set(waiting) == set(e.network.ids(WELL, delivered_only=True))
        before = len(e.network.posted)
        if not restart:
            await e.advance(100)
    if restart:
        async with engine(tmp_path, clock=e.clock, network=e.network) as e:
            await e.advance(100)
    sent = e.network.posted[before:]
    delivered = [each.webhook_id for each in sent if each.answer == 200]
    assert waiting == delivered[:20]
    assert strict == delivered[20:23]
    assert by(last, "-") == by(delivered[23:], "-")


async def test_no_attempt_of_any_lane_starts_once_the_budget_is_spent(tmp_path: Path) -> None:
    """Those in flight end and are recorded; a key that was tried starts afresh when the endpoint is enabled."""
    async with engine(tmp_path, NO_RETRIES) as e:
        e.network.answer = lambda url, webhook_id: 500
        well = await by_key(e)
        ids = [f"{key}-{number}" for number in range(9) for key in list(KEYS.values())[:8]]
        await send(e, *ids)
        await e.quiet()
        assert "auto_disabled" == e.state(well)
        failed = len(e.network.posted)
        assert 31 <= failed <= 31 + 7
        assert {"dropped": failed, "held": 72 - failed} == await e.states(well)
        e.network.answer = lambda url, webhook_id: 200
        await e.app.services.endpoints.enable("default", well.id)
        await e.quiet()
        assert by(ids) == by(e.network.ids(WELL))


async def test_enabled_again_each_lane_starts_afresh(tmp_path: Path) -> None:
    async with engine(tmp_path) as e:
        e.network.answer = lambda url, webhook_id: 500
        well = await by_key(e)
        await send(e, f"{A}-0", f"{B}-0", f"{C}-0", f"{C}-1")
        await e.advance(31)
        assert {1: 3, 2: 3} == {n: sum(p.number == n for p in e.network.posted) for n in (1, 2)}
        await e.app.services.endpoints.disable("default", well.id)
        await e.quiet()
        await e.app.services.endpoints.enable("default", well.id)
        await e.quiet()
        assert [3] * 3 == [each.number for each in e.network.posted[6:]]
        await e.advance(30)  # the first step of the schedule again
        assert [4] * 3 == [each.number for each in e.network.posted[9:]]
        await e.app.services.endpoints.disable("default", well.id)
        await e.app.services.endpoints.enable("default", well.id, skip_held=True)
        e.network.answer = lambda url, webhook_id: 200
        await send(e, f"{C}-2")
        await e.quiet()
        assert f"{C}-2" == e.network.posted[-1].webhook_id
        assert f"{C}-1" == e.network.posted[-1].headers["webhook-lane-previous"]


async def test_what_expires_skips_and_stops_is_counted_out_of_its_lane(tmp_path: Path) -> None:
    """The oldest over the limit expire; a plan stops all lanes; the mark of a deletion takes everything."""
    async with engine(tmp_path, Config(hold=Hold(max_events=4))) as e:
        gate = e.network.gates[WELL] = asyncio.Event()
        well = await by_key(e)
        await send(e, f"{A}-0", f"{B}-0")
        await e.quiet()
        await e.app.services.workspaces.change("default", plan="growth")
        await e.app.services.workspaces.change("default", plan="advanced")
        assert 2 == e.network.under_way[WELL]
        await e.app.services.endpoints.disable("default", well.id)
        await send(e, f"{A}-1", f"{B}-1", f"{A}-2", f"{C}-1", f"{A}-3", f"{B}-2")
        gate.set()
        await e.advance(2)
        assert {"delivered": 2, "expired": 2, "held": 4} == await e.states(well)
        await e.app.services.endpoints.enable("default", well.id)
        await e.quiet()
        late = [f"{A}-2", f"{A}-3", f"{B}-2", f"{C}-1"]
        assert sorted(late) == sorted(e.network.ids(WELL)[2:])
        assert "" == e.app.dispatcher.stuck()
        e.network.answer = lambda url, webhook_id: 500
        await send(e, f"{A}-4", f"{B}-3", f"{B}-4")
        await e.quiet()
        await e.app.services.endpoints.delete("default", well.id)
        await e.advance(100)
        assert (8, 0) == (len(e.network.posted), e.app.dispatcher.alive)
        assert 0 == e.app.dispatcher.backlog(well.workspace_seq).waiting


async def test_a_test_has_no_place_in_the_order(tmp_path: Path) -> None:
    """It has a request of its own, beside every lane, and no number."""
    async with engine(tmp_path) as e:
        well = await by_key(e)
        await e.app.services.test_events.send("default", well.id)
        await send(e, f"{A}-1")
        await e.quiet()
        test, first = e.network.posted
        assert "webhook-sequence" not in test.headers
        assert ("1", None) == (first.headers["webhook-sequence"], first.headers.get("webhook-lane-previous"))


async def test_an_event_larger_than_a_lane_keeps_goes_in_its_order(tmp_path: Path) -> None:
    """Its body is read when its turn comes; its lane's key too."""
    async with engine(tmp_path) as e:
        await by_key(e)
        body = b'{"event_type":"message.received","contact":{"id":%b},"text":"' % A.encode() + b"x" * 20_000 + b'"}'
        new = [NewEvent(f"{A}-{number}", "message.received", body) for number in range(40)]
        await e.app.services.ingest.accept("default", new)
        await e.quiet()
        assert [each.id for each in new] == e.network.ids(WELL)
        assert {body} == {each.body for each in e.network.posted}


async def test_a_key_cannot_change_while_a_backfill_runs(tmp_path: Path) -> None:
    """Its rows get numbers from before the change; another number of lanes can."""
    async with engine(tmp_path) as e:
        await send(e, *(f"{key}-{number}" for number in range(150) for key in (A, B)))
        well = await by_key(e)
        backfill = asyncio.create_task(
            e.app.services.replayer.backfill(well, event_type=None, since_ms=0, until_ms=None, dry_run=False)
        )
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as refused:
            await order(e, well, "endpoint")
        assert "replay_running" == refused.value.code
        await order(e, well, BY_CONTACT | {"lanes": 2})
        await backfill
        await e.quiet()
        assert by([f"{key}-{number}" for number in range(150) for key in (A, B)]) == by(e.network.ids(WELL))
        await order(e, well, "endpoint")


async def test_a_receiver_can_tell_that_it_missed_nothing(tmp_path: Path) -> None:
    """Numbers without a gap in the order of acceptance, and in each lane a chain, through restarts and other lanes."""
    async with engine(tmp_path) as e:
        plain = await e.endpoint("https://plain.example/")
        well = await by_key(e, BY_CONTACT | {"lanes": 2})
        ids = [f"{key}-{number}" for number in range(12) for key in map(str, range(10))]
        await send(e, *ids[:40])
        await e.quiet()
        await order(e, well, BY_CONTACT | {"lanes": 5})
        await send(e, *ids[40:80])
        await e.quiet()
    async with engine(tmp_path, network=e.network, clock=e.clock) as e:
        await send(e, *ids[80:])
        await e.quiet()
        posted = {each.webhook_id: each.headers for each in e.network.posted if each.url == WELL}
        assert list(range(1, 121)) == [int(posted[each]["webhook-sequence"]) for each in ids]
        for number, each in enumerate(ids):
            before = [one for one in ids[:number] if lane(one.split("-")[0]) == lane(each.split("-")[0])]
            assert (before[-1] if before else None) == posted[each].get("webhook-lane-previous")
        assert not any("webhook-sequence" in p.headers for p in e.network.posted if p.url != WELL)
        assert 120 == len(e.network.ids(plain.url))


async def test_replays_and_backfills_go_in_their_lanes(tmp_path: Path) -> None:
    async with engine(tmp_path) as e:
        ids = [f"{key}-{number}" for number in range(20) for key in (A, B, C)]
        await send(e, *ids)
        well = await by_key(e)
        e.network.gates[WELL] = asyncio.Event()
        done = await e.app.services.replayer.backfill(well, event_type=None, since_ms=0, until_ms=None, dry_run=False)
        await e.quiet()
        assert (60, 3) == (done.count, e.network.under_way[WELL])
        e.network.gates[WELL].set()
        await e.quiet()
        assert by(ids) == by(e.network.ids(WELL))
        assert list(range(1, 61)) == sorted(int(each.headers["webhook-sequence"]) for each in e.network.posted)
