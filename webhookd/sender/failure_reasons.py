"""Why an attempt failed: one of the contract's nine reasons, and one sentence for a person.

The sentence never holds the URL, which may carry secrets in its query, nor bytes of the receiver beyond the short,
printable part of the parser's complaint.
"""

from __future__ import annotations

import errno
import os
import re
import ssl

from webhookd.models import Reason
from webhookd.sender import host
from webhookd.sender.attempt_trace import AnswerError, AttemptTrace, ConnectionEnded, NotAllowed, Stage
from webhookd.text import one_line

Fault = tuple[Reason, str]

_ENDED = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN, errno.ESHUTDOWN})
_FORBIDDEN = frozenset({errno.EPERM, errno.EACCES})
_COMPLAINT_CHARACTERS = 100
# A suspended machine, a stopped process.  Mere load delays by milliseconds.
STOOD_STILL_SECONDS = 1.0
_QUOTED = re.compile(r"\n|\bb['\"]|\bbytearray\(")


def late(trace: AttemptTrace, timeout_seconds: float, overdue_seconds: float = 0.0) -> Fault:
    """The deadline has passed; if that was noticed long after (`overdue_seconds`), it tells nothing of the receiver."""
    if overdue_seconds > STOOD_STILL_SECONDS:
        return Reason.LOCAL, f"this machine stood still: the deadline was noticed {overdue_seconds:.1f} s late"
    within = f"within {timeout_seconds:g} s"
    if trace.stage is Stage.RESOLVE:
        return Reason.DNS, f"DNS: no name server answered {within}"
    if trace.stage is Stage.CONNECT:
        return Reason.TIMEOUT, f"no connection to {trace.peer} {within}"
    if trace.stage is Stage.BODY:
        return Reason.TIMEOUT, f"answered {trace.status}, but the body was not complete {within}"
    if trace.answered:
        return Reason.TIMEOUT, f"the answer began, but its head was not complete {within}"
    return Reason.TIMEOUT, f"no answer {within}"


def explain(error: Exception, trace: AttemptTrace) -> Fault:
    """The fault behind `error`, with what `trace` knows beside it."""
    if trace.failure is not None:
        return trace.failure.reason, trace.failure.detail
    for cause in (error, trace.lost):
        if isinstance(cause, ssl.SSLError):
            return Reason.TLS, _of_tls(cause)
    if isinstance(error, AnswerError):
        if trace.stage is Stage.BODY:
            return Reason.PROTOCOL, "the body ended early or is malformed"
        return Reason.PROTOCOL, f"the answer is not valid HTTP/1.1: {_printable(str(error))}"
    if isinstance(error, ConnectionEnded):
        return _of_end(trace)
    if isinstance(error, OSError):
        return _of_system(error, trace)
    if isinstance(error, NotAllowed):
        return Reason.LOCAL, "this machine may no longer deliver for the workspace: nothing was sent"
    if isinstance(error, MemoryError):
        return Reason.LOCAL, "this machine is out of memory"
    return Reason.PROTOCOL, f"the exchange failed: {type(error).__name__}"


def ended_unanswered(error: Exception, trace: AttemptTrace) -> bool:
    """Whether a *reused* connection ended before any byte of an answer: then the receiver can't have acted on it."""
    if not isinstance(error, ConnectionEnded) or not trace.reused or trace.answered:
        return False
    lost = trace.lost
    return lost is None or isinstance(lost, ConnectionError) or (isinstance(lost, OSError) and lost.errno in _ENDED)


def _of_end(trace: AttemptTrace) -> Fault:
    """A connection that stood, and ended before its answer was complete."""
    lost = trace.lost
    if isinstance(lost, OSError):
        if trace.stage is Stage.BODY:
            return Reason.RESET, "the connection was reset before the answer was complete"
        return _of_system(lost, trace)
    if trace.stage is Stage.CONNECT:
        return Reason.TLS, "TLS: the connection was closed during the handshake"
    if trace.stage is Stage.BODY:
        return Reason.PROTOCOL, "the body ended early or is malformed"
    if trace.answered:
        return Reason.PROTOCOL, "the connection was closed before the head of the answer was complete"
    return Reason.RESET, "the connection was closed without an answer"


def _of_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: the certificate was not accepted: {_printable(error.verify_message)}"
    return f"TLS: {_printable(getattr(error, 'reason', None) or str(error))}"


def _of_system(error: OSError, trace: AttemptTrace) -> Fault:
    code, peer = error.errno, trace.peer
    text = os.strerror(code) if code else _printable(str(error))
    if code in host.SHORTAGES and not (code == errno.EADDRNOTAVAIL and peer.startswith("[")):
        return Reason.LOCAL, f"this machine could not open a connection: {text}"
    if code in host.UNREACHABLE and not host.has_default_route():
        return Reason.LOCAL, f"this machine has no default route: {text}"
    if code == errno.ECONNREFUSED:
        return Reason.REFUSED, f"connection refused by {peer}"
    if code == errno.ETIMEDOUT:
        return Reason.TIMEOUT, f"{peer} stopped responding"
    if code in _FORBIDDEN:
        return Reason.REFUSED, f"this machine's firewall forbids connections to {peer}"
    if code in _ENDED or isinstance(error, ConnectionError):
        return Reason.RESET, f"the connection to {peer} was reset" if peer else "the connection was reset"
    return Reason.REFUSED, f"no connection to {peer}: {text}"


def _printable(text: str) -> str:
    """A library's complaint as one short line, without the receiver's bytes that the parser quotes after it."""
    return one_line(_QUOTED.split(text.strip(), maxsplit=1)[0].rstrip(": "), _COMPLAINT_CHARACTERS)
