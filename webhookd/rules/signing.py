"""Signs requests, so that a receiver can verify their sender and content.

`webhook-signature`, as in Standard Webhooks 1.0.0: HMAC-SHA256 with the *decoded* key over
`{webhook-id}.{webhook-timestamp}.{body}`; during a rotation one signature for each key.  `X-Webhook-Signature`, an
older convention: over the body alone, with the *text* after `whsec_` as the key, or with the text of a key that the
receiver had already; it holds one signature.  `webhook-sequence-signature`: what says a delivery's place in the order,
signed as `webhook-signature` is, in a header of its own, so that no library has to know of it.
https://www.standardwebhooks.com
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from binascii import b2a_base64

from webhookd.errors import field_error

KEY_BYTES = 32
"""The random bytes of a key made by webhookd."""

_PREFIX = "whsec_"
_MIN_BYTES, _MAX_BYTES = 24, 64  # what Standard Webhooks allows
BODY_KEY_CHARACTERS_MIN, BODY_KEY_CHARACTERS_MAX = 8, 256


def new_key(random_bytes: bytes) -> str:
    """A signing key of exactly `KEY_BYTES` random bytes."""
    if len(random_bytes) != KEY_BYTES:
        raise ValueError(f"a signing key needs {KEY_BYTES} random bytes, got {len(random_bytes)}")
    return _PREFIX + b64encode(random_bytes).decode()


def check_key(text: str) -> str:
    """`text` if it can be a signing key; else ApiError `invalid_field`, which doesn't repeat the secret.

    Only the canonical base64 of the bytes is accepted, because `X-Webhook-Signature` signs with the text.
    """
    if not is_key(text):
        raise field_error(
            "signing_key",
            f'signing_key must be "{_PREFIX}" followed by standard base64, with its padding, of {_MIN_BYTES} to '
            f"{_MAX_BYTES} bytes; leave it out and webhookd makes one.",
        )
    return text


def is_key(text: str) -> bool:
    """Whether `text` passes `check_key`."""
    encoded = text.removeprefix(_PREFIX)
    try:
        key = b64decode(encoded, validate=True)
    except ValueError:  # binascii.Error, or characters beyond ASCII
        return False
    return text.startswith(_PREFIX) and b64encode(key).decode() == encoded and _MIN_BYTES <= len(key) <= _MAX_BYTES


def check_body_key(text: str | None) -> str | None:
    """`text` if it can be the key of `X-Webhook-Signature` (None: a signing key is); else ApiError `invalid_field`."""
    if text is not None and not is_body_key(text):
        raise field_error(
            "x_webhook_signature_key",
            f"x_webhook_signature_key is the key that the receiver has: {BODY_KEY_CHARACTERS_MIN} to "
            f"{BODY_KEY_CHARACTERS_MAX} printable characters; null: X-Webhook-Signature uses the signing key.",
        )
    return text


def is_body_key(text: str) -> bool:
    """Whether `text` passes `check_body_key`."""
    return BODY_KEY_CHARACTERS_MIN <= len(text) <= BODY_KEY_CHARACTERS_MAX and text.isprintable()


def body_key(signing_key: str) -> str:
    """What `X-Webhook-Signature` takes of a signing key: its text."""
    return signing_key.removeprefix(_PREFIX)


class Signer:
    """Signs the requests of one endpoint; built whenever its keys change.

    `key` and `previous` passed `check_key`; `previous` are those that overlap after a rotation, newest first.
    `body_text` is the key of `X-Webhook-Signature`, by default the text of the oldest; None leaves that header out.
    """

    __slots__ = ("_body_key", "_keys")

    def __init__(self, key: str, *previous: str, body_text: str | None = "") -> None:
        # Copying a keyed HMAC costs less than half of creating one.
        self._keys = tuple(  # the newest first
            hmac.new(b64decode(each.removeprefix(_PREFIX)), digestmod="sha256") for each in (key, *previous)
        )
        oldest = body_key((key, *previous)[-1])
        self._body_key = None if body_text is None else hmac.new((body_text or oldest).encode(), digestmod="sha256")

    def headers(self, webhook_id: str, unix_seconds: int, body: bytes) -> tuple[tuple[str, str], ...]:
        """The headers that sign one attempt, made at `unix_seconds` since 1970."""
        signed = b"%b.%d.%b" % (webhook_id.encode(), unix_seconds, body)
        standard = (
            ("webhook-id", webhook_id),
            ("webhook-timestamp", str(unix_seconds)),
            ("webhook-signature", " ".join(["v1," + _signature(key, signed) for key in self._keys])),
        )
        if self._body_key is None:
            return standard
        return (*standard, ("X-Webhook-Signature", _signature(self._body_key, body)))

    def order_headers(
        self, webhook_id: str, unix_seconds: int, sequence: int, lane_previous: str | None
    ) -> tuple[tuple[str, str], ...]:
        """The headers that say, and sign, a delivery's number and the id of the event before it in its lane."""
        signed = f"{webhook_id}.{unix_seconds}.{sequence}.{lane_previous or ''}".encode()
        number = ("webhook-sequence", str(sequence))
        signature = ("webhook-sequence-signature", " ".join(["v1," + _signature(key, signed) for key in self._keys]))
        if lane_previous is None:
            return (number, signature)
        return (number, ("webhook-lane-previous", lane_previous), signature)


def _signature(begun: hmac.HMAC, message: bytes) -> str:
    signing = begun.copy()
    signing.update(message)
    return b2a_base64(signing.digest(), newline=False).decode("ascii")
