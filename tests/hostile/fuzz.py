"""`python -m tests.hostile.fuzz`: bytes led by coverage (atheris) against the parsing of events, arrays and lines.

What must hold for any bytes: nothing worse than an ApiError; an event goes out byte for byte and other readers of JSON
see the same type in it; an array's elements are those that others see; a stream gives the same lines however it is
cut.  The tests in `tests/rules` try the same properties with hypothesis, at each run.

atheris is no dependency: `pip install atheris` (it has wheels for Linux on x86-64), Python 3.11 to 3.13.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["webhookd.rules.parsing", "webhookd.rules.event_types"]):
    from webhookd.errors import ApiError
    from webhookd.rules.event_types import EventTypes
    from webhookd.rules.parsing import LineSplitter, parse_event, split_array

MAX_BYTES = 2000
CATALOGUE = EventTypes({})
SEEDS = [
    b'{"event_type":"message.received"}',
    b'{"event_type":"message.sent","event_id":"a","x":[1,2.5,-0,1e5,"\\u00e9\\ud83d\\ude00",null,true]}',
    b'[{"event_type":"message.received"},{"event_\\u0074ype":1}]',
    b'{"event_type":"message.received"}\n\r\n{"x":1}\r\n ',
    b'{"event_type":"message.received","x":' + b"9" * 330 + b"}",
]


def try_event(data: bytes) -> None:
    """One event."""
    try:
        event = parse_event(data, max_bytes=MAX_BYTES, event_types=CATALOGUE, new_id=lambda: "new")
    except ApiError:
        return
    trimmed = data.strip(b" \t\r\n")
    seen = json.loads(event.body, parse_int=len)
    assert event.type == seen["event_type"]
    assert event.id == seen["event_id"]
    assert event.body in (trimmed, b'{"event_id":"new",' + trimmed[1:])


def try_array(data: bytes) -> None:
    """An array of events."""
    try:
        elements = split_array(data)
    except ApiError:
        return
    with contextlib.suppress(RecursionError):  # the other reader's
        assert [json.loads(each, parse_int=len) for each in elements] == json.loads(data, parse_int=len)
    for each in elements:
        assert each in data
        try_event(each)


def try_lines(data: bytes) -> None:
    """A stream, in pieces of every size."""
    longest = data[0] % 64 + 1 if data else 1
    expected = None
    for size in (1, 2, 3, 7, len(data) + 1):
        splitter = LineSplitter(longest)
        lines = [line for at in range(0, len(data), size) for line in splitter.feed(data[at : at + size])]
        lines += splitter.finish()
        assert expected is None or expected == lines
        expected = lines
        assert splitter.pending_bytes == 0


def try_all(data: bytes) -> None:
    """One input of the fuzzer."""
    try_event(data)
    try_array(data)
    try_lines(data)


def main() -> None:
    """Try for so many seconds; atheris ends the process, with 0 where nothing was found."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=int, default=300)
    chosen = arguments.parse_args()
    corpus = Path(tempfile.mkdtemp(prefix="webhookd-fuzz-"))
    for number, seed in enumerate(SEEDS):
        (corpus / str(number)).write_bytes(seed)
    options = [f"-max_total_time={chosen.seconds}", "-max_len=2048", "-timeout=10", f"-artifact_prefix={corpus}/found-"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], try_all)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
