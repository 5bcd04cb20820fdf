"""Random faults to clusters under load, judged.

python -m tests.cluster [--rounds 300] [--seed 1] [--lease 15] [--per-cluster 10] [--at-once 1] [--record]
[--fault "cut a daemon's link"] [--keep FOLDER]

Each cluster is a process of its own with servers, daemons, producers and receivers; `--at-once` says how many run
beside each other.  A round mostly waits, so two cores bear three.  `--keep`: a folder for the logs of what broke a
promise.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tests.cluster.faults import FAULTS
from tests.cluster.nats_servers import HOW_TO_GET_ONE, find_server
from tests.cluster.rounds import Total, progress, report, run_cluster
from tests.support.results import recorded
from webhookd.cli.cluster.nats_config import version_of


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--per-cluster", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lease", type=float, default=15.0)
    parser.add_argument("--fault", action="append", choices=list(FAULTS))
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    program = find_server()
    if program is None:
        print(HOW_TO_GET_ONE)
        return 1
    total, begun = Total(), time.monotonic()
    for seed, found in _clusters(given):
        total.add(found)
        for violation in found.violations[:20]:
            print(f"    seed {seed}: {violation.rule}: {violation.text}", file=sys.stderr)
        for why in found.failed:
            print(f"    {why}", file=sys.stderr)
        print(progress(total, time.monotonic() - begun), file=sys.stderr, flush=True)
    print(report(total, given.lease, ".".join(map(str, version_of(str(program))))))
    return 1 if total.violations or total.failed else 0


def _clusters(given: argparse.Namespace) -> Iterator[tuple[int, Total]]:
    """The seed of each cluster and what its rounds came to, as they end."""
    lease, faults, keep = given.lease, given.fault or list(FAULTS), given.keep
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.at_once, spawned, max_tasks_per_child=1) as pool:
        asked = {}
        for begin in range(0, given.rounds, given.per_cluster):
            seed = given.seed * 1000 + begin
            rounds = min(given.per_cluster, given.rounds - begin)
            asked[pool.submit(run_cluster, rounds, seed, lease, faults, keep)] = seed
        for each in as_completed(asked):
            try:
                yield asked[each], each.result()
            except Exception as error:  # noqa: BLE001 - the others go on
                yield asked[each], Total(failed=[f"seed {asked[each]}: {type(error).__name__}: {error}"])


if __name__ == "__main__":
    sys.exit(recorded(main))
