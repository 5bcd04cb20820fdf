"""HTTP/1.1 towards receivers: connections on asyncio, kept alive per origin, and llhttp (httptools) for the answers.

A complete answer decides, whatever follows it; what follows (bytes after the body, a second answer) costs the
connection.  Bytes on an idle connection are no answer to the next request: it is closed.  Closing means aborting: a
receiver that never reads would otherwise keep socket and buffer.

TLS runs over memory: asyncio's transport keeps 256 KiB per connection, and drops an answer that lies in the socket
when a write fails.  llhttp takes what real servers send (folded headers, lines that end with LF alone, spaces after a
chunk's size) and is strict where two readers could see two answers: lengths given twice, a length beside chunks.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import cast

import httptools

from webhookd.models import Request
from webhookd.sender.attempt_trace import AnswerError, AttemptTrace, ConnectionEnded, NotAllowed, Stage
from webhookd.sender.deadlines import Deadlines
from webhookd.sender.egress import Egress
from webhookd.sender.request_builder import Origin, Target

READ_BYTES = 16 * 1024
HEAD_LIMIT_BYTES = 32 * 1024
ANSWER_LIMIT_BYTES = 256 * 1024  # 16 KiB of body in 1-byte chunks are 96 KiB
KEEP_ALIVE_SECONDS = 15.0
# Sends a request, or its beginning, on a socket that doesn't block: how many bytes went out; None if it may not be.
Gate = Callable[[socket.socket, bytes], int | None]


class Tls:
    """A TLS session over memory: its buffers are as large as what is in them."""

    __slots__ = ("established", "incoming", "object", "outgoing")

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing, server_hostname=host.rstrip("."))
        self.established = False


class Connection(asyncio.BufferedProtocol):
    """One connection to a receiver, over all the requests that it carries one after the other."""

    def __init__(self, pool: Pool, origin: Origin, sock: socket.socket, tls: Tls | None, *, last: bool) -> None:
        self.origin = origin
        self._pool = pool
        self._sock = sock
        self._tls = tls
        self._last = last
        self._transport: asyncio.Transport | None = None
        self._request = b""
        self._trace: AttemptTrace | None = None
        self._answer: asyncio.Future[Exception | None] | None = None
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._headers: list[tuple[bytes, bytes]] = []
        self._received_bytes = 0
        self._status = 0
        self._head_done = self._complete = self._keep_alive = self._nul = self._lost = False

    async def open(self) -> None:
        """Hand the socket, which is connected, to the loop: what `send` was given goes out."""
        await self._pool.loop.create_connection(lambda: self, sock=self._sock)
        if self._lost and self._sock.fileno() >= 0:  # uvloop has closed the descriptor beneath the socket object,
            self._sock.detach()  # which would close it once more, when it may be another's

    def send(self, request: bytes, trace: AttemptTrace) -> asyncio.Future[Exception | None]:
        """Send `request` now, or as soon as the connection is open.

        The future's result is None when `trace` has an answer that decides, otherwise what went wrong.
        """
        self._trace = trace
        answer = self._answer = self._pool.loop.create_future()
        self._headers = []
        self._received_bytes = 0
        self._head_done = self._complete = self._nul = False
        self._request = request
        if self._transport is not None:
            trace.reused = True
            self._send_request()
        return answer

    def abort(self) -> None:
        """Close at once, whatever is buffered."""
        self._pool.forget(self)
        self._trace = self._answer = None
        self._parser = self._tls = None  # the parser holds its callbacks: a circle
        self._request = b""
        if self._transport is not None:  # otherwise as soon as there is one
            self._transport.abort()

    def fail(self, error: Exception) -> None:
        """Close at once; the attempt under way, if any, fails with `error`."""
        self._finish(error)

    # --- asyncio's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with the request, or with the handshake before it."""
        self._transport = cast("asyncio.Transport", transport)
        if self._trace is None:  # aborted meanwhile
            self._transport.abort()
        elif self._tls is None:
            self._send_request()
        else:
            self._shake_hands(self._tls)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the loop reads to.  It is parsed before the loop reads for another connection."""
        return self._pool.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` were read into the buffer."""
        if self._tls is None:
            self._receive(self._pool.buffer[:nbytes])
            return
        self._tls.incoming.write(self._pool.buffer[:nbytes])
        if self._tls.established or self._shake_hands(self._tls):
            self._decrypt(self._tls)

    def eof_received(self) -> None:
        """The receiver sends no more: the end of a body without a length, or of everything."""
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone.  If a write failed, an answer may have come before and lie in the socket unread."""
        self._lost = True
        if exc is not None:
            with contextlib.suppress(OSError):
                while self._trace is not None and (nbytes := self._sock.recv_into(self._pool.buffer)):
                    self.buffer_updated(nbytes)
        self._end(exc)

    # --- TLS ---

    def _shake_hands(self, tls: Tls) -> bool:
        """Continue the handshake with the bytes received so far; whether it has succeeded."""
        try:
            tls.object.do_handshake()
            tls.established = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._flush(tls)  # the alert, which says why
            self._finish(error)
            return False
        self._flush(tls)
        if tls.established:
            self._send_request()
        return tls.established

    def _decrypt(self, tls: Tls) -> None:
        plain = self._pool.plain
        try:
            while self._tls is not None and (tls.incoming.pending or tls.object.pending()):
                nbytes = tls.object.read(len(plain), plain)
                if not nbytes:  # the receiver has closed the session
                    self._end(None)
                    return
                self._receive(plain[: cast("int", nbytes)])
            self._flush(tls)
        except ssl.SSLWantReadError:
            self._flush(tls)
        except ssl.SSLError as error:
            self._end(error)

    def _flush(self, tls: Tls) -> None:
        if tls.outgoing.pending and self._transport is not None and not self._transport.is_closing():
            self._transport.write(tls.outgoing.read())

    # --- requests and answers ---

    def _send_request(self) -> None:
        assert self._trace is not None
        assert self._transport is not None
        request, self._request = self._request, b""
        if self._tls is not None:
            self._tls.object.write(request)
            request = self._tls.outgoing.read()
        gate, sent_bytes = self._pool.gate, 0
        if gate is not None:
            # What is left of a handshake goes before it: then it is only asked.
            passed = gate(self._sock, b"" if self._transport.get_write_buffer_size() else request)
            if passed is None:
                self._finish(NotAllowed())
                return
            sent_bytes = passed
        self._trace.stage = Stage.ANSWER
        if sent_bytes < len(request):
            self._transport.write(request[sent_bytes:])

    def _receive(self, data: memoryview) -> None:
        trace = self._trace
        if trace is None:  # nothing was asked
            self.abort()
            return
        trace.answered = True
        while self._trace is trace and data:
            left_bytes = (ANSWER_LIMIT_BYTES if self._head_done else HEAD_LIMIT_BYTES) - self._received_bytes
            if not left_bytes:
                where = "around the body" if self._head_done else "before the body"
                self._finish(AnswerError(f"too much {where}"))
                return
            self._received_bytes += min(left_bytes, len(data))
            self._parse(trace, data[:left_bytes], alone=len(data) <= left_bytes)
            data = data[left_bytes:]

    def _parse(self, trace: AttemptTrace, data: memoryview, *, alone: bool) -> None:
        """Parse `data`, the last byte by itself, to see whether an answer ended before; `alone`: no more was read."""
        parser = self._parser
        assert parser is not None
        try:
            parser.feed_data(data[:-1])
            alone = alone and not self._complete
            parser.feed_data(data[-1:])
        except httptools.HttpParserUpgrade:  # a 101, whose head is all there is of it
            pass
        except httptools.HttpParserError as error:
            if not self._complete:
                self._finish(AnswerError(str(error)))
                return
            alone = False
        if self._head_done and trace.stage is not Stage.BODY:
            if self._nul:
                self._finish(AnswerError("Invalid header value char"))
                return
            trace.stage = Stage.BODY
            trace.status = self._status
            trace.headers = tuple(
                [(name.decode("utf-8", "replace"), value.decode("utf-8", "replace")) for name, value in self._headers]
            )
        if self._complete:
            self._finish(None, reusable=alone and self._keep_alive)
        elif len(trace.body) >= READ_BYTES:
            trace.truncated = True
            self._finish(None)

    def _end(self, error: Exception | None) -> None:
        """The connection has ended; without an error that completes a body that has no other end."""
        trace = self._trace
        if trace is None:
            self.abort()
            return
        trace.lost = error
        complete = error is None and trace.stage is Stage.BODY and not any(map(_frames, self._headers))
        self._finish(None if complete else ConnectionEnded())

    def _finish(self, error: Exception | None, *, reusable: bool = False) -> None:
        """The attempt is over for this connection, which is kept if it is `reusable`."""
        trace, answer = self._trace, self._answer
        self._trace = self._answer = None
        if trace is not None:
            trace.complete = error is None
        if answer is not None and not answer.done():
            answer.set_result(error)
        if reusable and not self._last and self._transport is not None and not self._transport.get_write_buffer_size():
            self._pool.keep(self)
        else:
            self.abort()

    # --- llhttp's callbacks; bytes after a complete answer are ignored ---

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the answer, or a trailer."""
        if not self._head_done:
            self._headers.append((name, value))
            self._nul = self._nul or b"\0" in value  # which the parser takes together with folded headers

    def on_headers_complete(self) -> None:
        """The end of a head; interim answers (1xx except 101) are skipped."""
        if self._head_done or self._parser is None:
            return
        status = self._parser.get_status_code()
        if 100 <= status <= 199 and status != 101:
            self._headers.clear()
        else:
            self._status = status
            self._head_done = True

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if not self._complete and self._trace is not None:
            self._trace.body += body

    def on_message_complete(self) -> None:
        """The end of an answer, or of an interim one."""
        if self._head_done and not self._complete and self._parser is not None:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive() and self._status != 101


class Pool:
    """The connections of one sender.  An endpoint has one request in flight, so there is no limit of their number."""

    def __init__(self, egress: Egress, ssl_context: ssl.SSLContext, gate: Gate | None = None) -> None:
        self.gate = gate
        self.loop = asyncio.get_running_loop()
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.plain = memoryview(bytearray(READ_BYTES))
        self._egress = egress
        self._ssl_context = ssl_context
        self._open: set[Connection] = set()
        self._idle: dict[Origin, list[Connection]] = {}
        self._kept: Deadlines[Connection] = Deadlines(KEEP_ALIVE_SECONDS, lambda connection, _: connection.abort())
        self._closed = False

    async def send(
        self, target: Target, request: Request, trace: AttemptTrace, *, fresh: bool = False
    ) -> Exception | None:
        """Send `request` over a kept connection or a new one; `fresh`: a new one, and not kept afterwards.

        None if `trace` has an answer that decides, otherwise what went wrong.  Raises what the gates and the system
        raise while a connection is opened.
        """
        data = target.encode(request, last=fresh)
        connection = None if fresh else self._take(target.origin)
        is_new = connection is None
        if connection is None:
            connection = await self._dial(target.origin, trace, last=fresh)
        try:
            answer = connection.send(data, trace)
            if is_new:
                await connection.open()
            return await answer
        except BaseException:
            connection.abort()
            raise

    def keep(self, connection: Connection) -> None:
        """Keep `connection` for the next request to its origin."""
        self._idle.setdefault(connection.origin, []).append(connection)
        self._kept.start(connection)

    def forget(self, connection: Connection) -> None:
        """Drop a connection that has ended."""
        self._open.discard(connection)
        self._kept.end(connection)
        idle = self._idle.get(connection.origin)
        if idle is not None and connection in idle:
            idle.remove(connection)
            if not idle:
                del self._idle[connection.origin]

    def close(self) -> None:
        """End all connections at once; attempts on them, and later ones, fail."""
        self._closed = True
        self._kept.close()
        for connection in tuple(self._open):
            connection.fail(ConnectionEnded())

    def _take(self, origin: Origin) -> Connection | None:
        """The connection that was kept last: the one most likely to be alive."""
        idle = self._idle.get(origin)
        if idle is None:
            return None
        connection = idle.pop()
        if not idle:
            del self._idle[origin]
        self._kept.end(connection)
        return connection

    async def _dial(self, origin: Origin, trace: AttemptTrace, *, last: bool) -> Connection:
        scheme, host, port = origin
        sock = await self._egress.dial(host, port, trace)
        if self._closed:
            sock.close()
            raise ConnectionAbortedError("the sender was closed")
        tls = Tls(self._ssl_context, host) if scheme == "https" else None
        connection = Connection(self, origin, sock, tls, last=last)
        self._open.add(connection)
        return connection


def _frames(header: tuple[bytes, bytes]) -> bool:
    """Whether a header says where the body ends; without one the end of the connection does."""
    name, value = header[0].lower(), header[1].strip().lower()
    return name == b"content-length" or (name == b"transfer-encoding" and value.endswith(b"chunked"))
