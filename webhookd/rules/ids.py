"""The ids that webhookd makes; all of them sort by time or order of creation.

Events: a UUIDv7 (RFC 9562, section 5.7).  Endpoints and tokens: the same 128 bits in Crockford's base32, after a
prefix.  Deliveries: their number in the table, written so that the text sorts as the number does.
"""

from __future__ import annotations

import re
from functools import lru_cache

RANDOM_BYTES = 10
"""The random bytes that an id takes; 74 of their 80 bits are used."""

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
_DELIVERY_PREFIX = "dlv_"
_DELIVERY_DIGITS = 13
_MAX_SEQ = 2**63 - 1  # SQLite's largest rowid; a larger number must not reach a query


def uuid7(unix_ms: int, random_bytes: bytes) -> str:
    """A UUIDv7 as text, from milliseconds since 1970 and at least `RANDOM_BYTES` random bytes."""
    text = f"{_uuid7(unix_ms, random_bytes):032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def sortable_id(prefix: str, unix_ms: int, random_bytes: bytes) -> str:
    """`prefix`, `_` and a UUIDv7 as 26 digits of lower-case Crockford base32: `ep_01j8…`."""
    return f"{prefix}_{_base32(_uuid7(unix_ms, random_bytes), 26)}"


def delivery_id(seq: int) -> str:
    """The public id of the delivery with this number in the table: `dlv_` and 13 digits of Crockford base32."""
    return _delivery_head(seq >> 5) + _DIGITS[seq & 31]


def delivery_seq(id: str) -> int | None:  # noqa: A002 - the word of the API
    """The number in the table of the delivery with this id; None if no delivery can have such an id."""
    digits = id.removeprefix(_DELIVERY_PREFIX)
    if len(id) != len(_DELIVERY_PREFIX) + _DELIVERY_DIGITS or len(digits) != _DELIVERY_DIGITS:
        return None
    seq = 0
    for digit in digits:
        value = _VALUES.get(digit)
        if value is None:
            return None
        seq = seq << 5 | value
    return seq if seq <= _MAX_SEQ else None


def _uuid7(unix_ms: int, random_bytes: bytes) -> int:
    """48 bits of time, the version, 12 random bits, the variant, 62 random bits (RFC 9562, section 5.7)."""
    if len(random_bytes) < RANDOM_BYTES:
        raise ValueError(f"an id needs {RANDOM_BYTES} random bytes, got {len(random_bytes)}")
    chance = int.from_bytes(random_bytes[:RANDOM_BYTES], "big")
    high, low = chance >> 68, chance & (1 << 62) - 1
    return (unix_ms & (1 << 48) - 1) << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low


@lru_cache(256)  # neighbours have all digits but the last in common
def _delivery_head(number: int) -> str:
    return _DELIVERY_PREFIX + _base32(number, _DELIVERY_DIGITS - 1)


def _base32(number: int, digits: int) -> str:
    return "".join(_DIGITS[number >> shift & 31] for shift in range(5 * (digits - 1), -1, -5))


TOKEN_CHARACTERS_MIN = 16
_TOKEN = re.compile(rf"[!-~]{{{TOKEN_CHARACTERS_MIN},500}}")


def is_token(secret: str) -> bool:
    """Whether a secret can be an API token."""
    return _TOKEN.fullmatch(secret) is not None
