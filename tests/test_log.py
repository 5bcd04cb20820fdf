"""Log lines: their order, their safety, how they go out, how often they are repeated, and the table of their names."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from webhookd import log
from webhookd.log import LOG_EVENTS, loggable_url
from webhookd.log.format import LEADING, LINE_BYTES
from webhookd.log.logger import Logger
from webhookd.log.stream import LogStream
from webhookd.log.throttle import KEYS_KEPT, Summary, Throttle

SOURCES = Path(log.__file__).parents[1]
PATIENCE_SECONDS = 20.0


@pytest.fixture(autouse=True)
def journal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A log of the test's own; the process's stays silent."""
    fresh = Logger()
    monkeypatch.setattr(log, "_LOGGER", fresh)
    root = logging.getLogger()
    before, level = [*root.handlers], root.level
    yield
    if fresh._stream is not None:
        fresh._stream.close(0.1)
    root.handlers[:] = before
    root.setLevel(level)


class Lines:
    """A stream in memory, and what came out of it."""

    def __init__(self, form: Any = "json", level: Any = "debug", **options: Any) -> None:
        self.stream = io.BytesIO()
        log.configure(form, level, self.stream, **options)

    def raw(self) -> list[bytes]:
        assert log.flush(PATIENCE_SECONDS)
        return self.stream.getvalue().split(b"\n")[:-1]

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw()]


class Clock:
    """Monotonic seconds that stand still until told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- what a line is ---


def test_the_fields_come_in_the_order_of_the_contract() -> None:
    """api.md «Logs»: timestamp, level, event, then the leading ones whatever the order of the call, then the rest."""
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
    """hostile.md: log lines stay one line of valid JSON under 16 KiB."""
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
    """The field `url` and URLs in free texts are stripped whoever logs them."""
    lines = Lines()
    log.emit("endpoint.created", url="https://u:secret@example.com/a?secret=1")
    log.emit("mail.failed", error="can't reach 'https://example.com/a?secret=1', HTTP://example.com#secret; gone")
    first, second = lines.records()
    assert "https://example.com/a" == first["url"]
    assert "can't reach 'https://example.com/a', HTTP://example.com gone" == second["error"]


# --- on a terminal ---


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


# --- how lines go out ---


def read_until(descriptor: int, end: bytes) -> bytes:
    taken = b""
    while end not in taken:
        taken += os.read(descriptor, 65536)
    return taken


def test_lines_wait_for_their_batch_and_an_urgent_one_takes_them_along() -> None:
    """One system call for many lines; a warning isn't kept waiting."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as sink, os.fdopen(reading, "rb") as source:
        stream = LogStream(sink, linger_seconds=3600)
        stream.write(b"one\n")
        stream.write(b"two\n")
        stream.write(b"three\n", urgent=True)
        assert b"one\ntwo\nthree\n" == os.read(source.fileno(), 65536)
        assert stream.close(PATIENCE_SECONDS)


def test_a_line_goes_out_without_being_asked_for() -> None:
    """Within the linger time, though nobody flushes."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as sink, os.fdopen(reading, "rb") as source:
        stream = LogStream(sink)
        stream.write(b"one\n")
        assert b"one\n" == source.readline()
        assert stream.close(PATIENCE_SECONDS)


def test_a_reader_that_does_not_read_stops_nobody_and_is_told_what_it_missed() -> None:
    """facts.md's loop must not wait for a pipe: lines wait in bounded memory, then are lost and counted."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as sink, os.fdopen(reading, "rb") as source:
        log.configure("json", "info", sink)
        for number in range(60_000):  # far more than pipe and memory hold
            log.emit("event.accepted", event_id=f"{number:0100d}")
        assert not log.flush(0.05)
        stream = log._LOGGER._stream
        assert stream is not None
        assert stream._waiting_bytes < 5 * 1024 * 1024

        taken = read_until(source.fileno(), b"log.overflowed")
        while not taken.endswith(b"\n"):
            taken += os.read(source.fileno(), 65536)
        records = [json.loads(line) for line in taken.decode().splitlines()]
    accepted = [record for record in records if record["event"] == "event.accepted"]
    lost = sum(record["count"] for record in records if record["event"] == "log.overflowed")
    assert 60_000 == len(accepted) + lost
    assert [f"{number:0100d}" for number in range(len(accepted))] == [record["event_id"] for record in accepted]


def test_a_reader_that_went_away_stops_nobody() -> None:
    """EPIPE: the lines are lost, the daemon isn't."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as sink:
        log.configure("json", "info", sink)
        for _ in range(3):
            log.emit("daemon.started")
            assert log.flush(PATIENCE_SECONDS)


def test_a_pipe_that_does_not_block_loses_nothing() -> None:
    """Somebody set O_NONBLOCK on it: then the thread waits for room."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(writing, "wb") as sink, os.fdopen(reading, "rb") as source:
        stream = LogStream(sink)
        expected = b"".join(b"%0200d\n" % number for number in range(2000))  # 400 KB, the pipe holds 64
        for line in expected.splitlines(keepends=True):
            stream.write(line)
        assert expected == source.read(len(expected))
        assert stream.close(PATIENCE_SECONDS)


class Torn(io.BytesIO):
    """Takes seven bytes, then fails once, then works."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def write(self, data: Any) -> int:
        self.calls += 1
        if self.calls == 2:
            raise OSError(28, "No space left on device")
        return super().write(bytes(data)[:7] if self.calls == 1 else bytes(data))


def test_a_line_cut_by_an_error_does_not_run_into_the_next() -> None:
    """A full disk that has space again: only the torn line is broken, and the lost ones are counted."""
    sink = Torn()
    lost: list[int] = []
    stream = LogStream(sink, on_lost=lost.append)
    stream.write(b"one\n")
    stream.write(b"number two\n")
    stream.flush(PATIENCE_SECONDS)
    stream.write(b"three\n")
    assert stream.close(PATIENCE_SECONDS)
    assert b"one\nnum\nthree\n" == sink.getvalue()
    assert [2] == lost


def test_lines_from_several_threads_stay_whole() -> None:
    """aiosqlite's thread and the resolver's log too."""
    lines = Lines()

    def speak() -> None:
        for _ in range(500):
            log.emit("event.accepted", event_id="x" * 50)

    threads = [threading.Thread(target=speak) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert 2000 == sum(record["event_id"] == "x" * 50 for record in lines.records())


PROGRAM = """
from webhookd import log
log.configure("json", "info")
for number in range(1000):
    log.emit("event.accepted", event_id="x" * 100)
    log.throttled("request.failed", error="again")
"""


def run(program: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", program], timeout=PATIENCE_SECONDS, check=False, **options)


def test_what_was_logged_last_is_written_at_exit() -> None:
    """Nobody flushes here but the interpreter's end; what was suppressed is told too."""
    ended = run(PROGRAM, capture_output=True)
    assert (0, b"") == (ended.returncode, ended.stderr)
    records = [json.loads(line) for line in ended.stdout.splitlines()]
    assert 1000 == sum(record["event"] == "event.accepted" for record in records)
    assert [1, 999] == [record["count"] for record in records if record["event"] == "request.failed"]


def test_a_blocked_stdout_does_not_keep_a_process_from_ending() -> None:
    """The last flush gives up."""
    reading, writing = os.pipe()
    try:
        assert 0 == run(PROGRAM, stdout=writing, stderr=subprocess.DEVNULL).returncode
    finally:
        os.close(writing)
        os.close(reading)


def test_a_process_without_stdout_runs() -> None:
    """`webhookd serve >&-`: no stream at all, and no other file takes its place."""
    program = f"import os; os.close(1)\nimport sys; sys.stdout = None\n{PROGRAM}"
    ended = run(program, stderr=subprocess.PIPE)
    assert (0, b"") == (ended.returncode, ended.stderr)


# --- how often ---


def test_a_repeated_line_comes_at_most_once_a_minute_with_its_count() -> None:
    """The counts add up to what happened."""
    clock = Clock()
    lines = Lines(monotonic=clock)
    for step in range(121):  # one a second for two minutes
        clock.now = 1000.0 + step
        log.throttled("request.failed", key="a", error="boom")
    assert [1, 60, 60] == [record["count"] for record in lines.records()]


def test_another_key_or_another_event_is_another_line() -> None:
    """Only what is the same is suppressed."""
    lines = Lines(monotonic=Clock())
    log.throttled("request.failed", key="a", error="1")
    log.throttled("request.failed", key="b", error="2")
    log.throttled("store.full", key="a", error="3")
    assert ["1", "2", "3"] == [record["error"] for record in lines.records()]


def test_what_a_minute_suppressed_is_told_though_nothing_follows() -> None:
    """The stream's thread tells it; a minute begins anew with that line."""
    clock = Clock()
    lines = Lines(monotonic=clock)
    for error in ("first", "second", "last"):
        log.throttled("request.failed", error=error)
    clock.now += 60
    stream = log._LOGGER._stream
    assert stream is not None
    told = threading.Event()
    write = stream._write

    def noting(data: memoryview) -> int:
        if b"last" in bytes(data):
            told.set()
        return write(data)

    stream._write = noting
    stream.wake()
    assert told.wait(PATIENCE_SECONDS)
    assert [("first", 1), ("last", 2)] == [(record["error"], record["count"]) for record in lines.records()]


def test_suppressed_lines_below_the_level_cost_nothing() -> None:
    """They aren't remembered either."""
    lines = Lines(level="error")
    log.throttled("library.warned", message="x")
    log.throttled("library.warned", message="x")
    assert [] == lines.records()


def test_the_throttle_tells_when_it_is_next_due() -> None:
    """Never, while nothing is suppressed."""
    throttle = Throttle()
    assert 1 == throttle.admit("e", 1, {}, 0.0)
    assert throttle.next_seconds(1.0) is None
    assert 0 == throttle.admit("e", 1, {"n": 2}, 10.0)
    assert 45.0 == throttle.next_seconds(15.0)
    assert [] == throttle.over(59.0)
    assert [Summary("e", {"n": 2}, 1)] == throttle.over(60.0)
    assert 0 == throttle.admit("e", 1, {}, 119.0)
    assert 2 == throttle.admit("e", 1, {}, 121.0)


def test_the_throttle_remembers_a_bounded_number_of_keys() -> None:
    """Hostile keys don't fill the memory, and a forgotten one's count is told."""
    throttle = Throttle()
    throttle.admit("e", "first", {"n": 1}, 0.0)
    throttle.admit("e", "first", {"n": 2}, 0.0)
    told: list[Summary] = []
    for number in range(KEYS_KEPT * 2):
        throttle.admit("e", number, {}, 0.0)
        told += throttle.over(0.0)
    assert [Summary("e", {"n": 2}, 1)] == told
    assert KEYS_KEPT == len(throttle._kinds)


# --- what libraries say ---


def test_what_a_library_logs_is_a_line_like_others() -> None:
    """With its traceback in one field, once a minute, and its URLs' queries gone."""
    lines = Lines(monotonic=Clock())
    logger = logging.getLogger("aiohttp.server")
    for _ in range(3):
        try:
            raise ValueError("at https://example.com/a?secret=1")
        except ValueError:
            logger.exception("Error handling request from %s", "127.0.0.1")
    logger.warning("odd")
    logger.info("chatter")
    first, second, suppressed = lines.records()
    assert ("library.failed", "aiohttp.server") == (first["event"], first["logger"])
    assert "Error handling request from 127.0.0.1" == first["message"]
    assert "ValueError: at https://example.com/a" in first["error"] and "secret" not in first["error"]
    assert ("library.warned", "odd") == (second["event"], second["message"])
    assert ("library.failed", 2) == (suppressed["event"], suppressed["count"])


def test_a_library_s_broken_message_ends_nobody() -> None:
    """Arguments that don't fit the format: the format alone is told."""
    root = logging.getLogger()
    root.handlers.clear()  # pytest's own raises
    lines = Lines()
    logging.getLogger("odd").warning("%d and %d", "one")
    assert "%d and %d" == lines.records()[0]["message"]


# --- the table ---


def test_each_row_of_the_table_is_in_the_form_of_the_house() -> None:
    """`noun.past_verb`, a level, a sentence, fields without doubles, and none that would hold a secret."""
    for name, row in LOG_EVENTS.items():
        assert re.fullmatch(r"[a-z]+\.[a-z]+(_[a-z]+)*", name), name
        assert row.level in log.LEVELS, name
        assert re.fullmatch(r"[A-Z`].*\.", row.meaning), name
        assert len(set(row.fields)) == len(row.fields), name
        assert not {"token", "signing_key", "password", "secret", "headers", "body"} & set(row.fields), name
        assert [f for f in row.fields if f in LEADING] == [f for f in LEADING if f in row.fields], name


def calls() -> Iterator[tuple[str, str, set[str]]]:
    """Every `emit(…)` and `throttled(…)` of the code: its place, the name it logs, the fields it spells out."""
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function not in ("emit", "throttled"):
                continue
            fields = {keyword.arg for keyword in node.keywords if keyword.arg}
            for part in ast.walk(node.args[0]):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    place = f"{path.relative_to(SOURCES)}:{node.lineno}"
                    yield place, part.value, fields - ({"key"} if function == "throttled" else set())


def test_every_line_that_the_code_logs_is_in_the_table_with_its_fields() -> None:
    """The table is the documentation: a name or a field that it doesn't have fails here."""
    found = [*calls()]
    assert found
    unknown = [f"{place}: {name}" for place, name, _ in found if name not in LOG_EVENTS]
    assert [] == unknown
    undocumented = [
        f"{place}: {name} {sorted(fields - set(LOG_EVENTS[name].fields))}"
        for place, name, fields in found
        if fields - set(LOG_EVENTS[name].fields)
    ]
    assert [] == undocumented
