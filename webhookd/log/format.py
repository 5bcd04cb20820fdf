"""What a log line looks like: the order of its fields, its JSON, its form on a terminal.

Whatever strangers put into its values, a line is one line of valid JSON in UTF-8, at most 16 KiB, with every control
and bidi character escaped, and without any URL's query.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import Any

import orjson
import structlog

from webhookd.clock import rfc3339
from webhookd.text import escape, escape_json

LINE_BYTES = 16 * 1024
CONSOLE_CHARACTERS = 1000
LEADING = ("workspace", "endpoint_id", "event_id", "delivery_id", "attempt", "status", "reason", "duration_ms")
FREE_TEXTS = ("error", "message", "detail")

_QUERY = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s?#'\"<>]*)[?#][^\s'\"<>]*")

Record = dict[str, Any]


def loggable_url(url: str) -> str:
    """`url` without user, query and fragment, which may hold secrets."""
    url = re.split("[?#]", url, maxsplit=1)[0]
    scheme, slashes, rest = url.partition("//")
    authority, slash, path = rest.partition("/")
    return scheme + slashes + authority.rpartition("@")[2] + slash + path


def arrange(level: str, event: str, fields: Record) -> Record:
    """`timestamp`, `level`, `event`, then `LEADING` as far as given, then the other fields."""
    arranged: Record = {"timestamp": rfc3339(time.time_ns() // 1_000_000), "level": level, "event": event}
    for name in _order(tuple(fields)):
        arranged[name] = fields[name]
    if "url" in fields:
        arranged["url"] = loggable_url(str(_plain(fields["url"])))
    for name in FREE_TEXTS:
        value = fields.get(name)
        if value is not None:
            text = value if type(value) is str and value.isascii() else str(_plain(value))
            arranged[name] = _QUERY.sub(r"\1", text) if "://" in text else text
    return arranged


@lru_cache(256)  # an event mostly has the same fields
def _order(names: tuple[str, ...]) -> tuple[str, ...]:
    first = [name for name in LEADING if name in names]
    return (*first, *[name for name in names if name not in first])


def json_line(record: Record) -> bytes:
    """The record as one line of JSON."""
    try:
        line = _dumped(record)
    except (TypeError, ValueError, RecursionError):  # half a surrogate pair, an integer past 64 bits, nested too deeply
        record = {name: _plain(value) for name, value in record.items()}
        line = _dumped(record)
    return line if len(line) <= LINE_BYTES else _shortened(record)


def _dumped(record: Record) -> bytes:
    line = orjson.dumps(record, default=_plain, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
    if line.isascii() and b"\x7f" not in line:
        return line
    return escape_json(line.decode()).encode()


def _shortened(record: Record) -> bytes:
    plain = {name: _flat(value) for name, value in record.items()}
    for longest in (4096, 1024, 256, 64, 16):
        line = _dumped({name: _cut(value, longest) for name, value in plain.items()})
        if len(line) <= LINE_BYTES:
            return line
    return _dumped({name: plain[name] for name in ("timestamp", "level", "event")} | {"cut": True})


def _cut(value: Any, longest: int) -> Any:
    if not isinstance(value, str) or len(value) <= longest:
        return value
    return f"{value[:longest]}… ({len(value) - longest} more characters)"


def _flat(value: Any) -> Any:
    value = _plain(value)
    return orjson.dumps(value).decode() if isinstance(value, dict | list) else value


def _plain(value: Any, depth: int = 0) -> Any:
    """`value` as something that JSON can hold, whatever it is."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else hex(value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if depth > 5:
        return "…"
    if isinstance(value, dict):
        return {str(_plain(key, 6)): _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner, depth + 1) for inner in value]
    try:
        return _plain(str(value), depth + 1)
    except Exception:  # noqa: BLE001 - logging must not fail on a value whose __str__ does
        return f"<{type(value).__name__}>"


class ConsoleLines:
    """Lines for a terminal: structlog's renderer over escaped values."""

    def __init__(self, *, colours: bool) -> None:
        self._render = structlog.dev.ConsoleRenderer(colors=colours, sort_keys=False)

    def __call__(self, record: Record) -> bytes:
        """The record as one line of text, without the fields that are None."""
        harmless = {name: _harmless(value) for name, value in record.items() if value is not None}
        return (self._render(None, record["level"], harmless) + "\n").encode()


def _harmless(value: Any) -> Any:
    """Texts escaped and cut; nested values as such a text."""
    value = _flat(value)
    if not isinstance(value, str):
        return value
    return escape(_cut(value, CONSOLE_CHARACTERS))
