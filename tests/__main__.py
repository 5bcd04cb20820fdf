"""`python -m tests`: every check of the project, one after the other; what the README calls the test command.

    python -m tests [--install] [ARGUMENTS OF PYTEST]

Style, types, layers and the gate of `tests.coverage` come first, beside each other, as each takes one processor; then
all other tests, slow ones included: most in three processes, those that measure the machine by themselves.  With
arguments for pytest (`python -m tests tests/rules -x`) only those tests run after the checks.

Some tests need a program beside Python's packages.  Where it is missing they are skipped, and this command says so;
`--install` installs it (Debian or Ubuntu, as root).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
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
PYTEST = [sys.executable, "-m", "pytest", "--hypothesis-profile=full"]
COVERAGE = ("coverage", [sys.executable, "-m", "tests.coverage"])
APART = [f"--ignore={each}" for each in coverage.RUN]
TESTS = (
    ("tests", [*PYTEST, "-n", "3", "--dist", "loadgroup", "-m", "not alone", *APART, "tests"]),
    ("measurements", [*PYTEST, "-m", "alone", *APART, "tests"]),
)
# Each program with the tests that need it; the Debian package has the program's name, unless `PACKAGES` has it.
PROGRAMS = {
    "chromium": "the browser tests",
    "strace": "the tests that kill at a write or make it fail",
    "faketime": "the tests of a clock that is set",
    **dict.fromkeys(("nginx", "caddy", "haproxy"), "the tests behind a reverse proxy"),
}
PACKAGES = {"nginx": "nginx-light"}
INSTALL_SECONDS = 300


def main(arguments: list[str]) -> int:
    # A shell starts what runs in the background with SIGINT ignored, which commands inherit; some tests send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    install = "--install" in arguments
    chosen = [each for each in arguments if each != "--install"]
    for program, tests in PROGRAMS.items():
        missing = shutil.which(program) is None
        if missing and (problem := _install(program) if install else "run with --install to install it"):
            print(f"no {program}: {tests} will be skipped ({problem})", flush=True)
    failed = _failed_of(CHECKS if chosen else (*CHECKS, COVERAGE))
    tests = (("tests", [*PYTEST, *chosen]),) if chosen else TESTS
    failed += [name for name, command in tests if not _passes(name, command)]
    if failed:
        print(f"not passed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


def _install(program: str) -> str:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return "installing needs apt-get and root"
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    print(f"installing {program}", flush=True)
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", PACKAGES.get(program, program)]
    for command in (["apt-get", "update", "-q"], install):
        try:
            done = subprocess.run(
                command, env=environ, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS
            )
        except subprocess.TimeoutExpired:
            return f"`{' '.join(command)}` took too long"
        if done.returncode:
            return f"`{' '.join(command)}` failed: {done.stderr[-500:]}"
    return ""


def _failed_of(steps: Iterable[tuple[str, list[str]]]) -> list[str]:
    """Run steps beside each other, show the output of one after the other, and return the names of those that fail."""
    failed = []
    with tempfile.TemporaryDirectory(prefix="webhookd-tests-") as folder:
        running = []
        for name, command in steps:
            output = Path(folder) / name
            with output.open("wb") as file:
                process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
            running.append((name, command, process, output))
        for name, command, process, output in running:
            passed = process.wait() == 0
            print(f"{_shown(name, command)}\n{output.read_text('utf-8', 'replace')}", end="", flush=True)
            failed += [] if passed else [name]
    return failed


def _passes(name: str, command: list[str]) -> bool:
    print(_shown(name, command), flush=True)
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def _shown(name: str, command: list[str]) -> str:
    return f"{name}: {' '.join([Path(command[0]).name, *command[1:]])}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
