"""What the tests lean on: their own clock, and the record of what was measured."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.clock import START_WALL_MS, ManualClock, settle
from tests.support.results import write


async def test_waits_end_in_the_order_of_their_dues() -> None:
    """`advance` ends waits one after the other, with the hands where each was due."""
    clock = ManualClock()
    seen: list[tuple[str, float]] = []

    async def sleeper(name: str, *steps: float) -> None:
        for step in steps:
            assert await clock.wait(asyncio.Event(), step) is False
            seen.append((name, clock.monotonic() - 1000.0))

    tasks = [asyncio.create_task(sleeper("a", 5, 1)), asyncio.create_task(sleeper("b", 2, 2, 10))]
    await clock.until_waiters(2)
    await clock.advance(6)
    assert [("b", 2.0), ("b", 4.0), ("a", 5.0), ("a", 6.0)] == seen
    assert (1, 8.0) == (clock.waiters, clock.next_due_in_seconds)
    await clock.advance(8)
    await asyncio.gather(*tasks)
    assert 0 == clock.waiters


async def test_an_event_ends_its_wait_before_the_time() -> None:
    """A wait whose event is set returns True and leaves nothing behind."""
    clock = ManualClock()
    event = asyncio.Event()
    task = asyncio.create_task(clock.wait(event, 60))
    await clock.until_waiters(1)
    event.set()
    assert await task is True
    assert (0, None) == (clock.waiters, clock.next_due_in_seconds)


async def test_a_cancelled_wait_is_forgotten() -> None:
    """Cancelling the one who waits leaves no waiter and no task."""
    clock = ManualClock()
    task = asyncio.create_task(clock.wait(asyncio.Event(), 60))
    await clock.until_waiters(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 0 == clock.waiters


async def test_the_wall_clock_moves_alone() -> None:
    """`jump_wall` leaves the monotonic hand; `advance` moves both."""
    clock = ManualClock()
    clock.jump_wall(-3600)
    assert (1000.0, START_WALL_MS - 3_600_000) == (clock.monotonic(), clock.wall_ms())
    await clock.advance(0.5)
    assert (1000.5, START_WALL_MS - 3_599_500) == (clock.monotonic(), clock.wall_ms())
    await settle()


def test_a_run_replaces_the_last_one_of_its_command(tmp_path: Path) -> None:
    """What stands before and after stays; a new command goes to the end."""
    path = tmp_path / "RESULTS.md"
    path.write_text("# How fast\n\nBy hand.\n")
    for command, output in (("python -m a", "one"), ("python -m b", "two"), ("python -m a", "three")):
        write(path, command, output)
    text = path.read_text()
    assert "one" not in text
    parts = ["By hand.", "## `python -m a`", "three", "## `python -m b`", "two"]
    assert parts == sorted(parts, key=text.index)
