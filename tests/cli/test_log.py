"""`webhookd log` and `webhookd replay`: the list, the stream, the whole story of one, sending again."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
from typing import Any

import click
import pytest
from aiohttp import web

from webhookd.cli.log import server_sent_events
from webhookd.cli.options import Call
from webhookd.cli.output import table, width

PAYLOAD = '{"event_type":"message.sent",  "event_id":"e1","n":1.0e+400,"big":12345678901234567890123}'
EVENT = (
    '{"event_id":"e1","workspace":"default","event_type":"message.sent","accepted_at":"2026-01-31T12:00:00.000Z",'
    f'"payload":{PAYLOAD},"deliveries":[]}}'
)
ENDPOINT = {"id": "ep_1", "url": "https://example.com/hook"}


def attempt(**changes: Any) -> dict[str, Any]:
    return {
        "number": 1,
        "started_at": "2026-01-31T12:00:00.123Z",
        "duration_ms": 41.7,
        "outcome": "failed",
        "reason": "status",
        "status": 503,
        "detail": "",
        "counted": True,
        "connection_retried": False,
        "request": {"url": "https://example.com/old?x", "headers": {"webhook-id": "e1", "X-Secret": "***"}},
        "response": {"headers": {"Server": "x\x1b[2J"}, "body": "first\n\x1b[31msecond", "truncated": True},
    } | changes


def delivery(name: str = "dlv_1", **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "workspace": "default",
        "endpoint_id": "ep_1",
        "event_id": "e1",
        "event_type": "message.sent",
        "state": "dropped",
        "replay_of": None,
        "accepted_at": "2026-01-31T12:00:00.000Z",
        "next_attempt_at": None,
        "finished_at": "2026-01-31T12:03:00.000Z",
        "attempt_count": 4,
        "last_attempt": attempt(),
    } | changes


@pytest.fixture
def log_api(api: Any) -> Any:
    api.answers("GET", "/v1/endpoints", {"data": [ENDPOINT], "next": None})
    api.answers("GET", "/v1/events/e1", lambda _: web.Response(text=EVENT))
    return api


async def test_list(log_api: Any, ask: Any) -> None:
    """A table, the newest last, with the endpoint's URL."""
    newest = delivery("dlv_2", state="delivered", event_id="e2\u202e", endpoint_id="ep_9", last_attempt=None)
    log_api.answers("GET", "/v1/deliveries", {"data": [newest, delivery()], "next": "more"})
    ran = await ask("log", "--state", "dropped", "--type", "message.sent", "--endpoint", "ep_1", "--limit", "2")
    assert 0 == ran.code
    [header, first, second] = ran.out.splitlines()
    assert header.startswith("ACCEPTED ")
    assert ["2026-01-31 12:00:00", "dropped", "4: 503", "dlv_1", "https://example.com/hook"] == [
        word for word in first.split("  ") if word.strip() and word.strip() not in ("message.sent", "e1")
    ]
    assert "e2\\u202e" in second
    assert "ep_9 (deleted)" in second
    assert "There are older ones: --cursor more shows them, --all shows all." in ran.err
    [asked] = [one for one in log_api.asked if one.path == "/v1/deliveries"]
    assert {"state": "dropped", "event_type": "message.sent", "endpoint": "ep_1", "limit": "2"} == asked.query


async def test_all_and_a_cursor(log_api: Any, ask: Any) -> None:
    """`--all` goes through every page, `--cursor` to the one that a page before named; both with `--json`."""
    pages = {"": (["dlv_5", "dlv_4"], "c1"), "c1": (["dlv_3", "dlv_2"], "c2"), "c2": (["dlv_1"], None)}

    def page(asked: Any) -> dict[str, Any]:
        found, following = pages[asked.query.get("cursor", "")]
        return {"data": [delivery(each) for each in found], "next": following}

    log_api.answers("GET", "/v1/deliveries", page)
    newest_first = [f"dlv_{number}" for number in (5, 4, 3, 2, 1)]
    everything = (await ask("log", "--all", "--json")).json()
    assert (newest_first, None) == ([one["id"] for one in everything["data"]], everything["next"])
    shown = await ask("log", "--all")
    assert (0, "") == (shown.code, shown.err)
    assert newest_first[::-1] == [line.split()[6] for line in shown.out.splitlines()[1:]]
    one_page = (await ask("log", "--cursor", "c1", "--json")).json()
    assert (["dlv_3", "dlv_2"], "c2") == ([one["id"] for one in one_page["data"]], one_page["next"])
    assert [2, 2] == [(await ask("log", *words, "--all")).code for words in (("-n", "5"), ("-f",))]


@pytest.mark.parametrize("command", ["log", "replay"])
async def test_an_unknown_state_has_the_nearest_one_named(ask: Any, command: str) -> None:
    """Wrong usage, before anything is asked."""
    ran = await ask(command, "--state", "droped", "--since", "1h")
    assert 2 == ran.code
    assert "'droped': did you mean dropped? It is one of " in ran.err


async def test_list_by_url_and_time(log_api: Any, ask: Any) -> None:
    """The endpoint may be named by its URL, if it has one; `--json` is the API's own page, and empty is said."""
    page = {"data": [delivery()], "next": None}
    log_api.answers("GET", "/v1/deliveries", page)
    ran = await ask("log", "--endpoint", "HTTPS://Example.com.:443/hook?", "--since", "2026-01-31 14:00", "--json")
    assert (0, page) == (ran.code, ran.json())
    assert {"endpoint": "ep_1", "since": "2026-01-31T14:00:00.000Z"} == log_api.asked[-1].query
    unknown = await ask("log", "--endpoint", "https://example.com/other")
    assert 1 == unknown.code
    assert "Usage" not in unknown.err
    assert "no endpoint of workspace default has the URL https://example.com/other" in unknown.err
    log_api.answers("GET", "/v1/deliveries", {"data": [], "next": None})
    empty = await ask("log")
    assert (0, "Nothing in the log.\n") == (empty.code, empty.out)
    log_api.answers("GET", "/v1/deliveries", {"data": [], "next": "c1"})
    stopped = await ask("log", "--text", "a b", "--status", "5xx", "--retrying")
    assert "Nothing in the newest part of the log.\n" == stopped.out and "--cursor c1" in stopped.err
    assert {"text": "a b", "status": "5xx", "retrying": "true"} == log_api.asked[-1].query
    assert 2 == (await ask("log", "-f", "--text", "x")).code


async def test_show(log_api: Any, ask: Any) -> None:
    """Every attempt with what was sent and what came back, harmless."""
    attempts = [
        attempt(),
        attempt(number=2, reason="timeout", status=None, detail="no answer within 5 s", response=None),
        attempt(number=3, reason="local", status=None, counted=False, response=None),
        attempt(number=4, outcome="delivered", reason=None, status=200, connection_retried=True, response=None),
    ]
    log_api.answers("GET", "/v1/workspaces/acme/deliveries/dlv_1", delivery(attempts=attempts))
    log_api.answers("GET", "/v1/workspaces/acme/endpoints", {"data": [ENDPOINT], "next": None})
    log_api.answers("GET", "/v1/workspaces/acme/events/e1", lambda _: web.Response(text=EVENT))
    ran = await ask("log", "show", "dlv_1", "--workspace", "acme")
    assert 0 == ran.code
    lines = ran.out.splitlines()
    assert "endpoint   https://example.com/hook ep_1" in lines
    assert "Attempt 1, 2026-01-31 12:00:00.123, 41.7 ms: failed: 503" in lines
    sent = lines.index("  > POST https://example.com/old?x")
    assert ["  > webhook-id: e1", "  > X-Secret: ***", "  >", f"  > {PAYLOAD}", "  < 503"] == lines[sent + 1 : sent + 6]
    assert ["  < Server: x\\x1b[2J", "  <", "  < first", "  < \\x1b[31msecond", "  < … (cut here)"] == lines[
        lines.index("  < Server: x\\x1b[2J") :
    ][:5]
    assert any(line.endswith("failed: timeout (no answer within 5 s)") for line in lines)
    assert any(line.endswith("failed: local, not counted") for line in lines)
    assert any(line.endswith("delivered 200, on a fresh connection after a stale one") for line in lines)


async def test_show_event(log_api: Any, ask: Any) -> None:
    """An event by its id: its payload as it came, and the story of each delivery."""
    listed = EVENT.replace('"deliveries":[]', f'"deliveries":[{json.dumps(delivery())}]')
    log_api.answers("GET", "/v1/events/e1", lambda _: web.Response(text=listed))
    log_api.answers("GET", "/v1/deliveries/dlv_1", delivery(attempts=[attempt()]))
    ran = await ask("log", "show", "e1")
    assert 0 == ran.code
    lines = ran.out.splitlines()
    assert ["event       message.sent e1", f"  {PAYLOAD}"] == [lines[0], lines[lines.index("") + 1]]
    assert "delivery   dlv_1" in lines and "  > POST https://example.com/old?x" in lines
    assert f"{listed}\n" == (await ask("log", "show", "e1", "--json")).out


def stream_of(*pieces: bytes) -> Any:
    class Stream(web.StreamResponse):
        async def prepare(self, request: web.BaseRequest) -> Any:
            self.content_type = "text/event-stream"
            writer = await super().prepare(request)
            for piece in pieces:
                await self.write(piece)
            await self.write_eof()
            return writer

    return Stream()


def report(event_id: str, one: dict[str, Any]) -> bytes:
    return f"id: {event_id}\nevent: delivery.attempted\ndata: {json.dumps(one)}\n\n".encode()


async def follow(log_api: Any, start: Any, streams: list[Any], *words: str) -> tuple[list[str], list[str], bytes]:
    """`log -f` over these streams until Ctrl-C: each `Last-Event-ID` sent, the deliveries shown, standard error."""
    seen: list[str] = []
    over = asyncio.Event()

    def stream(asked: Any) -> Any:
        seen.append(asked.headers.get("Last-Event-ID", ""))
        if len(seen) <= len(streams):
            return streams[len(seen) - 1]
        over.set()
        return stream_of()

    log_api.answers("GET", "/v1/deliveries/stream", stream)
    env = {"WEBHOOKD_URL": log_api.url, "WEBHOOKD_TOKEN": log_api.token}
    process = await start("log", "-f", "--json", *words, env=env)
    async with asyncio.timeout(20):
        await over.wait()
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert 130 == process.returncode
    return seen[: len(streams) + 1], [json.loads(line)["id"] for line in out.splitlines()], err


@pytest.mark.slow
async def test_follow(log_api: Any, start: Any) -> None:
    """The newest first, then what happens, once each; a lost stream goes on after the last event that came."""
    log_api.answers("GET", "/v1/deliveries", {"data": [delivery("dlv_1")], "next": None})
    third = report("12-1", delivery("dlv_3", state="delivered"))
    streams = [
        stream_of(b": hello\n\n", report("10-1", delivery("dlv_1")), report("11-1", delivery("dlv_2"))),
        stream_of(third[:-20]),
        stream_of(third),
    ]
    seen, shown, err = await follow(log_api, start, streams, "--endpoint", "ep_1")
    assert ["dlv_1", "dlv_2", "dlv_3"] == shown
    assert ["", "11-1", "11-1", "12-1"] == seen
    assert b"" == err.strip()
    listed = [one.query for one in log_api.asked if one.path == "/v1/deliveries"]
    assert [{"limit": "10", "endpoint": "ep_1"}] == listed


@pytest.mark.slow
async def test_follow_after_a_long_break(log_api: Any, start: Any) -> None:
    """An id without data counts; where too much was missed, the list is read again, and nothing shown twice."""
    lists = iter(([delivery("dlv_1")], [delivery("dlv_3"), delivery("dlv_2"), delivery("dlv_1")]))
    log_api.answers("GET", "/v1/deliveries", lambda _: {"data": next(lists), "next": None})
    streams = [
        stream_of(b"retry: 2000\n\n:\nid: 5-5\n\n"),
        stream_of(b'event: reset\ndata: {"reason":"too much"}\n\n:\nid: 6-6\n\n'),
    ]
    seen, shown, err = await follow(log_api, start, streams)
    assert ["", "5-5", "6-6"] == seen
    assert ["dlv_1", "dlv_2", "dlv_3"] == shown
    assert b"the newest deliveries follow" in err


async def test_follow_readable(log_api: Any, start: Any) -> None:
    """For a person, `log`'s own columns, a line per happening; whole in a pipe."""
    log_api.answers("GET", "/v1/deliveries", {"data": [], "next": None})
    waiting = delivery(state="pending", finished_at=None, attempt_count=1, next_attempt_at="2026-01-31T12:00:30Z")
    log_api.answers("GET", "/v1/deliveries/stream", lambda _: stream_of(report("1-1", waiting)))
    process = await start("log", "-f", env={"WEBHOOKD_URL": log_api.url, "WEBHOOKD_TOKEN": log_api.token})
    header = (await process.stdout.readline()).decode().split("  ")
    line = (await process.stdout.readline()).decode().split("  ")
    names = ["ACCEPTED", "STATE", "EVENT", "ATTEMPTS", "DELIVERY", "EVENT ID", "ENDPOINT"]
    assert names == [each.strip() for each in header if each.strip()]
    shown = [each.strip() for each in line if each.strip()]
    assert ["2026-01-31 12:00:00", "pending", "message.sent"] == shown[:3] and shown[3].startswith("1: 503, next ")
    assert ["dlv_1", "e1", "https://example.com/hook"] == shown[4:]


@pytest.mark.parametrize("words", [(), ("--wide",)])
def test_a_table_fits_the_terminal(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Long cells are shortened in the middle, ids last; `--wide` shows all."""
    monkeypatch.setattr("sys.stdout", type("Terminal", (io.StringIO,), {"isatty": lambda _: True})())
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_: os.terminal_size((60, 24)))
    url = "https://hooks.example.com/" + "x" * 80 + "/the-end"
    with click.Context(click.Command("x"), obj=Call(wide=bool(words))):
        table(("id", "url", "note"), [("ep_01m8cj5r82eqwst9r07j5v16vq", url, "日本語" * 9)])
    lines = sys.stdout.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "ep_01m8cj5r82eqwst9r07j5v16vq" in lines[1]
    assert (url in lines[1]) == bool(words)
    if not words:
        assert max(map(width, lines)) <= 60 and "https" in lines[1] and "end" in lines[1]


async def test_errors_are_json_with_json(log_api: Any, ask: Any, run: Any) -> None:
    """The API's own, wrong usage, no daemon: one object on stderr."""
    log_api.refuses("GET", "/v1/deliveries/dlv_9", 404, "not_found", "There is no delivery.")
    refused = await ask("log", "show", "dlv_9", "--json")
    wrong = await ask("--json", "log", "--state", "droped")
    away = await run("log", "--json", env={"WEBHOOKD_URL": "http://127.0.0.1:1", "WEBHOOKD_TOKEN": "x"})
    errors = [json.loads(ran.err)["error"] for ran in (refused, wrong, away)]
    assert ["not_found", "wrong_usage", "unreachable"] == [error["code"] for error in errors]
    assert "There is no delivery." == errors[0]["message"]
    assert [(1, ""), (2, ""), (3, "")] == [(ran.code, ran.out) for ran in (refused, wrong, away)]


async def test_follow_refused(log_api: Any, ask: Any) -> None:
    """A stream that is refused ends it with the API's message."""
    log_api.refuses("GET", "/v1/workspaces/nope/deliveries/stream", 404, "not_found", "No workspace 'nope'.")
    ran = await ask("log", "-f", "--workspace", "nope")
    assert (1, "Error: No workspace 'nope'.\n") == (ran.code, ran.err)


def test_server_sent_events() -> None:
    """Comments, several data lines, CRLF, an id that holds until the next: as the standard has it."""
    text = b": hi\r\nid: 7\r\ndata: a\r\ndata:b\r\n\r\nevent: x\ndata:  c\n\nid: 8\n\nid\ndata: d\n\ndata: unfinished\n"
    assert [("7", "", "a\nb"), ("7", "x", " c"), ("8", "", ""), ("", "", "d")] == list(
        server_sent_events(iter(text.splitlines(keepends=True)))
    )


async def test_replay_one(log_api: Any, ask: Any) -> None:
    """One delivery by its id; what can't be replayed is refused in the API's words."""
    log_api.answers("POST", "/v1/deliveries/dlv_1/replay", {"replayed": 1})
    ran = await ask("replay", "dlv_1")
    assert (0, "dlv_1 goes out again.\n") == (ran.code, ran.out)
    log_api.refuses("POST", "/v1/deliveries/dlv_1/replay", 409, "delivery_not_finished", "This delivery still waits.")
    ran = await ask("replay", "dlv_1")
    assert (1, "", "Error: This delivery still waits.\n") == (ran.code, ran.out, ran.err)


@pytest.mark.parametrize(
    ("replayed", "dry_run", "expected"),
    [
        (3, True, "3 deliveries would go out again.\n"),
        (1200, False, "1,200 deliveries go out again.\n"),
        (1, False, "1 delivery goes out again.\n"),
        (0, False, "0 deliveries go out again. Left out: 1,200 delivered since, 1 waiting already.\n"),
    ],
)
async def test_replay_many(log_api: Any, ask: Any, replayed: int, dry_run: bool, expected: str) -> None:
    """All of a filter, or only how many it would be."""
    left_out = {"delivered_since": 1200, "waiting": 1} if replayed == 0 else {}
    log_api.answers("POST", "/v1/replay", {"replayed": replayed, "left_out": left_out})
    words = ["--type", "message.sent", "--endpoint", "https://example.com/hook", "--state", "expired"]
    words += ["--since", "2026-01-31T00:00:00Z"]
    ran = await ask("replay", *words, *(["--dry-run"] if dry_run else []))
    assert (0, expected) == (ran.code, ran.out)
    assert {
        "endpoint": "ep_1",
        "event_type": "message.sent",
        "state": "expired",
        "since": "2026-01-31T00:00:00.000Z",
        "dry_run": dry_run,
    } == log_api.asked[-1].json()


async def test_replay_of_an_event(log_api: Any, ask: Any) -> None:
    """By its id; where nothing of it was dropped, what there is instead."""
    listed = EVENT.replace('"deliveries":[]', f'"deliveries":[{json.dumps(delivery(state="delivered"))}]')
    log_api.answers("GET", "/v1/events/e1", lambda _: web.Response(text=listed))
    log_api.answers(
        "POST", "/v1/replay", lambda asked: {"replayed": 1 if "state" in asked.json() else 0, "left_out": {}}
    )
    ran = await ask("replay", "e1", "--state", "delivered")
    assert (0, "1 delivery goes out again.\n", "") == (ran.code, ran.out, ran.err)
    assert {"event_id": "e1", "state": "delivered", "dry_run": False} == log_api.asked[-1].json()
    ran = await ask("replay", "e1")
    assert (0, "0 deliveries go out again.\n") == (ran.code, ran.out)
    assert ran.err.startswith("Its deliveries: 1 delivered.")
    assert 1 == (await ask("replay", "e2")).code
