"""Random faults to a cluster under load, judged.

python -m tests.cluster [--rounds 300] [--seed 1] [--lease 15] [--per-cluster 10] [--record]
[--fault "cut a daemon's link"] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from tests.cluster.nats_servers import HOW_TO_GET_ONE, find_server
from tests.cluster.rounds import FAULTS, report, run_rounds
from tests.support.results import recorded
from webhookd.cli.cluster.nats_config import version_of


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--per-cluster", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lease", type=float, default=15.0)
    parser.add_argument("--fault", action="append", choices=list(FAULTS))
    parser.add_argument("--keep", type=Path, help="a folder for the logs of what broke a promise")
    given = parser.parse_args()
    program = find_server()
    if program is None:
        print(HOW_TO_GET_ONE)
        return 1
    total = asyncio.run(
        run_rounds(
            rounds=given.rounds,
            per_cluster=given.per_cluster,
            seed=given.seed,
            lease_seconds=given.lease,
            faults=given.fault,
            keep=given.keep,
        )
    )
    print(report(total, given.lease, ".".join(map(str, version_of(str(program))))))
    return 1 if total.violations else 0


if __name__ == "__main__":
    sys.exit(recorded(main))
