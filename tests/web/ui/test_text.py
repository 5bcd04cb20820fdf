"""Bodies of others, for reading: laid out, nothing changed, nothing invisible."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from webhookd.store.attempts import Span
from webhookd.web.ui.charts import OUTCOMES_HEIGHT, plot
from webhookd.web.ui.text import SHOWN_CHARACTERS, is_cut, one_line, pretty, visible

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


def test_a_plot_stands_on_its_axis_and_shows_a_single_failure() -> None:
    """The highest bar fills the height, one failure in ten thousand still has a height, nothing leaves the plot."""
    spans = [Span(0, 10_000, 1, (5.0, 10.0)), Span(60, 0, 0, ()), Span(120, 40, 3, (1.0,))]
    made = plot("hour", spans)
    assert (10_040, 4, 10.0, 5.0) == (made.delivered, made.failed, made.slowest_ms, made.median_ms)
    for bar in made.bars:
        assert math.isclose(OUTCOMES_HEIGHT, bar.delivered[0] + bar.delivered[1], abs_tol=0.02)
        assert bar.failed[0] >= 0 and math.isclose(bar.delivered[0], bar.failed[0] + bar.failed[1], abs_tol=0.02)
    assert 2 == made.bars[0].failed[1]
    assert (0.0, 0.0) == (made.bars[1].delivered[1], made.bars[1].failed[1])
    assert 2 == len(made.marks)


def test_an_empty_plot_is_empty() -> None:
    """Nothing sent: no bars, no marks, no durations."""
    made = plot("day", [Span(0, 0, 0, ())])
    assert (True, None, ()) == (made.empty, made.slowest_ms, made.marks)
