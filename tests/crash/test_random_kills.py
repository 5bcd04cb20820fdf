"""A small round of `python -m tests.crash.random_kills`."""

from __future__ import annotations

from tests.crash.random_kills import kill_at_random


async def test_killed_at_random_under_load_nothing_is_broken() -> None:
    """Five kills under load with ten endpoints, two of which misbehave: every promise is kept."""
    total = await kill_at_random(kills=5, seed=7, endpoints=10, per_round=5)
    assert 5 == total.kills
    assert total.accepted > 0 and total.received > total.accepted
    assert [] == total.violations
    assert total.most_repeats <= 1
