"""Bad receivers, each a script with the outcome that it must lead to; and a process that runs them all.

`python -m tests.support.bad_receivers` listens with every script over HTTP and HTTPS, says on which ports in a line of
JSON, and ends with its stdin.  A process of its own, so that a flood costs the sender's loop what it costs in truth.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import sys
import warnings
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import trustme

from tests.support.bad_receiver_server import OK, Peer, Script, ScriptedReceiver
from webhookd.models import Reason

FLOOD_BYTES = 300_000_000
GZIP_BOMB = gzip.compress(b"\0" * 20_000_000, 1, mtime=0)


@dataclass(frozen=True, slots=True)
class BadReceiver:
    """A script, and the outcome: its reason (None is success) and the status that goes into the record.

    `tls` names the context of an https receiver, one of `contexts`; "none" speaks no TLS by itself.
    """

    script: Script
    reason: Reason | None
    status: int | None = None
    body_bytes: int = 20
    receive_buffer_bytes: int | None = None
    tls: str = "good"


def head(*lines: str, status: str = "200 OK") -> bytes:
    """The head of an answer."""
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *lines, "")).encode("latin-1")


async def answer(peer: Peer, *, data: bytes, after: str = "stay", hear: bool = True) -> None:
    """Read the request (or not), send `data`, and then stay (for the next request), close, half_close or reset."""
    if hear:
        await peer.request()
    await peer.send(data)
    if after == "stay":
        while True:
            await peer.request()
            await peer.send(data)
    elif after == "half_close":
        peer.half_close()
        await peer.stay()
    elif after == "reset":
        await asyncio.sleep(0.05)
        peer.reset()
    else:
        peer.writer.close()
        await peer.writer.wait_closed()


async def drip(peer: Peer, *, start: bytes = b"", data: bytes = b"", seconds: float = 0.05) -> None:
    """Read the request, send `start` at once, then `data` one byte at a time, then stay."""
    await peer.request()
    await peer.send(start)
    await peer.drip(data, seconds=seconds)
    await peer.stay()


async def flood(peer: Peer, *, start: bytes, data: bytes, pause_seconds: float = 0.05) -> None:
    """Read the request, send `start`, let it arrive and be read, then send `data` without end at full speed."""
    await peer.request()
    await peer.send(start)
    await asyncio.sleep(pause_seconds)
    await peer.flood(data, at_most=FLOOD_BYTES)
    await peer.stay()


async def pulse(peer: Peer, *, data: bytes, start: bytes = b"") -> None:
    """Read the request, send `start`, then `data` every 50 ms without end."""
    await peer.request()
    await peer.send(start)
    for _ in range(10_000):
        await peer.send(data)
        await asyncio.sleep(0.05)


async def surplus(peer: Peer, *, answer: bytes, rest: bytes, apart: bool) -> None:
    """Send `rest` behind a complete answer: with it, or a moment later."""
    while True:
        await peer.request()
        await peer.send(answer if apart else answer + rest)
        if apart:
            await asyncio.sleep(0.01)
            await peer.send(rest)


async def answers_at_the_first_byte(peer: Peer) -> None:
    """Answer when the request begins to arrive, and close with the rest of it unread: the kernel sends a RST."""
    await peer.reader.read(1)
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await peer.send(OK)


async def answers_and_resets(peer: Peer) -> None:
    """The same, and the RST comes while the request is still being written."""
    await answers_at_the_first_byte(peer)
    await asyncio.sleep(0.05)
    peer.reset()


async def deaf(peer: Peer) -> None:
    """Never read the request."""
    await peer.freeze()


async def closed_at_once(peer: Peer) -> None:
    """Close before the request is read: with bytes unread that is a RST, and which comes first is the kernel's."""
    peer.writer.close()


async def stall_handshake(peer: Peer) -> None:
    """Take what comes and say nothing."""
    await peer.stay()


async def drip_handshake(peer: Peer) -> None:
    """Begin a server's handshake, one byte at a time."""
    await peer.drip(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc" + b"\0" * 1000, seconds=0.05)
    await peer.stay()


async def flood_handshake(peer: Peer) -> None:
    """Send handshake records without end: a message that never is complete."""
    await peer.reader.read(1)
    await peer.send(b"\x16\x03\x03\x00\x04\x02\xff\xff\xff")
    await peer.flood(b"\x16\x03\x03\x40\x00" + b"\0" * 16384, at_most=FLOOD_BYTES)
    await peer.stay()


async def flood_warnings(peer: Peer) -> None:
    """Send TLS warnings without end."""
    await peer.reader.read(1)
    await peer.flood(b"\x15\x03\x03\x00\x02\x01\x5a", at_most=FLOOD_BYTES)
    await peer.stay()


def _greets(data: bytes, *, after: str = "stay") -> Script:
    async def script(peer: Peer) -> None:
        """Answer the first bytes of a handshake with `data`."""
        await peer.reader.read(1)
        await peer.send(data)
        await (peer.stay() if after == "stay" else asyncio.sleep(0.02))
        if after == "reset":
            peer.reset()

    return script


async def healthy(peer: Peer) -> None:
    """Answer 200 to one request after the other."""
    while True:
        await peer.request()
        await peer.send(OK)


async def reset_at_once(peer: Peer) -> None:
    """Reset before the request is read."""
    peer.reset()


def _answers(data: bytes, after: str = "stay", *, hear: bool = True) -> Script:
    return partial(answer, data=data, after=after, hear=hear)


_P, _S, _T, _R = Reason.PROTOCOL, Reason.STATUS, Reason.TIMEOUT, Reason.RESET
CHUNKED = head("Transfer-Encoding: chunked")
LENGTH_100 = head("Content-Length: 100")
NO_LENGTH = head("Connection: close")


def _late() -> dict[str, BadReceiver]:
    return {
        "no answer": BadReceiver(_answers(b""), _T),
        "never reads a large request": BadReceiver(deaf, _T, body_bytes=256_000, receive_buffer_bytes=8192),
        "partial status line": BadReceiver(_answers(b"HTTP/1.1 20"), _T),
        "one byte": BadReceiver(_answers(b"H"), _T),
        "status line, then silence": BadReceiver(_answers(b"HTTP/1.1 200 OK\r\n"), _T),
        "head one byte at a time": BadReceiver(partial(drip, data=head("X: " + "a" * 500)), _T),
        "headers slowly, without end": BadReceiver(partial(pulse, start=b"HTTP/1.1 200 OK\r\n", data=b"X: y\r\n"), _T),
        "1xx slowly, without end": BadReceiver(partial(pulse, data=head(status="102 Processing")), _T),
        "body one byte at a time": BadReceiver(partial(drip, start=LENGTH_100, data=b"a" * 100), _T, 200),
        "chunks one byte at a time": BadReceiver(partial(drip, start=CHUNKED, data=b"1\r\na\r\n" * 99), _T, 200),
        "body until close, never closed": BadReceiver(_answers(NO_LENGTH + b"ok"), _T, 200),
        "body without its end": BadReceiver(_answers(LENGTH_100 + b"a" * 99), _T, 200),
        "failure without its end": BadReceiver(_answers(head("Content-Length: 9", status="500 Oops")), _T, 500),
        "answer before the request, then silence": BadReceiver(_answers(b"HTTP/1.1 200 OK\r\nX: ", hear=False), _T),
        "100, then silence": BadReceiver(_answers(head(status="100 Continue")), _T),
        "newlines slowly, without end": BadReceiver(partial(pulse, data=b"\r\n"), _T),
        "trailers slowly, without end": BadReceiver(
            partial(pulse, start=CHUNKED + b"0\r\n", data=b"X: y\r\n"), _T, 200
        ),
        "zeros of a chunk size, slowly": BadReceiver(partial(pulse, start=CHUNKED, data=b"0"), _T, 200),
        "never reads, answers nothing": BadReceiver(deaf, _T),
        "chunks without the last": BadReceiver(_answers(CHUNKED + b"2\r\nok\r\n"), _T, 200),
        "endless chunk extension, slowly": BadReceiver(partial(drip, start=CHUNKED + b"2;", data=b"x" * 500), _T, 200),
    }


def _endless() -> dict[str, BadReceiver]:
    one_byte_chunks = partial(flood, start=CHUNKED, data=b"1\r\na\r\n")
    return {
        "headers without end": BadReceiver(partial(flood, start=b"HTTP/1.1 200 OK\r\n", data=b"X: y\r\n"), _P),
        "a header line without end": BadReceiver(partial(flood, start=b"HTTP/1.1 200 OK\r\nX: ", data=b"y"), _P),
        "a header name without end": BadReceiver(partial(flood, start=b"HTTP/1.1 200 OK\r\n", data=b"y"), _P),
        "a status line without end": BadReceiver(partial(flood, start=b"HTTP/1.1 200 ", data=b"y"), _P),
        "1xx without end": BadReceiver(partial(flood, start=b"", data=head(status="100 Continue")), _P),
        "newlines without end": BadReceiver(partial(flood, start=b"", data=b"\r\n"), _P),
        "body without end": BadReceiver(partial(flood, start=NO_LENGTH, data=b"a" * 999), None, 200),
        "failure's body without end": BadReceiver(
            partial(flood, start=head(status="503 Busy"), data=b"a" * 999), _S, 503
        ),
        "1-byte chunks without end": BadReceiver(one_byte_chunks, None, 200),
        "trailers without end": BadReceiver(
            partial(flood, start=CHUNKED + b"0\r\n", data=b"X: y\r\n", pause_seconds=0.5), _P, 200
        ),
        "chunk extension without end": BadReceiver(
            partial(flood, start=CHUNKED + b"2;", data=b"x", pause_seconds=0.5), _P, 200
        ),
        "300 MB": BadReceiver(partial(flood, start=head("Content-Length: 300000000"), data=b"a" * 1000), None, 200),
        "gzip bomb": BadReceiver(
            _answers(head("Content-Encoding: gzip", f"Content-Length: {len(GZIP_BOMB)}") + GZIP_BOMB), None, 200
        ),
        "zeros of a chunk size without end": BadReceiver(
            partial(flood, start=CHUNKED, data=b"0", pause_seconds=0.5), _P, 200
        ),
        "spaces in the status line without end": BadReceiver(partial(flood, start=b"HTTP/1.1 200", data=b" "), _P),
        "answers without end": BadReceiver(partial(flood, start=OK, data=OK), None, 200),
        "failures without end": BadReceiver(
            partial(flood, start=b"", data=head("Content-Length: 0", status="500 X")), _S, 500
        ),
        "deflate bomb, chunked": BadReceiver(
            _answers(head("Content-Encoding: deflate", "Transfer-Encoding: chunked") + _chunked(GZIP_BOMB)), None, 200
        ),
        "16 KiB, then silence": BadReceiver(_answers(head("Content-Length: 99999") + b"a" * 16384), None, 200),
        "a long reason": BadReceiver(_answers(head("Content-Length: 0", status="200 " + "a" * 9000)), None, 200),
        "90 cookies": BadReceiver(
            _answers(head(*[f"Set-Cookie: a{n}=b" for n in range(90)], "Content-Length: 0")), None, 200
        ),
        "fifty interim answers, then 200": BadReceiver(_answers(head(status="103 Early Hints") * 50 + OK), None, 200),
        "enormous header": BadReceiver(_answers(head("X: " + "a" * 1_000_000, "Content-Length: 0")), _P),
        "9 KB in one header": BadReceiver(_answers(head("X: " + "a" * 9_000, "Content-Length: 0")), None, 200),
        "101 headers": BadReceiver(_answers(head(*["X: y"] * 101, "Content-Length: 0")), None, 200),
        "32 KiB of head": BadReceiver(_answers(_head_of(32 * 1024) + b"ok"), None, 200),
        "a byte more than 32 KiB of head": BadReceiver(_answers(_head_of(32 * 1024 + 1) + b"ok"), _P),
        "48 KB of headers": BadReceiver(_answers(head(*["X: " + "a" * 600] * 80, "Content-Length: 0")), _P),
    }


def _head_of(size: int) -> bytes:
    """The head of an answer with a body of 2 bytes."""
    line = "X: " + "a" * 1000
    lines = ["Content-Length: 2", *[line] * 30]
    return head(*lines, "X: " + "a" * (size - len(head(*lines, "X: "))))


def _chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def _malformed() -> dict[str, BadReceiver]:
    broken = {
        "HTTP/0.9": b"<html>hello</html>",
        "HTTP/2": b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x64",
        "garbage": bytes(range(255, 0, -1)),
        "NULs": b"\0" * 100,
        "an SSH server": b"SSH-2.0-OpenSSH_9.2\r\n",
        "a mail server": b"220 mail.example ESMTP\r\n",
        "a request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "no version": b"HTTP 200 OK\r\n\r\n",
        "letters for a status": head(status="2OO OK"),
        "no status": head(status=""),
        "negative status": head(status="-200 OK"),
        "negative length": head("Content-Length: -1"),
        "hexadecimal length": head("Content-Length: 0x2") + b"ok",
        "two lengths": head("Content-Length: 2", "Content-Length: 3") + b"ok",
        "length beyond 64 bits": head("Content-Length: 99999999999999999999999"),
        "header without colon": head("no colon here", "Content-Length: 0"),
        "NUL in a header": head("X: a\0b", "Content-Length: 0"),
        "a space in a header's name": head("X y: z", "Content-Length: 0"),
        "a header without a name": head(": z", "Content-Length: 0"),
        "lengths that are a list": head("Content-Length: 2, 2") + b"ok",
        "length with a sign": head("Content-Length: +2") + b"ok",
        "length with letters": head("Content-Length: two") + b"ok",
        "an empty length": head("Content-Length:") + b"ok",
        "HTTP/3.0": OK.replace(b"HTTP/1.1", b"HTTP/3.0"),
        "http in small letters": OK.replace(b"HTTP/1.1", b"http/1.1"),
        "a bare CR": OK.replace(b"200 OK\r\n", b"200 OK\r"),
        "a TLS record": b"\x15\x03\x01\x00\x02\x02\x28",
    }
    statuses = {
        f"status {code}": head("Content-Length: 0", status=f"{code} X") for code in ("0", "000", "099", 99, 600, 999)
    }
    bodies = {
        "bad chunk size": CHUNKED + b"zz\r\nok\r\n",
        "huge chunk size": CHUNKED + b"ffffffffffffffffff\r\nok\r\n",
        "negative chunk size": CHUNKED + b"-2\r\nok\r\n",
        "a chunk longer than its size": CHUNKED + b"1\r\nok\r\n",
        "chunk size in front of nothing": CHUNKED + b"\r\nok\r\n",
    }
    return {
        **{name: BadReceiver(_answers(data), _P) for name, data in broken.items()},
        **{name: BadReceiver(_answers(data), _P) for name, data in statuses.items()},
        **{name: BadReceiver(_answers(data), _P) for name, data in bodies.items()},
        "length and chunks": BadReceiver(
            _answers(head("Content-Length: 2", "Transfer-Encoding: chunked") + b"2\r\nok\r\n0\r\n\r\n", "close"),
            _P,
        ),
    }


def _ended() -> dict[str, BadReceiver]:
    return {
        "reset at once": BadReceiver(reset_at_once, _R),
        "closed at once": BadReceiver(closed_at_once, _R),
        "reset in the status line": BadReceiver(_answers(b"HTT", "reset"), _R),
        "reset after an interim answer": BadReceiver(_answers(head(status="100 Continue"), "reset"), _R),
        "closed after an interim answer": BadReceiver(_answers(head(status="100 Continue"), "close"), _P),
        "half-closed in the head": BadReceiver(_answers(b"HTTP/1.1 200 OK\r\nX:", "half_close"), _P),
        "reset after a failure": BadReceiver(_answers(head("Content-Length: 0", status="500 X"), "reset"), _S, 500),
        "reset after the request": BadReceiver(_answers(b"", "reset"), _R),
        "reset in the head": BadReceiver(_answers(b"HTTP/1.1 200 OK\r\nX:", "reset"), _R),
        "reset in the body": BadReceiver(_answers(LENGTH_100 + b"abc", "reset"), _R, 200),
        "reset in the chunks": BadReceiver(_answers(CHUNKED + b"2\r\nok\r\n", "reset"), _R, 200),
        "reset for the end of the body": BadReceiver(_answers(NO_LENGTH + b"abc", "reset"), _R, 200),
        "reset after the answer": BadReceiver(_answers(OK, "reset"), None, 200),
        "closed after the request": BadReceiver(_answers(b"", "close"), _R),
        "half-closed after the request": BadReceiver(_answers(b"", "half_close"), _R),
        "closed in the head": BadReceiver(_answers(b"HTTP/1.1 200 OK\r\nX:", "close"), _P),
        "closed in the status line": BadReceiver(_answers(b"HTT", "close"), _P),
        "short body": BadReceiver(_answers(LENGTH_100 + b"abc", "close"), _P, 200),
        "short chunks": BadReceiver(_answers(CHUNKED + b"2\r\nok\r\n", "close"), _P, 200),
        "half-closed in the body": BadReceiver(_answers(LENGTH_100 + b"abc", "half_close"), _P, 200),
        "body until close": BadReceiver(_answers(NO_LENGTH + b"abc", "close"), None, 200),
        "body until half-close": BadReceiver(_answers(NO_LENGTH + b"abc", "half_close"), None, 200),
        "closed after the answer": BadReceiver(_answers(OK, "close"), None, 200),
    }


# A complete answer, and something behind it.
SURPLUS: dict[str, tuple[bytes, bytes, Reason | None, int]] = {
    "a body after Content-Length: 0": (head("Content-Length: 0"), b"OK", None, 200),
    "more than Content-Length": (OK, b"ay", None, 200),
    "a failure's rest": (head("Content-Length: 0", status="500 X"), b"Oops", _S, 500),
    "a body of a 204": (head("Content-Length: 2", status="204 No Content"), b"ok", _S, 204),
    "a rest after the last chunk": (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", b"rest", None, 200),
    "a second answer": (OK, OK, None, 200),
    "a second answer, not whole": (OK, b"HTTP/1.1 500 Oops\r\nX", None, 200),
    "a newline after the body": (OK, b"\r\n", None, 200),
    "a rest after Connection: close": (head("Content-Length: 0", "Connection: close"), b"OK", None, 200),
}


def _statuses() -> dict[str, BadReceiver]:
    codes = (
        201,
        202,
        203,
        204,
        205,
        206,
        207,
        226,
        299,
        300,
        304,
        306,
        399,
        400,
        401,
        404,
        410,
        418,
        429,
        500,
        503,
        599,
    )
    elsewhere = ("http://127.0.0.1:1/", "http://169.254.169.254/", "//x", "javascript:alert(1)", "/hook", "")
    return {
        **{
            f"status {code}": BadReceiver(
                _answers(
                    head("Retry-After: 1", *(() if code in (204, 304) else ("Content-Length: 0",)), status=f"{code} X")
                ),
                _S,
                code,
            )
            for code in codes
        },
        **{
            f"redirect {code}": BadReceiver(
                _answers(head(f"Location: {where}", "Content-Length: 0", status=f"{code} X")), _S, code
            )
            for code, where in zip((301, 302, 303, 305, 307, 308), elsewhere, strict=True)
        },
        "switching protocols": BadReceiver(
            _answers(head("Connection: upgrade", "Upgrade: websocket", status="101 Switching Protocols")), _S, 101
        ),
        "101 without upgrade": BadReceiver(_answers(head(status="101 Switching Protocols")), _S, 101),
        "early hints, then 200": BadReceiver(_answers(head("Link: <x>", status="103 Early Hints") + OK), None, 200),
        "100, then 200": BadReceiver(_answers(head(status="100 Continue") + OK), None, 200),
        "newline, then 200": BadReceiver(_answers(b"\r\n" + OK), None, 200),
        "bare LF": BadReceiver(_answers(OK.replace(b"\r\n", b"\n")), None, 200),
        "HTTP/1.0": BadReceiver(_answers(b"HTTP/1.0 200 OK\r\n\r\nok", "close"), None, 200),
        "no reason phrase": BadReceiver(_answers(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"), None, 200),
        "healthy": BadReceiver(healthy, None, 200),
        "104, then 200": BadReceiver(_answers(head(status="104 Upload Resumption Supported") + OK), None, 200),
        "a folded header": BadReceiver(_answers(head("X: a\r\n b", "Content-Length: 0")), None, 200),
        "spaces after a chunk's size": BadReceiver(_answers(CHUNKED + b"2  \r\nok\r\n0\r\n\r\n"), None, 200),
        "an upgrade that wasn't asked for": BadReceiver(
            _answers(head("Connection: upgrade", "Upgrade: h2c", "Content-Length: 0")), None, 200
        ),
        **{
            f"{what}, {where}": BadReceiver(partial(surplus, answer=answer, rest=rest, apart=apart), reason, status)
            for what, (answer, rest, reason, status) in SURPLUS.items()
            for where, apart in (("at once", False), ("apart", True))
        },
        "200 before the request is read": BadReceiver(_answers(OK, hear=False), None, 200, body_bytes=256_000),
        "200 at the first byte, then closed": BadReceiver(answers_at_the_first_byte, None, 200, body_bytes=4_000_000),
        "200 at the first byte, then reset": BadReceiver(answers_and_resets, None, 200, body_bytes=4_000_000),
    }


def _handshakes() -> dict[str, BadReceiver]:
    """What goes wrong before HTTP: https alone."""
    tls = Reason.TLS
    plain = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nplain HTTP here\r\n"
    scripts = {
        "stalled handshake": (stall_handshake, _T),
        "handshake one byte at a time": (drip_handshake, _T),
        "handshake without end": (flood_handshake, tls),
        "TLS warnings without end": (flood_warnings, tls),
        "plain HTTP": (_greets(plain), tls),
        "an SSH server behind https": (_greets(b"SSH-2.0-OpenSSH_9.2\r\n"), tls),
        "a fatal alert": (_greets(b"\x15\x03\x03\x00\x02\x02\x28"), tls),
        "closed in the handshake": (_greets(b"\x16\x03\x03", after="close"), tls),
        "reset in the handshake": (_greets(b"", after="reset"), _R),
    }
    contexts = ("expired", "not yet valid", "wrong host", "self-signed", "another authority", "TLS 1.0", "TLS 1.1")
    return {
        **{name: BadReceiver(script, reason, tls="none") for name, (script, reason) in scripts.items()},
        **{name: BadReceiver(healthy, tls, tls=name) for name in contexts},
        # In TLS 1.3 the client's part of the handshake is over by then.
        "a client's certificate is demanded": BadReceiver(healthy, _R, tls="client certificate"),
    }


# By what they do, as manual/security.md lists them.
KINDS: dict[str, dict[str, BadReceiver]] = {
    "late": _late(),
    "endless, enormous": _endless(),
    "not HTTP": _malformed(),
    "ended": _ended(),
    "statuses, redirects": _statuses(),
    "handshakes": _handshakes(),
}
HANDSHAKES = KINDS["handshakes"]
BAD_RECEIVERS = {name: each for kind, found in KINDS.items() if kind != "handshakes" for name, each in found.items()}
ALL: dict[str, dict[str, BadReceiver]] = {"http": BAD_RECEIVERS, "https": {**BAD_RECEIVERS, **HANDSHAKES}}


async def play() -> None:
    """Listen with every script, say where, and end with stdin."""
    authority = trustme.CA()
    known = contexts(authority)
    async with AsyncExitStack() as stack:
        ports: dict[str, dict[str, int]] = {"http": {}, "https": {}}
        for scheme, bad_receivers in ALL.items():
            for name, bad_receiver in bad_receivers.items():
                tls = known.get(bad_receiver.tls) if scheme == "https" else None
                receiver = ScriptedReceiver(
                    bad_receiver.script, tls=tls, receive_buffer_bytes=bad_receiver.receive_buffer_bytes
                )
                await stack.enter_async_context(receiver)
                ports[scheme][name] = receiver.port
        print(json.dumps({"ports": ports, "authority": authority.cert_pem.bytes().decode()}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def contexts(authority: trustme.CA) -> dict[str, ssl.SSLContext]:
    """What a receiver may speak TLS with, by name; "good" is what `authority` vouches for."""
    now, day = datetime.now(UTC), timedelta(days=1)
    found = {
        "good": _context(authority),
        "expired": _context(authority, not_before=now - 9 * day, not_after=now - day),
        "not yet valid": _context(authority, not_before=now + day, not_after=now + 9 * day),
        "wrong host": _context(authority, identity="other.example"),
        "self-signed": _self_signed(),
        "another authority": _context(trustme.CA()),
        "TLS 1.0": _old(authority, ssl.TLSVersion.TLSv1),
        "TLS 1.1": _old(authority, ssl.TLSVersion.TLSv1_1),
        "client certificate": _context(authority),
    }
    found["client certificate"].verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(found["client certificate"])
    return found


def _context(authority: trustme.CA, *, identity: str = "127.0.0.1", **settings: datetime) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(identity, **settings).configure_cert(context)
    return context


def _self_signed() -> ssl.SSLContext:
    context, alone = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), trustme.CA()
    with alone.cert_pem.tempfile() as certificate, alone.private_key_pem.tempfile() as key:
        context.load_cert_chain(certificate, key)
    return context


def _old(authority: trustme.CA, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = _context(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    return context


if __name__ == "__main__":
    asyncio.run(play())
