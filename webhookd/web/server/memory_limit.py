"""How much of all callers' bodies is held at a time: bounded over all connections together, so that memory is.

Each caller has bounds of its own (8 MiB of an array, 4 MiB of lines not yet committed), which are no bound for ten
thousand callers.  Past `FULL_BYTES` larger bodies are refused and streams are read no faster than they are committed;
one event's body is refused only past `CRAMMED_BYTES`, so that callers with large bodies, or slow ones, can't keep
those with small ones out.  A process holds two to three times these bytes in memory, for an array's events are cut
out of its text.

Where the process may have only so much address space (RLIMIT_AS) callers are refused before the last of it is gone:
`MemoryError` can be answered, but libraries in C crash at other places.
"""

from __future__ import annotations

import mmap
import resource

from aiohttp import web

from webhookd.errors import ApiError

FULL_BYTES = 64 * 1024 * 1024
CRAMMED_BYTES = 2 * FULL_BYTES
SMALL_BODY_BYTES = 256 * 1024
RETRY_AFTER_SECONDS = 1
# Of the address space, kept from callers.
HEADROOM_BYTES = 24 * 1024 * 1024


class MemoryLimit:
    """The bytes of bodies that are held now."""

    __slots__ = ("byte_count",)

    def __init__(self) -> None:
        self.byte_count = 0

    @property
    def full(self) -> bool:
        """Whether nobody should be given more room than for one event."""
        return self.byte_count > FULL_BYTES

    def take(self, byte_count: int, own_bytes: int) -> None:
        """Hold more for a caller whose body has `own_bytes` with these; Refusal `unavailable` where that is too much.

        What was taken is to be given back also after a refusal.
        """
        self.byte_count += byte_count
        if self.byte_count > (FULL_BYTES if own_bytes > SMALL_BODY_BYTES else CRAMMED_BYTES):
            raise ApiError(
                "unavailable",
                "webhookd holds as much of other callers' requests as it may: nothing more was taken. Try again in a "
                "moment.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )

    def give_back(self, byte_count: int) -> None:
        """Hold so much less."""
        self.byte_count -= byte_count


def refuse_if_memory_is_short(byte_count: int = 0) -> None:
    """MemoryError if the address space that is left is not enough for so many bytes three times, and the headroom."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        return  # the usual case, found out in less than a microsecond
    try:
        mmap.mmap(-1, HEADROOM_BYTES + 3 * byte_count).close()
    except OSError as error:
        raise MemoryError("the address space that the process may have is nearly used up") from error


HOLDING = web.AppKey("holding", MemoryLimit)
HELD_BYTES = web.RequestKey("held_bytes", int)


def hold(request: web.Request, byte_count: int) -> None:
    """Hold more of a request's body, until its answer is made; Refusal `unavailable` where that is too much."""
    own_bytes = request.get(HELD_BYTES, 0) + byte_count
    request[HELD_BYTES] = own_bytes
    refuse_if_memory_is_short(own_bytes)
    request.app[HOLDING].take(byte_count, own_bytes)


def let_go(request: web.Request) -> None:
    """The answer is made: nothing of the body is needed any more."""
    held_bytes = request.get(HELD_BYTES, 0)
    if held_bytes:
        request.app[HOLDING].give_back(held_bytes)
