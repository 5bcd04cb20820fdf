"""The promise on an injected clock: order, one at a time, the schedule, the drop."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

from tests.support.clock import ManualClock
from tests.support.engine import ScriptedNetwork, engine
from webhookd.config import Config, Delivery
from webhookd.delivery.queue import INLINE_BYTES
from webhookd.models import NewEvent, Reason

DEAD = "https://dead.example/hook"
WELL = "https://well.example/hook"


def dead_is_dead(url: str, webhook_id: str) -> int:
    """One endpoint answers 500, whatever comes."""
    return 500 if url == DEAD else 200


async def test_a_failing_event_is_tried_four_times_and_then_the_next_goes(tmp_path: Path) -> None:
    """0, 30, 60 and 90 seconds between the attempts, by the defaults; then dropped, then the next event."""
    async with engine(tmp_path) as e:
        e.network.answer = dead_is_dead
        await e.endpoint(DEAD)
        await e.send("a", "b")
        await e.advance(179)
        assert ["a"] * 3 == e.network.ids(DEAD)
        await e.advance(1)
        posted = [p for p in e.network.posted if p.url == DEAD]
        assert ["a", "a", "a", "a", "b"] == [p.webhook_id for p in posted]
        assert [1, 2, 3, 4, 1] == [p.number for p in posted]
        gaps = [round(after.at - before.at, 3) for before, after in itertools.pairwise(posted)]
        assert [30, 60, 90, 0] == gaps


async def test_the_endpoint_beside_a_dead_one_gets_everything_meanwhile(tmp_path: Path) -> None:
    """300 events reach a healthy endpoint before the dead one's first retry is due."""
    async with engine(tmp_path) as e:
        e.network.answer = dead_is_dead
        await e.endpoint(DEAD)
        await e.endpoint(WELL)
        ids = [f"e{number}" for number in range(300)]
        await e.send(*ids)
        await e.quiet()
        assert ids == e.network.ids(WELL)
        assert ["e0"] == e.network.ids(DEAD)
        assert {DEAD: 1, WELL: 1} == e.network.most_under_way


async def test_a_wait_begins_when_the_attempt_before_it_ended(tmp_path: Path) -> None:
    """Attempts that take 4 seconds are 34, 64 and 94 seconds apart."""
    async with engine(tmp_path) as e:
        e.network.answer = dead_is_dead
        e.network.takes_seconds = 4
        await e.endpoint(DEAD)
        await e.send("a")
        await e.advance(300)
        at = [p.at for p in e.network.posted]
        assert [34, 64, 94] == [round(after - before, 3) for before, after in itertools.pairwise(at)]


async def test_a_restart_keeps_order_attempts_and_waits(tmp_path: Path) -> None:
    """Stopped in the middle of a wait and started again, the event goes on where it was."""
    clock = ManualClock()
    network = ScriptedNetwork(clock, answer=dead_is_dead)
    async with engine(tmp_path, clock=clock, network=network) as e:
        await e.endpoint(DEAD)
        await e.send("a", "b")
        await e.advance(40)
    async with engine(tmp_path, clock=clock, network=network) as e:
        await e.advance(49)
        assert [1, 2] == [p.number for p in network.posted]
        await e.advance(1)
        assert [1, 2, 3] == [p.number for p in network.posted]
        await e.advance(90)
        assert ["a", "a", "a", "a", "b"] == network.ids(DEAD)


async def test_a_large_event_waits_no_longer_after_a_restart(tmp_path: Path) -> None:
    """Its body is read from the table when its wait is over; it doesn't wait a second time for that."""
    clock = ManualClock()
    network = ScriptedNetwork(clock, answer=dead_is_dead)
    async with engine(tmp_path, clock=clock, network=network) as e:
        await e.endpoint(DEAD)
        body = b'{"event_type":"message.received","text":"%b"}' % (b"x" * INLINE_BYTES)
        await e.app.services.ingest.accept("default", [NewEvent("a", "message.received", body)])
        await e.advance(10)
    async with engine(tmp_path, clock=clock, network=network) as e:
        await e.advance(20)
        assert [1, 2] == [p.number for p in network.posted]
        assert [body, body] == [p.body for p in network.posted]


async def test_a_wait_for_the_own_machine_is_kept_over_a_restart(tmp_path: Path) -> None:
    """Also after a failed attempt, of a schedule whose steps are shorter."""
    clock = ManualClock()
    answers = [500, Reason.LOCAL, 200]
    network = ScriptedNetwork(clock, answer=lambda url, webhook_id: answers.pop(0))
    config = Config(delivery=Delivery(retry_seconds=(5.0,)))
    async with engine(tmp_path, config, clock=clock, network=network) as e:
        await e.endpoint(DEAD)
        await e.send("a")
        await e.advance(10)
        assert [1, 2] == [p.number for p in network.posted]
    async with engine(tmp_path, config, clock=clock, network=network) as e:
        await e.advance(24)
        assert [1, 2] == [p.number for p in network.posted]
        await e.advance(1)
        assert [1, 2, 3] == [p.number for p in network.posted]


async def test_more_than_the_queue_holds_arrives_in_order(tmp_path: Path) -> None:
    """1,000 events accepted while the first is in flight overflow the queue and still come in order."""
    async with engine(tmp_path) as e:
        gate = e.network.gates[WELL] = asyncio.Event()
        await e.endpoint(WELL)
        ids = [f"e{number}" for number in range(1000)]
        for start in range(0, 1000, 50):
            await e.send(*ids[start : start + 50])
        gate.set()
        await e.quiet()
        assert ids == e.network.ids(WELL)
