"""Encrypts secrets for the database: AES-256-GCM, each value bound to its place, by the first of several keys.

An encrypted value is `aes:<key's name>:<base64 of nonce and ciphertext>`; a key's name is the start of its SHA-256.  A
value without that prefix is plain, so a database may hold both while the keys change.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_FORM = "base64 of 32 random bytes (openssl rand -base64 32)"
_KEY_BYTES, _NONCE_BYTES, _NAME_CHARACTERS = 32, 12, 8
_PREFIX = "aes:"
_LOST = re.compile(r"lost +([0-9a-f]{8})")
_NONE = "none"


class Cipher:
    """Encrypts by the first of `keys`, decrypts by any of them; without keys values stay plain.

    `random_bytes` makes nonces.  Values of keys that are `lost` read as "", which is malformed everywhere.
    """

    def __init__(
        self,
        keys: dict[str, bytes],
        *,
        encrypts: bool,
        lost: frozenset[str] = frozenset(),
        random_bytes: Callable[[int], bytes] = bytes,
    ) -> None:
        self.names = frozenset(keys)
        self.lost = lost
        self.name = next(iter(keys)) if encrypts else ""
        self._keys = keys
        self._random_bytes = random_bytes

    @cached_property
    def _ciphers(self) -> dict[str, AESGCM]:
        # Imported here: without keys a start doesn't take the time.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return {name: AESGCM(key) for name, key in self._keys.items()}

    def encrypt(self, text: str, place: str) -> str:
        """`text` as the database keeps it at `place`; elsewhere it can't be decrypted."""
        if not self.name:
            return text
        nonce = self._random_bytes(_NONCE_BYTES)
        sealed = self._ciphers[self.name].encrypt(nonce, text.encode("utf-8", "surrogatepass"), place.encode())
        return f"{_PREFIX}{self.name}:{b64encode(nonce + sealed).decode()}"

    def decrypt(self, kept: str, place: str) -> str:
        """The text of what `encrypt` made, or of a plain value; "" where it can't be decrypted."""
        name = key_name(kept)
        return kept if not name else self._decrypted(name, kept, place) or ""

    def renew(self, kept: str, place: str) -> str:
        """`kept` encrypted by the first key, or plain without one; as it was where it can't be decrypted."""
        name = key_name(kept)
        if name == self.name:
            return kept
        text = self._decrypted(name, kept, place) if name else kept
        return kept if text is None else self.encrypt(text, place)

    def _decrypted(self, name: str, kept: str, place: str) -> str | None:
        from cryptography.exceptions import InvalidTag

        if name not in self._keys:
            return None
        try:
            raw = b64decode(kept[len(_PREFIX) + len(name) + 1 :], validate=True)
            return (
                self._ciphers[name]
                .decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], place.encode())
                .decode("utf-8", "surrogatepass")
            )
        except (ValueError, InvalidTag):
            return None


PLAIN = Cipher({}, encrypts=False)
"""Leaves every value as it is."""


def key_name(kept: str) -> str:
    """The name of the key that a value is encrypted by, "" for a plain one."""
    return kept[len(_PREFIX) :].partition(":")[0] if kept.startswith(_PREFIX) else ""


def parse_keys(text: str, random_bytes: Callable[[int], bytes]) -> Cipher:
    """The cipher of a file of keys, one a line; ValueError, which doesn't repeat a key, where a line is none.

    The first encrypts.  `none` in its place: values become plain.  `lost <name>`: a key that is gone for good.  Blank
    lines and those that begin with "#" are skipped.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    keys: dict[str, bytes] = {}
    lost = set()
    for at, (number, line) in enumerate(lines):
        if found := _LOST.fullmatch(line):
            lost.add(found[1])
        elif line != _NONE or at:
            key = _key(line)
            if key is None:
                raise ValueError(f"line {number} is no key, expected {KEY_FORM}")
            keys[hashlib.sha256(key).hexdigest()[:_NAME_CHARACTERS]] = key
    encrypts = bool(lines) and lines[0][1] != _NONE
    if not lines or (encrypts and not keys):
        raise ValueError(f"there is no key in it, expected {KEY_FORM}")
    return Cipher(keys, encrypts=encrypts, lost=frozenset(lost), random_bytes=random_bytes)


def _key(line: str) -> bytes | None:
    try:
        key = b64decode(line.translate(str.maketrans("-_", "+/")), validate=True)
    except ValueError:
        return None
    return key if len(key) == _KEY_BYTES else None
