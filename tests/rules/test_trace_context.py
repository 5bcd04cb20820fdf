"""Which trace context is passed on: what W3C's grammar allows, and nothing else."""

from __future__ import annotations

import pytest

from webhookd.rules.trace_context import TRACESTATE_CHARACTERS, parse_trace, trace_headers

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OF = PARENT[2:]


def state_of(*states: str) -> str:
    return parse_trace([PARENT], states).partition("\n")[2]


@pytest.mark.parametrize("given", [PARENT, f" {PARENT}\t", f"01{OF}", f"cc{OF}-what-the-future-brings"])
def test_a_traceparent_is_kept_as_it_came(given: str) -> None:
    """Of a later version as well, with what that adds."""
    assert given.strip() == parse_trace([given], [])
    assert (("traceparent", given.strip()),) == trace_headers(parse_trace([given], []))


@pytest.mark.parametrize(
    "given",
    [
        [], [""], [PARENT, PARENT], [PARENT.upper()], [f"ff{OF}"], [f"0{OF}"], [f"{PARENT}-"], [f"{PARENT}-00"],
        [PARENT[:-1]], [f"{PARENT}0"], [f"cc{OF}."], [f"cc{OF}-"], [f"cc{OF}-a\nb"], [f"{PARENT}\n"],
        ["00-" + "0" * 32 + "-b7ad6b7169203331-01"], ["00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01"],
        ["cc-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01-x"], [PARENT.replace("-", "_")], [f"é{PARENT[1:]}"],
    ],
)  # fmt: skip
def test_what_is_no_traceparent_is_left_out_with_its_state(given: list[str]) -> None:
    """Other digits, lengths, versions; all zeros; two of them."""
    assert "" == parse_trace(given, ["rojo=00f067aa0ba902b7"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (["a=1 , b=2\t,,", "", "c=3"], "a=1,b=2,c=3"),
        (["t0/*_-@vendor=a b:c!"], "t0/*_-@vendor=a b:c!"),
        (["1fw@v=1"], "1fw@v=1"),
        ([","], ""),
    ],
)
def test_a_tracestate_is_kept_in_its_order(given: list[str], expected: str) -> None:
    """Several headers are one list; white space around members and empty members go."""
    assert expected == state_of(*given)


@pytest.mark.parametrize(
    "given",
    ["a", "=1", "a=", "A=1", "1a=1", "a=1,a=2", "a=1=2", "a=é", "a b=1", "a@b@c=1", "a=\x7f", "a@=1", "a=" + "x" * 257,
     ",".join(f"k{number}=1" for number in range(33))],
)  # fmt: skip
def test_a_malformed_tracestate_is_left_out_by_itself(given: str) -> None:
    """The trace goes on without it."""
    assert PARENT == parse_trace([PARENT], [given])


def test_a_long_tracestate_loses_large_members_first_and_then_the_last() -> None:
    """As the recommendation has it; 512 characters stay."""
    small = ",".join(f"k{number}={'x' * 20}" for number in range(12))
    assert small == state_of(f"large={'y' * 240},{small},other={'z' * 140}")
    longer = [f"k{number:02}={'x' * 60}" for number in range(32)]
    kept = state_of(",".join(longer))
    assert ",".join(longer[:7]) == kept and len(kept) <= TRACESTATE_CHARACTERS
    assert (("traceparent", PARENT), ("tracestate", "a=1")) == trace_headers(parse_trace([PARENT], ["a=1"]))


@pytest.mark.parametrize("kept", ["00-\r\nX: 1", f"{PARENT}\na=1\nX: 1", "é"])
def test_what_is_malformed_in_the_database_is_no_header(kept: str) -> None:
    """Nothing can begin another header."""
    assert () == trace_headers(kept)
