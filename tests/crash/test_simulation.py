"""The core on virtual time: schedules drawn from seeds, and the proof that a broken core would be found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.simulate import simulate
from tests.crash.simulation.mutations import FOUND, MUTATIONS, mutated
from tests.crash.simulation.world import play
from tests.support.process import ROOT

SEEDS_FILE = Path(__file__).parent / "simulation" / "seeds.txt"
SCHEDULES = 100
ENOUGH_TO_FIND = 1000
MISJUDGED = "-"
FINGERPRINTS = "from tests.crash.simulation.world import play; print([play(s).fingerprint for s in range(20)])"


def kept_seeds() -> list[tuple[int, str]]:
    """The seeds that found something once, and what: a fault of webhookd's, or `MISJUDGED`."""
    lines = SEEDS_FILE.read_text("utf-8").splitlines()
    return [(int(line.split()[0]), line.split()[1]) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("orders_by_key", [False, True])
def test_some_hundred_schedules_keep_every_promise(*, orders_by_key: bool) -> None:
    """Nothing lost, nothing reordered, at most one repeat per lane and kill; and enough happened to tell."""
    total = simulate(SCHEDULES, orders_by_key=orders_by_key)
    assert [] == [(report.seed, report.broken) for report in total.broken]
    assert orders_by_key is (total.most_repeats > 1)
    assert total.kills > SCHEDULES / 3
    assert total.repeats > 10
    assert total.attempts > 10 * SCHEDULES
    assert total.hours > SCHEDULES


@pytest.mark.parametrize(("seed", "fault"), kept_seeds())
def test_what_was_found_once_stays_fixed(seed: int, fault: str) -> None:
    """A seed that broke a promise breaks none any more."""
    assert "" == play(seed).broken


@pytest.mark.parametrize("fault", FOUND)
def test_a_fault_that_was_found_would_be_found_again(fault: str) -> None:
    """By one of the seeds kept for it."""
    with mutated(fault):
        assert any(play(seed).broken for seed, found in kept_seeds() if found == fault)


@pytest.mark.parametrize("fault", MUTATIONS)
def test_a_fault_is_found(fault: str) -> None:
    """Built in on purpose, each is found within a thousand schedules, most within ten."""
    with mutated(fault):
        assert any(play(seed).broken for seed in range(ENOUGH_TO_FIND))


def test_the_same_seed_gives_the_same_run() -> None:
    """To the last commit and request, in other processes too, whatever order their sets have."""
    found = {
        subprocess.run(
            [sys.executable, "-c", FINGERPRINTS],
            cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True, text=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert 1 == len(found)
    assert 20 == len(set(found.pop().strip("[]\n").split(", ")))
