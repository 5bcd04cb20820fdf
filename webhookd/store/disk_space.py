"""The free space on the database's disk, and a reserve in it that no other program can use.

On a full disk SQLite can't write anything, not even a DELETE or a checkpoint.  So webhookd refuses events long before
that (`store.min_free_mb`), and a file beside the database, `webhookd.db-reserve`, keeps a quarter of that space.  It is
released piece by piece when the disk fills up all the same, so that outcomes can still be recorded.

Pages that are free inside the database's file are room as well: retention made it, and new events take it again.
"""

from __future__ import annotations

import errno
import math
import os
import time
from contextlib import suppress
from pathlib import Path

from webhookd import log

MIB = 1024 * 1024
RESERVED_SHARE = 0.25
RESERVE_MAX_BYTES = 256 * MIB
# It is released in so many pieces: a program that uses up one has not got all of it.
PIECES = 4
# Less than this counts as a full disk: the next commit may need it.
ENOUGH_BYTES = MIB
# How long an answer about the free space is kept: a look costs some 5 µs, per event.
LOOK_SECONDS = 0.25
# The write-ahead log is carried over into the file at the latest when it holds so much.
WAL_BYTES = 8 * MIB
WAL_BYTES_WHEN_SHORT = MIB
_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_FALLOCATE = (errno.EOPNOTSUPP, errno.EINVAL)


class DiskSpace:
    """The space for the database at `database`, of which `min_free_mb` is kept for outcomes, the reserve included."""

    def __init__(self, database: Path, min_free_mb: float) -> None:
        self._directory = database.parent
        self._reserve = database.with_name(f"{database.name}-reserve")
        self._kept_bytes = round(min_free_mb * MIB)
        self._wanted_bytes = min(round(self._kept_bytes * RESERVED_SHARE), RESERVE_MAX_BYTES)
        self._released = False
        self._looked_at = float("-inf")
        self._short = False
        self._tight = False  # only pages inside the file make room
        self.free_inside_bytes = 0  # of the database's file, as looked at last

    def free_bytes(self) -> int:
        """What the file system has left, the reserve apart."""
        stat = os.statvfs(self._directory)
        return stat.f_bavail * stat.f_frsize

    def spare_bytes(self) -> int:
        """What may be used for other things than outcomes; negative when there is too little even for these."""
        return self.free_bytes() + self._reserved_bytes() - self._kept_bytes

    def short(self) -> bool:
        """Whether there is too little space to accept events; the reserve has to be whole as well."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._settle()
        return self._short

    def prepare(self) -> None:
        """Before the database is opened: on a full disk that needs a piece of the reserve."""
        if self.free_bytes() < ENOUGH_BYTES:
            self.release()

    def acquire(self) -> None:
        """After the database is opened: make the reserve."""
        self.refill()
        self._settle()

    def wal_limit_bytes(self) -> int:
        """How large the write-ahead log may be: no larger than what is kept, as a checkpoint may need as much again."""
        if self.short() or self._tight:
            return WAL_BYTES_WHEN_SHORT
        return min(WAL_BYTES, self._kept_bytes) or WAL_BYTES

    def refill(self) -> None:
        """Make the reserve whole, if there is space for it beside what else is kept."""
        if self.is_whole():
            return
        if self.spare_bytes() < 0 or self.free_bytes() + self._reserved_bytes() < ENOUGH_BYTES:
            return
        try:
            if self._reserved_bytes() < self._wanted_bytes:
                _allocate(self._reserve, self._wanted_bytes)
        except OSError:
            return  # a quota, or another program was quicker
        self._released = False

    def release(self) -> bool:
        """The disk is full: release a piece of the reserve, and accept no events; False if nothing is left of it."""
        self._released = True
        self._settle()
        reserved_bytes = self._reserved_bytes()
        with suppress(OSError):
            os.truncate(self._reserve, max(0, reserved_bytes - math.ceil(self._wanted_bytes / PIECES)))
        return self._reserved_bytes() < reserved_bytes

    def exhausted(self) -> bool:
        """Whether a file can't grow here: distinguishes a full disk or quota from a broken one."""
        probe = self._reserve.with_name(f"{self._reserve.name}-probe")
        try:
            _allocate(probe, ENOUGH_BYTES)
        except OSError as error:
            return error.errno in _OUT_OF_SPACE
        finally:
            with suppress(OSError):
                probe.unlink()
        return False

    def _settle(self) -> None:
        short = not self.is_whole() or not self._has_space()
        if short != self._short:
            self._short = short
            log.emit("store.full" if short else "store.recovered")

    def _has_space(self) -> bool:
        spare_bytes = self.spare_bytes()
        self._tight = spare_bytes < 0
        if not self._tight:
            return True
        # Events go through the write-ahead log, which can't use the pages inside.
        return spare_bytes + self.free_inside_bytes >= 0 and self.free_bytes() >= self._kept_bytes * RESERVED_SHARE

    def is_whole(self) -> bool:
        """Whether the reserve is all there and none of it was given away since it was made whole."""
        return not self._released and self._reserved_bytes() >= self._wanted_bytes

    def _reserved_bytes(self) -> int:
        try:
            return self._reserve.stat().st_size
        except OSError:
            return 0


def _allocate(file: Path, size_bytes: int) -> None:
    """Make `file` at least so large, with blocks of its own behind every byte; OSError if there is no space."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.posix_fallocate(descriptor, 0, size_bytes)
        except OSError as error:
            if error.errno not in _NO_FALLOCATE:
                raise
            for offset in range(0, size_bytes, MIB):
                os.pwrite(descriptor, bytes(min(MIB, size_bytes - offset)), offset)
    finally:
        os.close(descriptor)
