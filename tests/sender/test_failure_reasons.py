"""What went wrong, word by word: the reasons that can't all be brought about on one machine."""

from __future__ import annotations

import errno
import os
from unittest.mock import sentinel

import pytest
from aiohttp import ClientConnectorError, ClientOSError
from aiohttp.http_exceptions import HttpProcessingError

from webhookd.models import Reason
from webhookd.sender import host
from webhookd.sender.attempt_trace import AttemptTrace, EgressFailure, Stage
from webhookd.sender.failure_reasons import ended_unanswered, explain

PEER_V4 = "192.0.2.1:443"
PEER_V6 = "[2001:db8::1]:443"


def failed_to_connect(code: int) -> ClientConnectorError:
    """What aiohttp raises for `code` of connect(2)."""
    return ClientConnectorError(sentinel.key, OSError(code, os.strerror(code)))


@pytest.mark.parametrize(
    ("code", "peer", "has_route", "expected"),
    [
        (errno.ECONNREFUSED, PEER_V4, True, Reason.REFUSED),
        (errno.ECONNREFUSED, PEER_V4, False, Reason.REFUSED),
        (errno.ENETUNREACH, PEER_V6, True, Reason.REFUSED),
        (errno.EHOSTUNREACH, PEER_V4, True, Reason.REFUSED),
        (errno.ENETUNREACH, PEER_V4, False, Reason.LOCAL),
        (errno.EHOSTUNREACH, PEER_V6, False, Reason.LOCAL),
        (errno.EMFILE, PEER_V4, True, Reason.LOCAL),
        (errno.ENFILE, PEER_V4, True, Reason.LOCAL),
        (errno.ENOBUFS, PEER_V4, True, Reason.LOCAL),
        (errno.ENOMEM, PEER_V4, True, Reason.LOCAL),
        (errno.EADDRNOTAVAIL, PEER_V4, True, Reason.LOCAL),
        (errno.EADDRNOTAVAIL, PEER_V6, True, Reason.REFUSED),
        (errno.ETIMEDOUT, PEER_V4, True, Reason.TIMEOUT),
        (errno.EPERM, PEER_V4, True, Reason.REFUSED),
        (errno.EACCES, PEER_V4, True, Reason.REFUSED),
        (errno.ECONNRESET, PEER_V4, True, Reason.RESET),
        (errno.ECONNABORTED, PEER_V4, True, Reason.RESET),
        (errno.EAFNOSUPPORT, PEER_V6, True, Reason.REFUSED),
    ],
)
def test_the_reason_of_a_failed_connection(
    monkeypatch: pytest.MonkeyPatch, code: int, peer: str, has_route: bool, expected: Reason
) -> None:
    """Shortages of this machine and a missing network are its own; the rest is the receiver's."""
    monkeypatch.setattr(host, "has_default_route", lambda: has_route)
    reason, detail = explain(failed_to_connect(code), AttemptTrace(stage=Stage.CONNECT, peer=peer))
    assert expected == reason
    assert detail.isprintable()


def test_what_a_gate_refused_outweighs_everything() -> None:
    """Whatever aiohttp makes of it."""
    failure = EgressFailure(Reason.BLOCKED_ADDRESS, "blocked: 10.0.0.1: a private address")
    trace = AttemptTrace(stage=Stage.CONNECT, failure=failure)
    assert (failure.reason, failure.detail) == explain(failed_to_connect(errno.ECONNREFUSED), trace)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), (Reason.LOCAL, "this machine is out of memory")),
        (
            ClientOSError(errno.EMFILE, "x"),
            (Reason.LOCAL, f"this machine could not open a connection: {os.strerror(24)}"),
        ),
        (ZeroDivisionError("secret"), (Reason.PROTOCOL, "the exchange failed: ZeroDivisionError")),
        (
            HttpProcessingError(message="Bad thing:\n\n  b'\x1b[31mred'\n    ^"),
            (Reason.PROTOCOL, "the answer is not valid HTTP/1.1: Bad thing"),
        ),
        (
            HttpProcessingError(message="Got more when reading: bytearray(b'yyy')."),
            (Reason.PROTOCOL, "the answer is not valid HTTP/1.1: Got more when reading"),
        ),
        (
            HttpProcessingError(message="\x1b[31m" + "ä" * 300),
            (Reason.PROTOCOL, "the answer is not valid HTTP/1.1: \\x1b[31m" + "ä" * 95 + "…"),
        ),
    ],
)
def test_other_failures(error: Exception, expected: tuple[Reason, str]) -> None:
    """One sentence, without what the receiver sent."""
    assert expected == explain(error, AttemptTrace(stage=Stage.ANSWER, peer=PEER_V4))


def test_nothing_is_repeated_without_knowing_the_connection() -> None:
    """If aiohttp stopped telling which connection carried a request, none would go out twice."""
    assert not ended_unanswered(ClientOSError(errno.EPIPE, "x"), AttemptTrace(stage=Stage.ANSWER, reused=True))
