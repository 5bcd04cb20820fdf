"""What one HTTP exchange came to, as it happens: the note that resolver, gates, connection and sender write on.

aiohttp hides which connection carried a request and how far it came when it fails.  The sender therefore hangs an
`Exchange` into a context variable before each try; whoever takes part finds it there, also in the tasks that dialling
several addresses at once starts, because a task copies the reference, not the note.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from webhookd.models import Reason

if TYPE_CHECKING:
    from webhookd.sender.http1 import Connection


class Stage(IntEnum):
    """How far an exchange came."""

    START = 0
    RESOLVE = 1
    CONNECT = 2
    ANSWER = 3
    BODY = 4


class EgressFailure(OSError):
    """A request that was not made, or not there: `reason` and `detail` are the attempt's.

    It is an OSError because that is what aiohttp expects a resolver and a socket factory to raise.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(slots=True)
class AttemptTrace:
    """One try of one attempt.

    `peer` is the address dialled last; `failure` what a gate refused, which outweighs everything else; `connection`
    carried the request and was `reused` if it had carried others; `status`, `headers`, `body` are the answer as far
    as it was read, `truncated` if there was more.
    """

    stage: Stage = Stage.START
    peer: str = ""
    failure: EgressFailure | None = None
    connection: Connection | None = None
    reused: bool = False
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytearray = field(default_factory=bytearray)
    truncated: bool = False


CURRENT: ContextVar[AttemptTrace] = ContextVar("exchange")


def host_and_port(host: str, port: int) -> str:
    """`host` and `port` as people write them: brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
