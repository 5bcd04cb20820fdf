"""What went wrong, word by word: the reasons that can't all be brought about on one machine."""

from __future__ import annotations

import errno
import os
import ssl

import pytest

from webhookd.models import Reason
from webhookd.sender import host
from webhookd.sender.attempt_trace import AnswerError, AttemptTrace, ConnectionEnded, EgressFailure, Stage
from webhookd.sender.failure_reasons import ended_unanswered, explain, late

PEER_V4 = "192.0.2.1:443"
PEER_V6 = "[2001:db8::1]:443"
RST = ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


def failed_to_connect(code: int) -> OSError:
    return OSError(code, os.strerror(code))


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
    """Whatever else is raised."""
    failure = EgressFailure(Reason.BLOCKED_ADDRESS, "blocked: 10.0.0.1: a private address")
    trace = AttemptTrace(stage=Stage.CONNECT, failure=failure)
    assert (failure.reason, failure.detail) == explain(failed_to_connect(errno.ECONNREFUSED), trace)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), (Reason.LOCAL, "this machine is out of memory")),
        (
            OSError(errno.EMFILE, "x"),
            (Reason.LOCAL, f"this machine could not open a connection: {os.strerror(24)}"),
        ),
        (ZeroDivisionError("secret"), (Reason.PROTOCOL, "the exchange failed: ZeroDivisionError")),
        (
            AnswerError("Bad thing:\n\n  b'\x1b[31mred'\n    ^"),
            (Reason.PROTOCOL, "the answer is not valid HTTP/1.1: Bad thing"),
        ),
        (
            AnswerError("Got more when reading: bytearray(b'yyy')."),
            (Reason.PROTOCOL, "the answer is not valid HTTP/1.1: Got more when reading"),
        ),
        (
            AnswerError("\x1b[31m" + "ä" * 300),
            (Reason.PROTOCOL, "the answer is not valid HTTP/1.1: \\x1b[31m" + "ä" * 95 + "…"),
        ),
    ],
)
def test_other_failures(error: Exception, expected: tuple[Reason, str]) -> None:
    """One sentence, without what the receiver sent."""
    assert expected == explain(error, AttemptTrace(stage=Stage.ANSWER, peer=PEER_V4))


@pytest.mark.parametrize(
    ("error", "trace", "expected"),
    [
        (ConnectionEnded(), AttemptTrace(stage=Stage.ANSWER, reused=True), True),
        (ConnectionEnded(), AttemptTrace(stage=Stage.ANSWER, reused=True, lost=ConnectionResetError()), True),
        (ConnectionEnded(), AttemptTrace(stage=Stage.ANSWER, reused=True, lost=OSError(errno.EPIPE, "x")), True),
        (ConnectionEnded(), AttemptTrace(stage=Stage.ANSWER, reused=True, lost=OSError(errno.ETIMEDOUT, "x")), False),
        (ConnectionEnded(), AttemptTrace(stage=Stage.ANSWER, reused=True, lost=ssl.SSLError(1, "x")), False),
        (ConnectionEnded(), AttemptTrace(stage=Stage.ANSWER, reused=True, answered=True), False),
        (ConnectionEnded(), AttemptTrace(stage=Stage.ANSWER), False),
        (AnswerError("x"), AttemptTrace(stage=Stage.ANSWER, reused=True), False),
    ],
)
def test_what_is_repeated(error: Exception, trace: AttemptTrace, expected: bool) -> None:
    """A request on a reused connection that ended without a byte of an answer."""
    assert expected == ended_unanswered(error, trace)


@pytest.mark.parametrize(
    ("trace", "overdue_seconds", "reason", "words"),
    [
        (AttemptTrace(stage=Stage.ANSWER), 2.5, Reason.LOCAL, "stood still: the deadline was noticed 2.5 s late"),
        (AttemptTrace(stage=Stage.RESOLVE), 0, Reason.DNS, "no name server answered within 5 s"),
        (AttemptTrace(stage=Stage.CONNECT, peer=PEER_V4), 0, Reason.TIMEOUT, f"no connection to {PEER_V4} within 5 s"),
        (AttemptTrace(stage=Stage.ANSWER), 0.5, Reason.TIMEOUT, "no answer within 5 s"),
        (AttemptTrace(stage=Stage.ANSWER, answered=True), 0, Reason.TIMEOUT, "its head was not complete within 5 s"),
        (AttemptTrace(stage=Stage.BODY, status=200), 0, Reason.TIMEOUT, "answered 200, but the body was not complete"),
    ],
)
def test_how_far_a_late_attempt_came(trace: AttemptTrace, overdue_seconds: float, reason: Reason, words: str) -> None:
    """The sentence says what was waited for; if this machine stood still, it is not the receiver's fault."""
    found = late(trace, 5.0, overdue_seconds)
    assert (reason, True) == (found[0], words in found[1])


@pytest.mark.parametrize(
    ("trace", "reason", "words"),
    [
        (AttemptTrace(stage=Stage.CONNECT), Reason.TLS, "closed during the handshake"),
        (AttemptTrace(stage=Stage.CONNECT, peer=PEER_V4, lost=RST), Reason.RESET, f"to {PEER_V4} was reset"),
        (AttemptTrace(stage=Stage.ANSWER), Reason.RESET, "closed without an answer"),
        (
            AttemptTrace(stage=Stage.ANSWER, answered=True),
            Reason.PROTOCOL,
            "before the head of the answer was complete",
        ),
        (AttemptTrace(stage=Stage.ANSWER, lost=RST), Reason.RESET, "the connection was reset"),
        (
            AttemptTrace(stage=Stage.ANSWER, lost=OSError(errno.ETIMEDOUT, "x"), peer=PEER_V4),
            Reason.TIMEOUT,
            "stopped responding",
        ),
        (AttemptTrace(stage=Stage.ANSWER, lost=ssl.SSLError(1, "[SSL: BAD] bad")), Reason.TLS, "TLS: "),
        (AttemptTrace(stage=Stage.BODY), Reason.PROTOCOL, "the body ended early or is malformed"),
        (AttemptTrace(stage=Stage.BODY, lost=RST), Reason.RESET, "before the answer was complete"),
    ],
)
def test_how_a_connection_ended(trace: AttemptTrace, reason: Reason, words: str) -> None:
    """By what ended it, and how much of an answer had come."""
    found = explain(ConnectionEnded(), trace)
    assert (reason, True) == (found[0], words in found[1])
