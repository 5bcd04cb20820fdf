"""How things look: harmless strings, local times, tables."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest

from webhookd.cli import output

HOSTILE = [
    "\x1b[2J\x1b[31mred",
    "\u202egnp.exe",
    "\u2066a\u2069",
    "a\rb",
    "a\nb",
    "a\x00b",
    "a\x9b31mb",
    "zero\u200bwidth",
    "line\u2028separator",
    "\ud800",
    "tag\U000e0041",
    "\x7f",
]
SAFE = ["plain", "Đơn hàng", "注文", "مرحبا", "emoji 👍", "a  b", ""]
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\U000e0000-\U000e007f]")


@pytest.mark.parametrize("text", HOSTILE)
def test_plain_writes_out_what_steers(text: str) -> None:
    """Controls, bidi marks and invisible characters are written out; nothing of the text is lost."""
    shown = output.plain(text)

    assert not _UNSAFE.search(shown)
    assert "".join(c for c in text if not _UNSAFE.match(c)) == re.sub(r"\\x..|\\u....|\\U.{8}", "", shown)


@pytest.mark.parametrize("text", SAFE)
def test_plain_leaves_letters(text: str) -> None:
    """Every script stays as it is."""
    assert text == output.plain(text)
    assert text == output.plain_text(text)


def test_plain_text_keeps_lines() -> None:
    """A text of several lines keeps them, and its tabs."""
    assert "a\n\tb\\x1b" == output.plain_text("a\r\n\tb\x1b")


@pytest.mark.parametrize("text", HOSTILE + SAFE)
def test_json_reads_the_same(text: str) -> None:
    """JSON for scripts says exactly what was stored, and still can't steer a terminal."""
    shown = output.json_text({"x": text})

    assert {"x": text} == json.loads(shown)
    assert not _UNSAFE.search(shown.replace("\n", ""))


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns stand below each other, wide letters and hostile ones counted right."""
    output.table(("name", "waiting"), [("注文", 5), ("\x1b[2J", 1200)], right=("waiting",))

    assert "NAME     WAITING\n注文           5\n\\x1b[2J     1200\n" == capsys.readouterr().out


def test_fields_leave_out_what_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    """Only what has a value is printed; zero is one."""
    output.fields([("id", "ep_1"), ("why", None), ("description", ""), ("waiting", 0)])

    assert "id       ep_1\nwaiting  0\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0s"), (59.4, "59s"), (60, "1m"), (200, "3m 20s"), (3600, "1h"), (18720, "5h 12m"), (273600, "3d 4h")],
)
def test_duration(seconds: float, expected: str) -> None:
    """Durations as people say them."""
    assert expected == output.duration(seconds)


@pytest.mark.parametrize(
    ("byte_count", "expected"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (5 << 30, "5.0 GiB")],
)
def test_size(byte_count: int, expected: str) -> None:
    """Sizes as people say them."""
    assert expected == output.size(byte_count)


@pytest.mark.parametrize(
    ("part", "expected"), [(0, "░" * 10), (1, "░" * 10), (15, "█████░░░░░"), (29, "█████████░"), (31, "█" * 10)]
)
def test_bar(part: int, expected: str) -> None:
    """A bar is full only when the whole is reached."""
    assert expected == output.bar(part, 30, columns=10)


def convert(value: str) -> datetime:
    option = click.Option(["--since"])
    found = output.moment(click.Context(click.Command("log")), option, value)
    assert found is not None
    return datetime.fromisoformat(found)


@pytest.mark.parametrize(
    ("value", "back"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        ("1d12h", timedelta(hours=36)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_moments_ago(value: str, back: timedelta) -> None:
    """`2h` is two hours ago."""
    before = datetime.now(UTC) - back - timedelta(milliseconds=1)

    assert before <= convert(value) <= datetime.now(UTC) - back


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00.123+07:00", datetime(2026, 1, 31, 5, 0, 0, 123000, tzinfo=UTC)),
        ("2026-01-31 12:00", datetime(2026, 1, 31, 12).astimezone()),
        ("2026-01-31", datetime(2026, 1, 31).astimezone()),
    ],
)
def test_moments(value: str, expected: datetime) -> None:
    """RFC 3339, and the local time that tables show."""
    assert expected == convert(value)


@pytest.mark.parametrize("value", ["yesterday", "2h ago", "h", "-2h", "2026-13-01", "9" * 30 + "d", "12345", ""])
def test_no_moments(value: str) -> None:
    """Anything else is a usage error that shows the right forms."""
    with pytest.raises(click.BadParameter, match="write it as 2h, 30m or 3d"):
        convert(value)


def test_local_time() -> None:
    """A stamp is shown in the reader's time; what isn't one is shown as it is, harmless."""
    stamp: Any = "2026-01-31T12:00:00.123Z"
    local = datetime(2026, 1, 31, 12, tzinfo=UTC).astimezone()

    assert f"{local:%Y-%m-%d %H:%M:%S}" == output.local_time(stamp)
    assert f"{local:%Y-%m-%d %H:%M:%S}.123" == output.local_time(stamp, millis=True)
    assert ("", "\\x1b") == (output.local_time(None), output.local_time("\x1b"))
