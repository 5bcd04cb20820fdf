"""A few of what `python -m tests.crash.kill_points`, `io_faults` and `random_kills` have in full."""

from __future__ import annotations

import pytest

from tests.crash.io_faults import SCENARIO, Fault, ended_when_full
from tests.crash.kill_points import stage
from tests.crash.load import LANES
from tests.crash.play import Scenario
from tests.crash.random_kills import kill_at_random
from tests.crash.scenarios import SCENARIOS
from tests.crash.supervisor import KillPoint, forkserver, why_no_kill_points

WHY_NOT = why_no_kill_points()
# One in the first commits after the start, one further on.
POINTS = (("fdatasync", 4), ("pwrite64", 40))
# All that may be cut in halves where an endpoint is disabled or an event dropped: failures, state, notice, mail.
MORE_POINTS = {
    "disable": [("fdatasync", number) for number in range(5, 17)],
    "drop": [("fdatasync", number) for number in range(5, 13)],
    "backfill": [("fdatasync", number) for number in range(2, 8)],  # between its steps
}
FAULTS = (
    (Fault("pwrite64", "ENOSPC", for_ever=True), 30),
    (Fault("pwrite64", "EDQUOT", for_ever=False), 60),
    (Fault("fdatasync", "EIO", for_ever=False), 1),
    (Fault("fdatasync", "EIO", for_ever=True), 5),
    (Fault("openat", "EIO", for_ever=False), 2),
)


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name.replace(" ", "-"))
async def test_killed_at_a_write_or_a_sync_nothing_is_broken(scenario: Scenario) -> None:
    """The daemon dies at exactly that call, starts again on what is left, and keeps every promise."""
    async with forkserver() as kept, stage(scenario, kept) as where:
        for call, number in (*POINTS, *MORE_POINTS.get(scenario.name, ())):
            judgement, reached = await where.run(KillPoint(call, number, scenario.anywhere))
            assert [] == judgement.violations
            assert reached or (call, number) not in POINTS  # how many syncs it takes depends on what waits together


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
async def test_killed_while_the_file_is_made_the_next_start_makes_it() -> None:
    """Whatever is on the disk of the very first transactions: the next start never takes it for another program's."""
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == "first start")
    async with forkserver() as kept, stage(scenario, kept) as where:
        for number in range(3, 8):
            judgement, reached = await where.run(KillPoint("pwrite64", number))
            assert [] == judgement.violations
            assert reached


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
async def test_a_disk_that_fails_at_a_call_breaks_no_promise() -> None:
    """Full or broken, for once or for good: nothing accepted is lost, and it works again when the disk does."""
    async with forkserver() as kept, stage(SCENARIO, kept) as where:
        for fault, number in FAULTS:
            judgement, reached = await where.run(fault.at(number))
            assert [] == judgement.violations, fault
            assert reached, fault
            assert judgement.most_repeats <= 1, fault


def test_an_end_by_a_full_disk_is_seen() -> None:
    """One that was ready and had to be started again; not one that wasn't ready yet."""
    started, ready = '{"event":"daemon.started"}\n', '{"event":"daemon.ready"}\n'
    assert [] == ended_when_full(started + ready)
    assert [] == ended_when_full(started + started + ready)
    assert ["ended"] == [each.rule for each in ended_when_full(started + ready + started + ready)]


async def test_killed_at_random_under_load_nothing_is_broken() -> None:
    """Five kills under load with ten endpoints, two of which misbehave: every promise is kept."""
    total = await kill_at_random(kills=5, seed=7, endpoints=10, per_round=5)
    assert 5 == total.kills
    assert total.accepted > 0 and total.received > total.accepted
    assert [] == total.violations
    assert total.most_repeats <= LANES
