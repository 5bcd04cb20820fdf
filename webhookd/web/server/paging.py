"""The parameters of lists, and the types that msgspec doesn't know: times and cursors."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from webhookd.clock import parse_rfc3339
from webhookd.errors import ApiError

_MAX_SEQ = 2**63 - 1  # SQLite's largest rowid; a larger number must not reach a query


class Moment(int):
    """A time in a query or a body, RFC 3339 on the wire: milliseconds since 1970."""


class Cursor(str):
    """Where the next page of a list begins: opaque on the wire, here the text that `list_response` got."""

    __slots__ = ()

    @property
    def seq(self) -> int:
        """The cursor of a list ordered by a table's numbers; ApiError `invalid_request` if it is none."""
        if not re.fullmatch(r"[0-9]{1,19}", self) or int(self) > _MAX_SEQ:
            raise _bad_cursor()
        return int(self)


PageSize = Annotated[int, Meta(ge=1, le=500, description="How many at most, from 1 to 500")]


class Paging(Struct, frozen=True, kw_only=True):
    """The parameters of every list."""

    limit: PageSize = 50
    cursor: Cursor | None = None

    @property
    def seq(self) -> int | None:
        """The number after which the page begins, in a list ordered by a table's numbers; None for the first page."""
        return None if self.cursor is None else self.cursor.seq


def decode_own(wanted: type, value: Any) -> Any:
    """msgspec's hook for the types that it doesn't know."""
    if not isinstance(value, str):
        raise ValueError("expected a string")
    return _OWN_TYPES[wanted](value)


def _decode_moment(text: str) -> Moment:
    try:
        return Moment(parse_rfc3339(text))
    except (ValueError, OverflowError):
        raise ValueError("expected a time as RFC 3339 has it: 2026-01-31T12:00:00Z") from None


def _decode_cursor(cursor: str) -> Cursor:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise _bad_cursor() from None
    if not text or len(text) > 200:
        raise _bad_cursor()
    return Cursor(text)


_OWN_TYPES: Mapping[type, Callable[[str], Any]] = {Cursor: _decode_cursor, Moment: _decode_moment}


def _bad_cursor() -> ApiError:
    return ApiError("invalid_request", "The cursor is none of this list's: take `next` of the page before, as it is.")
