"""`webhookd …`, except that it checkpoints often and, on request, syncs too little; it waits for its tracer.

    python -m tests.crash.eager FULL|NORMAL serve …

webhookd has no setting for `synchronous`: only FULL survives a power cut.  NORMAL is here to show that the test of it
can fail.
"""

from __future__ import annotations

import sys

from tests.crash.forkserver import await_tracer
from webhookd.cli import main
from webhookd.store import connection, disk_space

LOG_BYTES = 480 * 1024

if __name__ == "__main__":
    pragma = f"synchronous = {sys.argv.pop(1)};"
    connection._WRITER_PRAGMAS = connection._WRITER_PRAGMAS.replace("synchronous = FULL;", pragma)
    assert pragma in connection._WRITER_PRAGMAS
    disk_space.WAL_BYTES = LOG_BYTES
    await_tracer()
    main()
