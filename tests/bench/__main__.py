"""Measure webhookd's speed, each figure as a ratio within one interleaved run.

    python -m tests.bench [ROW …] [--rounds 5] [--seconds 2] [--large] [--record]

Rows: ingest, batches, delivery, end_to_end, paced, written, rest, memory, million, lanes, filters, growth;
without any, all of them.
`--large` lets the history grow to 10,000,000 rows (some 10 GB of disk, 10 minutes); `--record` writes the tables into
`RESULTS.md`.
`python -m tests.bench.peers` compares webhookd with other products.

Reference and subject take turns within each round; the figure is the median of the rounds, the noise half of the middle
half's width.  The load generator and the sink are one small program on raw sockets (`tests/bench/peer.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import selectors
import sys
import tempfile
from pathlib import Path

from tests.bench import growth, processes, report
from tests.bench.measure import Scale, Yard
from tests.bench.rows import ROWS
from tests.support.results import recorded

GROWTH_SIZES = (10_000, 100_000, 1_000_000)
GROWTH = "growth"
NAMES = [*ROWS, GROWTH]


async def measure(names: list[str], scale: Scale, *, large: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="webhookd-bench-") as folder:
        async with processes.peer() as peer:
            yard = Yard(Path(folder), peer, scale)
            for name in names:
                if name == GROWTH:
                    history = (10_000_000,) if large else ()
                    curves = await growth.curves(
                        yard, GROWTH_SIZES, seconds=scale.seconds * 2, events=10_000, history=history
                    )
                    print(report.growth_table(curves), flush=True)
                    continue
                print(report.table(await ROWS[name](yard)), flush=True)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(NAMES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--large", action="store_true", help="a history of 10,000,000 rows as well")
    arguments = parser.parse_args()
    unknown = set(arguments.rows) - set(NAMES)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # 5,000 connections at both ends
    scale = Scale(rounds=arguments.rounds, seconds=arguments.seconds)
    with asyncio.Runner(loop_factory=_precise_loop) as runner:
        runner.run(measure(arguments.rows or NAMES, scale, large=arguments.large))


def _precise_loop() -> asyncio.AbstractEventLoop:
    """A loop whose timers aren't rounded up to milliseconds: a receiver that takes 50 ms would take 51."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    sys.exit(recorded(main))
