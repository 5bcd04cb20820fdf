"""The bound on request bodies in memory, over all connections together.

Past `FULL_BYTES` larger bodies are refused and streams are read only as fast as they are committed; a small body is
refused only past `SMALL_FULL_BYTES`, so that large or slow bodies can't lock out small ones.  A workspace may hold
`SHARE_OF_FREE` times what is still free: three quarters of all if it is alone, and never what another would need.

The process needs two to three times these bytes.  Under RLIMIT_AS callers are refused before the address space is used
up: Python raises `MemoryError`, but libraries written in C may crash.
"""

from __future__ import annotations

import mmap
import resource
from collections import Counter

from aiohttp import web

from webhookd.errors import ApiError

FULL_BYTES = 64 * 1024 * 1024
SMALL_FULL_BYTES = 2 * FULL_BYTES
SMALL_BODY_BYTES = 256 * 1024
SHARE_OF_FREE = 3
RETRY_AFTER_SECONDS = 1
# Address space that callers can't use.
HEADROOM_BYTES = 24 * 1024 * 1024


class MemoryLimit:
    """Counts the bytes of request bodies in memory, and of these each workspace's (by its number; None for none)."""

    __slots__ = ("_of_workspace", "byte_count")

    def __init__(self) -> None:
        self.byte_count = 0
        self._of_workspace: Counter[int] = Counter()

    def full(self, workspace_seq: int | None = None) -> bool:
        """Whether only small bodies are accepted now, of this workspace or of all."""
        return self._past(FULL_BYTES, workspace_seq)

    def acquire(self, byte_count: int, own_bytes: int, workspace_seq: int | None = None) -> None:
        """Count bytes of a body of `own_bytes`, which must be released; ApiError `unavailable` if that is too much."""
        self.count(byte_count, workspace_seq)
        if self._past(FULL_BYTES if own_bytes > SMALL_BODY_BYTES else SMALL_FULL_BYTES, workspace_seq):
            raise ApiError(
                "unavailable",
                "webhookd holds as much of callers' requests as it may: nothing more was taken. Try again in a moment.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )

    def count(self, byte_count: int, workspace_seq: int | None = None) -> None:
        """Count so many bytes more, or less."""
        self.byte_count += byte_count
        if workspace_seq is not None:
            self._of_workspace[workspace_seq] += byte_count
            if not self._of_workspace[workspace_seq]:
                del self._of_workspace[workspace_seq]

    def _past(self, bound_bytes: int, workspace_seq: int | None) -> bool:
        free_bytes = bound_bytes - self.byte_count
        return free_bytes < 0 or (
            workspace_seq is not None and self._of_workspace[workspace_seq] > SHARE_OF_FREE * free_bytes
        )


def refuse_if_memory_is_short(byte_count: int = 0) -> None:
    """MemoryError if the address space has no room for three times so many bytes and the headroom."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        return  # the usual case; the check takes less than a microsecond
    try:
        mmap.mmap(-1, HEADROOM_BYTES + 3 * byte_count).close()
    except OSError as error:
        raise MemoryError("the address space that the process may have is nearly used up") from error


MEMORY_LIMIT = web.AppKey("memory_limit", MemoryLimit)
ACQUIRED = web.RequestKey("acquired", tuple[int, int | None])  # bytes, and whose


def acquire_memory(request: web.Request, byte_count: int, workspace_seq: int | None) -> None:
    """Count more of a request's body, until its answer is made; ApiError `unavailable` where that is too much."""
    own_bytes = (request[ACQUIRED][0] if ACQUIRED in request else 0) + byte_count
    request[ACQUIRED] = own_bytes, workspace_seq
    refuse_if_memory_is_short(own_bytes)
    request.app[MEMORY_LIMIT].acquire(byte_count, own_bytes, workspace_seq)


def release_memory(request: web.Request) -> None:
    """The answer is made: the body is needed no longer."""
    if ACQUIRED in request:  # else there may be no route yet, and so no `app`
        acquired_bytes, workspace_seq = request[ACQUIRED]
        request.app[MEMORY_LIMIT].count(-acquired_bytes, workspace_seq)
