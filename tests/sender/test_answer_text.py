"""What the log shows of an answer's body."""

from __future__ import annotations

import gzip
import time
import zlib

import pytest

from webhookd.sender.answer_text import TEXT_LIMIT_BYTES, answer_text

TEXT = "Größe: 5 €"
UTF_8 = TEXT.encode()
BARE = zlib.compressobj(wbits=-15)
DEFLATED = BARE.compress(UTF_8) + BARE.flush()


def packed(body: bytes) -> bytes:
    """Packed by gzip, without the time: xdist's workers have to agree on the names of the tests."""
    return gzip.compress(body, mtime=0)


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({}, UTF_8, TEXT),
        ({"Content-Encoding": "gzip"}, packed(UTF_8), TEXT),
        ({"content-encoding": "X-GZIP"}, packed(UTF_8), TEXT),
        ({"Content-Encoding": "deflate"}, zlib.compress(UTF_8), TEXT),
        ({"Content-Encoding": "deflate"}, DEFLATED, TEXT),
        ({"Content-Encoding": "gzip, gzip"}, packed(packed(UTF_8)), TEXT),
        ({"Content-Encoding": "identity"}, UTF_8, TEXT),
        ({"Content-Encoding": "gzip"}, b"not packed", "not packed"),
        ({"Content-Encoding": "br"}, b"\x0b\x01", "\x0b\x01"),
        ({"Content-Encoding": "gzip"}, packed(b"abc" * 50)[:25], "abc"),
        ({"Content-Encoding": "gzip", "Content-Type": "text/plain; charset=latin-1"}, packed(b"\xe9"), "é"),
        ({"Content-Type": "text/html; charset=ISO-8859-1"}, b"caf\xe9 \x80", "café €"),
        ({"Content-Type": 'text/html; Charset="windows-1251"'}, "да".encode("cp1251"), "да"),
        ({"Content-Type": "text/plain; charset=Shift_JIS"}, "はい".encode("shift_jis"), "はい"),
        ({"Content-Type": "text/plain"}, b"caf\xe9", "café"),
        ({"Content-Type": "application/json"}, b"caf\xe9", "caf\ufffd"),
        ({"Content-Type": "text/plain; charset=utf-8"}, b"caf\xe9", "caf\ufffd"),
        ({"Content-Type": "text/plain; charset=punycode"}, b"abc-", "abc-"),
        ({"Content-Type": "text/plain; charset=hex"}, b"abc", "abc"),
        ({"Content-Type": "text/plain; charset=no-such"}, b"abc", "abc"),
    ],
)
def test_a_body_is_shown_as_its_headers_say(headers: dict[str, str], body: bytes, expected: str) -> None:
    """Unpacked and decoded; what can't be is shown as it came."""
    text, truncated = answer_text(headers.items(), body, truncated=False)
    assert (True, False) == (text.startswith(expected), truncated)


def test_a_cut_within_a_character_doesnt_make_it_latin_1() -> None:
    """What was truncated may be UTF-8 all the same."""
    assert ("Größe\ufffd", True) == answer_text(
        [("Content-Type", "text/plain")], "Größe€".encode()[:-1], truncated=True
    )


@pytest.mark.parametrize("codings", [1, 2, 3])
def test_a_bomb_stays_shut(codings: int) -> None:
    """20 MB in few bytes: 16 KiB at most come out, in no time."""
    bomb = b"\0" * 20_000_000
    for _ in range(codings):
        bomb = gzip.compress(bomb, 1)
    started = time.thread_time()
    headers = [("Content-Encoding", ", ".join(["gzip"] * codings))]
    text, cut = answer_text(headers, bomb[:16384], truncated=False)
    assert len(text) <= TEXT_LIMIT_BYTES
    assert codings == 3 or cut
    assert time.thread_time() - started < 0.05
