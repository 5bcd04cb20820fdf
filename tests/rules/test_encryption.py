"""Secrets for the database: encrypted, bound to their place, brought from key to key."""

from __future__ import annotations

import os
from base64 import b64encode, urlsafe_b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webhookd.rules.encryption import PLAIN, Cipher, key_name, parse_keys

KEYS = [bytes(range(start, start + 32)) for start in (0, 100)]
OLD, NEW = (b64encode(key).decode() for key in KEYS)


def cipher(*lines: str) -> Cipher:
    return parse_keys("\n".join(lines), os.urandom)


ONE = parse_keys(NEW, os.urandom)


@settings(max_examples=30)
@given(st.text(max_size=300))
def test_what_is_encrypted_is_read_again_at_its_place_alone(text: str) -> None:
    """Never twice the same, and nothing of the text shows."""
    kept, other = ONE.encrypt(text, "headers ep_1"), ONE.encrypt(text, "headers ep_1")
    assert (text, True) == (ONE.decrypt(kept, "headers ep_1"), kept != other)
    assert len(text) < 5 or text not in kept
    assert "" == ONE.decrypt(kept, "headers ep_2") == ONE.decrypt(kept, "signing_key ep_1")


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    """So that a key is rotated by a line above it; one that is gone leaves nothing to read."""
    kept = cipher(OLD).encrypt("secret", "here")
    both = cipher("# the present one", NEW, "", OLD)
    assert ("secret", both.name) == (both.decrypt(kept, "here"), key_name(both.encrypt("x", "here")))
    renewed = both.renew(kept, "here")
    assert ("secret", "") == (cipher(NEW).decrypt(renewed, "here"), cipher(OLD).decrypt(renewed, "here"))
    assert renewed == both.renew(renewed, "here")
    assert kept == cipher(NEW).renew(kept, "here")  # it can't be read, so it stays as it is


def test_none_makes_values_plain_again() -> None:
    """The way back: the keys that follow only decrypt."""
    back = cipher("none", NEW)
    assert ("secret", "x") == (back.renew(cipher(NEW).encrypt("secret", "here"), "here"), back.encrypt("x", "here"))
    assert "plain" == PLAIN.encrypt("plain", "here") == PLAIN.decrypt("plain", "here") == PLAIN.renew("plain", "here")


@pytest.mark.parametrize("change", [lambda kept: kept[:-4] + "AAA=", lambda kept: kept[:-1], lambda kept: kept + "?"])
def test_a_damaged_value_reads_as_nothing(change: object) -> None:
    """Never as another text, and without an exception."""
    kept = change(cipher(NEW).encrypt("a secret of some length", "here"))  # type: ignore[operator]
    assert ("", kept) == (cipher(NEW).decrypt(kept, "here"), cipher(NEW, OLD).renew(kept, "here"))


def test_a_key_may_be_urlsafe_and_lost_ones_are_named() -> None:
    """As other tools print keys; `lost` is the one that was lost."""
    made = cipher(urlsafe_b64encode(b"\xfb\xff" * 16).decode(), "lost 0a1b2c3d")
    assert ({"0a1b2c3d"}, 1) == (made.lost, len(made.names))


@pytest.mark.parametrize(
    "text",
    ["", "# nothing", "short", b64encode(bytes(31)).decode(), f"{NEW}\nnone", f"{NEW}\n{OLD}x", "é", "lost 0a1b2c3d"],
)
def test_what_is_no_key_is_refused_without_repeating_it(text: str) -> None:
    """With the line and the right form."""
    with pytest.raises(ValueError, match="openssl rand -base64 32") as refused:
        parse_keys(text, os.urandom)
    assert not text or text not in str(refused.value)
