"""How a body becomes an event: byte for byte, or not at all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.config import Events, ExtraType
from webhookd.errors import ApiError
from webhookd.models import NewEvent
from webhookd.rules.event_types import EventTypes
from webhookd.rules.parsing import parse_event, too_large

CATALOGUE = EventTypes(Events(types={"order.paid": ExtraType(label="Order Paid", description="An order was paid.")}))
SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.json"))
SAMPLE = (Path(__file__).parent / "samples" / "message.received.json").read_bytes().strip()
NO_IDS = ["", "x" * 65, "a b", "a.b", "a/b", "é", "a\n", "١", "a\u0000", None, 1, 1.5, True, ["a"], {"a": 1}]
NO_TYPES = [None, 1, True, ["message.sent"], {"a": 1}, "", "message.send", "*"]
HEAD = b'{"event_type":"message.sent","event_id":"a"'
NEW_ID = "0190163d-8694-739b-aea5-966c26f8ad90"


def parse(raw: bytes, max_bytes: int = 256 * 1024) -> NewEvent:
    return parse_event(raw, max_bytes=max_bytes, event_types=CATALOGUE, new_id=lambda: NEW_ID)


def error_of(raw: bytes, max_bytes: int = 256 * 1024) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(raw, max_bytes)
    assert caught.value.__cause__ is None
    assert len(caught.value.message) < 500
    return caught.value


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_goes_out_as_it_came_in(path: Path) -> None:
    """Samples, byte for byte, under their own ids and types."""
    raw = path.read_bytes()
    event = json.loads(raw)
    assert NewEvent(event["event_id"], path.stem, raw.strip()) == parse(raw)


def test_white_space_around_is_trimmed_and_inside_is_kept() -> None:
    """JSON's four kinds of it."""
    inside = b'{ \t"event_type"\r\n :  "message.sent" ,\n"event_id":"x-1_Y" }'
    assert inside == parse(b" \t\r\n" + inside + b"\n\r\t ").body


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"event_type":"order.paid"}', b'{"event_id":"%b","event_type":"order.paid"}'),
        (b' {\n  "event_type": "order.paid"\n}\n', b'{"event_id":"%b",\n  "event_type": "order.paid"\n}'),
        (
            b'{"event_type":"order.paid","contact":{"event_id":"theirs"}}',
            b'{"event_id":"%b","event_type":"order.paid","contact":{"event_id":"theirs"}}',
        ),
    ],
)
def test_an_id_left_out_is_spliced_in_as_the_first_member(raw: bytes, expected: bytes) -> None:
    """The rest stays as it came."""
    assert NewEvent(NEW_ID, "order.paid", expected % NEW_ID.encode()) == parse(raw)


def test_an_id_that_is_there_asks_for_none() -> None:
    """The maker of ids is called only where one is missing."""

    def never() -> str:
        raise AssertionError("not asked for")

    assert "a" == parse_event(HEAD + b"}", max_bytes=99, event_types=CATALOGUE, new_id=never).id


@pytest.mark.parametrize("event_id", ["a", "_", "-", "A-Z_09", "x" * 64])
def test_an_id_of_1_to_64_of_the_alphabet_is_taken(event_id: str) -> None:
    """`[A-Za-z0-9_-]{1,64}`."""
    assert event_id == parse(orjson.dumps({"event_type": "order.paid", "event_id": event_id})).id


@pytest.mark.parametrize(
    ("code", "raw"),
    [
        *(("invalid_event_id", orjson.dumps({"event_type": "order.paid", "event_id": each})) for each in NO_IDS),
        *(("unknown_event_type", orjson.dumps({"event_type": each})) for each in NO_TYPES),
        ("missing_event_type", b"{}"),
        ("missing_event_type", b'{"type":"message.sent"}'),
        ("missing_event_type", b'{"contact":{"event_type":"message.sent"}}'),
        *(("invalid_event", raw) for raw in (b"[]", b"[%b]" % SAMPLE, b"1", b"1.5", b"null", b"true", b'"event_type"')),
    ],
)
def test_json_that_is_no_event_is_refused(code: str, raw: bytes) -> None:
    """A wrong id of any JSON type, a type outside the catalogue, no type but a nested one, and what is no object."""
    assert code == error_of(raw).code


def test_an_unknown_type_is_reported_the_nearest() -> None:
    """The catalogue's own error."""
    assert "message.received" == error_of(b'{"event_type":"message.recieved"}').details["nearest"]


@pytest.mark.parametrize(
    "raw",
    [
        b"", b" \r\n", b"{", b"}", b"{'event_type':'message.sent'}", b"event_type=message.sent", HEAD, HEAD + b",}",
        HEAD + b"}}", HEAD + b"} {}", HEAD + b"}\x00", HEAD + b"}\x0c", b"\x0b" + HEAD + b"}",
        b"\xef\xbb\xbf" + HEAD + b"}", HEAD.decode().encode("utf-16") + b"}", HEAD + b',"x":NaN}',
        HEAD + b',"x":Infinity}', HEAD + b',"x":-Infinity}', HEAD + b',"x":01e999}', HEAD + b',"x":--1e999}',
        HEAD + b',"x":1e' + b"9" * 400 + b"e1}", HEAD + b',"x":' + b"9" * 400 + b"e}",
        HEAD + b',"x":' + b"9" * 400 + b".}", HEAD + b',"x":0' + b"9" * 400 + b"}", HEAD + b',"x":1e999.5}',
        HEAD + b',"x":+1e999}', HEAD + b',"x":1.e999}', HEAD + b',"x":.1e999}', HEAD + b',"x":1e999 1e999}',
        HEAD + b',"y":' + b"9" * 400 + b',"x":1e+}', HEAD + b',"y":' + b"9" * 400 + b',"x":"' + b'\\"' * 1000,
        HEAD + b',"x":01}', HEAD + b',"x":+1}', HEAD + b',"x":1.}', HEAD + b',"x":.5}', HEAD + b',"x":0x1F}',
        HEAD + b',"x":"\\ud800"}', HEAD + b',"x":"\\udc00"}', HEAD + b',"x":"\\ud800\\u0041"}',
        HEAD + b',"\\ud800":1}', HEAD + b',"x":"\xed\xa0\x80"}', HEAD + b',"x":"\xff"}', HEAD + b',"x":"\xc0\x80"}',
        HEAD + b',"x":"\xf4\x90\x80\x80"}', HEAD + b',"x":"\x00"}', HEAD + b',"x":"\n"}', HEAD + b',"x":"\\x41"}',
        HEAD + b',"x":"\\u12"}', HEAD + b',"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        HEAD + b',"x":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}", HEAD + b',"x":' + b"[" * 100_000,
        b'{"event_type":"message.sent","y":{"event_type":1},"x":' + b"[" * 1022 + b"]" * 1022 + b"}",
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    ],
)  # fmt: skip
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    """Hostile bodies: one clear error each, no crash."""
    assert "invalid_json" == error_of(raw).code


@pytest.mark.parametrize(
    ("raw", "details", "words"),
    [
        (b'{"event_type": "message.sent",\n "x": oops}', {"line": 2, "column": 7}, "line 2, column 7"),
        (b'{"x":"\xff"}', {"byte": 6}, "byte 6 (0xff)"),
    ],
)
def test_the_place_of_a_mistake_is_named(raw: bytes, details: dict[str, int], words: str) -> None:
    """A syntax error's line and column count from 1, the byte that is not UTF-8 from 0."""
    refused = error_of(raw)
    assert details == refused.details
    assert words in refused.message


@pytest.mark.parametrize(
    "number",
    [
        b"18446744073709551615", b"18446744073709551616", b"-9223372036854775809", b"9" * 308, b"9" * 309,
        b"1" + b"0" * 5000, b"-" + b"7" * 5000, b"1e400".replace(b"e400", b"0" * 400), b"0." + b"3" * 5000,
        b"0.1000000000000000055511151231257827", b"1e-999", b"-0", b"1E+2", b"1.0e+400", b"-1e999", b"1E" + b"9" * 400,
        b"9" * 400 + b"e1", b"9" * 400 + b".5", b"9" * 250 + b".5E+99", b"0.0e999", b"0." + b"0" * 400 + b"1e800",
    ],
)  # fmt: skip
def test_numbers_go_out_as_they_came_in(number: bytes) -> None:
    """Integers past 2^64, and whatever is beyond a double: no rounding, byte for byte."""
    raw = HEAD + b',"n":' + number + b',"m":[' + number + b"]}"
    assert NewEvent("a", "message.sent", raw) == parse(raw)


def test_digits_in_a_string_are_no_integer() -> None:
    """Where one huge integer stands, the strings around it still have to be right."""
    raw = HEAD + b',"n":' + b"9" * 400 + b',"s":"\\" ' + b"9" * 400 + b'"}'
    assert raw == parse(raw).body
    assert "invalid_json" == error_of(raw.replace(b'\\" ', b"\\q ")).code


@pytest.mark.parametrize("depth", [500, 900])
def test_nesting_that_is_deep_but_sane_is_taken(depth: int) -> None:
    """Also where the names have to be looked at twice."""
    for member in (b"", b',"y":{"event_id":1}'):
        raw = HEAD + member + b',"x":' + b"[" * depth + b"]" * depth + b"}"
        assert raw == parse(raw).body


def test_the_size_is_that_of_the_trimmed_text() -> None:
    """At the limit it is taken, one byte over it is refused, white space around doesn't count."""
    raw = HEAD + b"}"
    assert raw == parse(b"  " + raw + b"\n", max_bytes=len(raw)).body
    refused = error_of(raw, max_bytes=len(raw) - 1)
    assert ("payload_too_large", 413) == (refused.code, refused.status)
    assert too_large(len(raw) - 1).body() == refused.body()


def test_an_id_spliced_in_does_not_count_against_the_size() -> None:
    """The limit is on what the producer sends."""
    raw = b'{"event_type":"order.paid"}'
    assert len(raw) + len(f'"event_id":"{NEW_ID}",') == len(parse(raw, max_bytes=len(raw)).body)


@pytest.mark.parametrize("name", ["event_type", "event_id"])
@pytest.mark.parametrize("hexadecimal", ["x", "X"])
def test_a_name_given_twice_is_refused(name: str, hexadecimal: str) -> None:
    """Also with any letter escaped: orjson keeps the last, so receivers could read another event than webhookd did."""
    escaped = [f"{name[:at]}\\u{ord(letter):04{hexadecimal}}{name[at + 1 :]}" for at, letter in enumerate(name)]
    for spelling in (name, *escaped):
        refused = error_of(HEAD + f',"{spelling}":"order.paid"}}'.encode())
        assert ("invalid_event", {"name": name}) == (refused.code, refused.details)


NAMESAKES = b',"x":1,"x":2,"a":{"event_type":1,"event_type":2},"b":["event_id",{"event_id":3}],"c":"event_type"}'


@pytest.mark.parametrize(
    ("event_id", "event_type", "raw"),
    [
        ("a", "message.sent", HEAD + NAMESAKES),
        ("b", "order.paid", b'{"event\\u005ftype":"order.paid","\\u0065vent_id":"b"}'),
    ],
    ids=["other names twice, any name nested", "escaped, but once"],
)
def test_what_looks_like_a_name_given_twice_is_taken(event_id: str, event_type: str, raw: bytes) -> None:
    """Only the two names that webhookd reads have to be unambiguous; the bytes stay."""
    assert NewEvent(event_id, event_type, raw) == parse(raw)


IDS = re.compile("[A-Za-z0-9_-]{1,64}")
NAMES = ["event_type", "event_id", "event_typo", "x", "event_type ", '"event_id"', "\\u0065vent_id", "é📦"]


@st.composite
def spelled(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """A JSON string of a text, with letters of it written as escapes here and there."""
    text = draw(texts)
    escaped = draw(st.sets(st.integers(0, 11), max_size=2))
    plain = {'"': '\\"', "\\": "\\\\"}
    return (
        '"'
        + "".join(
            f"\\u{ord(character):04{draw(st.sampled_from('xX'))}}"
            if place in escaped and character < "\uffff"
            else plain.get(character, character)
            for place, character in enumerate(text)
        )
        + '"'
    )


SPACE = st.sampled_from(["", "", " ", "\n", "\t \r\n"])
STRINGS = spelled(st.sampled_from([*NAMES, "order.paid", "a"]))


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str], *, has_type: bool) -> str:
    members = draw(st.lists(st.tuples(STRINGS, values), max_size=4))
    if has_type:  # else hardly any would get past the first check
        members.insert(draw(st.integers(0, len(members))), (draw(spelled(st.just("event_type"))), '"order.paid"'))
    return "{" + ",".join(draw(SPACE) + name + draw(SPACE) + ":" + value for name, value in members) + "}"


VALUES = st.recursive(
    STRINGS | st.sampled_from(["1", "-0.5", "null", "true", "[]", "{}", "9" * 400, "-1.0e+400"]),
    lambda inner: objects(inner, has_type=False) | st.lists(inner, max_size=3).map(lambda each: f"[{' ,'.join(each)}]"),
    max_leaves=6,
)


def exact(text: str) -> str | None:
    """What becomes of an object by the rules, read slowly: the code of its error, or None."""
    pairs: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=lambda pairs: pairs, parse_int=len)
    names = [name for name, _ in pairs]
    if names.count("event_type") > 1 or names.count("event_id") > 1:
        return "invalid_event"
    event = dict(pairs)
    if "event_type" not in event:
        return "missing_event_type"
    if event["event_type"] != "order.paid":
        return "unknown_event_type"
    event_id = event.get("event_id", "a")
    return None if isinstance(event_id, str) and IDS.fullmatch(event_id) else "invalid_event_id"


@given(st.booleans().flatmap(lambda has_type: objects(VALUES, has_type=has_type)))
def test_the_quick_check_for_repeated_names_agrees_with_an_exact_one(text: str) -> None:
    """Any object with any spelling of any names at any depth, against the standard library's pairs."""
    code = None
    try:
        parse(text.encode())
    except ApiError as refused:
        code = refused.code
    assert exact(text) == code


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(st.text(), JSON, max_size=5),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 1, 4]),
    st.tuples(SPACE, SPACE),
)
def test_any_payload_goes_out_as_it_came_in(
    payload: dict[str, Any], with_id: bool, ascii_only: bool, indent: int | None, around: tuple[str, str]
) -> None:
    """However it is written: the same bytes, with the id in front where it was left out."""
    event = {**payload, "event_type": "order.paid"}
    event.pop("event_id", None)
    if with_id:
        event["event_id"] = "mine"
    text = json.dumps(event, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    parsed = parse(around[0].encode() + text + around[1].encode())
    assert with_id == (text == parsed.body)
    if not with_id:
        assert text == b"{" + parsed.body.removeprefix(f'{{"event_id":"{NEW_ID}",'.encode())
        assert ["event_id", *event] == list(json.loads(parsed.body))


@given(st.data())
def test_no_bytes_do_worse_than_be_refused(data: st.DataObject) -> None:
    """A sample with pieces cut out, doubled and overwritten: an event that others can read too, or an error."""
    raw = bytearray(SAMPLE)
    pieces = st.binary(max_size=4) | st.sampled_from(
        [b'"', b"\\", b"\\u00", b"{", b"]", b",", b"\xff", b"9" * 400, b"1e999", b"-"]
    )
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(raw)))
        end = min(len(raw), start + data.draw(st.integers(0, 6)))
        raw[start:end] = data.draw(pieces)
    try:
        event = parse(bytes(raw))
    except ApiError:
        return
    assert event.type == json.loads(event.body, parse_constant=pytest.fail, parse_int=len)["event_type"]


@given(st.binary(max_size=60))
def test_garbage_is_refused(raw: bytes) -> None:
    """Nothing that short is an event of any type."""
    assert error_of(raw).code in {"invalid_json", "invalid_event", "missing_event_type", "unknown_event_type"}


def test_nothing_ends_where_doubles_end() -> None:
    """On both sides of it, however a number is written, it is taken."""
    edges = [*range(195, 205), *range(295, 315), 1000, 100_000]
    numbers = ["1.7976931348623157e308", "1.8e308", *("9" * digits for digits in edges)]
    numbers += [f"{'9' * (309 - exponent)}{more}e{exponent}" for exponent in range(1, 309) for more in ("", ".5")]
    for number in numbers:
        raw = HEAD + b',"x":%b}' % number.encode()
        assert raw == parse(raw).body


@pytest.mark.parametrize("validation", ["off", "warn", "refuse"])
def test_an_event_that_does_not_fit_its_schema(validation: Literal["off", "warn", "refuse"]) -> None:
    """Unseen, accepted with a warning, or refused; a sample fits, and without `warnings` no schema is looked at."""
    types = EventTypes(Events(validate=validation))

    def warned(raw: bytes, warnings: list[ApiError] | None) -> list[str]:
        assert raw == parse_event(raw, max_bytes=10_000, event_types=types, new_id=str, warnings=warnings).body
        return [each.code for each in warnings or ()]

    assert [] == warned(SAMPLE, []) and [] == warned(HEAD + b"}", None)
    if validation == "refuse":
        with pytest.raises(ApiError) as caught:
            warned(HEAD + b"}", [])
        assert "schema_mismatch" == caught.value.code
    else:
        assert (["schema_mismatch"] if validation == "warn" else []) == warned(HEAD + b"}", [])


def test_a_parser_without_memory_is_no_fault_of_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the parser says then (orjson's own words) isn't reported to the caller as bad JSON."""

    class Exhausted:
        """orjson as it is without memory; a process that really has none is in tests/process/test_shortages.py."""

        JSONDecodeError = orjson.JSONDecodeError

        @staticmethod
        def loads(body: bytes) -> object:
            raise orjson.JSONDecodeError("Not enough memory to allocate buffer for parsing", "", 0)

    monkeypatch.setattr("webhookd.rules.parsing.orjson", Exhausted)
    with pytest.raises(MemoryError):
        parse(b'{"event_type": "message.sent"}')
