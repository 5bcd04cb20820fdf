"""What runs when: `pytest` alone is the daily loop, `python -m tests` runs everything.

Without a path and without `-m`, pytest leaves out the `slow` tests and uses two processes.  Of a path that is named,
all runs.
"""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import hypothesis
import pytest

TESTS = Path(__file__).parent
# Real processes, crashes, browsers and measurements.  Single slow tests elsewhere are marked where they stand.
SLOW = ("bench", "browser", "crash", "hostile", "process", "recipes", "cli/test_daemon.py", "cli/test_demo.py")
QUICK = ("crash/test_checker.py", "crash/test_takeovers.py", "crash/test_witness.py", "hostile/test_keep_alive.py")
# Tests that measure this machine or set its state: another test beside them would change what they see.
ALONE = (
    "bench",
    "crash/test_full_disk.py",
    "hostile/test_measured.py",
    "process/test_clock.py",
    "process/test_main_job.py",
)

# One after the other in one process, which starts what they share once.
TOGETHER = ("cluster/test_daemons.py", "cluster/test_migration.py", "cluster/test_takeover.py")

# What costs most of a test's setup: reading the machine's authorities, which no test asks, and looking for garbage.
os.environ |= {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
gc.set_threshold(50_000, 20, 20)
# Where a sync costs nothing, if there is space; nothing in the daily loop is about a disk.
MEMORY, MEMORY_BYTES = Path("/dev/shm"), 1024**3

hypothesis.settings.register_profile("daily", max_examples=25, stateful_step_count=15, deadline=None, derandomize=True)
hypothesis.settings.register_profile("full", max_examples=100, stateful_step_count=25, deadline=None, derandomize=True)
hypothesis.settings.load_profile("daily")  # `--hypothesis-profile=full` chooses the other


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.markexpr:
        config.option.markexpr = "not slow"
        if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
        if getattr(config.option, "numprocesses", 0) is None and not hasattr(config, "workerinput"):
            config.option.numprocesses = 2  # a worker, which comes through here as well, starts none


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Don't even import what `-m` would leave out."""
    daily = config.args_source is pytest.Config.ArgsSource.TESTPATHS and config.option.markexpr == "not slow"
    return True if daily and collection_path.suffix == ".py" and _is_slow(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _is_slow(item.path):
            item.add_marker("slow")
        if item.path.relative_to(TESTS).as_posix().startswith(ALONE):
            item.add_marker("alone")
        if item.path.relative_to(TESTS).as_posix() in TOGETHER:
            item.add_marker(pytest.mark.xdist_group("cluster"))


def _is_slow(file: Path) -> bool:
    place = file.relative_to(TESTS).as_posix()
    return place.startswith(SLOW) and place not in QUICK
