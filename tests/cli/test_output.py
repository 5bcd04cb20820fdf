"""How things look: harmless strings, local times, tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest

from webhookd.cli import output


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns stand below each other, wide letters and hostile ones counted right."""
    output.table(("name", "waiting"), [("注文", 5), ("\x1b[2J", 1200)], right=("waiting",))
    assert "NAME     WAITING\n注文           5\n\\x1b[2J     1200\n" == capsys.readouterr().out


def test_fields_leave_out_what_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    """Only what has a value is printed; zero is one."""
    output.fields([("id", "ep_1"), ("why", None), ("description", ""), ("waiting", 0)])
    assert "id       ep_1\nwaiting  0\n" == capsys.readouterr().out


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
