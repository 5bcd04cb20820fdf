"""A repeated line comes once a minute with its count; also the lines of libraries."""

from __future__ import annotations

import logging
import threading

from tests.support.log_lines import TIMEOUT_SECONDS, Clock, Lines
from webhookd import log
from webhookd.log.throttle import KEYS_KEPT, Summary, Throttle


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


def test_what_a_minute_suppressed_is_reported_though_nothing_follows() -> None:
    """The stream's thread tells it; a minute begins anew with that line."""
    clock = Clock()
    lines = Lines(monotonic=clock)
    for error in ("first", "second", "last"):
        log.throttled("request.failed", error=error)
    clock.now += 60
    stream = log._LOGGER._stream
    assert stream is not None
    report = threading.Event()
    write = stream._write

    def noting(data: memoryview) -> int:
        if b"last" in bytes(data):
            report.set()
        return write(data)

    stream._write = noting
    stream.wake()
    assert report.wait(TIMEOUT_SECONDS)
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
    """Hostile keys don't fill the memory, and a forgotten one's count is reported."""
    throttle = Throttle()
    throttle.admit("e", "first", {"n": 1}, 0.0)
    throttle.admit("e", "first", {"n": 2}, 0.0)
    report: list[Summary] = []
    for number in range(KEYS_KEPT * 2):
        throttle.admit("e", number, {}, 0.0)
        report += throttle.over(0.0)
    assert [Summary("e", {"n": 2}, 1)] == report
    assert KEYS_KEPT == len(throttle._kinds)


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
    """Arguments that don't fit the format: the format alone is logged."""
    root = logging.getLogger()
    root.handlers.clear()  # pytest's own raises
    lines = Lines()
    logging.getLogger("odd").warning("%d and %d", "one")
    assert "%d and %d" == lines.records()[0]["message"]
