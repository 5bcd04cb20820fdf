"""Parses bytes into events: one event, an array, or a stream of lines.

The body that is delivered is the event's text as received, without the white space around it: it is checked and never
serialized again.  Only a missing `event_id` is inserted, as the first member.

orjson checks the JSON; two cases are handled here.  It keeps the last of a repeated name, so webhookd and a receiver
could read two different types: names are checked where `event_type` or `event_id` may occur twice.  And it refuses an
integer too long for a double, which JSON allows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from webhookd.errors import ApiError
from webhookd.models import NewEvent
from webhookd.rules.event_types import EventTypes

MAX_ARRAY_EVENTS = 1000

_WHITE_SPACE = b" \t\r\n"  # JSON's; bytes.strip() alone would also take form feeds, which JSON refuses
_EVENT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

# The letters of the two names as \uXXXX: _ d e i n p t v y.  JSON has no other escape for them.
_ESCAPED_LETTER = re.compile(rb"\\u00(?:5[fF]|6[459eE]|7[0469])")

# Strings, closed or not, and whole numbers that a double may not hold: of 200 digits, or an exponent of three.
_STRING_OR_HUGE_NUMBER = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"?|(?<![0-9A-Za-z.+-])-?(?:'
    rb"[1-9][0-9]{200,}+(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?[eE]\+?[0-9]{3,}+)",
    re.DOTALL,
)

# An escape in a string; the group is a surrogate, in a pair or alone.
_ESCAPE = re.compile(rb"\\(?:(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL)


def parse_event(
    raw: bytes,
    *,
    max_bytes: int,
    event_types: EventTypes,
    new_id: Callable[[], str],
    warnings: list[ApiError] | None = None,
) -> NewEvent:
    """The event in `raw`, ready to be accepted; `new_id` makes an id where it has none.

    Raises ApiError: payload_too_large (over `max_bytes` once trimmed), invalid_json, invalid_event, missing_event_type,
    unknown_event_type, invalid_event_id; schema_mismatch, which goes to `warnings` where events are accepted with one.
    Without `warnings` no schema is looked at: the event was accepted before.
    """
    body = raw.strip(_WHITE_SPACE)
    if len(body) > max_bytes:
        raise too_large(max_bytes)
    event = load_json(body)
    if type(event) is not dict:
        raise ApiError("invalid_event", 'An event is one JSON object, as {"event_type": …}; this is something else.')
    if _may_repeat(body, ("event_type" in event) + ("event_id" in event)):
        _refuse_repeated(body)
    event_type = _event_type(event, event_types)
    if "event_id" not in event:
        event_id = event["event_id"] = new_id()
        body = b'{"event_id":"%b",%b' % (event_id.encode(), body[1:])
    else:
        event_id = _event_id(event["event_id"])
    if warnings is not None and event_types.validation != "off":
        mismatch = event_types.mismatch(event_type, event)
        if mismatch is not None and event_types.validation == "refuse":
            raise mismatch
        warnings += filter(None, [mismatch])
    return NewEvent(event_id, event_type, body)


def parse_array(
    raw: bytes, elements: Sequence[bytes], *, max_bytes: int, event_types: EventTypes
) -> list[NewEvent] | None:
    """The events of an array, cut by `split_array`, in one pass where all are good and have ids; else None.

    Then each needs a look of its own, by `parse_event`, as it does where schemas are looked at.  No name is repeated
    where each of the two occurs as often as there are events, all have it, and none is written with escapes.
    """
    count = len(elements)
    if (
        event_types.validation != "off"
        or raw.count(b'"event_type"') != count
        or raw.count(b'"event_id"') != count
        or (b"\\" in raw and b"\\u00" in raw)
    ):
        return None
    try:
        values = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    events = []
    for value, body in zip(values, elements, strict=True):
        if type(value) is not dict or len(body) > max_bytes:
            return None
        event_id, event_type = value.get("event_id"), value.get("event_type")
        if type(event_id) is not str or type(event_type) is not str or not _EVENT_ID.fullmatch(event_id):
            return None
        if event_types.get(event_type) is None:
            return None
        events.append(NewEvent(event_id, event_type, body))
    return events


def too_large(max_bytes: int) -> ApiError:
    """The error for an event of more than `max_bytes`."""
    return ApiError(
        "payload_too_large",
        f"The event is larger than {max_bytes} bytes (delivery.max_body_kb): send a reference to what is large.",
        details={"max_bytes": max_bytes},
    )


def _event_type(event: dict[str, Any], event_types: EventTypes) -> str:
    try:
        event_type = event["event_type"]
    except KeyError:
        message = 'The event has no "event_type": add one of the catalogue\'s names (GET /v1/event-types lists them).'
        raise ApiError("missing_event_type", message) from None
    if not isinstance(event_type, str):
        raise ApiError("unknown_event_type", "event_type must be a string, one of the catalogue's names.")
    return event_types.require(event_type).name


def _event_id(event_id: object) -> str:
    if not isinstance(event_id, str) or not _EVENT_ID.fullmatch(event_id):
        message = "event_id must be a string of 1 to 64 of A-Z a-z 0-9 _ - (or leave it out, and webhookd makes one)."
        raise ApiError("invalid_event_id", message)
    return event_id


def raise_if_memory_ran_out(error: orjson.JSONDecodeError) -> None:
    """Raise MemoryError if orjson ran out of memory, which it reports as invalid JSON."""
    if "memory" in error.msg:
        raise MemoryError(error.msg) from None


def load_json(body: bytes) -> Any:
    """The value of a JSON text, with 0 for numbers beyond a double; ApiError `invalid_json` if it isn't JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise_if_memory_ran_out(error)
        shortened = _shorten_huge_numbers(body)
        if shortened == body:
            raise _not_json(body, error) from None
    try:
        return orjson.loads(shortened)
    except orjson.JSONDecodeError as error:
        raise _not_json(body, error) from None


def _shorten_huge_numbers(body: bytes) -> bytes:
    """`body` with each number that a double may not hold replaced by 0, and every other byte at its place.

    The spaces that pad it keep invalid what goes on after it: `1e999.5` becomes `0    .5`.
    """

    def shorten(found: re.Match[bytes]) -> bytes:
        token = found[0]
        return token if token.startswith(b'"') else b"0".ljust(len(token))

    return _STRING_OR_HUGE_NUMBER.sub(shorten, body)


def _not_json(body: bytes, error: orjson.JSONDecodeError) -> ApiError:
    fault = _not_utf8(body)
    if fault is not None:
        return fault
    return ApiError(
        "invalid_json",
        f"The event is not JSON: {error.msg}, at line {error.lineno}, column {error.colno}.",
        details={"line": error.lineno, "column": error.colno},
    )


def _not_utf8(body: bytes) -> ApiError | None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        message = f"The body is not UTF-8: byte {error.start} (0x{body[error.start]:02x}): {error.reason}."
        return ApiError("invalid_json", message, details={"byte": error.start})
    return None


def _may_repeat(body: bytes, names: int) -> bool:
    """Whether one of the two names, of which the event has so many, may occur twice in `body`; false positives only.

    Each search of a body of 200 kB takes 0.1 ms, that for a single byte 0.01.
    """
    return (body.count(b'"event_') > names and (body.count(b'"event_type"') > 1 or body.count(b'"event_id"') > 1)) or (
        b"\\" in body and b"\\u00" in body and _ESCAPED_LETTER.search(body) is not None
    )


class _Name:
    """The name of a member, equal to no other: a dict keeps repeated names."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


_MEMBERS = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=lambda _type, text: _Name(text))


def _refuse_repeated(body: bytes) -> None:
    """Raise ApiError `invalid_event` if `event_type` or `event_id` is a member of the (valid) object twice."""
    try:
        names = [name.text for name in _MEMBERS.decode(body)]
    except RecursionError:  # at about 990 levels; orjson goes to 1,024
        raise ApiError("invalid_json", "The event is not JSON that webhookd takes: nested too deeply.") from None
    for name in ("event_type", "event_id"):
        if names.count(name) > 1:
            raise ApiError(
                "invalid_event", f'The event has "{name}" twice: which one is meant?', details={"name": name}
            )


# A list of msgspec.Raw would hold millions of objects for 8 MiB of "[0,0,0…"; a struct of 1,000 optional fields fails
# at the 1,001st element.  It costs 0.2 ms, so arrays with few commas use the list.
_FEW = msgspec.json.Decoder(list[msgspec.Raw])
_MANY = msgspec.json.Decoder(
    msgspec.defstruct(
        "Elements",
        [(f"element_{place}", msgspec.Raw, msgspec.Raw()) for place in range(MAX_ARRAY_EVENTS)],
        array_like=True,
        forbid_unknown_fields=True,
    )
)


def split_array(raw: bytes) -> list[bytes]:
    """The elements of a JSON array, each as its bytes, for `parse_event`.

    Raises ApiError: invalid_json if the whole text isn't valid UTF-8 and JSON; invalid_event if it is no array;
    payload_too_large for more than `MAX_ARRAY_EVENTS` elements.  A lone surrogate concerns its element alone and is
    left to `parse_event`.
    """
    fault = None if raw.isascii() else _not_utf8(raw)
    if fault is not None:
        raise fault
    try:
        return _elements(raw)
    except msgspec.ValidationError:
        if raw.lstrip(_WHITE_SPACE)[:1] != b"[":
            raise ApiError("invalid_event", "Several events are one JSON array; this is something else.") from None
        message = f"An array holds at most {MAX_ARRAY_EVENTS} events: send several, or lines (application/x-ndjson)."
        raise ApiError("payload_too_large", message, details={"max_events": MAX_ARRAY_EVENTS}) from None
    except msgspec.DecodeError as error:
        raise ApiError("invalid_json", f"The array is not JSON: {_place(error, len(raw))}.") from None
    except RecursionError:
        raise ApiError("invalid_json", "The array is not JSON that webhookd takes: nested too deeply.") from None


def _elements(raw: bytes) -> list[bytes]:
    """The elements of an array; the errors of msgspec for a text that isn't one even without its surrogates."""
    try:
        return _decoded(raw)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        masked = _ESCAPE.sub(lambda found: b"\\u0020" if found[1] else found[0], raw)
        if masked == raw:
            raise
    cut, end = list[bytes](), 0
    for element in _decoded(masked):
        start = masked.index(element, end)
        end = start + len(element)
        cut.append(raw[start:end])
    return cut


def _decoded(raw: bytes) -> list[bytes]:
    if raw.count(b",") < MAX_ARRAY_EVENTS:
        return [bytes(element) for element in _FEW.decode(raw)]
    elements = msgspec.structs.astuple(_MANY.decode(raw))
    return [element for element in map(bytes, elements) if element]  # the optional fields that weren't given


def _place(error: msgspec.DecodeError, length: int) -> str:
    text = str(error).removeprefix("JSON is malformed: ")
    return text if "byte" in text else f"it ends too early (byte {length})"  # which msgspec gives no position of


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a stream that isn't blank: its index among those, from 0, and its bytes (None: too long)."""

    index: int
    data: bytes | None


class LineSplitter:
    """Splits a stream of bytes, given in any pieces, into lines (newline-delimited JSON).

    A line ends with LF or CRLF, the last one also with the stream.  Blank lines are neither returned nor counted.  A
    line longer than `max_line_bytes` (without its end) isn't kept: it is returned once, without its bytes, as soon as
    it is too long.  The work is proportional to the bytes, however small the pieces.
    """

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._pending = bytearray()
        self._index = 0
        self._skipping = False

    @property
    def pending_bytes(self) -> int:
        """The bytes kept of the unfinished line; 0 once it is too long."""
        return len(self._pending)

    def feed(self, chunk: bytes) -> list[Line]:
        """The lines that `chunk` completes, in order."""
        lines: list[Line] = []
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            if self._pending or self._skipping:
                self._begin(piece, lines)
                self._end(lines)
            elif piece:
                self._take(piece, lines)
        self._begin(rest, lines)
        return lines

    def finish(self) -> list[Line]:
        """The last line, if the stream ended without ending it."""
        lines: list[Line] = []
        self._end(lines)
        return lines

    def _begin(self, piece: bytes, lines: list[Line]) -> None:
        if self._skipping:
            return
        if len(self._pending) + len(piece) > self._max_line_bytes + 1:  # one more for the CR of CRLF
            self._pending.clear()
            self._skipping = True
            self._give(None, lines)
        else:
            self._pending += piece

    def _end(self, lines: list[Line]) -> None:
        if not self._skipping:
            self._take(bytes(self._pending), lines)
        self._pending.clear()
        self._skipping = False

    def _take(self, line: bytes, lines: list[Line]) -> None:
        data = line.removesuffix(b"\r")
        if len(data) > self._max_line_bytes:
            self._give(None, lines)
        elif data.strip(_WHITE_SPACE):
            self._give(data, lines)

    def _give(self, data: bytes | None, lines: list[Line]) -> None:
        lines.append(Line(self._index, data))
        self._index += 1
