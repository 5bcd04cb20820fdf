"""The measurement of a daemon among hostile receivers works, small; what isn't run rots."""

from __future__ import annotations

from tests.hostile import beside
from tests.support.bad_receivers import ALL


async def test_hostile_receivers_beside_a_healthy_one() -> None:
    """Each leads to its outcome, the healthy one gets everything, and what the process itself does is short."""
    figures = await beside.measure(60, seconds=1.0, timeout_seconds=2.0)
    assert (60, []) == (figures.hostile, figures.surprises)
    assert figures.attempts >= 60
    assert len(figures.healthy_ms) == 2 * beside.HEALTHY_PER_SECOND
    assert beside.p99([lag.own_ms for lag in figures.lags]) < 50
    assert figures.grown_bytes < 32 * 1024 * 1024
    assert "memory grew by" in str(figures)


def test_every_behaviour_is_among_the_199() -> None:
    """Over the two runs each is there over http and over https, and in each of them at least once."""
    ports = {scheme: dict.fromkeys(bad_receivers, 1) for scheme, bad_receivers in ALL.items()}
    chosen = [beside.choose(ports, beside.HOSTILE, turn) for turn in (0, 1)]
    assert [beside.HOSTILE] * 2 == [len(run) for run in chosen]
    assert all({each.name for each in run} == set(ALL["https"]) for run in chosen)
    both = {(each.scheme, each.name) for run in chosen for each in run}
    assert {(scheme, name) for scheme, bad_receivers in ALL.items() for name in bad_receivers} == both
