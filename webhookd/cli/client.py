"""The HTTP client of the API, on the standard library: small, quick to import, and it speaks to a unix socket.

Each request has a connection of its own: on loopback that costs a tenth of a millisecond, and no request meets a
connection that the daemon has closed meanwhile.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import click

from webhookd._version import __version__
from webhookd.text import escape

EXIT_REFUSED = 1
EXIT_UNREACHABLE = 3
ANSWER_TIMEOUT_SECONDS = 30.0
PAGE_SIZE = 500
MAX_LINE_BYTES = 8 << 20


class ApiRefused(click.ClickException):
    """The API's error: its status, its code, and its message for a person (exit code 1)."""

    exit_code = EXIT_REFUSED

    def __init__(self, status: int, body: Any, reason: str = "", *, hint: str = "") -> None:
        error = body.get("error") if isinstance(body, dict) else None
        error = error if isinstance(error, dict) else {}
        self.status = status
        self.code = str(error.get("code", ""))
        self.details: dict[str, Any] = error.get("details") or {}
        message = error.get("message") or f"{status} {reason}: this is not an answer of webhookd's API."
        super().__init__(escape(message) + (f"\n{hint}" if hint else ""))


class Unreachable(click.ClickException):
    """No daemon answered (exit code 3)."""

    exit_code = EXIT_UNREACHABLE


@dataclass(frozen=True, slots=True)
class Address:
    """An address where the daemon may listen: `scheme` is http, https or unix (then `host` is the socket's path)."""

    scheme: str
    host: str
    port: int = 0
    prefix: str = ""

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"

    def connection(self, timeout_seconds: float) -> http.client.HTTPConnection:
        """A connection to it, not yet opened; `timeout_seconds` holds for each wait on the socket."""
        if self.scheme == "unix":
            return _UnixConnection(self.host, timeout_seconds)
        kind = http.client.HTTPSConnection if self.scheme == "https" else http.client.HTTPConnection
        return kind(self.host, self.port, timeout=timeout_seconds)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its status, its headers in lower case, its body (parsed if it was JSON, else None)."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: Any


@dataclass(slots=True)
class Client:
    """Talks to one daemon, at the first of `addresses` that accepts a connection.

    `token_source` says where the token came from, or where none was found, for the message after a 401 or a 403.
    """

    addresses: Sequence[Address]
    token: str | None
    token_source: str = ""
    _connected: Address | None = field(default=None, init=False)

    @property
    def address(self) -> str:
        """Where the daemon answered, or the first address to try."""
        return str(self._connected or self.addresses[0])

    def get(self, path: str, **query: object) -> Any:
        """GET; raises `ApiRefused` or `Unreachable`, as all that follow do."""
        return self.call("GET", path, query=query)

    def read(self, path: str) -> bytes:
        """GET, and the answer's bytes as they came."""
        with self.stream("GET", path, timeout_seconds=ANSWER_TIMEOUT_SECONDS) as reply:
            return reply.read()

    def pages(self, path: str, **query: object) -> Iterator[dict[str, Any]]:
        """Every item of a list, page after page."""
        cursor: str | None = None
        while True:
            page = self.get(path, limit=PAGE_SIZE, cursor=cursor, **query)
            yield from page["data"]
            cursor = page["next"]
            if cursor is None:
                return

    def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, timeout_seconds: float = ANSWER_TIMEOUT_SECONDS
    ) -> Any:
        """POST a JSON object."""
        return self.call("POST", path, body=body or {}, timeout_seconds=timeout_seconds)

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """PATCH with a JSON object."""
        return self.call("PATCH", path, body=body)

    def delete(self, path: str) -> None:
        """DELETE."""
        self.call("DELETE", path)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
        timeout_seconds: float = ANSWER_TIMEOUT_SECONDS,
    ) -> Any:
        """One request with a JSON answer; anything but a 2xx raises `ApiRefused`."""
        raw = None if body is None else json.dumps(body).encode()
        answer = self.request(method, path, query=query, body=raw, timeout_seconds=timeout_seconds)
        if not 200 <= answer.status < 300:
            raise self.refused(answer)
        if answer.body is None and answer.status != HTTPStatus.NO_CONTENT:
            raise Unreachable(f"what answers at {escape(self.address)} is not webhookd's API.")
        return answer.body

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        timeout_seconds: float = ANSWER_TIMEOUT_SECONDS,
    ) -> Answer:
        """One request and its whole answer, whatever the status."""
        headers = {} if body is None else {"Content-Type": content_type}
        with self._open(method, path, query, body, headers, timeout_seconds) as reply:
            return reply.answer()

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float,
    ) -> Iterator[Reply]:
        """A request whose answer is read as it comes; anything but a 2xx raises `ApiRefused`."""
        with self._open(method, path, query, None, headers or {}, timeout_seconds) as reply:
            if not 200 <= reply.status < 300:
                raise self.refused(reply.answer())
            yield reply

    def refused(self, answer: Answer) -> ApiRefused:
        """The error for an answer that isn't a success."""
        denied = answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
        hint = f"That was {escape(self.address)}, {escape(self.token_source)}." if denied else ""
        return ApiRefused(answer.status, answer.body, answer.reason, hint=hint)

    @contextmanager
    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_seconds: float,
    ) -> Iterator[Reply]:
        connection = self._connect(timeout_seconds)
        given = {name: str(value) for name, value in (query or {}).items() if value is not None}
        target = (self._connected.prefix if self._connected else "") + path + (f"?{urlencode(given)}" if given else "")
        sent = {"User-Agent": f"webhookd-cli/{__version__}", "Accept": "application/json", **headers}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        try:
            with _unreachable_on_error(self.address):
                # The daemon may answer before it has read the whole body (413), and then close the connection.
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, target, body=body, headers=sent)
                response = connection.getresponse()
            yield Reply(response, self.address)
        finally:
            connection.close()

    def _connect(self, timeout_seconds: float) -> http.client.HTTPConnection:
        failures = []
        for address in [self._connected] if self._connected else self.addresses:
            connection = address.connection(timeout_seconds)
            try:
                connection.connect()
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection.close()
                failures.append(f"{address}: {_reason(error)}")
            else:
                self._connected = address
                return connection
        raise Unreachable(
            f"webhookd can't be reached at {escape('; '.join(failures))}.\n"
            "Is it running? If it listens elsewhere, say so with --config, --state-dir or WEBHOOKD_URL."
        )


class Reply:
    """An answer whose body is read as it comes; a connection that fails meanwhile raises `Unreachable`."""

    def __init__(self, response: http.client.HTTPResponse, address: str) -> None:
        self.status = response.status
        self._response = response
        self._address = address

    def read(self, byte_count: int | None = None) -> bytes:
        """At most `byte_count` bytes, b"" at the end."""
        with _unreachable_on_error(self._address):
            data = self._response.read(byte_count)
            if not data and self._response.length:  # http.client doesn't report a short body here
                raise http.client.IncompleteRead(b"", self._response.length)
            return data

    def lines(self) -> Iterator[bytes]:
        """The body's lines, each as soon as it is there."""
        while True:
            with _unreachable_on_error(self._address):
                line = self._response.readline(MAX_LINE_BYTES)
            if not line:
                return
            yield line

    def answer(self) -> Answer:
        """The whole of it."""
        raw = self.read()
        headers = {name.lower(): value for name, value in self._response.getheaders()}
        return Answer(self.status, self._response.reason, headers, _parsed(raw))


@contextmanager
def _unreachable_on_error(address: str) -> Iterator[None]:
    """Turn every failure of a connection into `Unreachable` with a message for a person."""
    try:
        yield
    except http.client.BadStatusLine as error:
        # RemoteDisconnected is one too: nothing came at all
        ended = isinstance(error, http.client.RemoteDisconnected)
        why = "the connection ended before the answer" if ended else "what answers there doesn't speak HTTP"
        raise Unreachable(f"lost webhookd at {escape(address)}: {why}.") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"lost webhookd at {escape(address)}: {escape(_reason(error))}.") from error


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended in the middle of the answer"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
