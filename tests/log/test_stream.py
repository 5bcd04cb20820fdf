"""How lines go out: in batches, never blocking, lost lines counted."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from tests.support.log_lines import TIMEOUT_SECONDS, Lines
from webhookd import log
from webhookd.log.stream import LogStream


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
        assert stream.close(TIMEOUT_SECONDS)


def test_a_line_goes_out_without_being_asked_for() -> None:
    """Within the linger time, without a flush."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as sink, os.fdopen(reading, "rb") as source:
        stream = LogStream(sink)
        stream.write(b"one\n")
        assert b"one\n" == source.readline()
        assert stream.close(TIMEOUT_SECONDS)


def test_a_reader_that_does_not_read_stops_no_other_and_learns_what_it_missed() -> None:
    """The event loop never waits for a pipe: lines wait in bounded memory, then are lost and counted."""
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
            assert log.flush(TIMEOUT_SECONDS)


def test_a_pipe_that_does_not_block_loses_nothing() -> None:
    """With O_NONBLOCK set on it the thread waits until it is writable."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(writing, "wb") as sink, os.fdopen(reading, "rb") as source:
        stream = LogStream(sink)
        expected = b"".join(b"%0200d\n" % number for number in range(2000))  # 400 KB, the pipe holds 64
        for line in expected.splitlines(keepends=True):
            stream.write(line)
        assert expected == source.read(len(expected))
        assert stream.close(TIMEOUT_SECONDS)


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
    stream.flush(TIMEOUT_SECONDS)
    stream.write(b"three\n")
    assert stream.close(TIMEOUT_SECONDS)
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
        thread.join(TIMEOUT_SECONDS)
    assert 2000 == sum(record["event_id"] == "x" * 50 for record in lines.records())


PROGRAM = """
from webhookd import log
log.configure("json", "info")
for number in range(1000):
    log.emit("event.accepted", event_id="x" * 100)
    log.throttled("request.failed", error="again")
"""


def run(program: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", program], timeout=TIMEOUT_SECONDS, check=False, **options)


def test_what_was_logged_last_is_written_at_exit() -> None:
    """Only the interpreter's end flushes here; what was suppressed is reported too."""
    ended = run(PROGRAM, capture_output=True)
    assert (0, b"") == (ended.returncode, ended.stderr)
    records = [json.loads(line) for line in ended.stdout.splitlines()]
    assert 1000 == sum(record["event"] == "event.accepted" for record in records)
    assert [1, 999] == [record["count"] for record in records if record["event"] == "request.failed"]


@pytest.mark.slow
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
