"""Reads JSON columns that may be malformed (a damaged disk, another program): a log line, never an exception."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from webhookd import log
from webhookd.models import Json
from webhookd.store import records

T = TypeVar("T")


def column(text: str | bytes, kind: type[T], default: T, *, where: str) -> T:
    """The column as `kind`; where it can't be read, `default` and a log line that names `where`, not the content."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError:
        log.throttled("store.malformed", key=where, where=where)
        return default


def attempt(record: bytes) -> Json:
    """An attempt's record, shortened or not; one that can't be read is shown as a failure that says so."""
    found = column(records.in_full(record), dict, {}, where="an attempt's record")
    fits = found and all(isinstance(found[name], kind) for name, kind in _KINDS.items() if name in found)
    return found if fits else _UNREADABLE


# What is calculated with, sorted by or looked into; the rest is only shown.
_KINDS = {"started_at": str, "duration_ms": int | float, "request": dict, "response": dict | None}


_UNREADABLE: Json = {
    "number": 0,
    "started_at": "1970-01-01T00:00:00.000Z",
    "duration_ms": 0.0,
    "outcome": "failed",
    "reason": "local",
    "status": None,
    "detail": "the record of this attempt can't be read in the database",
    "counted": False,
    "connection_retried": False,
    "request": {"url": "", "headers": {}},
    "response": None,
}
