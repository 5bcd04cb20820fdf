"""A disk of a few dozen megabytes, and other programs that fill it to the last byte."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PIECE_BYTES = 64 * 1024


@contextlib.contextmanager
def small_disk(where: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own in memory, mounted at `where`; skips where this user may not mount one."""
    where.mkdir(parents=True)
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "webhookd-test", str(where)]
    if mount is None or os.geteuid() != 0 or subprocess.run([mount, *options], capture_output=True).returncode:
        pytest.skip("a small disk can only be mounted by root, on a machine that allows it")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


class Filler:
    def __init__(self, disk: Path) -> None:
        self._file = disk / "another-programs.log"
        self._stopping = threading.Event()
        self._snatching: threading.Thread | None = None

    def fill(self) -> None:
        with self._file.open("ab", buffering=0) as out:
            piece = bytes(PIECE_BYTES)
            while piece:
                try:
                    out.write(piece)
                except OSError:
                    piece = piece[: len(piece) // 2]

    def snatch(self) -> None:
        def run() -> None:
            while not self._stopping.is_set():
                self.fill()
                time.sleep(0.001)

        self._snatching = threading.Thread(target=run)
        self._snatching.start()

    def go(self) -> None:
        self._stopping.set()
        if self._snatching is not None:
            self._snatching.join(10)
        self._file.unlink(missing_ok=True)


@contextlib.contextmanager
def filler(disk: Path) -> Iterator[Filler]:
    made = Filler(disk)
    try:
        yield made
    finally:
        made.go()
