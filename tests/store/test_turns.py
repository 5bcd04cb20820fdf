"""Whose turn it is: the order in which the writer takes commands, and where batches are cut."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from webhookd.store.batch import QUANTUM, Command, Turns


class Waiting:
    """Commands with names, in turns."""

    def __init__(self) -> None:
        self.turns = Turns()
        self._names: dict[int, str] = {}

    def add(
        self,
        name: str,
        workspace_seq: int | None = None,
        *,
        size: int = 1,
        exclusive: bool = False,
        in_order: bool = False,
    ) -> None:
        future = asyncio.get_running_loop().create_future()
        command = Command(lambda db: None, None, False, exclusive, future, size, workspace_seq)
        self._names[id(command)] = name
        self.turns.add(command, in_order=in_order)

    def take(self, size: int = 400, worthwhile_size: int = 400, *, apart: bool = False) -> list[str]:
        return [self._names[id(command)] for command in self.turns.take(size, worthwhile_size, apart=apart)]


async def test_outcomes_go_before_events_however_many_wait() -> None:
    """What has no workspace is taken first, in its order; each workspace's own commands keep theirs."""
    waiting = Waiting()
    for number in range(3):
        waiting.add(f"event {number}", 1)
    waiting.add("outcome 0")
    waiting.add("outcome 1")
    assert ["outcome 0", "outcome 1", "event 0", "event 1", "event 2"] == waiting.take()
    assert not waiting.turns


async def test_a_small_command_of_a_quiet_workspace_is_in_the_next_batch_beside_any_backlog() -> None:
    """Eight thousand rows of one workspace wait; the other's one row is not behind them."""
    waiting = Waiting()
    for _ in range(20):
        waiting.add("noise", 1, size=400)
    waiting.add("quiet", 2)
    assert "quiet" in waiting.take() + waiting.take()


async def test_a_small_command_gets_a_short_batch_and_large_ones_no_less_often() -> None:
    """Whatever is large waits for the next batch, which it begins; small ones of several workspaces go together."""
    waiting = Waiting()
    for number in range(3):
        waiting.add(f"noise {number}", 1, size=QUANTUM + 1)
    waiting.add("quiet", 2)
    waiting.add("other", 3)
    waiting.add("outcome")
    assert ["outcome", "quiet", "other"] == waiting.take()
    waiting.add("quiet", 2)
    assert ["noise 0", "noise 1", "noise 2", "quiet"] == sorted(waiting.take())


async def test_workspaces_share_by_rows_not_by_commands() -> None:
    """One with large commands and one with small ones get about the same number of rows."""
    waiting = Waiting()
    for _ in range(100):
        waiting.add("large", 1, size=100)
    for _ in range(10_000):
        waiting.add("small", 2)
    rows: Counter[str] = Counter()
    for _ in range(20):
        for name in waiting.take():
            rows[name] += 100 if name == "large" else 1
    assert abs(rows["large"] - rows["small"]) <= 2 * (QUANTUM + 100)


async def test_outcomes_leave_a_quarter_of_a_batch_to_events() -> None:
    """Thousands of endpoints can't keep events from being accepted."""
    waiting = Waiting()
    for _ in range(1000):
        waiting.add("outcome")
        waiting.add("event", 1)
    assert {"outcome": 300, "event": 100} == Counter(waiting.take())


@pytest.mark.parametrize(("outcomes", "size"), [(1, 400), (100, 1)])
async def test_outcomes_pass_an_event_by_once_at_most(outcomes: int, size: int) -> None:
    """However many come all the time, and though it doesn't fit beside one of them."""
    waiting = Waiting()
    waiting.add("event", 1, size=size)
    taken = []
    for _ in range(2):
        for _ in range(outcomes):
            waiting.add("outcome")
        taken += waiting.take(400, 48)
    assert "event" in taken


async def test_a_batch_ends_with_its_size_or_with_half_of_what_waits() -> None:
    """Half only where that is worthwhile."""
    waiting = Waiting()
    for number in range(200):
        waiting.add(f"{number}", 1, size=2)
    assert 50 == len(waiting.take(100, 100))
    assert 75 == len(waiting.take(400, 48))
    assert 24 + 13 <= len(waiting.take(400, 48))


async def test_an_exclusive_command_is_a_batch_by_itself() -> None:
    """What was added before it is taken before it."""
    waiting = Waiting()
    waiting.add("a")
    waiting.add("checkpoint", exclusive=True)
    waiting.add("b")
    waiting.add("event", 1)
    assert [["a"], ["checkpoint"], ["b", "event"]] == [waiting.take() for _ in range(3)]


async def test_a_command_that_keeps_its_place_parts_those_before_it_from_those_after_it() -> None:
    """Also where a workspace's turn, or an outcome's precedence, would have it otherwise."""
    waiting = Waiting()
    waiting.add("before", 1)
    waiting.add("step", 2, in_order=True)
    waiting.add("after")
    waiting.add("later step", 1, in_order=True)
    waiting.add("last", 3)
    taken = [waiting.take() for _ in range(5)]
    assert [["before"], ["step"], ["after"], ["later step"], ["last"]] == taken


async def test_what_was_put_back_goes_next() -> None:
    """In its order, before everything else of its workspace, and of what has none."""
    waiting = Waiting()
    for name in ("a", "b"):
        waiting.add(f"outcome {name}")
        waiting.add(f"event {name}", 1)
    taken = waiting.turns.take(3, 3)
    waiting.add("outcome c")
    waiting.turns.put_back(taken)
    assert ["outcome a", "outcome b", "outcome c", "event a", "event b"] == waiting.take()


async def test_apart_outcomes_leave_events_for_the_next_batch() -> None:
    """And only where there are any."""
    waiting = Waiting()
    waiting.add("event", 1)
    waiting.add("outcome")
    assert [["outcome"], ["event"]] == [waiting.take(apart=True) for _ in range(2)]


async def test_a_batch_holds_no_more_rows_than_it_may() -> None:
    """What doesn't fit any more waits for the next one; what would never fit goes alone."""
    waiting = Waiting()
    for name, size in (("a", 300), ("b", 200), ("too large", 900), ("c", 100)):
        waiting.add(name, 1, size=size)
    waiting.add("quiet", 2)
    assert 1501 == waiting.turns.size
    assert [["quiet"], ["a"], ["b"], ["too large"], ["c"]] == [waiting.take() for _ in range(5)]
    assert 0 == waiting.turns.size
