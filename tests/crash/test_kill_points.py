"""A few of the points of `python -m tests.crash.kill_points`, which has all of them."""

from __future__ import annotations

import pytest

from tests.crash.kill_points import stage
from tests.crash.play import Scenario
from tests.crash.scenarios import SCENARIOS
from tests.crash.supervisor import KillPoint, forkserver, why_no_kill_points

WHY_NOT = why_no_kill_points()
# One in the first commits after the start, one further on.
POINTS = (("fdatasync", 4), ("pwrite64", 40))
# All that may be cut in halves when an endpoint is disabled: its failures, its state, its notice, the mail.
MORE_POINTS = {"disable": [("fdatasync", number) for number in range(5, 17)]}


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name.replace(" ", "-"))
async def test_killed_at_a_write_or_a_sync_nothing_is_broken(scenario: Scenario) -> None:
    """The daemon dies at exactly that call, starts again on what is left, and keeps every promise."""
    async with forkserver() as kept, stage(scenario, kept) as where:
        for call, number in (*POINTS, *MORE_POINTS.get(scenario.name, ())):
            judgement, reached = await where.run(KillPoint(call, number, scenario.anywhere))
            assert [] == judgement.violations
            assert reached or (call, number) not in POINTS  # how many syncs it takes depends on what waits together
            assert judgement.most_repeats <= 1


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
async def test_killed_while_the_file_is_made_the_next_start_makes_it() -> None:
    """Whatever is on the disk of the very first transactions: the next start never takes it for another program's."""
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == "first start")
    async with forkserver() as kept, stage(scenario, kept) as where:
        for number in range(3, 8):
            judgement, reached = await where.run(KillPoint("pwrite64", number))
            assert [] == judgement.violations
            assert reached
