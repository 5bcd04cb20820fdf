"""What a line looks like, as JSON and on a terminal, whatever strangers put into its values."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.log_lines import Lines
from webhookd import log
from webhookd.log import loggable_url
from webhookd.log.format import LEADING, LINE_BYTES


def test_the_fields_come_in_the_order_of_the_contract() -> None:
    """timestamp, level, event, then the leading fields whatever the order of the call, then the rest."""
    lines = Lines()
    rest = {"detail": "d", "outcome": "failed"}
    log.emit("delivery.attempted", **rest, **dict.fromkeys(reversed(LEADING)))
    record = lines.records()[0]
    assert ["timestamp", "level", "event", *LEADING, *rest] == list(record)
    assert ("info", "delivery.attempted") == (record["level"], record["event"])


def test_the_timestamp_is_rfc_3339_with_milliseconds() -> None:
    """UTC, as everywhere."""
    lines = Lines()
    log.emit("daemon.started")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", lines.records()[0]["timestamp"])


def test_a_name_that_the_table_does_not_have_is_refused() -> None:
    """Also while nothing is written, so that every test of a caller notices."""
    for speak in (log.emit, log.throttled):
        with pytest.raises(KeyError):
            speak("daemon.exploded")


def test_nothing_is_written_until_somebody_configures(capfd: pytest.CaptureFixture[str]) -> None:
    """The commands print what they mean to print."""
    log.emit("daemon.failed", error="x")
    log.throttled("request.failed", error="x")
    assert log.flush()
    assert ("", "") == capfd.readouterr()


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["event.refused", "daemon.started", "store.full"]),
        ("info", ["daemon.started", "store.full"]),
        ("warning", ["store.full"]),
        ("error", ["store.full"]),
    ],
)
def test_the_level_of_a_line_is_that_of_the_table(level: str, expected: list[str]) -> None:
    """A line below the level that is set isn't written."""
    lines = Lines(level=level)
    for name in ("event.refused", "daemon.started", "store.full"):
        log.emit(name)
    assert expected == [record["event"] for record in lines.records()]


def test_a_reload_changes_the_level_and_the_form_and_keeps_the_stream() -> None:
    """SIGHUP calls `configure` again."""
    lines = Lines(level="error")
    log.emit("daemon.started")
    log.configure("console", "info")
    log.emit("daemon.ready")
    assert 1 == len(lines.raw())
    assert b"daemon.ready" in lines.raw()[0] and not lines.raw()[0].startswith(b"{")


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


HOSTILE = {
    "a megabyte": "x" * 1_000_000,
    "a megabyte of quotes": '"' * 1_000_000,
    "a megabyte of NUL": "\0" * 1_000_000,
    "a megabyte of emoji": "🎉" * 250_000,
    "line ends": "a\nb\r\nc\vd\fe\x1cf\x1dg\x1eh\x85i\u2028j\u2029k",
    "a megabyte of line separators": "\u2028" * 300_000,
    "ANSI escapes": "\x1b[31mred\x1b[0m \x9b31m \x1b]0;title\x07",
    "bidi marks": "\u202eevil\u202c \u2066x\u2069 \u200f\u061c",
    "DEL": "a\x7fb",
    "half a surrogate pair": "a\ud800b",
    "bytes that are no UTF-8": b"\xff\xfe\x00",
    "an integer past 64 bits": 2**64,
    "an integer of ten thousand digits": 10**10_000,
    "not a number": float("nan"),
    "infinity": float("inf"),
    "nested deeply": deep(300),
    "nested too deeply for anybody": deep(50_000),
    "keys that are no texts": {1: 2, None: 3, "\ud800": 4, (1, 2): 5},
    "a set": {1},
    "an exception": OSError(2, "no such file"),
    "what can't be shown": Unshowable(),
    "a long list": ["x" * 100] * 1000,
}  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("field", ["error", "waiting"])
def test_whatever_a_value_is_the_line_is_one_line_of_short_valid_json(value: Any, field: str) -> None:
    """Log lines stay one line of valid JSON under 16 KiB."""
    lines = Lines()
    log.emit("daemon.failed", **{field: value}, exit_code=1)
    raw = lines.raw()
    assert 1 == len(raw)
    assert len(raw[0]) + 1 <= LINE_BYTES
    text = raw[0].decode()
    assert [text] == text.splitlines()
    assert not re.search("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", text)
    record = json.loads(text)
    assert ("daemon.failed", 1) == (record["event"], record["exit_code"])
    assert record[field] is None or record[field]


def test_a_text_comes_out_as_it_went_in() -> None:
    """Escaping for the line takes nothing away."""
    lines = Lines()
    for value in ("Nguyễn 🎉 العربية", HOSTILE["line ends"], HOSTILE["bidi marks"], "\\u2028 \\"):
        log.emit("daemon.failed", error=value)
        assert value == lines.records()[-1]["error"]


def test_a_line_with_many_long_fields_is_cut_field_by_field() -> None:
    """The short ones stay whole, and a cut one says how much is missing."""
    lines = Lines()
    long = {name: name * 5000 for name in ("path", "mode", "changed", "error", "address")}
    log.emit("daemon.failed", workspace="default", **long)
    record = lines.records()[0]
    assert "default" == record["workspace"]
    assert re.fullmatch(r"(error)+e?r?r?o?… \(\d+ more characters\)", record["error"])


def test_a_line_that_nothing_helps_keeps_its_beginning() -> None:
    """Thousands of fields: then the name of what happened is all."""
    lines = Lines()
    log.emit("daemon.failed", **{f"field_{n}": "x" * 20 for n in range(2000)})
    assert ["timestamp", "level", "event", "cut"] == list(lines.records()[0])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.com/hook", "https://example.com/hook"),
        ("https://example.com/hook?token=secret", "https://example.com/hook"),
        ("https://example.com?token=secret#x", "https://example.com"),
        ("https://example.com/#token=secret?x", "https://example.com/"),
        ("https://u:secret@example.com/a@b", "https://example.com/a@b"),
        ("https://u:se@cret@example.com:8443", "https://example.com:8443"),
        ("https://[::1]:80/x?secret", "https://[::1]:80/x"),
        ("?secret", ""),
        ("", ""),
        ("no url", "no url"),
    ],
)
def test_a_url_loses_its_secrets(url: str, expected: str) -> None:
    """Neither user nor query nor fragment, and no exception for what isn't a URL."""
    assert expected == loggable_url(url)


def test_no_query_gets_into_a_line_by_oversight() -> None:
    """The field `url` and URLs in free texts are stripped, from every logger."""
    lines = Lines()
    log.emit("endpoint.created", url="https://u:secret@example.com/a?secret=1")
    log.emit("mail.failed", error="can't reach 'https://example.com/a?secret=1', HTTP://example.com#secret; gone")
    first, second = lines.records()
    assert "https://example.com/a" == first["url"]
    assert "can't reach 'https://example.com/a', HTTP://example.com gone" == second["error"]


@contextlib.contextmanager
def terminal() -> Iterator[tuple[Any, Callable[[], str]]]:
    """A real one: its stream, and a function that reads a line of what it shows."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as stream, os.fdopen(master, "rb", buffering=0) as screen:

        def read_line() -> str:
            shown = b""
            while not shown.endswith(b"\n"):
                shown += screen.read(1)
            return shown.decode().rstrip("\r\n")

        yield stream, read_line


def test_auto_is_coloured_lines_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """And plain ones where colours aren't wanted."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with terminal() as (stream, read_line):
        log.configure("auto", "info", stream)
        log.emit("store.full", free_mb=3)
        coloured = read_line()
        monkeypatch.setenv("NO_COLOR", "1")
        log.configure("auto", "info")
        log.emit("store.full", free_mb=3)
        plain = read_line()
        assert log.flush()
    assert "\x1b[" in coloured
    assert re.fullmatch(r"[0-9TZ:.-]+ \[error\s*\] store\.full +free_mb=3", plain)


def test_auto_is_json_elsewhere() -> None:
    """A pipe, a file, the journal."""
    lines = Lines(form="auto")
    log.emit("daemon.started")
    assert ["daemon.started"] == [record["event"] for record in lines.records()]


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_whatever_a_value_is_a_terminal_is_not_steered(value: Any) -> None:
    """One line, no control character, no bidi mark, and short enough to read."""
    lines = Lines(form="console")
    log.emit("daemon.failed", error=value, exit_code=1)
    raw = lines.raw()
    assert 1 == len(raw)
    text = raw[0].decode()
    assert text.isprintable() and "exit_code=1" in text and len(text) < 16_000


def test_on_a_terminal_what_is_not_there_is_not_said() -> None:
    """A success has no reason: a person's line leaves it out, a program's has it as null."""
    shown = Lines(form="console")
    log.emit("delivery.attempted", status=200, reason=None, counted=False)
    text = shown.raw()[0].decode()
    assert "status=200" in text and "counted=False" in text and "reason" not in text
    stored = Lines(form="json")
    log.emit("delivery.attempted", status=200, reason=None)
    assert stored.records()[0]["reason"] is None
