"""`python -m tests.coverage`: a test takes every branch of the code between a stranger and this machine.

Runs the tests of `RUN` and fails when they miss a line or a branch of `COMPLETE`, naming it.  Nothing is excluded: a
branch that no test can reach is taken out of the code.

`python -m tests.coverage --all` measures the whole package under all tests and prints line and branch coverage.  What
tests run in a process of its own (the daemon of a kill test, a command) doesn't count.
"""

from __future__ import annotations

import json
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


def main(arguments: list[str]) -> int:
    """0 if the tests pass and, without `--all`, every branch was taken."""
    whole = "--all" in arguments
    with tempfile.TemporaryDirectory(prefix="webhookd-coverage-") as folder:
        data = f"--data-file={folder}/data"
        included = f"--include={'webhookd/*' if whole else ','.join(COMPLETE)}"
        tests = ["-m", "pytest", "-p", "no:cacheprovider", "--hypothesis-profile=full", *(("tests",) if whole else RUN)]
        tested = _coverage("run", "--branch", data, included, *tests)
        if whole:
            file = Path(folder) / "coverage.json"
            reported = _coverage("json", data, "-o", str(file))
            print(_totals(json.loads(file.read_text("utf-8"))["totals"]))
        else:  # 100 is the one figure that coverage doesn't round up to
            reported = _coverage("report", data, "--fail-under=100", "--show-missing", "--skip-covered")
    return tested or reported


def _coverage(command: str, *arguments: str) -> int:
    called = [sys.executable, "-m", "coverage", command, "--rcfile=/dev/null", *arguments]
    return subprocess.run(called, cwd=ROOT, check=False).returncode


def _totals(totals: dict[str, int]) -> str:
    lines, branches = totals["num_statements"], totals["num_branches"]
    covered_lines, covered_branches = totals["covered_lines"], totals["covered_branches"]
    return (
        f"lines {covered_lines / lines:.1%} ({covered_lines} of {lines}), "
        f"branches {covered_branches / branches:.1%} ({covered_branches} of {branches})"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
