"""What one try of an attempt came to, as it happens: gates, connection and client write on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from webhookd.models import Reason


class Stage(IntEnum):
    """How far a try came.  The TLS handshake belongs to `CONNECT`."""

    START = 0
    RESOLVE = 1
    CONNECT = 2
    ANSWER = 3
    BODY = 4


class EgressFailure(OSError):
    """A request that was not made; an OSError, because a socket factory may raise nothing else."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class AnswerError(Exception):
    """The bytes of the answer are no HTTP/1.1, or too many."""


class NotAllowed(Exception):
    """In the last moment the request may not be sent: another machine may deliver for the workspace now."""


class ConnectionEnded(Exception):
    """The connection ended before the answer was complete; `AttemptTrace.lost` has the cause."""


@dataclass(slots=True)
class AttemptTrace:
    """One try of one attempt.

    `peer` is the address dialled last; `failure` what a gate refused, which outweighs everything else.  The connection
    was `reused` if it had carried other requests, `lost` is the error that ended it, if any.  `answered` says whether
    a byte of an answer came; `status`, `headers`, `body` are the answer as far as it was read, `complete` when it
    decides, `truncated` if there was more of its body.
    """

    stage: Stage = Stage.START
    peer: str = ""
    failure: EgressFailure | None = None
    reused: bool = False
    lost: Exception | None = None
    answered: bool = False
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False
    truncated: bool = False


def host_and_port(host: str, port: int) -> str:
    """`host` and `port` as people write them: brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
