"""Arrays and streams of lines, cut into the bytes of each event."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.errors import ApiError
from webhookd.models import NewEvent
from webhookd.rules.event_types import EventTypes
from webhookd.rules.parsing import MAX_ARRAY_EVENTS, Line, LineSplitter, parse_array, parse_event, split_array


def error_of(raw: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        split_array(raw)
    return caught.value


def test_each_element_keeps_its_own_bytes() -> None:
    """Inner white space, order, numbers and escapes as they came; the space between elements belongs to none."""
    elements = [
        b'{ "b":1.0 ,\n"a" : 18446744073709551616}',
        b'{"x":"\\u00e9,]"}',
        "{'é': 1}".replace("'", '"').encode(),
    ]
    assert elements == split_array(b" [ " + b" ,\r\n\t".join(elements) + b" ]\n")


def test_an_empty_array_has_no_elements() -> None:
    """Nothing to accept is nothing refused."""
    assert [] == split_array(b"[]") == split_array(b" [ \n] ")


@pytest.mark.parametrize(
    "element",
    [
        b"1e999", b"9" * 400, b"null", b"[]", b"{}", b'"x"', b'{"a":1,"a":2}', b'"\\ud800"', b'{"\\uDFFF": "\\\\ud8"}',
        b'"\\ud83d\\ude00 \\udc00\\ud800, \\n"',
    ],
)  # fmt: skip
def test_what_is_json_is_left_to_the_check_of_its_element(element: bytes) -> None:
    """Any fault but syntax refuses its element, not the array."""
    assert [b"1", element, b"2"] == split_array(b"[1, " + element + b" ,2]")
    assert [b"1", element, *[b"2"] * 998] == split_array(b"[1," + element + b",2" * 998 + b"]")


def test_a_thousand_elements_are_taken_and_one_more_is_not() -> None:
    """The limit is on the number of events, whatever they hold."""
    for element in (b"1", b'{"a":[1,2,3]}'):
        assert [element] * MAX_ARRAY_EVENTS == split_array(b"[" + b",".join([element] * MAX_ARRAY_EVENTS) + b"]")
        refused = error_of(b"[" + b",".join([element] * (MAX_ARRAY_EVENTS + 1)) + b"]")
        assert ("payload_too_large", 413, {"max_events": 1000}) == (refused.code, refused.status, refused.details)


@pytest.mark.parametrize("count", [1, 2, 999, 1000])
def test_commas_inside_elements_are_not_counted(count: int) -> None:
    """Short arrays of long events and long arrays go different ways to the same result."""
    element = b'{"a":[' + b",".join([b"0"] * 600) + b"]}"
    assert [element] * count == split_array(b"[" + b",".join([element] * count) + b"]")


@pytest.mark.parametrize("padding", [0, 1000], ids=["few", "many"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "byte 0"), (b"[", "byte 1"), (b"[1,2", "byte 4"), (b"[1,2,]", "byte 5"), (b"[1 2]", "byte 3"),
        (b"[1]x", "trailing"), (b"[1][2]", "trailing"), (b"[{}, {'a':1}]", "byte 6"), (b"[1,NaN]", "byte 3"),
        (b"[Infinity]", "byte 1"), (b"[01]", "byte 2"), (b"[nul]", "byte"), (b'["\\ud800",}', "byte"),
        (b'["\\ud800"', "byte"),
        (b'["\xff"]', "byte 2 (0xff)"), (b'["\xed\xa0\x80"]', "byte 2 (0xed)"), (b'{"a":"\xff"}', "byte 6 (0xff)"),
        (b"\xef\xbb\xbf[]", "byte"), (b'["\n"]', "byte"), (b'[{"a":1,}]', "byte"),
        (b"[" * 10_000 + b"]" * 10_000, "nested too deeply"),
    ],
)  # fmt: skip
def test_a_syntax_error_anywhere_refuses_the_whole_and_names_the_place(text: bytes, said: str, padding: int) -> None:
    """Whichever way the array goes: the JSON's fault is reported before any element is taken."""
    if padding and text.startswith(b"["):
        list_of_commas = b'["' + b"," * padding + b'",'
        text, said = list_of_commas + text[1:], "byte" if said.startswith("byte") else said
    refused = error_of(text)
    assert "invalid_json" == refused.code
    assert said in refused.message


@pytest.mark.parametrize("raw", [b"{}", b"1", b'{"a":[' + b"0," * 2000 + b"0]}"])
def test_what_is_no_array_is_refused_as_such(raw: bytes) -> None:
    """The caller looks at the first byte before; if it doesn't, this is what it hears."""
    assert "invalid_event" == error_of(raw).code


def test_millions_of_elements_cost_no_memory() -> None:
    """8 MiB of zeros are refused before they become four million objects."""
    raw = b"[" + b"0," * (4 * 1024 * 1024) + b"0]"
    tracemalloc.start()
    try:
        refused = error_of(raw)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "payload_too_large" == refused.code
    assert peak_bytes < 1024 * 1024


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
SPACE = st.sampled_from(["", " ", "\n", "\t\r\n "])


@given(st.lists(st.tuples(SPACE, JSON, SPACE, st.booleans()), max_size=6))
def test_any_array_is_cut_where_its_elements_end(parts: list[tuple[str, object, str, bool]]) -> None:
    """Against elements written one by one."""
    texts = [json.dumps(value, ensure_ascii=ascii_only) for _, value, _, ascii_only in parts]
    spaced = [before + text + after for (before, _, after, _), text in zip(parts, texts, strict=True)]
    assert [text.encode() for text in texts] == split_array(("[" + ",".join(spaced) + "]").encode())


def split(pieces: list[bytes], max_line_bytes: int) -> list[Line]:
    splitter = LineSplitter(max_line_bytes)
    return [line for piece in pieces for line in splitter.feed(piece)] + splitter.finish()


def plain_lines(stream: bytes, max_line_bytes: int) -> Iterator[bytes | None]:
    for line in stream.split(b"\n"):
        data = line.removesuffix(b"\r")
        if len(data) > max_line_bytes:
            yield None
        elif data.strip(b" \t\r\n"):
            yield data


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"", []), (b"\n\r\n \t\n", []), (b"a\nb\n", [b"a", b"b"]), (b"a\r\nb\r\n", [b"a", b"b"]),
        (b"a\nb", [b"a", b"b"]), (b"a\r\nb\r", [b"a", b"b"]), (b"\n\na\n\n\r\n b \nc", [b"a", b" b ", b"c"]),
        (b"a\rb\n", [b"a\rb"]), (b"12345\n123456\n1\n", [b"12345", None, b"1"]),
        (b"12345\r\n123456\r\n1\r\n", [b"12345", None, b"1"]), (b"123456", [None]), (b"1234567890" * 3, [None]),
        (b"      \nx", [None, b"x"]),
    ],
)  # fmt: skip
def test_lines_end_with_lf_or_crlf_and_blank_ones_are_not_counted(stream: bytes, expected: list[bytes | None]) -> None:
    """At most five bytes here; a longer one is given without its bytes, and the next one is whole again."""
    lines = [Line(index, data) for index, data in enumerate(expected)]
    assert lines == split([stream], 5)
    assert lines == split([stream[at : at + 1] for at in range(len(stream))], 5)


@given(
    st.lists(st.sampled_from([b"\n", b"\r\n", b"\r", b" ", b"a", b"bcd", b"0123456789"])).map(b"".join),
    st.lists(st.integers(0, 60)),
    st.integers(1, 12),
)
def test_any_pieces_of_a_stream_give_the_same_lines(stream: bytes, cuts: list[int], max_line_bytes: int) -> None:
    """However the network cuts it, and as the rule says."""
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(bounds)]
    expected = [Line(index, data) for index, data in enumerate(plain_lines(stream, max_line_bytes))]
    assert expected == split(pieces, max_line_bytes)


def test_what_is_kept_of_a_begun_line_is_reported() -> None:
    """Its bytes, and none once it is too long: who waits for them to be settled would wait for ever."""
    splitter = LineSplitter(4)
    report = []
    for piece in (b"", b"a", b"b\r", b"\n", b"123", b"456", b"78", b"9\nx", b"\ny\n"):
        splitter.feed(piece)
        report.append(splitter.pending_bytes)
    assert [0, 1, 3, 0, 3, 0, 0, 1, 0] == report


def test_a_line_too_long_is_reported_at_once_and_once() -> None:
    """Not when it ends, which may be never; and the count goes on after it."""
    splitter = LineSplitter(4)
    assert [] == splitter.feed(b"1234")
    assert [] == splitter.feed(b"5")  # it might be the CR of CRLF
    assert [Line(0, None)] == splitter.feed(b"6")
    assert [] == splitter.feed(b"7" * 1000)
    assert [Line(1, b"ok")] == splitter.feed(b"\nok\n")
    assert [] == splitter.finish()


def test_a_line_without_end_is_not_kept() -> None:
    """Memory stays at the limit while 16 MiB of one line go by."""
    splitter = LineSplitter(64 * 1024)
    piece = b"x" * 65_536
    tracemalloc.start()
    try:
        given_lines = [line for _ in range(256) for line in splitter.feed(piece)]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [Line(0, None)] == given_lines
    assert peak_bytes < 512 * 1024


GOOD = b'{"event_type":"message.sent","event_id":"a-%d","text":"\\n x"}'
TYPES = EventTypes()


def in_one_pass(*elements: bytes, max_bytes: int = 100) -> list[NewEvent] | None:
    raw = b"[" + b" ,".join(elements) + b"]"
    return parse_array(raw, split_array(raw), max_bytes=max_bytes, event_types=TYPES)


def test_good_events_are_read_in_one_pass_as_they_are_one_by_one() -> None:
    """The same ids, types and bytes."""
    events = [GOOD % number for number in range(5)]
    one_by_one = [parse_event(each, max_bytes=100, event_types=TYPES, new_id=str) for each in events]
    assert one_by_one == in_one_pass(*events)
    assert [] == in_one_pass()


@pytest.mark.parametrize(
    "odd",
    [
        b'{"event_type":"message.sent"}',
        b'{"event_type":"message.sent","event_id":"a","event_id":"b"}',
        b'{"event_type":"message.sent","event_id":"a","\\u0065vent_id":"b"}',
        b'{"event_type":"message.sent","event_id":"a","inner":{"event_id":"b"}}',
        b'{"event_type":"message.unsent","event_id":"a"}',
        b'{"event_type":["message.sent"],"event_id":"a"}',
        b'{"event_type":"message.sent","event_id":"a b"}',
        b'{"event_type":"message.sent","event_id":7}',
        b'["event_type","event_id"]',
        b'{"event_type":"message.sent","event_id":"a","number":1e999}',
        GOOD % 10**60,
    ],
)
def test_an_odd_event_among_good_ones_leaves_all_to_a_look_at_each(odd: bytes) -> None:
    """Whatever may be wrong, or has to be completed, with one of them; also where another makes up for a name."""
    assert in_one_pass(GOOD % 1, odd, GOOD % 2) is None
    assert in_one_pass(GOOD % 1, odd, b'{"event_type":"message.sent"}') is None
