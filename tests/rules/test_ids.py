"""The ids that webhookd makes."""

from __future__ import annotations

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.rules.ids import RANDOM_BYTES, delivery_id, delivery_seq, sortable_id, uuid7

MILLISECONDS = st.integers(0, 2**48 - 1)
CHANCE = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)
SEQS = st.integers(0, 2**63 - 1)


def test_uuid7_is_the_example_of_the_rfc() -> None:
    """RFC 9562, appendix A.6, with its 74 random bits laid into 80."""
    chance = 0xCC3 << 68 | 0x18C4DC0C0C07398F
    assert "017f22e2-79b0-7cc3-98c4-dc0c0c07398f" == uuid7(0x017F22E279B0, chance.to_bytes(10, "big"))


@given(MILLISECONDS, CHANCE)
def test_uuid7_is_a_uuid_of_version_7(unix_ms: int, chance: bytes) -> None:
    """Other programs read it as a UUID of the right version and variant, with its time in front."""
    text = uuid7(unix_ms, chance)
    parsed = uuid.UUID(text)
    assert (text, 7, uuid.RFC_4122) == (str(parsed), parsed.version, parsed.variant)
    assert unix_ms == parsed.int >> 80


@given(MILLISECONDS, CHANCE, CHANCE)
def test_every_random_bit_that_is_used_makes_another_uuid(unix_ms: int, one: bytes, other: bytes) -> None:
    """Two ids of one millisecond are equal only if their 74 random bits are."""

    def used(chance: bytes) -> tuple[int, int]:
        number = int.from_bytes(chance, "big")
        return number >> 68, number & (1 << 62) - 1

    assert (used(one) == used(other)) == (uuid7(unix_ms, one) == uuid7(unix_ms, other))


def test_too_little_chance_is_a_mistake() -> None:
    """An id is never made of fewer random bits than it claims to hold."""
    with pytest.raises(ValueError, match="10 random bytes"):
        uuid7(0, bytes(9))


@given(MILLISECONDS, CHANCE)
def test_a_sortable_id_is_a_prefix_and_26_digits_of_the_same_uuid(unix_ms: int, chance: bytes) -> None:
    """Its digits, read as base32, are the UUIDv7."""
    prefix, digits = sortable_id("ep", unix_ms, chance).split("_")
    assert "ep" == prefix
    assert re.fullmatch("[0-7][0-9a-hjkmnp-tv-z]{25}", digits)
    number = 0
    for digit in digits:
        number = number * 32 + "0123456789abcdefghjkmnpqrstvwxyz".index(digit)
    assert uuid.UUID(uuid7(unix_ms, chance)).int == number


@given(MILLISECONDS, MILLISECONDS, CHANCE, CHANCE)
def test_ids_sort_by_their_time(one_ms: int, other_ms: int, one: bytes, other: bytes) -> None:
    """Text order is time order, for both forms."""
    if one_ms != other_ms:
        assert (one_ms < other_ms) == (uuid7(one_ms, one) < uuid7(other_ms, other))
        assert (one_ms < other_ms) == (sortable_id("ep", one_ms, one) < sortable_id("ep", other_ms, other))


@given(SEQS, SEQS)
def test_delivery_ids_are_numbers_that_sort_as_text(one: int, other: int) -> None:
    """There and back, and in the order of the numbers."""
    assert one == delivery_seq(delivery_id(one))
    assert (one < other) == (delivery_id(one) < delivery_id(other))
    assert re.fullmatch("dlv_[0-9a-hjkmnp-tv-z]{13}", delivery_id(one))


@pytest.mark.parametrize(
    "text",
    [
        "", "dlv_", "dlv_000000000000", "dlv_00000000000000", "0000000000001", "00000000000000001",
        "evt_0000000000001", "dlv_000000000000U", "dlv_000000000000u", "dlv_000000000000A", "dlv_000000000000-",
        "dlv_000000000000١", "dlv_8000000000000", "dlv_zzzzzzzzzzzzz",
    ],
)  # fmt: skip
def test_what_is_no_delivery_id_has_no_number(text: str) -> None:
    """Other lengths, prefixes and letters, and numbers that SQLite couldn't hold."""
    assert delivery_seq(text) is None
