"""Small runs of `python -m tests.hostile.beside`, `many_connections` and `schemathesis`; what isn't run rots."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from tests.hostile import beside, schemathesis
from tests.hostile.many_connections import connect_many
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


async def test_a_healthy_caller_beside_900_that_stay(tmp_path: Path) -> None:
    """None of 900 is refused, memory grows by less than 64 KiB for each, and each request is answered."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 1200:
        pytest.skip("900 connections take 1,200 descriptors, and this machine's hard limit is lower (ulimit -Hn)")
    grown_bytes, kept, fresh = await connect_many(tmp_path, 900, calls=20)
    assert grown_bytes / 900 < 64 * 1024
    assert (20, 20) == (len(kept), len(fresh))


async def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """A few examples for each operation, good and bad, always the same ones."""
    assert [] == await schemathesis.run(tmp_path, examples=3, deep=False)
