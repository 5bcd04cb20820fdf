"""A few of the faults of `python -m tests.crash.io_faults`, which has all of them."""

from __future__ import annotations

import pytest

from tests.crash.io_faults import SCENARIO, Fault, ended_when_full
from tests.crash.kill_points import stage
from tests.crash.supervisor import forkserver, why_no_kill_points

WHY_NOT = why_no_kill_points()
FAULTS = (
    (Fault("pwrite64", "ENOSPC", for_ever=True), 30),
    (Fault("pwrite64", "EDQUOT", for_ever=False), 60),
    (Fault("fdatasync", "EIO", for_ever=False), 1),
    (Fault("fdatasync", "EIO", for_ever=True), 5),
    (Fault("openat", "EIO", for_ever=False), 2),
)


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
