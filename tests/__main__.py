"""`python -m tests`: every check of the project, one after the other; what the README calls the test command.

Style, types and layers first, because they take seconds; then the tests.  The browser tests need Chromium, the kill
points strace: where this machine can install them (Debian or Ubuntu, as root) they are installed, elsewhere those tests
are skipped and that is said.
Without arguments everything runs, some tests of it under `tests.coverage`; arguments are handed to pytest instead:
`python -m tests tests/rules -x`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests import coverage

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CHECKS = (
    ("style", [str(BIN / "ruff"), "check", "."]),
    ("format", [str(BIN / "ruff"), "format", "--check", "."]),
    ("types", [str(BIN / "mypy")]),
    ("layers", [str(BIN / "lint-imports"), "--no-cache"]),
)
COVERAGE = ("coverage", [sys.executable, "-m", "tests.coverage"])
# Programs that some tests need beside Python's packages; the Debian package has the program's name.
NEEDED = (("chromium", "the browser tests"), ("strace", "the kill points"), ("faketime", "the tests of a set clock"))
INSTALL_SECONDS = 300


def main(arguments: list[str]) -> int:
    """Run everything; 0 if all of it passed."""
    # A shell starts what runs in the background with SIGINT ignored, which commands inherit; some tests send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    checks = CHECKS if arguments else (*CHECKS, COVERAGE)
    failed = [name for name, command in checks if not _passes(name, command)]
    for program, tests_of_it in NEEDED:
        provide(program, tests_of_it)
    arguments = arguments or [f"--ignore={path}" for path in coverage.RUN]
    tests = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, check=False)
    if tests.returncode:
        failed.append("tests")
    if failed:
        print(f"not passed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


def provide(program: str, tests_of_it: str) -> None:
    """Install a program if it is missing and can be installed; say plainly when it can't."""
    if shutil.which(program):
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print(f"no {program} here and no way to install it (apt-get, as root): {tests_of_it} will be skipped")
        return
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    print(f"installing {program} for {tests_of_it}", flush=True)
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-y", "-q", "--no-install-recommends", program],
    ):
        try:
            done = subprocess.run(
                command, env=environ, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS
            )
        except subprocess.TimeoutExpired:
            print(f"`{' '.join(command)}` took too long: {tests_of_it} will be skipped")
            return
        if done.returncode:
            print(f"`{' '.join(command)}` failed: {tests_of_it} will be skipped\n{done.stderr[-500:]}")
            return


def _passes(name: str, command: list[str]) -> bool:
    print(f"{name}: {' '.join([Path(command[0]).name, *command[1:]])}", flush=True)
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
