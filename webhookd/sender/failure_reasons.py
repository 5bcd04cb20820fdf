"""What went wrong, in the contract's nine words and one sentence for a person.

The sentence never holds the URL, which may carry secrets in its query, nor bytes of the receiver beyond the short,
printable part of the parser's complaint.
"""

from __future__ import annotations

import errno
import os
import re
import ssl

from aiohttp import ClientConnectorError, ClientPayloadError, ServerDisconnectedError
from aiohttp.http_exceptions import HttpProcessingError

from webhookd.models import Reason
from webhookd.sender import host
from webhookd.sender.attempt_trace import AttemptTrace, Stage
from webhookd.text import one_line

Fault = tuple[Reason, str]

_ENDED = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN, errno.ESHUTDOWN})
_FORBIDDEN = frozenset({errno.EPERM, errno.EACCES})
_COMPLAINT_CHARACTERS = 100
# A suspended machine, a stopped process.  Mere load delays by milliseconds.
STOOD_STILL_SECONDS = 1.0
_QUOTED = re.compile(r"\n|\bb['\"]|\bbytearray\(")


def late(trace: AttemptTrace, timeout_seconds: float, overdue_seconds: float = 0.0) -> Fault:
    """The deadline of the attempt has passed; a silent name server is a failure of DNS.

    Noticed long after (`overdue_seconds`), it tells nothing of the receiver, whose answer may lie in our own socket.
    """
    if overdue_seconds > STOOD_STILL_SECONDS:
        return Reason.LOCAL, f"this machine stood still: the deadline was noticed {overdue_seconds:.1f} s late"
    within = f"within {timeout_seconds:g} s"
    if trace.stage is Stage.RESOLVE:
        return Reason.DNS, f"DNS: no name server answered {within}"
    if trace.stage is Stage.CONNECT:
        return Reason.TIMEOUT, f"no connection to {trace.peer} {within}"
    if trace.stage is Stage.BODY:
        return Reason.TIMEOUT, f"answered {trace.status}, but the body was not complete {within}"
    if trace.connection is not None and trace.connection.answered:
        return Reason.TIMEOUT, f"the answer began, but its head was not complete {within}"
    return Reason.TIMEOUT, f"no answer {within}"


def explain(error: Exception, trace: AttemptTrace) -> Fault:
    """The fault behind `error`, with what `exchange` knows beside it."""
    if trace.failure is not None:
        return trace.failure.reason, trace.failure.detail
    lost = None if trace.connection is None else trace.connection.lost
    # aiohttp's own TLS errors are SSLErrors too, but only what they wrap says what was wrong.
    for cause in (getattr(error, "certificate_error", None), getattr(error, "os_error", None), error, lost):
        if isinstance(cause, ssl.SSLError):
            return Reason.TLS, _of_tls(cause)
    if isinstance(error, ClientConnectorError):
        if isinstance(error.os_error, ConnectionResetError) and error.os_error.errno is None:
            return Reason.TLS, "TLS: the connection was closed during the handshake"  # asyncio's word for that
        return _of_system(error.os_error, trace)
    if isinstance(error, HttpProcessingError | ClientPayloadError | ServerDisconnectedError):
        return _of_answer(error, trace)
    if isinstance(error, OSError):
        return _of_system(error, trace)
    if isinstance(error, MemoryError):
        return Reason.LOCAL, "this machine is out of memory"
    return Reason.PROTOCOL, f"the exchange failed: {type(error).__name__}"


def _of_answer(error: HttpProcessingError | ClientPayloadError | ServerDisconnectedError, trace: AttemptTrace) -> Fault:
    """A connection that stood, and an answer that didn't come, or not whole, or not as HTTP."""
    connection = trace.connection
    if isinstance(error, HttpProcessingError):
        return Reason.PROTOCOL, f"the answer is not valid HTTP/1.1: {_printable(error.message)}"
    if connection is not None and isinstance(connection.lost, OSError):
        return Reason.RESET, "the connection was reset before the answer was complete"
    if isinstance(error, ClientPayloadError):
        return Reason.PROTOCOL, "the body ended early or is malformed"
    if connection is not None and connection.answered:
        return Reason.PROTOCOL, "the connection was closed before the head of the answer was complete"
    return Reason.RESET, "the connection was closed without an answer"


def cut_short(trace: AttemptTrace) -> Fault | None:
    """The fault of an answer that aiohttp took for complete: its body ended with the connection, by a reset."""
    if trace.connection is None or not isinstance(trace.connection.lost, OSError):
        return None
    framed = any(name.lower() in ("content-length", "transfer-encoding") for name, _ in trace.headers)
    return None if framed else (Reason.RESET, "the connection was reset before the answer was complete")


def ended_unanswered(error: Exception, trace: AttemptTrace) -> bool:
    """Whether a *reused* connection ended before any byte of an answer: the one case in which a request is repeated.

    A receiver that closes an idle connection crosses the request on its way; it can't have acted on what it hadn't
    read.  A fresh connection that ends without an answer is a failed attempt.
    """
    if trace.failure is not None or trace.stage is not Stage.ANSWER:
        return False
    if not trace.reused or trace.connection is None or trace.connection.answered:
        return False
    if isinstance(error, ServerDisconnectedError):
        return True
    return isinstance(error, OSError) and (error.errno in _ENDED or isinstance(error, ConnectionError))


def _of_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: the certificate was not accepted: {_printable(error.verify_message)}"
    return f"TLS: {_printable(error.reason or str(error))}"


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
