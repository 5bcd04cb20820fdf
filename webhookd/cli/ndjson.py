"""Splits input into numbered lines, adds missing ids, and groups lines into batches.

A line is one event as a rule.  Input that begins like an array or like pretty-printed JSON is an error that says how to
make lines of it.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from webhookd.errors import ApiError

MAX_LINES = 1000
MAX_REQUEST_BYTES = 2 << 20
LINGER_SECONDS = 0.2

# Longer lines can't be events (an event is at most 8 MiB, whatever the configuration) and would only fill the memory.
MAX_LINE_BYTES = 9 << 20
_READ_BYTES = 256 << 10
_WHITE_SPACE = b" \t\r\n"  # JSON's
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """One event to send: the number of its line in the input, from 1, and its bytes (None: too long to be an event)."""

    number: int
    data: bytes | None


class LineSplitter:
    """Splits chunks of bytes into numbered lines; blank lines are counted, not returned."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._pieces: list[bytes] = []
        self._pending_bytes = 0
        self._number = 1

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that `chunk` completes."""
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            self._add(piece)
            yield from self.finish()
            self._number += 1
        self._add(rest)

    def finish(self) -> Iterator[Line]:
        """The unfinished line: at its end, or at the end of the input."""
        whole = b"".join(self._pieces).removeprefix(_BYTE_ORDER_MARK).strip(_WHITE_SPACE)
        too_long = self._pending_bytes > self._max_line_bytes
        self._pieces, self._pending_bytes = [], 0
        if too_long:
            yield Line(self._number, None)
        elif whole:
            for data in split_objects(whole):
                yield Line(self._number, data)

    def _add(self, piece: bytes) -> None:
        self._pending_bytes += len(piece)
        if self._pending_bytes > self._max_line_bytes:
            self._pieces = []  # too long: drop it
        elif piece:
            self._pieces.append(piece)


def split_objects(line: bytes) -> list[bytes]:
    """The events on a line: one, several (`cat *.json` without last newlines), or the line itself if it isn't JSON."""
    if b"}{" not in line and b"} {" not in line and b"}\t{" not in line:
        return [line]
    decoder, found, start = json.JSONDecoder(parse_int=len), list[bytes](), 0  # an integer may have any length
    try:
        text = line.decode()
        while start < len(text):
            _, end = decoder.raw_decode(text, start)
            found.append(text[start:end].encode())
            start = end + len(text[end:]) - len(text[end:].lstrip(" \t\r\n"))
    except (ValueError, RecursionError):
        return [line]
    return found


def ensure_id(line: bytes, new_id: Callable[[], str]) -> tuple[bytes, str]:
    """The line with an `event_id` as its first member, and the id if it was added, else ""; no other byte changes."""
    from webhookd.rules.parsing import load_json

    try:
        event = load_json(line)
    except ApiError:
        return line, ""  # the daemon refuses it
    if not isinstance(event, dict) or not event or "event_id" in event:
        return line, ""
    made = new_id()
    return b'{"event_id":"%b",%b' % (made.encode(), line[1:]), made


def new_id() -> str:
    """A UUIDv7, for an event without an id."""
    from webhookd.rules.ids import RANDOM_BYTES, uuid7

    return uuid7(time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES))


def jq_filter(line: bytes) -> str | None:
    """The filter with which `jq -c` makes lines of the input whose first line is `line`; None if that is an event."""
    if line.startswith(b"["):
        return ".[]"
    return "." if line.startswith(b"{") and line.endswith((b"{", b"[", b",", b":")) else None


@dataclass(frozen=True, slots=True)
class Batch:
    """The lines of one request, and the bytes of input read so far."""

    lines: list[Line]
    read_bytes: int


def batches(descriptor: int, *, linger_seconds: float = LINGER_SECONDS) -> Iterator[Batch]:
    """The input in batches: as many lines as are available, none waiting longer than `linger_seconds`."""
    cutter, waiting = LineSplitter(), list[Line]()
    waiting_bytes = read_bytes = 0
    due: float | None = None
    while True:
        timeout_seconds = None if due is None else max(0.0, due - time.monotonic())
        chunk = None
        if select.select([descriptor], [], [], timeout_seconds)[0]:
            chunk = os.read(descriptor, _READ_BYTES)
            read_bytes += len(chunk)
        for line in cutter.feed(chunk) if chunk else cutter.finish() if chunk == b"" else ():
            waiting.append(line)
            waiting_bytes += len(line.data or b"")
            if len(waiting) == MAX_LINES or waiting_bytes >= MAX_REQUEST_BYTES:
                yield Batch(waiting, read_bytes)
                waiting, waiting_bytes, due = [], 0, None
        if waiting and due is None:
            due = time.monotonic() + linger_seconds
        if waiting and (chunk == b"" or (due is not None and time.monotonic() >= due)):
            yield Batch(waiting, read_bytes)
            waiting, waiting_bytes, due = [], 0, None
        if chunk == b"":
            return
