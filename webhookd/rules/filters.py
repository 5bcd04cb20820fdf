"""Filters: which events of a type an endpoint wants, by their content.

An endpoint keeps them as text: event patterns (`rules.patterns`) by event type, and `*` for every type; an event has to
match both.  Each text is compiled once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec
import orjson

from webhookd.errors import ApiError, field_error
from webhookd.models import EVERY_TYPE, Json
from webhookd.rules.patterns import MISSING, Budget, Compiler, Test, failed

BYTES_MAX = 8192


class Filters:
    """An endpoint's compiled filters; `id` is that of their text, and a key of JSON that is no path of `ordering`."""

    __slots__ = ("_all", "_by_type", "id")

    def __init__(self, text: str, by_type: dict[str, Test]) -> None:
        self.id = "~" + blake2b(text.encode(), digest_size=8).hexdigest()
        self._all = by_type.pop(EVERY_TYPE, None)
        self._by_type = by_type

    def concerns(self, event_type: str) -> bool:
        """Whether an event of this type has to be looked into."""
        return self._all is not None or event_type in self._by_type

    def matches(self, event_type: str, event: Any) -> bool:
        """Whether the endpoint wants an event of this type, given as its JSON value."""
        own = self._by_type.get(event_type)
        return (self._all is None or self._all(event)) and (own is None or own(event))


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A field that no rule of a pattern matches: of which pattern (a type, or `*`), what was wanted, what was found."""

    event_type: str
    path: str
    wanted: list[Any]
    is_missing: bool
    found: Any


def parsed(body: bytes) -> Any:
    """The JSON value of an event's body, each number as it is."""
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        load: Callable[[bytes], Any] = orjson.loads  # as deep as `parse_event` takes it, whatever the stack has
    except (msgspec.DecodeError, UnicodeDecodeError):
        load = json.loads  # half of a surrogate pair, a number beyond a double: JSON, but not to everybody
    try:
        return load(body)
    except (ValueError, RecursionError):
        return None


@lru_cache(maxsize=4)  # the endpoints of an event ask one after the other
def _parsed_before(body: bytes) -> Any:
    return parsed(body)


def wants(text: str, event_type: str, body: bytes) -> bool:
    """Whether an endpoint with these filters wants an event; for statements of SQL, which have its body.

    What can't be read is no reason to lose an event: it is held until a person has set the filters again.
    """
    try:
        filters = compiled(text)
    except (ApiError, ValueError):
        return True
    return not filters.concerns(event_type) or filters.matches(event_type, _parsed_before(body))


def check_filters(given: Any) -> str:
    """An endpoint's `filters` as the API takes them, as the text that is kept, "" for none.

    ApiError `invalid_field` names the mistake, with the event type and the path in `details`.
    """
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise field_error("filters", "filters is an object: event types, or *, each with a pattern.")
    if not given:
        return ""
    try:
        text = msgspec.json.encode(given, order="sorted").decode()
    except (ValueError, RecursionError):
        raise field_error("filters", f"filters take at most {BYTES_MAX} bytes of JSON.") from None
    if len(text.encode()) > BYTES_MAX:
        raise field_error("filters", f"filters take at most {BYTES_MAX} bytes of JSON.")
    compiled(text)
    return text


def is_filters(text: Any) -> bool:
    """Whether what was read from the table can be used."""
    if text == "":
        return True
    try:
        return isinstance(text, str) and isinstance(msgspec.json.decode(text), dict) and bool(compiled(text))
    except (ApiError, msgspec.DecodeError):
        return False


def filters_json(text: str) -> Json:
    """`filters` as the API shows them."""
    return dict(msgspec.json.decode(text)) if text else {}


@lru_cache(maxsize=10_000)
def compiled(text: str) -> Filters:
    """The filters of a kept text; ApiError `invalid_field` for a mistake."""
    budget = Budget()
    patterns = filters_json(text)
    return Filters(text, {name: Compiler(name, budget).pattern(patterns[name], "", 1) for name in patterns})


def mismatches(text: str, event_type: str, event: Any) -> list[Mismatch]:
    """What keeps an event of this type from passing, in the pattern's order; of a `$or` each alternative's."""
    patterns = filters_json(text)
    found: list[Mismatch] = []
    for name in (EVERY_TYPE, event_type):
        if name in patterns:
            compiler = Compiler(name, Budget(10**9, 10**9))  # it compiles parts again and again
            found += (
                Mismatch(name, path, wanted, value is MISSING, None if value is MISSING else value)
                for path, wanted, value in failed(compiler, patterns[name], event, "")
            )
    return found
