"""The lease of a partition, as its owner holds it: renewed every second, and a gate before each attempt.

The owner counts from when it *sent* a renewal that succeeded, by its own clocks; whoever wants the partition waits for
`lease_seconds` from when it *saw* the last renewal, by its own.  So however the two clocks differ, the last attempt of
the one has ended before the other's first: the fence and an attempt together are shorter than the lease.
"""

from __future__ import annotations

import ctypes
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from webhookd.cluster.jetstream import Conflict, JetStream, Unreachable
from webhookd.cluster.names import CLUSTER_BUCKET, lease_key

MARGIN_SECONDS = 2.0
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_send = ctypes.PyDLL(None).send
_send.argtypes, _send.restype = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_ssize_t
# For how long a release is tried: without one the next machine waits for the lease's end.
RELEASE_SECONDS = 3.0


class LeaseValue(msgspec.Struct, frozen=True):
    """What stands under a partition's lease: see `names`."""

    node: str = ""
    advertise: str = ""
    boot: str = ""
    to: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by the clock that stands still while the machine is suspended, and by the one that doesn't."""

    monotonic: float
    boottime: float

    @classmethod
    def now(cls) -> Moment:
        """This moment."""
        return cls(time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))

    def seconds_since(self) -> float:
        """How long ago it was, by the clock that says more."""
        now = Moment.now()
        return max(now.monotonic - self.monotonic, now.boottime - self.boottime)


class Lost(Exception):
    """Another machine has the partition."""


class Lease:
    """One partition's lease while this process has it."""

    def __init__(
        self,
        jetstream: JetStream,
        partition: int,
        value: LeaseValue,
        *,
        lease_seconds: float,
        attempt_seconds: Callable[[], float],
    ) -> None:
        self._jetstream = jetstream
        self._key = lease_key(partition)
        self._value = value
        self._lease_seconds = lease_seconds
        self._attempt_seconds = attempt_seconds
        self._revision = 0
        self._renewed = Moment(float("-inf"), float("-inf"))
        self._unanswered: Moment | None = None  # the first renewal of which nothing is known

    @property
    def fence_seconds(self) -> float:
        """How long after its last renewal it allows attempts."""
        return self._lease_seconds - self._attempt_seconds() - MARGIN_SECONDS

    def holds(self) -> bool:
        """Whether an attempt may start now."""
        return self._renewed.seconds_since() < self.fence_seconds

    def send(self, sock: socket.socket, data: bytes) -> int | None:
        """Send on a socket that doesn't block, if it holds: how many bytes went out; None if it doesn't hold.

        Between the look and the call the interpreter's lock isn't given up, as `sock.send` does: another thread would
        run, for milliseconds on a busy machine, and a process that is stopped then would send when it goes on.
        """
        fd, size = sock.fileno(), len(data)
        if not self.holds():
            return None
        return max(0, _send(fd, data, size, _FLAGS)) if data else 0

    def age_seconds(self) -> float:
        """How long ago the last renewal was sent."""
        return self._renewed.seconds_since()

    def over(self) -> bool:
        """Whether it has ended, whoever has it now."""
        return self.age_seconds() > self._lease_seconds

    async def take(self, revision: int) -> None:
        """Take it from `revision` (0: there never was one).  Raises Lost, Unreachable; see `renew` for the latter."""
        self._revision = revision
        await self.renew()

    async def renew(self) -> None:
        """Renew it.  Raises Lost; Unreachable where nothing is known, and then it may have been renewed."""
        sent = Moment.now()
        try:
            self._revision = await self._put(self._value)
        except Unreachable:
            self._unanswered = self._unanswered or sent
            raise
        except Conflict:
            await self._look(sent)
        else:
            self._renewed, self._unanswered = sent, None

    async def _look(self, sent: Moment) -> None:
        """Somebody wrote: this process itself, by a renewal that wasn't answered, or another machine."""
        found = await self._jetstream.get(CLUSTER_BUCKET, self._key)
        if found is None or decode(found.value).boot != self._value.boot:
            raise Lost
        if found.revision == self._revision or self._unanswered is None:
            raise Unreachable("a renewal is still under way")
        self._revision = found.revision
        self._renewed, self._unanswered = self._unanswered, None

    async def release(self, to: str) -> None:
        """Give it up in peace, for the machine `to` if it is named.  Raises Lost, Unreachable."""
        self._renewed = Moment(float("-inf"), float("-inf"))

        async def put() -> None:
            try:
                await self._put(LeaseValue(to=to))
            except Conflict:
                found = await self._jetstream.get(CLUSTER_BUCKET, self._key)
                if found is None or decode(found.value).boot != self._value.boot:
                    raise Lost from None
                self._revision = found.revision
                raise Unreachable("a renewal was still under way") from None

        await self._jetstream.ask("release a lease", put, within_seconds=RELEASE_SECONDS)

    async def _put(self, value: LeaseValue) -> int:
        return await self._jetstream.put(CLUSTER_BUCKET, self._key, msgspec.json.encode(value), self._revision)


def decode(value: bytes) -> LeaseValue:
    """The value of a lease; one that can't be read is nobody's."""
    try:
        return msgspec.json.decode(value, type=LeaseValue)
    except msgspec.DecodeError:
        return LeaseValue()
