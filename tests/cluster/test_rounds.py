"""A few rounds of `python -m tests.cluster`, with each fault once."""

from __future__ import annotations

import pytest

from tests.cluster.nats_servers import HOW_TO_GET_ONE, find_server
from tests.cluster.rounds import FAULTS, Total, run_rounds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_server() is None, reason=HOW_TO_GET_ONE),
]


def broken(total: Total) -> list[str]:
    """What no load of this machine excuses; how long a pause was, and how much came again, is the program's to say."""
    return [each.text for each in total.violations if each.rule not in ("paused", "repeated")]


async def test_a_machine_that_is_killed_or_leaves_loses_and_repeats_nothing_it_may_not() -> None:
    """Killed with its disk emptied, and ended in peace: nothing lost, reordered or sent by another."""
    total = await run_rounds(
        rounds=2, per_cluster=2, seed=1, lease_seconds=6, faults=["empty a daemon's disk", "SIGTERM a daemon"]
    )
    assert [] == broken(total)
    assert total.accepted > 20


async def test_a_cut_link_and_a_killed_server() -> None:
    """A daemon that reaches no NATS server stops before another takes over; one server of three is not missed."""
    total = await run_rounds(
        rounds=2, per_cluster=2, seed=2, lease_seconds=6, faults=["cut a daemon's link", "SIGKILL a NATS server"]
    )
    assert [] == broken(total)
    assert set(total.faults) <= set(FAULTS)
