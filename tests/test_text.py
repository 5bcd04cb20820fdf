"""Strangers' text can neither act nor hide, on one line, on many, or in JSON; and durations read as people say them."""

from __future__ import annotations

import json
import re

import pytest

from webhookd import text

HOSTILE = [
    "\x1b[2J\x1b[31mred", "\u202egnp.exe", "\u2066isolate\u2069", "\rover", "a\nb", "a\x00b", "a\x9b31mb",
    "zero\u200bwidth", "line\u2028separator", "\ud800", "tag\U000e0041", "\x7f",
]  # fmt: skip
SAFE = ["plain", "Đơn hàng", "注文", "مرحبا", "emoji 👍", "👩\u200d🔬", "a  b", ""]
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\U000e0000-\U000e007f]"
)


@pytest.mark.parametrize("value", HOSTILE)
def test_what_steers_is_written_out(value: str) -> None:
    """Controls, bidi marks and invisible characters; nothing of the text is lost."""
    shown = text.escape(value)

    assert not _UNSAFE.search(shown)
    assert "".join(c for c in value if not _UNSAFE.match(c)) == re.sub(r"\\x..|\\u....|\\U.{8}|\\[nr]", "", shown)


@pytest.mark.parametrize("value", SAFE)
def test_letters_stay(value: str) -> None:
    """Every script stays as it is."""
    assert [value] * 2 == [text.escape(value), text.escape_lines(value)]


def test_many_lines_stay_lines() -> None:
    """Newlines and tabs stay; a caller may choose how the rest is written."""
    assert "a\n\tb\\x1b" == text.escape_lines("a\r\n\tb\x1b")
    assert "a<1b>" == text.escape_lines("a\x1b", lambda character: f"<{ord(character):x}>")


@pytest.mark.parametrize("value", HOSTILE + SAFE)
def test_escaped_json_reads_the_same(value: str) -> None:
    """It parses to what was stored, and still can't steer a terminal."""
    shown = text.escape_json(json.dumps({"x": value}, ensure_ascii=False, indent=1))

    assert {"x": value} == json.loads(shown)
    assert not _UNSAFE.search(shown.replace("\n", ""))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\tb\r\n c", "a b c"), ("\x1b[31mred", "\\x1b[31mred"), ("\u202eabc", "\\u202eabc"), ("\ud800", "\\ud800"),
        (None, ""), (404, "404"), ("x" * 500, "x" * 400 + "…"),
    ],
)  # fmt: skip
def test_one_line(value: object, expected: str) -> None:
    """White space runs are one space, and what is too long is cut."""
    assert expected == text.one_line(value, 400)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0s"), (59.4, "59s"), (60, "1m"), (200, "3m 20s"), (3600, "1h"), (18720, "5h 12m"), (273600, "3d 4h")],
)
def test_measured_durations(seconds: float, expected: str) -> None:
    """In their two largest units."""
    assert expected == text.duration(seconds)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (1800, "30 minutes"), (3600, "1 hour"), (90, "90 seconds"), (1.5, "1.5 seconds"), (1, "1 second"),
        (86_400, "24 hours"),
    ],
)  # fmt: skip
def test_configured_durations(seconds: float, expected: str) -> None:
    """Whole hours and minutes as such."""
    assert expected == text.duration_words(seconds)
