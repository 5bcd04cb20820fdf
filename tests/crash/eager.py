"""`webhookd serve`, except that it checkpoints often and, on request, syncs too little; it waits for its tracer.

    python -m tests.crash.eager STATE_DIR CONFIG_FILE FULL|NORMAL

webhookd has no setting for `synchronous`: only FULL survives a power cut.  NORMAL is here to show that the test of it
can fail.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.crash.forkserver import await_tracer
from webhookd import daemon
from webhookd.config_loader import load
from webhookd.store import connection, disk_space

LOG_PAGES = 60


def main(state_dir: str, config_file: str, synchronous: str) -> int:
    connection._WRITER_PRAGMAS = connection._WRITER_PRAGMAS.replace(
        "synchronous = FULL", f"synchronous = {synchronous}"
    )
    assert f"synchronous = {synchronous};" in connection._WRITER_PRAGMAS
    disk_space.CHECKPOINT_PAGES = LOG_PAGES
    await_tracer()
    return asyncio.run(daemon.serve(load(Path(config_file), {}), Path(state_dir), environ={}))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
