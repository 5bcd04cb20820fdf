"""The bound on request bodies in memory, over all connections together.

Past `FULL_BYTES` larger bodies are refused and streams are read only as fast as they are committed; a small body is
refused only past `SMALL_FULL_BYTES`, so that large or slow bodies can't lock out small ones.  The process needs two to
three times these bytes.  Under RLIMIT_AS callers are refused before the address space is used up: Python raises
`MemoryError`, but libraries written in C may crash.
"""

from __future__ import annotations

import mmap
import resource

from aiohttp import web

from webhookd.errors import ApiError

FULL_BYTES = 64 * 1024 * 1024
SMALL_FULL_BYTES = 2 * FULL_BYTES
SMALL_BODY_BYTES = 256 * 1024
RETRY_AFTER_SECONDS = 1
# Address space that callers can't use.
HEADROOM_BYTES = 24 * 1024 * 1024


class MemoryLimit:
    """Counts the bytes of request bodies in memory."""

    __slots__ = ("byte_count",)

    def __init__(self) -> None:
        self.byte_count = 0

    @property
    def full(self) -> bool:
        """Whether only small bodies are accepted now."""
        return self.byte_count > FULL_BYTES

    def acquire(self, byte_count: int, own_bytes: int) -> None:
        """Count bytes of a body of `own_bytes`, which must be released; ApiError `unavailable` if that is too much."""
        self.byte_count += byte_count
        if self.byte_count > (FULL_BYTES if own_bytes > SMALL_BODY_BYTES else SMALL_FULL_BYTES):
            raise ApiError(
                "unavailable",
                "webhookd holds as much of other callers' requests as it may: nothing more was taken. Try again in a "
                "moment.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )

    def release(self, byte_count: int) -> None:
        """Count so many bytes less."""
        self.byte_count -= byte_count


def refuse_if_memory_is_short(byte_count: int = 0) -> None:
    """MemoryError if the address space has no room for three times so many bytes and the headroom."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        return  # the usual case; the check takes less than a microsecond
    try:
        mmap.mmap(-1, HEADROOM_BYTES + 3 * byte_count).close()
    except OSError as error:
        raise MemoryError("the address space that the process may have is nearly used up") from error


MEMORY_LIMIT = web.AppKey("memory_limit", MemoryLimit)
ACQUIRED_BYTES = web.RequestKey("acquired_bytes", int)


def acquire_memory(request: web.Request, byte_count: int) -> None:
    """Count more of a request's body, until its answer is made; ApiError `unavailable` where that is too much."""
    own_bytes = request.get(ACQUIRED_BYTES, 0) + byte_count
    request[ACQUIRED_BYTES] = own_bytes
    refuse_if_memory_is_short(own_bytes)
    request.app[MEMORY_LIMIT].acquire(byte_count, own_bytes)


def release_memory(request: web.Request) -> None:
    """The answer is made: the body is needed no longer."""
    if acquired_bytes := request.get(ACQUIRED_BYTES, 0):  # else there may be no route yet, and so no `app`
        request.app[MEMORY_LIMIT].release(acquired_bytes)
