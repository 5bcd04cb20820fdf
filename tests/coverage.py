"""`python -m tests.coverage`: every branch of what stands between a stranger and this machine is taken by a test.

Runs the tests of `RUN` and fails when a line or a branch of `COMPLETE` was not reached, naming it.  Nothing is
excluded: a branch that no test can reach is taken out of the code.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPLETE = (
    "webhookd/rules/*.py",
    "webhookd/sender/egress.py",
    "webhookd/sender/attempt_trace.py",
    "webhookd/web/server/guard.py",
    "webhookd/web/server/memory_limit.py",
)
RUN = (
    "tests/rules",
    "tests/sender/test_egress.py",
    "tests/sender/test_resolver.py",
    "tests/web/server/test_guard.py",
    "tests/web/server/test_memory_limit.py",
)


def main() -> int:
    """0 if the tests pass and every branch was taken."""
    with tempfile.TemporaryDirectory(prefix="webhookd-coverage-") as folder:
        data = f"--data-file={folder}/data"
        included = f"--include={','.join(COMPLETE)}"
        run = [sys.executable, "-m", "coverage", "run", "--branch", "--rcfile=/dev/null", data, included]
        tests = subprocess.run([*run, "-m", "pytest", "-p", "no:cacheprovider", *RUN], cwd=ROOT, check=False)
        # 100 is the one figure that coverage doesn't round up to.
        report = [sys.executable, "-m", "coverage", "report", data, "--rcfile=/dev/null", "--fail-under=100"]
        shown = subprocess.run([*report, "--show-missing", "--skip-covered"], cwd=ROOT, check=False)
    return tests.returncode or shown.returncode


if __name__ == "__main__":
    sys.exit(main())
