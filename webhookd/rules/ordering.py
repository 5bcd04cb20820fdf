"""Order by key: the value that an event has at an endpoint's path, and which lane it goes in.

A path is names with dots between them (`contact.id`).  The lane is a hash of the key, which is kept with the delivery:
events with one key share a lane, whatever number of lanes may be at work at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from webhookd.errors import field_error
from webhookd.models import STRICT, Json, Ordering
from webhookd.rules.filters import parsed

# One key that fails holds up 1/256 of the others, those of its lane: less than the hundredth that a p99 leaves out.
HASHES = 256
LANES_MIN, LANES_MAX, LANES_DEFAULT = 2, 64, 8
KEY_PATTERN = r"^[A-Za-z0-9_\-]{1,100}(\.[A-Za-z0-9_\-]{1,100}){0,9}$"
NO_KEY = 0  # the hash of events without the key: they share a lane

_Names = dict[str, msgspec.Raw]


def key_of(path: str, body: bytes) -> Any:
    """The value at `path` in an event's body; None where there is none, or null."""
    names = path.split(".")
    try:
        return _decoded(names, body)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = parsed(body)
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _decoded(names: Sequence[str], body: bytes) -> Any:
    """As `key_of`, without building what is beside the path.

    ValidationError where there is no object on the way, DecodeError for what msgspec doesn't take.
    """
    raw: bytes | msgspec.Raw = body
    for name in names:
        found = msgspec.json.decode(raw, type=_Names).get(name)
        if found is None:
            return None
        raw = found
    return msgspec.json.decode(raw)


def lane_hash(path: str, body: bytes) -> int:
    """The hash of an event's key, from 0 to `HASHES - 1`; equal values have equal ones, 1 and 1.0 too."""
    key = key_of(path, body)
    if key is None:
        return NO_KEY
    if isinstance(key, float) and key.is_integer():
        key = int(key)
    try:
        text = msgspec.json.encode(key, order="sorted")
    except RecursionError:  # about 1,000 levels
        return NO_KEY
    except ValueError:
        text = repr(key).encode(errors="replace")
    return blake2b(text, digest_size=1).digest()[0]


def check_ordering(given: Any) -> Ordering:
    """An endpoint's `ordering` as the API takes it; ApiError `invalid_field` for another one."""
    if given == "endpoint":
        return STRICT
    if not isinstance(given, dict) or not {"key"} <= given.keys() <= {"key", "lanes"}:
        raise field_error("ordering", 'ordering is "endpoint", or an object with a key and lanes.')
    key, lanes = given["key"], given.get("lanes", LANES_DEFAULT)
    if not isinstance(key, str) or not re.fullmatch(KEY_PATTERN, key):
        raise field_error(
            "ordering",
            "The key of ordering is a path in the event, as contact.id: up to 10 names with dots between them, each of "
            "up to 100 letters, digits, _ and -.",
        )
    if isinstance(lanes, bool) or not isinstance(lanes, int) or not LANES_MIN <= lanes <= LANES_MAX:
        raise field_error("ordering", f"ordering has {LANES_MIN} to {LANES_MAX} lanes.")
    return Ordering(key, lanes)


def ordering_json(ordering: Ordering) -> Json | str:
    """`ordering` as the API shows it."""
    return "endpoint" if ordering.key is None else {"key": ordering.key, "lanes": ordering.lanes}


def is_ordering(ordering: Ordering) -> bool:
    """Whether what was read from the table can be used."""
    if ordering.key is None:
        return ordering.lanes == 1
    return bool(re.fullmatch(KEY_PATTERN, ordering.key)) and LANES_MIN <= ordering.lanes <= LANES_MAX
