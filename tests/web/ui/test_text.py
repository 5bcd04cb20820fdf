"""Bodies of others, for reading: laid out, nothing changed, nothing invisible."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from webhookd.store.attempts import Span
from webhookd.web.ui.charts import HEIGHT, RANGES, bounds_ms, chart, sparkline
from webhookd.web.ui.text import SHOWN_CHARACTERS, is_cut, one_line, pretty, short_url, visible

PLAIN = st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(PLAIN),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(PLAIN, max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(PLAIN), VALUES, max_size=4))
def test_laid_out_json_is_the_same_json(value: dict[str, object]) -> None:
    """As Python's own json lays it out, whatever the white space before."""
    assert json.dumps(value, indent=2, ensure_ascii=False) == pretty(json.dumps(value, ensure_ascii=False).encode())


def test_numbers_keep_every_digit() -> None:
    """Big integers, trailing zeros, exponents: as they came."""
    expected = '{\n  "n": [\n    12345678901234567890123,\n    1.50,\n    1E4\n  ]\n}'
    assert expected == pretty(b'{"n":[12345678901234567890123,1.50,1E4]}')
    assert '{\n  "n": 1.0e+400\n}' == pretty(b'{"n":1.0e+400}')


def test_escapes_by_number_are_readable() -> None:
    """What can be read is; what can't be seen, ends a string or is no escape stays as it came."""
    body = r'{"a":"Xin ch\u00e0o \ud83d\ude00","b":"\u202e \u0022 \\u0041 \n"}'
    assert '{\n  "a": "Xin chào 😀",\n  "b": "\\u202e \\u0022 \\\\u0041 \\n"\n}' == pretty(body)
    assert "ch\\u00e0o" == pretty("ch\\u00e0o")


def test_what_is_not_json_stays() -> None:
    """Half a document, markup, invalid UTF-8, an empty body, brackets ten thousand deep."""
    assert '{"half": ' == pretty(b'{"half": ')
    assert "<b>no</b>" == pretty("<b>no</b>")
    assert "a\ufffdb" == pretty(b"a\xffb")
    assert "" == pretty(b"")
    deep = "[" * 500 + "]" * 500
    assert deep == pretty(deep)


def test_a_long_body_is_cut_and_said_to_be() -> None:
    """At most so many characters go to the browser."""
    body = b"x" * (SHOWN_CHARACTERS + 1)
    assert (SHOWN_CHARACTERS, True, False) == (len(pretty(body)), is_cut(body), is_cut(body[1:]))


def test_what_cannot_be_seen_is_shown_by_its_number() -> None:
    """Escapes, bidi marks, zero-width characters, lone surrogates; line ends and tabs stay, in one line they don't."""
    hidden = "a\x1b[31m\u202eb\u200b\ud800\x00\r\n\tc"
    assert "a‹U+001B›[31m‹U+202E›b‹U+200B›‹U+D800›‹U+0000›\n\tc" == visible(hidden)
    assert "a  b" == one_line("a\n\tb")
    assert "Xin chào 📦 שלום" == visible("Xin chào 📦 שלום")


def test_a_chart_stands_on_its_axis_and_shows_a_single_failure() -> None:
    """What is there at all is seen, one in ten thousand too; nothing leaves the chart; its top is round."""
    spans = [
        Span(0, 60, 10_000, 1, 0, 2, (5.0, 10.0), (450.0,)),
        Span(60, 120, 0, 0, 0, 0, (), ()),
        Span(120, 180, 4000, 3, 40, 0, (1.0,), ()),
    ]
    made = chart("hour", spans)
    assert (14_000, 4, 40, 2, 20_000) == (made.delivered, made.failed, made.waiting, made.failed_attempts, made.top)
    assert (450.0, 5.0, 600.0) == (made.slowest_ms, made.median_ms, made.top_ms)
    assert [False, True, False] == [bar.empty for bar in made.bars]
    for bar in made.bars:
        floor = HEIGHT
        for part in bar.parts:
            assert part.height >= 2 and math.isclose(floor, part.y + part.height, abs_tol=0.02)
            floor = part.y
        assert 0 <= floor <= HEIGHT
    assert ["delivered", "waiting", "failed"] == [part.kind for part in made.bars[2].parts]
    assert chart("day", [Span(0, 60, 0, 0, 0, 0, (), ())]).empty


def test_a_chart_begins_on_round_times() -> None:
    """So that the log of a bar has round times too; the last span ends now."""
    now_ms = 1_700_000_123_456
    for name, (reach_ms, width_ms) in RANGES.items():
        bounds = bounds_ms(name, now_ms)
        assert reach_ms // width_ms == len(bounds) - 1 and now_ms == bounds[-1]
        assert all(at % width_ms == 0 for at in bounds[:-1]) and now_ms - bounds[-2] <= width_ms


def test_one_failure_is_never_rounded_away() -> None:
    """Of 100,000 attempts one failed: not 100%."""
    assert 99.9 == sparkline([(99_999, 0), (0, 1)]).rate
    assert 100.0 == sparkline([(3, 0)]).rate
    assert sparkline([(0, 0), (0, 0)]).rate is None
    assert {"delivered": "M0 24h47v-24h-47z", "failed": "M48 24h47v-3h-47z"} == sparkline([(99_999, 0), (0, 1)]).paths


def test_a_url_is_shortened_in_the_middle() -> None:
    """The host stays, and the end, by which many of one host differ."""
    long = "https://hooks.example.com/" + "part/" * 40 + "last"
    assert "https://hooks.example.com/…" == short_url(long)[:27] and short_url(long).endswith("/last")
    assert 64 == len(short_url(long)) == len(short_url("x" * 100))
    assert "https://example.com/hook" == short_url("https://example.com/hook")
    deep = "https://" + "a" * 60 + ".example.com/x"
    assert short_url(deep).endswith("example.com/x") and len(short_url(deep)) <= 64
