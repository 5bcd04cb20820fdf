"""The trace that an ingest request belongs to (W3C Trace Context), passed on with each delivery of its events.

webhookd adds no span of its own.  What breaks the grammar is left out: a `traceparent` with all, a `tracestate` by
itself.  https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
from collections.abc import Sequence

TRACESTATE_CHARACTERS = 512  # what has to be passed on at least; of more, members go, large ones first
_LARGE_MEMBER_CHARACTERS = 128
_MEMBERS_MAX = 32

_TRACEPARENT = re.compile(
    # A later version may have more after the flags.
    r"(?:00-(?P<of00>[0-9a-f]{32}-[0-9a-f]{16})-[0-9a-f]{2}|"
    r"(?!00|ff)[0-9a-f]{2}-(?P<later>[0-9a-f]{32}-[0-9a-f]{16})-[0-9a-f]{2}(?:-[\x21-\x7e]{1,200})?)"
)
_ZEROS = re.compile("0{32}-|.*-0{16}$")
_KEY = r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
_MEMBER = re.compile(rf"({_KEY})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")


def parse_trace(traceparents: Sequence[str], tracestates: Sequence[str]) -> str:
    """What is kept of a request's headers: `traceparent`, then `tracestate` after a line feed; "" if there is none."""
    if len(traceparents) != 1:
        return ""
    found = _TRACEPARENT.fullmatch(traceparents[0].strip(" \t"))
    if found is None or _ZEROS.match(found["of00"] or found["later"]):
        return ""
    state = _tracestate(",".join(tracestates))
    return f"{found[0]}\n{state}" if state else found[0]


def trace_headers(kept: str) -> tuple[tuple[str, str], ...]:
    """The headers of what `parse_trace` made; none of a malformed one, which could be another header's beginning."""
    if not (kept.isascii() and kept.replace("\n", "", 1).isprintable()):
        return ()
    traceparent, _, state = kept.partition("\n")
    return (("traceparent", traceparent), *((("tracestate", state),) if state else ()))


def _tracestate(text: str) -> str:
    """Its members without white space around them and without empty ones; "" if one is malformed or there twice."""
    members = [member for each in text.split(",") if (member := each.strip(" \t"))]
    keys = [found[1] for each in members if (found := _MEMBER.fullmatch(each))]
    if len(set(keys)) < len(members) or len(members) > _MEMBERS_MAX:
        return ""
    too_long = sum(map(len, members)) + len(members) - 1 - TRACESTATE_CHARACTERS
    for member in [*(each for each in reversed(members) if len(each) > _LARGE_MEMBER_CHARACTERS), *reversed(members)]:
        if too_long > 0 and member in members:
            members.remove(member)
            too_long -= len(member) + 1
    return ",".join(members)
