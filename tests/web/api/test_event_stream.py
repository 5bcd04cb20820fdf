"""Streams of lines: committed as they arrive, in order, and clear about how far they came when they have to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.api import Api, Wire, head, running_api, wire
from webhookd.config import Config, Delivery, Limits
from webhookd.errors import ApiError
from webhookd.store import events
from webhookd.web.api import event_stream
from webhookd.web.server.requests import RequestTimeouts

HOOK = "https://hooks.example/in"
NDJSON = {"Content-Type": "application/x-ndjson"}
POLLS = 4000


def stopped(status: int, report: dict[str, Any]) -> tuple[int, str, int, int]:
    """What a stream that ended early says: status, code, lines accepted, where to go on."""
    return status, report["error"]["code"], report["accepted"], report["next_index"]


def line_of(event_id: str, extra: bytes = b"") -> bytes:
    return b'{"event_type":"message.received","event_id":"%b"%b}' % (event_id.encode(), extra)


def begin(api: Api, line: Wire) -> None:
    line.send(head(api, Transfer_Encoding="chunked", Content_Type="application/x-ndjson"))


@pytest.fixture
async def line(api: Api) -> AsyncIterator[Wire]:
    """A stream of lines that has begun."""
    async with wire(api.port) as connection:
        begin(api, connection)
        yield connection


class HeldIngest:
    """Let no batch be committed before `gate` is set; `under_way` and `most` count batches handed over at once."""

    def __init__(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate, self.under_way, self.most = asyncio.Event(), 0, 0
        self._accept = api.app.services.ingest.accept
        monkeypatch.setattr(type(api.app.services.ingest), "accept", lambda _, *batch, **options: self._held(*batch))

    async def _held(self, workspace_id: str, new: list[Any]) -> object:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self.gate.wait()
        self.under_way -= 1
        return await self._accept(workspace_id, new)


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(POLLS):
        if holds():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to hold")


def accepted(api: Api) -> int:
    return api.app.services.ingest.accepted_count


async def test_lines_are_accepted_in_their_order(api: Api) -> None:
    """LF and CRLF, blank lines and white space around an event, a last line without its end."""
    await api.engine.endpoint(HOOK)
    body = b"\n".join([line_of("a"), b"", b"  " + line_of("b") + b" \r", b"\r", line_of("c")])
    answer = await api.post("/v1/events", data=body, token="ingest", headers=NDJSON)
    assert (202, {"accepted": 3, "duplicates": 0, "rejected": []}) == (answer.status, answer.json)
    await api.engine.quiet()
    assert [line_of("a"), line_of("b"), line_of("c")] == [posted.body for posted in api.engine.network.posted]


async def test_faults_name_their_line(api: Api) -> None:
    """422 with the index of each refused line, blank ones not counted; the others stand."""
    lines = [line_of("a"), b"", b"nonsense", line_of("a"), line_of("a", b',"x":1'), b"\xff", b'{"event_type":"x"}']
    answer = await api.post("/v1/events", data=b"\n".join(lines), headers=NDJSON)
    report = answer.json
    assert (422, 1, 1, 4) == (answer.status, report["accepted"], report["duplicates"], report["rejected_count"])
    assert [(1, "invalid_json"), (3, "event_id_conflict"), (4, "invalid_json"), (5, "unknown_event_type")] == [
        (each["index"], each["error"]["code"]) for each in report["rejected"]
    ]


async def test_a_line_too_long_is_refused_and_the_rest_goes_on(api: Api) -> None:
    """413's code for the line alone; 256 KiB exactly passes."""
    room = 256 * 1024 - len(line_of("b", b',"x":""'))
    fits = line_of("b", b',"x":"' + b"x" * room + b'"')
    lines = [line_of("a"), b"[" + b"x" * 700_000, fits, fits.replace(b'"b"', b'"bb"'), line_of("c")]
    answer = await api.post("/v1/events", data=b"\n".join(lines), headers=NDJSON)
    assert (422, 3) == (answer.status, answer.json["accepted"])
    assert [(1, "payload_too_large"), (3, "payload_too_large")] == [
        (each["index"], each["error"]["code"]) for each in answer.json["rejected"]
    ]


async def test_a_line_without_end_is_read_away(api: Api) -> None:
    """20 MiB in one line, five times what may be uncommitted: refused alone, nothing of it kept."""
    body = line_of("a") + b"\n" + b"x" * 20 * 1024 * 1024 + b"\n" + line_of("b")
    answer = await api.post("/v1/events", data=body, headers=NDJSON)
    assert (422, 2, 1) == (answer.status, answer.json["accepted"], answer.json["rejected_count"])


async def test_a_long_pipe_is_accepted_whole(api: Api) -> None:
    """10,000 lines in one request, in order, in far fewer commits."""
    await api.engine.endpoint(HOOK)
    before = api.app.store.writer.commits
    body = b"\n".join(line_of(f"e{number}") for number in range(10_000))
    answer = await api.post("/v1/events", data=body, headers=NDJSON)
    assert (202, 10_000) == (answer.status, answer.json["accepted"])
    values = {"event_type": None, "since_ms": None, "until_ms": None, "before_seq": None}
    known, _ = await api.app.store.search(1, lambda db, late: events.page(db, 1, **values, limit=10_000, late=late))
    assert [f"e{number}" for number in reversed(range(10_000))] == [event.id for event in known]
    assert api.app.store.writer.commits - before < 10_000


async def test_each_line_is_committed_as_it_arrives(api: Api, line: Wire) -> None:
    """A line is accepted and delivered while the connection stays open and silent."""
    await api.engine.endpoint(HOOK)
    line.chunk(line_of("a") + b"\n" + line_of("b")[:10])
    await until(lambda: api.engine.network.ids(HOOK) == ["a"])
    line.chunk(line_of("b")[10:] + b"\n")
    await until(lambda: api.engine.network.ids(HOOK) == ["a", "b"])
    line.chunk(b"")
    assert (202, {"accepted": 2, "duplicates": 0, "rejected": []}) == await line.json()


async def test_a_cut_connection_discards_the_unfinished_line_alone(api: Api) -> None:
    """What was complete stands, whether it came just before the cut or long before."""
    async with wire(api.port) as line:
        begin(api, line)
        line.chunk(line_of("a") + b"\n")
        await until(lambda: accepted(api) == 1)
        line.chunk(line_of("b") + b"\n" + line_of("c"))
        await line.sent()
    await until(lambda: accepted(api) == 2)
    async with wire(api.port) as line:
        line.send(head(api, Content_Length="100000", Content_Type="application/x-ndjson"))
        line.send(line_of("d") + b"\n" + line_of("e"))
        await line.sent()
    await until(lambda: accepted(api) == 3)
    again = await api.post("/v1/events", data=line_of("c") + b"\n" + line_of("e"), headers=NDJSON)
    assert {"accepted": 2, "duplicates": 0, "rejected": [], "unsubscribed": {"message.received": 2}} == again.json


@pytest.mark.parametrize(
    ("line_seconds", "idle_seconds", "begun"), [(0.1, 15, b"{"), (15, 0.1, b"")], ids=["begun line", "idle"]
)
async def test_a_line_and_the_next_have_to_come_in_time(
    line_seconds: float, idle_seconds: float, begun: bytes, tmp_path: Path
) -> None:
    """408 says how far it came; the lines before stand.  A begun line and a silent stream have times of their own."""
    timeouts = RequestTimeouts(line_seconds=line_seconds, idle_seconds=idle_seconds)
    async with running_api(tmp_path, timeouts=timeouts) as api, wire(api.port) as line:
        begin(api, line)
        line.chunk(line_of("a") + b"\n" + begun)
        status, answer = await line.json()
        assert (408, "request_timeout") == (status, answer["error"]["code"])
        assert [1, 0, [], 1] == [answer[key] for key in ("accepted", "duplicates", "rejected", "next_index")]


async def test_a_stopping_daemon_ends_the_stream_and_says_where(api: Api, line: Wire) -> None:
    """503 with Retry-After, the summary and `next_index`, on a stream that waits for lines."""
    line.chunk(line_of("a") + b"\nnonsense\n" + line_of("b") + b"\n" + line_of("c"))
    await until(lambda: accepted(api) == 2)
    await api.application.shutdown()
    status, headers, body = await line.answer()
    report = orjson.loads(body)
    assert (503, "2", "unavailable") == (status, headers["retry-after"], report["error"]["code"])
    assert (2, 1, 3) == (report["accepted"], report["rejected_count"], report["next_index"])


async def test_nothing_after_a_refused_batch_is_taken(tmp_path: Path) -> None:
    """At the first 503 the stream stops: the answer's `next_index` is where nothing was taken any more."""
    config = Config(limits=Limits(waiting_per_workspace=3))
    async with running_api(tmp_path, config) as api, wire(api.port) as line:
        api.engine.network.answer = lambda url, webhook_id: 500
        await api.engine.endpoint(HOOK)
        begin(api, line)
        for number in range(3):
            line.chunk(line_of(f"e{number}") + b"\n")
            await until(lambda number=number: accepted(api) == number + 1)
        line.chunk(b"nonsense\n" + line_of("e4") + b"\n" + line_of("e5") + b"\n")
        status, headers, body = await line.answer()
        report = orjson.loads(body)
        assert (503, "too_far_behind", 3, 3) == stopped(status, report)
        assert (0, []) == (report["duplicates"], report["rejected"])
        assert int(headers["retry-after"]) > 0


async def test_a_full_disk_stops_the_stream(api: Api, line: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """507 with the summary; the lines before stand."""
    line.chunk(line_of("a") + b"\n")
    await until(lambda: accepted(api) == 1)

    async def full(*given: object, **options: object) -> None:
        raise ApiError("storage_full", "The disk is nearly full.", retry_after_seconds=10)

    monkeypatch.setattr(type(api.app.services.ingest), "accept", full)
    line.chunk(line_of("b") + b"\n" + line_of("c") + b"\n")
    assert (507, "storage_full", 1, 1) == stopped(*await line.json())


async def test_batches_follow_each_other(api: Api, line: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is handed over only when the one before is durable, however much has come meanwhile."""
    held = HeldIngest(api, monkeypatch)
    for number in range(2000):
        line.chunk(line_of(f"e{number}") + b"\n")
    line.chunk(b"")
    await until(lambda: held.under_way == 1)
    await asyncio.sleep(0.02)
    held.gate.set()
    expected = {"accepted": 2000, "duplicates": 0, "rejected": [], "unsubscribed": {"message.received": 2000}}
    assert (202, expected) == await line.json()
    assert 1 == held.most


async def test_the_socket_is_not_read_while_too_much_is_uncommitted(
    api: Api, line: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With commits held up, a flood of 40 MiB is left in the socket: only about 4 MiB are taken in."""
    held = HeldIngest(api, monkeypatch)
    for number in range(700):
        line.chunk(line_of(f"e{number}", b',"x":"' + b"x" * 60_000 + b'"') + b"\n")
    line.chunk(b"")
    streams = api.application[event_stream.STREAMS]
    await until(lambda: any(stream.uncommitted_bytes > 3_500_000 for stream in streams))
    (stream,) = streams
    await asyncio.sleep(0.1)
    assert stream.uncommitted_bytes <= event_stream.UNCOMMITTED_BYTES
    held.gate.set()
    status, report = await line.json()
    assert (202, 700) == (status, report["accepted"])


async def test_the_largest_event_that_can_be_configured_fits_a_stream(tmp_path: Path) -> None:
    """Lines of 8 MiB, twice what may be uncommitted beside them, are taken."""
    largest = 8 * 1024 * 1024
    async with running_api(tmp_path, Config(delivery=Delivery(max_body_kb=8192))) as api:
        lines = [line_of(name, b',"x":"' + b"x" * (largest - len(line_of(name)) - 7) + b'"') for name in ("a", "b")]
        assert [largest, largest] == [len(line) for line in lines]
        answer = await asyncio.wait_for(api.post("/v1/events", data=b"\n".join(lines), headers=NDJSON), 30)
        expected = {"accepted": 2, "duplicates": 0, "rejected": [], "unsubscribed": {"message.received": 2}}
        assert (202, expected) == (answer.status, answer.json)


@pytest.mark.slow
async def test_a_flood_of_tiny_lines_stays_small(api: Api) -> None:
    """200,000 lines of one byte are refused one by one; the answer lists 100."""
    answer = await api.post("/v1/events", data=b"1\n" * 200_000, headers=NDJSON)
    assert (422, 200_000, 100) == (answer.status, answer.json["rejected_count"], len(answer.json["rejected"]))


async def test_broken_framing_ends_the_stream_where_it_was(api: Api, line: Wire) -> None:
    """400 for chunks that aren't; the lines before stand."""
    line.chunk(line_of("a") + b"\n")
    await until(lambda: accepted(api) == 1)
    line.send(b"zz\r\n")
    assert (400, "invalid_request", 1, 1) == stopped(*await line.json())


async def test_a_cut_leaves_no_complaint(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """Connections that end anywhere are usual: nothing is logged as an error."""
    caplog.set_level(logging.WARNING)
    for cut in (0, 10, 200, 400):
        async with wire(api.port) as line:
            whole = head(api, Transfer_Encoding="chunked", Content_Type="application/x-ndjson").encode()
            line.send((whole + b"31\r\n" + line_of("a") + b"\n")[:cut])
            await line.sent()
            line.reset()
    assert 200 == (await api.get("/healthz")).status
    assert [] == [record.getMessage() for record in caplog.records]


async def test_past_its_rate_a_stream_is_read_slower_and_a_request_is_refused(tmp_path: Path) -> None:
    """Five lines at two a second take two seconds and a half; meanwhile a single event is 429 with `Retry-After`."""
    async with running_api(tmp_path, Config(limits=Limits(events_per_second=2))) as api, wire(api.port) as line:
        begin(api, line)
        for name in "abcde":
            line.chunk(line_of(name) + b"\n")
        line.chunk(b"")
        began = api.engine.clock.monotonic()
        answered = asyncio.create_task(line.json())
        await until(lambda: accepted(api) == 2)
        refused = await api.post("/v1/events", data=line_of("single"))
        assert (429, "rate_limited", "1") == (refused.status, refused.code, refused.headers["Retry-After"])
        while not answered.done():
            await api.engine.clock.advance(0.1)
            await asyncio.sleep(0.005)
        assert (202, 5) == (answered.result()[0], answered.result()[1]["accepted"])
        assert 1.4 <= api.engine.clock.monotonic() - began <= 10  # the clock goes on while the machine is busy


async def test_a_workspace_over_its_quota_stops_the_stream_and_refuses_an_array(tmp_path: Path) -> None:
    """507 with a code of its own, after a second: a stream says where to go on, of an array nothing is taken."""
    async with running_api(tmp_path, Config(limits=Limits(log_mb_per_workspace=0.001))) as api:
        held = await api.engine.endpoint(HOOK)
        await api.app.services.endpoints.disable("default", held.id)
        async with wire(api.port) as line:
            begin(api, line)
            line.chunk(line_of("a", b',"x":"' + b"x" * 2000 + b'"') + b"\n")
            await until(lambda: accepted(api) == 1)
            array = asyncio.create_task(api.post("/v1/events", [{"event_type": "message.received", "event_id": "c"}]))
            line.chunk(line_of("b") + b"\n")
            answered = asyncio.create_task(line.json())
            while not (answered.done() and array.done()):
                await api.engine.clock.advance(0.1)
                await asyncio.sleep(0.005)
        assert (507, "workspace_full", 1, 1) == stopped(*answered.result())
        refused = array.result()
        assert (507, "workspace_full", "10") == (*refused.error, refused.headers["Retry-After"])
        assert 1 == accepted(api)
