"""`webhookd send`: what arrives at the daemon, what is printed, and how long it retries."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

SAMPLES = sorted((Path(__file__).parents[1] / "rules" / "samples").glob("*.json"))
EVENT = '{"event_type":"message.sent","event_id":"%s"}'


class Ledger:
    """The events endpoint of a daemon: remembers ids, and refuses what has no event type."""

    def __init__(self, api: Any, path: str = "/v1/events") -> None:
        self.events: dict[str, bytes] = {}
        self.requests: list[list[bytes]] = []
        self.before: list[Callable[[list[bytes]], Any]] = []
        self.came = asyncio.Event()
        api.answers("POST", path, self.take)

    async def take(self, asked: Any) -> web.StreamResponse:
        assert "application/x-ndjson" == asked.headers["Content-Type"]
        lines = asked.body.splitlines()
        self.requests.append(lines)
        if self.before:
            answer = self.before.pop(0)(lines)
            if isinstance(answer, web.StreamResponse):
                return answer
        return web.json_response(body := self.accept(lines), status=422 if body["rejected"] else 202)

    def accept(self, lines: list[bytes]) -> dict[str, Any]:
        accepted, duplicates, rejected = 0, 0, []
        for index, line in enumerate(lines):
            event = json.loads(line) if line.startswith(b"{") else {}
            if "event_type" not in event:
                error = {"code": "missing_event_type", "message": f"no type in {line.decode()}", "details": {}}
                rejected.append({"index": index, "error": error})
            elif event["event_id"] in self.events:
                duplicates += 1
            else:
                self.events[event["event_id"]] = line
                self.came.set()
                accepted += 1
        return {
            "accepted": accepted,
            "duplicates": duplicates,
            "rejected": rejected[:100],
            "rejected_count": len(rejected),
        }


@pytest.fixture
def ledger(api: Any) -> Ledger:
    return Ledger(api)


def error_answer(status: int, code: str, *, retry_after: str = "0", **more: Any) -> web.Response:
    body = {"error": {"code": code, "message": f"{code}, try again.", "details": {}}, **more}
    return web.json_response(body, status=status, headers={"Retry-After": retry_after})


async def test_samples_without_newlines(ledger: Ledger, ask: Any) -> None:
    """`cat *.json` of files that don't end with a newline is what it looks like: one event per file."""
    lines = [sample.read_bytes().rstrip(b"\n") for sample in SAMPLES]
    ran = await ask("send", stdin=b"".join(lines))
    assert 0 == ran.code
    assert [lines] == ledger.requests


async def test_from_a_file(ledger: Ledger, ask: Any, tmp_path: Path) -> None:
    """A file goes in requests of at most 1,000 lines; sending it again is no harm."""
    file = tmp_path / "events.ndjson"
    file.write_text("".join(EVENT % n + "\n" for n in range(2500)))
    first = await ask("send", str(file), "--json")
    again = await ask("send", str(file), "--json")
    assert (0, 0) == (first.code, again.code)
    assert {"accepted": 2500, "duplicates": 0, "rejected": [], "rejected_count": 0} == first.json()
    assert {"accepted": 0, "duplicates": 2500, "rejected": [], "rejected_count": 0} == again.json()
    assert [1000, 1000, 500] == [len(request) for request in ledger.requests[:3]]
    assert [str(n) for n in range(2500)] == list(ledger.events)


async def test_workspace(api: Any, ask: Any) -> None:
    """`--workspace` names whose events they are."""
    ledger = Ledger(api, "/v1/workspaces/acme/events")
    ran = await ask("send", "--workspace", "acme", stdin=(EVENT % "a").encode())
    assert 0 == ran.code
    assert ["a"] == list(ledger.events)


@pytest.mark.parametrize(
    ("text", "filter_"),
    [
        ('[{"event_type":"message.sent"}]', ".[]"),
        (json.dumps([{"event_type": "message.sent"}], indent=2), ".[]"),
        (json.dumps({"event_type": "message.sent"}, indent=4), "."),
        ('\ufeff\n { "event_type": "message.sent",\n   "text": "" }', "."),
    ],
)
async def test_what_is_no_line_says_how_to_make_lines(
    ledger: Ledger, ask: Any, tmp_path: Path, text: str, filter_: str
) -> None:
    """Wrong usage, before anything is sent; what it says to type sends it."""
    file = tmp_path / "some events.json"
    file.write_text(text, "utf-8")
    ran = await ask("send", str(file))
    assert (2, "", []) == (ran.code, ran.out, ledger.requests)
    command = f"jq -c '{filter_}' '{file}'"
    assert f"send takes one event per line: {command} | webhookd send" in " ".join(ran.err.split())
    assert "confirmed" not in ran.err
    piped = await ask("send", stdin=text.encode())
    assert 2 == piped.code and f"jq -c '{filter_}' | webhookd send" in " ".join(piped.err.split())


async def test_a_byte_order_mark_is_taken(ledger: Ledger, ask: Any) -> None:
    """At the beginning of each file that was joined."""
    text = "\ufeff" + EVENT % "a" + "\r\n\ufeff" + EVENT % "b"
    ran = await ask("send", stdin=text.encode())
    assert (0, "2 accepted, 0 known already, 0 refused.\n", "") == (ran.code, ran.out, ran.err)
    assert [[(EVENT % name).encode() for name in "ab"]] == ledger.requests


async def test_refused_lines_are_named(ledger: Ledger, ask: Any) -> None:
    """A refused line is named on stderr with its number in the input; the others go on; exit code 1."""
    text = "\n".join([EVENT % "a", "", "nonsense", EVENT % "b", "{}", EVENT % "c"])
    ran = await ask("send", "--json", stdin=text.encode())
    assert 1 == ran.code
    assert ["line 3: no type in nonsense", "line 5: no type in {}"] == ran.err.splitlines()
    assert (3, 2) == (ran.json()["accepted"], ran.json()["rejected_count"])
    assert [3, 5] == [one["line"] for one in ran.json()["rejected"]]
    assert ["a", "b", "c"] == list(ledger.events)


async def test_more_refusals_than_the_api_lists(ledger: Ledger, ask: Any) -> None:
    """The API lists 100 refusals of a request; `send` names every one, and counts everything once."""
    text = "".join("bad\n" + EVENT % n + "\n" for n in range(250))
    ran = await ask("send", "--json", stdin=text.encode())
    assert 1 == ran.code
    assert [f"line {n}: no type in bad" for n in range(1, 500, 2)] == ran.err.splitlines()
    assert (250, 0, 250) == tuple(ran.json()[key] for key in ("accepted", "duplicates", "rejected_count"))


async def test_a_line_without_id_gets_one(ledger: Ledger, ask: Any) -> None:
    """An id is made before the first try, and the end says which lines are safe to send again: not a refused one."""
    ran = await ask("send", stdin=b'{"event_type":"message.sent","n":1.00}\n')
    assert 0 == ran.code
    [(event_id, line)] = ledger.events.items()
    assert f'{{"event_id":"{event_id}","event_type":"message.sent","n":1.00}}'.encode() == line
    assert "1 line had none, got a new one, and would be delivered again" in ran.out
    assert "" == ran.err
    refused = await ask("send", stdin=b'{"n":1}\n')
    assert 1 == refused.code
    assert "0 accepted" in refused.out
    assert "delivered again" not in refused.err


async def test_full_disk(ledger: Ledger, ask: Any) -> None:
    """507 with `Retry-After`: it waits, says why, and goes on where the daemon stopped."""

    def half(lines: list[bytes]) -> web.Response:
        return error_answer(507, "storage_full", **ledger.accept(lines[:2]), next_index=2)

    ledger.before = [lambda _: error_answer(503, "unavailable"), half]
    text = "".join(EVENT % n + "\n" for n in range(5))
    ran = await ask("send", "--json", stdin=text.encode())
    assert (0, 5, 0) == (ran.code, ran.json()["accepted"], ran.json()["duplicates"])
    assert [5, 5, 3] == [len(request) for request in ledger.requests]
    assert ["0", "1", "2", "3", "4"] == list(ledger.events)
    assert "storage_full, try again." in ran.err


async def test_lost_connection(ledger: Ledger, ask: Any, api: Any) -> None:
    """The connection goes after the commit and before the answer: the same ids go again, and nothing is doubled."""

    class Gone(web.Response):
        async def prepare(self, request: web.BaseRequest) -> Any:
            assert request.transport is not None
            request.transport.close()
            raise ConnectionResetError

    def commit_and_go(lines: list[bytes]) -> web.Response:
        ledger.accept(lines)
        return Gone()

    ok = web.json_response({"accepted": 0, "duplicates": 0, "rejected": []}, status=202)
    ledger.before = [lambda _: ok, commit_and_go]
    lines = '{"event_type":"message.sent"}\n' * 1001
    ran = await ask("send", "--json", stdin=lines.encode())
    assert 0 == ran.code
    assert ledger.requests[1] == ledger.requests[2]
    assert 1 == len(ledger.events)


@pytest.mark.parametrize(
    ("env", "words", "code", "messages"),
    [
        ({"WEBHOOKD_URL": "http://127.0.0.1:1"}, (), 3, ["Nothing after line 0 is confirmed"]),
        ({"WEBHOOKD_TOKEN": "wrong"}, (), 1, [", with the token from WEBHOOKD_TOKEN."]),
        ({}, ("--give-up-after", "0"), 1, ["Nothing after line 0 is confirmed", "too_far_behind, try again."]),
    ],
    ids=["a daemon that was never there", "an error that no retry cures", "--give-up-after"],
)
async def test_giving_up(
    ledger: Ledger, ask: Any, env: dict[str, str], words: tuple[str, ...], code: int, messages: list[str]
) -> None:
    """At once, without a wait, and it prints from which line on nothing is confirmed."""
    ledger.before = [lambda _: error_answer(503, "too_far_behind")] * 100
    ran = await ask("send", *words, stdin=(EVENT % "a").encode(), env=env)
    assert code == ran.code
    assert all(message in ran.err for message in messages)


@pytest.mark.slow
async def test_a_tailing_pipe(ledger: Ledger, start: Any, api: Any) -> None:
    """Lines of a pipe that stays open go on their way; Ctrl-C ends it without a traceback, and says where it was."""
    process = await start("send", env={"WEBHOOKD_URL": api.url, "WEBHOOKD_TOKEN": api.token})
    for name in ("a", "b"):
        process.stdin.write((EVENT % name + "\n").encode())
        async with asyncio.timeout(10):
            await ledger.came.wait()
        assert name in ledger.events
        ledger.came.clear()
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (130, b"") == (process.returncode, out)
    assert b"is confirmed" in err
    assert b"Traceback" not in err


async def test_progress_on_a_terminal(ledger: Ledger, start: Any, api: Any, tmp_path: Path) -> None:
    """With stderr on a terminal a bar shows how far it is, and refused lines stand on lines of their own."""
    file = tmp_path / "events.ndjson"
    file.write_text("bad\n" + "".join(EVENT % n + "\n" for n in range(2000)))
    ours, theirs = pty.openpty()
    env = {"WEBHOOKD_URL": api.url, "WEBHOOKD_TOKEN": api.token, "TERM": "xterm"}
    process = await start("send", str(file), env=env, stderr=theirs)
    os.close(theirs)
    async with asyncio.timeout(20):
        out, _ = await process.communicate()
    shown = b""
    while True:
        try:
            shown += (piece := os.read(ours, 4096))
        except OSError:
            break
        if not piece:
            break
    os.close(ours)
    assert 1 == process.returncode
    assert b"2,000 accepted, 0 known already, 1 refused." in out
    assert b"Sending" in shown
    assert b"100%" in shown
    assert b"\r\x1b[Kline 1: no type in bad\r\n" in shown
