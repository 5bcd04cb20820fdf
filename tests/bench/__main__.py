"""Measure webhookd: every figure of the README's table, as a ratio within one interleaved run.

    python -m tests.bench [ROW …] [--rounds 5] [--seconds 2] [--large] [--out DIR]

Rows: ingest, batches, delivery, end_to_end, memory, million, others, growth; without any, all of them.  A table goes to
stdout; `results.json`, `figures.svg` and `growth.svg` to DIR (a temporary one by default, and it is named).  `--large`
lets the history grow to 10,000,000 rows (some 10 GB of disk, 10 minutes).  `others` installs what it is compared with
into a temporary directory: it needs redis-server, node, npm and the network.

Reference and subject take turns within each round; the figure is the median of the rounds, the noise half of the middle
half's width.  The load generator and the sink are one small program on raw sockets (`tests/bench/peer.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
from pathlib import Path

from tests.bench import growth, processes, report
from tests.bench.measure import Figure, Scale, Yard
from tests.bench.peers import compare
from tests.bench.rows import ROWS

GROWTH_SIZES = (10_000, 100_000, 1_000_000)
GROWTH = "growth"
NAMES = [*ROWS, compare.NAME, GROWTH]


async def measure(names: list[str], scale: Scale, out: Path, *, large: bool) -> None:
    """Measure these rows, print them as they come, leave everything in `out`."""
    figures: list[Figure] = []
    curves: list[growth.Curve] = []
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
                found = await (compare.measure(yard) if name == compare.NAME else ROWS[name](yard))
                figures += found
                print(report.table(found), flush=True)
                report.write(out, figures, curves)
    report.write(out, figures, curves)
    print(f"results.json and plots: {out}")


def main() -> None:
    """As the arguments say."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(NAMES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--large", action="store_true", help="a history of 10,000,000 rows as well")
    parser.add_argument("--out", type=Path, help="where results and plots go")
    arguments = parser.parse_args()
    unknown = set(arguments.rows) - set(NAMES)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # 5,000 connections at both ends
    scale = Scale(rounds=arguments.rounds, seconds=arguments.seconds)
    out = arguments.out or Path(tempfile.mkdtemp(prefix="webhookd-bench-results-"))
    asyncio.run(measure(arguments.rows or NAMES, scale, out, large=arguments.large))


if __name__ == "__main__":
    main()
