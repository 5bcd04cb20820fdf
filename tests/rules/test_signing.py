"""Signing keys and the headers that sign a request."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from webhookd.errors import ApiError
from webhookd.rules.signing import KEY_BYTES, Signer, check_body_key, check_key, new_key

VECTOR_KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_KEY = new_key(bytes(range(32)))
NEW_KEY = new_key(bytes(range(100, 132)))
BODY = '{"event_type":"message.received","text":"Đơn hàng 📦"}'.encode()


def test_the_vector_of_standard_webhooks() -> None:
    """The manual's test vector, header by header."""
    headers = Signer(VECTOR_KEY).headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert (
        ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        ("X-Webhook-Signature", _over_the_body(VECTOR_KEY, b'{"test": 2432232314}')),
    ) == headers


def test_one_key_makes_one_signature() -> None:
    """Without a rotation there is nothing to choose between."""
    headers = dict(Signer(NEW_KEY).headers("evt-1", 1_700_000_000, BODY))
    assert 1 == len(headers["webhook-signature"].split(" "))
    assert _over_the_body(NEW_KEY, BODY) == headers["X-Webhook-Signature"]


def test_while_a_key_rotates_both_sign_and_the_older_header_keeps_the_previous() -> None:
    """Newest first in `webhook-signature`; a receiver of `X-Webhook-Signature` notices nothing yet."""
    new = dict(Signer(NEW_KEY).headers("evt-1", 1_700_000_000, BODY))
    old = dict(Signer(OLD_KEY).headers("evt-1", 1_700_000_000, BODY))
    both = dict(Signer(NEW_KEY, OLD_KEY).headers("evt-1", 1_700_000_000, BODY))
    assert f"{new['webhook-signature']} {old['webhook-signature']}" == both["webhook-signature"]
    assert old["X-Webhook-Signature"] == both["X-Webhook-Signature"]


@pytest.mark.parametrize("key", [OLD_KEY, NEW_KEY])
def test_the_library_of_standard_webhooks_verifies_it(key: str) -> None:
    """Receivers with either key accept it while the key rotates."""
    now = int(datetime.now(UTC).timestamp())
    headers = dict(Signer(NEW_KEY, OLD_KEY).headers("evt-1", now, BODY))
    assert {"event_type": "message.received", "text": "Đơn hàng 📦"} == Webhook(key).verify(BODY, headers)


def test_the_older_header_takes_the_receivers_own_key_as_it_is_or_is_left_out() -> None:
    """Beside the standard's own, which stays the same."""
    plain = Signer(NEW_KEY, OLD_KEY).headers("evt-1", 1_700_000_000, BODY)
    own = Signer(NEW_KEY, OLD_KEY, body_text=" khóa của ai ").headers("evt-1", 1_700_000_000, BODY)
    signature = hmac.digest(" khóa của ai ".encode(), BODY, "sha256")
    assert (*plain[:3], ("X-Webhook-Signature", base64.b64encode(signature).decode())) == own
    assert plain[:3] == Signer(NEW_KEY, OLD_KEY, body_text=None).headers("evt-1", 1_700_000_000, BODY)


@pytest.mark.parametrize("text", ["12345678", "x" * 256, " spaces too ", "whsec_anything", "phím 📦 của tôi", None])
def test_a_receivers_own_key_is_any_printable_text(text: str | None) -> None:
    """8 to 256 characters; None gives it up."""
    assert text == check_body_key(text)


@pytest.mark.parametrize("text", ["", "seven77", "x" * 257, "two\nlines", "a tab\tinside", "\x00" * 8, "***"])
def test_what_is_no_receivers_key_is_refused_without_repeating_it(text: str) -> None:
    """Too short, too long, or not printable."""
    with pytest.raises(ApiError, match="8 to 256 printable characters") as refused:
        check_body_key(text)
    assert not text or text not in refused.value.message


def test_the_library_refuses_another_body() -> None:
    """What was signed is this body and no other."""
    now = int(datetime.now(UTC).timestamp())
    headers = dict(Signer(NEW_KEY).headers("evt-1", now, BODY))
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW_KEY).verify(BODY + b" ", headers)


@given(st.binary(min_size=24, max_size=64), st.binary(max_size=300), st.integers(0, 2**40))
def test_any_key_and_any_body_sign_as_written_down(secret: bytes, body: bytes, unix_seconds: int) -> None:
    """Against the definition, spelled out."""
    key = check_key("whsec_" + base64.b64encode(secret).decode())
    signed = b"id-1." + str(unix_seconds).encode() + b"." + body
    signature = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    headers = dict(Signer(key).headers("id-1", unix_seconds, body))
    assert f"v1,{signature}" == headers["webhook-signature"]
    assert _over_the_body(key, body) == headers["X-Webhook-Signature"]


def test_a_new_key_is_32_bytes_and_passes_its_own_check() -> None:
    """`whsec_` and base64 of 32 random bytes."""
    key = new_key(bytes(range(KEY_BYTES)))
    assert "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=" == key == check_key(key)


def test_a_new_key_of_too_few_bytes_is_a_mistake() -> None:
    """A key is never weaker than it looks."""
    with pytest.raises(ValueError, match="32 random bytes"):
        new_key(bytes(31))


@pytest.mark.parametrize("length", [24, 25, 26, 32, 63, 64])
def test_a_key_of_24_to_64_bytes_is_taken(length: int) -> None:
    """Both ends of the range, and every form of padding."""
    key = "whsec_" + base64.b64encode(b"\xff" * length).decode()
    assert key == check_key(key)


@pytest.mark.parametrize(
    "text",
    [
        "", "whsec_", VECTOR_KEY.removeprefix("whsec_"), VECTOR_KEY.upper(), "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", f" {VECTOR_KEY}", f"{VECTOR_KEY}\n",
        "whsec_" + base64.b64encode(bytes(23)).decode(), "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_" + base64.b64encode(bytes(32)).decode().rstrip("="),
        "whsec_" + base64.b64encode(bytes(32)).decode() + "=",
        "whsec_" + base64.urlsafe_b64encode(b"\xfb\xff" * 16).decode(), "whsec_" + "A" * 42 + "B=",
        "whsec_" + "é" * 43 + "=", "whsec_" + "\x00" * 44,
    ],
)  # fmt: skip
def test_what_is_no_key_is_refused_without_repeating_it(text: str) -> None:
    """Wrong prefix, length, alphabet, padding, or bits beyond the last byte."""
    with pytest.raises(ApiError) as caught:
        check_key(text)
    assert ("invalid_field", {"field": "signing_key"}) == (caught.value.code, caught.value.details)
    assert len(text) < 8 or text not in caught.value.message


def _over_the_body(key: str, body: bytes) -> str:
    return base64.b64encode(hmac.new(key[6:].encode("ascii"), body, hashlib.sha256).digest()).decode()


def test_the_place_in_the_order_is_signed_in_a_header_of_its_own() -> None:
    """With each live key; over id, time, number and the id before it, or nothing for the first of a lane."""
    key, older = new_key(bytes(range(32))), new_key(bytes(32))
    signer = Signer(key, older)
    first = signer.order_headers("m-1", 1_700_000_000, 1, None)
    later = signer.order_headers("m-2", 1_700_000_000, 2, "m-1")
    assert ["webhook-sequence", "webhook-sequence-signature"] == [name for name, _ in first]
    assert [("webhook-sequence", "2"), ("webhook-lane-previous", "m-1")] == list(later[:2])
    for headers, signed in ((first, b"m-1.1700000000.1."), (later, b"m-2.1700000000.2.m-1")):
        expected = [
            base64.b64encode(hmac.digest(base64.b64decode(each.removeprefix("whsec_")), signed, "sha256")).decode()
            for each in (key, older)
        ]
        assert f"v1,{expected[0]} v1,{expected[1]}" == headers[-1][1]
