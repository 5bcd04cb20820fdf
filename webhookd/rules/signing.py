"""Signs requests, so that a receiver can verify their sender and content.

`webhook-signature`, as in Standard Webhooks 1.0.0: HMAC-SHA256 with the *decoded* key over
`{webhook-id}.{webhook-timestamp}.{body}`; during a rotation one signature for each key.  `X-Webhook-Signature`, an
older convention: over the body alone, with the *text* after `whsec_` as the key; it holds one signature, during a
rotation that of the oldest key, so that a receiver that still has it goes on working.
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
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


class Signer:
    """Signs the requests of one endpoint; built whenever its keys change.

    `key` and `previous` passed `check_key`; `previous` are those that overlap after a rotation, newest first.
    """

    __slots__ = ("_body_key", "_keys")

    def __init__(self, key: str, *previous: str) -> None:
        encoded = [each.removeprefix(_PREFIX) for each in (key, *previous)]
        # Copying a keyed HMAC costs less than half of creating one.
        self._keys = tuple(hmac.new(b64decode(each), digestmod="sha256") for each in encoded)  # the newest first
        self._body_key = hmac.new(encoded[-1].encode("ascii"), digestmod="sha256")

    def headers(self, webhook_id: str, unix_seconds: int, body: bytes) -> tuple[tuple[str, str], ...]:
        """The four headers that sign one attempt, made at `unix_seconds` since 1970."""
        signed = b"%b.%d.%b" % (webhook_id.encode(), unix_seconds, body)
        return (
            ("webhook-id", webhook_id),
            ("webhook-timestamp", str(unix_seconds)),
            ("webhook-signature", " ".join(["v1," + _signature(key, signed) for key in self._keys])),
            ("X-Webhook-Signature", _signature(self._body_key, body)),
        )


def _signature(begun: hmac.HMAC, message: bytes) -> str:
    signing = begun.copy()
    signing.update(message)
    return b2a_base64(signing.digest(), newline=False).decode("ascii")
