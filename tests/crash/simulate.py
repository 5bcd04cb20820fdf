"""The core on virtual time, schedule after schedule: events, failures, people, clocks and kills, all drawn from seeds.

    python -m tests.crash.simulate [--schedules 100000] [--seed 0] [--jobs 1] [--lanes]
    python -m tests.crash.simulate --seed 4711 --trace [--lanes]

The first plays many schedules and judges each; seeds that break a promise are printed, and belong into
`simulation/seeds.txt`.  The second plays one and prints all that happened.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from tests.crash.simulation.world import Report, play
from tests.support.results import recorded

# Seeds that a process plays before it tells.
PIECE = 50
REPORT_EVERY = 10_000


@dataclass(slots=True)
class Total:
    schedules: int = 0
    hours: float = 0.0
    events: int = 0
    attempts: int = 0
    delivered: int = 0
    kills: int = 0
    repeats: int = 0
    most_repeats: int = 0
    broken: list[Report] = field(default_factory=list)

    def add(self, report: Report) -> None:
        self.schedules += 1
        self.hours += report.hours
        self.events += report.events
        self.attempts += report.attempts
        self.delivered += report.delivered
        self.kills += report.kills
        self.repeats += report.repeats
        self.most_repeats = max(self.most_repeats, report.most_repeats)
        if report.broken:
            self.broken.append(report)


def _some(seeds: range, orders_by_key: bool | None) -> list[Report]:
    gc.set_threshold(50_000, 20, 20)  # a schedule's world is gone when it is over; looking for it often costs a tenth
    return [play(seed, orders_by_key=orders_by_key) for seed in seeds]


def _reports(seeds: range, jobs: int, orders_by_key: bool | None) -> Iterator[Report]:
    some = partial(_some, orders_by_key=orders_by_key)
    pieces: Iterable[range] = [seeds[place : place + PIECE] for place in range(0, len(seeds), PIECE)]
    if jobs == 1:
        for piece in pieces:
            yield from some(piece)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for reports in pool.imap(some, pieces):
            yield from reports


def simulate(schedules: int, seed: int = 0, *, jobs: int = 1, orders_by_key: bool | None = None) -> Total:
    total = Total()
    for report in _reports(range(seed, seed + schedules), jobs, orders_by_key):
        total.add(report)
        if report.broken:
            print(f"seed {report.seed}: {report.broken}", flush=True)
        if total.schedules % REPORT_EVERY == 0:
            print(f"{total.schedules} schedules, {len(total.broken)} broken", file=sys.stderr, flush=True)
    return total


def _trace(seed: int, orders_by_key: bool | None) -> int:
    report = play(seed, traced=True, orders_by_key=orders_by_key)
    print("\n".join(report.trace))
    print(report.broken or "every promise was kept")
    return 1 if report.broken else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.simulate")
    parser.add_argument("--schedules", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes that play at once")
    parser.add_argument("--trace", action="store_true", help="play only the first seed, and print what happens")
    parser.add_argument("--lanes", action="store_true", default=None, help="with endpoints that order by key in each")
    wanted = parser.parse_args()
    if wanted.trace:
        return _trace(wanted.seed, wanted.lanes)
    began = time.monotonic()
    total = simulate(wanted.schedules, wanted.seed, jobs=wanted.jobs, orders_by_key=wanted.lanes)
    minutes = (time.monotonic() - began) / 60
    print(
        f"{total.schedules} schedules from seed {wanted.seed} in {minutes:.1f} minutes: {total.hours:,.0f} simulated "
        f"hours ({total.hours / minutes:,.0f} a minute), {total.events:,} events, {total.attempts:,} attempts, "
        f"{total.delivered:,} delivered, {total.kills:,} kills, {total.repeats:,} repeats, "
        f"at most {total.most_repeats} per endpoint and kill; {len(total.broken)} schedules broke a promise"
    )
    return 1 if total.broken else 0


if __name__ == "__main__":
    sys.exit(recorded(main))
