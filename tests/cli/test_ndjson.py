"""Cutting an input into numbered lines, giving ids, and portions that don't wait."""

from __future__ import annotations

import os
import threading
import time

import pytest

from webhookd.cli.ndjson import Batch, Line, LineSplitter, batches, ensure_id, new_id, split_objects


def cut(*chunks: bytes, max_line_bytes: int = 1000) -> list[Line]:
    cutter = LineSplitter(max_line_bytes)
    found = [line for chunk in chunks for line in cutter.feed(chunk)]
    return found + list(cutter.finish())


def test_numbers_count_blank_lines() -> None:
    """A line's number is the one that an editor shows: blank lines count, and aren't given."""
    assert [Line(1, b"{}"), Line(4, b'{"a":1}'), Line(5, b"[]")] == cut(b'{}\r\n\n  \t\n{"a":1}\r\n[]')


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_any_pieces(size: int) -> None:
    """The pieces that the input comes in don't matter."""
    text = b'{"a":1}\n\n{"b":"\xc3\xa4"}\r\n{"c":3}'
    assert cut(text) == cut(*(text[n : n + size] for n in range(0, len(text), size)))


def test_too_long_a_line() -> None:
    """Of a line that is too long nothing is kept, and the lines after it keep their numbers."""
    found = cut(b"ab\n", b"x" * 8, b"x" * 8, b"\ncd", max_line_bytes=10)
    assert [Line(1, b"ab"), Line(2, None), Line(3, b"cd")] == found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"a":1}', [b'{"a":1}']), (b'{"a":1}{"b":2}', [b'{"a":1}', b'{"b":2}']),
        (b'{"a":1.50} {"b":"\\u00e4"}\t{"c":1e400}', [b'{"a":1.50}', b'{"b":"\\u00e4"}', b'{"c":1e400}']),
        (b'{"a":"\xc3\xa4"}{"b":2}', [b'{"a":"\xc3\xa4"}', b'{"b":2}']), (b'{"text":"}{"}', [b'{"text":"}{"}']),
        (b'{"a":1}{"b":', [b'{"a":1}{"b":']), (b'{"a":1}{"b":"\xff"}', [b'{"a":1}{"b":"\xff"}']),
    ],
)  # fmt: skip
def test_objects_of(line: bytes, expected: list[bytes]) -> None:
    """Files joined without a newline between them are events all the same; anything else stays as it is."""
    assert expected == split_objects(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"event_type":"x","event_id":"a"}', b'{"event_type":"x","\\u0065vent_id":"a"}',
        b'{"event_type":"x","event_id":null}', b"{}", b"[1]", b"nonsense", b'{"event_type":',
    ],
)  # fmt: skip
def test_with_id_leaves_alone(line: bytes) -> None:
    """A line that has an id, or is no event, goes out as it came."""
    assert (line, "") == ensure_id(line, lambda: "made")


def test_with_id_splices() -> None:
    """An id is spliced in as the first member; no other byte changes."""
    for number in (b"1.00", b"1.0e+400", b"9" * 5000):
        rest = b' "event_type":"x", "n":%b,"nested":{"event_id":"inner"}}' % number
        assert (b'{"event_id":"made",' + rest, "made") == ensure_id(b"{" + rest, lambda: "made")


def test_new_ids_differ() -> None:
    """Made ids are UUIDs of version 7, and no two are the same."""
    made = [new_id() for _ in range(1000)]
    assert {"7"} == {one[14] for one in made}
    assert 1000 == len(set(made))


def read_through_a_pipe(text: bytes) -> list[Batch]:
    reading, writing = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(writing, text), os.close(writing)))
    writer.start()
    found = list(batches(reading))
    writer.join()
    os.close(reading)
    return found


def test_batches_are_bounded() -> None:
    """No batch has more than 1,000 lines, and all lines come, in order."""
    found = read_through_a_pipe(b"{}\n" * 2500)
    assert [1000, 1000, 500] == [len(batch.lines) for batch in found]
    assert list(range(1, 2501)) == [line.number for batch in found for line in batch.lines]
    assert 7500 == found[-1].read_bytes


def test_batches_of_nothing() -> None:
    """An empty input gives no batch."""
    assert [] == read_through_a_pipe(b"")
    assert [] == read_through_a_pipe(b"\n\n")


def test_a_line_of_a_slow_pipe_goes_soon() -> None:
    """With `tail -f` before the pipe a line goes without waiting for the next one."""
    reading, writing = os.pipe()
    portions = batches(reading, linger_seconds=0.01)
    os.write(writing, b'{"a":1}\n{"unfinished"')
    began = time.monotonic()
    first = next(portions)
    assert [Line(1, b'{"a":1}')] == first.lines
    assert time.monotonic() - began < 10
    os.write(writing, b":1}\n")
    assert [Line(2, b'{"unfinished":1}')] == next(portions).lines
    os.close(writing)
    assert [] == list(portions)
    os.close(reading)
