"""One event and arrays of them: what is accepted, what is refused with which code, and that nothing is changed."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import orjson
import pytest

from tests.support.api import Api, head, running_api, wire
from webhookd.config import Config, Limits
from webhookd.rules.parsing import Line
from webhookd.web.api.batch_ingest import REFUSED, BatchIngest

HOOK, OWN = "https://hooks.example/in", "https://own.example/in"
ONE = b'{"event_type":"message.received","event_id":"a"}'
NDJSON = {"Content-Type": "application/x-ndjson"}
JSON = {"Content-Type": "application/json"}
SAMPLES = Path(__file__).parents[2] / "rules" / "samples"


async def delivered(api: Api, url: str = HOOK) -> list[bytes]:
    await api.engine.quiet()
    return [posted.body for posted in api.engine.network.posted if posted.url == url]


async def test_an_accepted_event_is_answered_and_delivered(api: Api) -> None:
    """202 with the id and the number of deliveries; the body arrives byte for byte."""
    await api.engine.endpoint(HOOK)
    body = b' {"event_type": "message.received", "event_id": "a", "n": 12345678901234567890123, "f": 1.10}\n'
    answer = await api.post("/v1/events", data=body, token="ingest", headers=JSON)
    assert (202, {"event_id": "a", "deliveries": 1, "duplicate": False}) == (answer.status, answer.json)
    assert "application/json; charset=utf-8" == answer.headers["Content-Type"]
    assert [body.strip()] == await delivered(api)


async def test_an_event_without_an_id_gets_one_as_its_first_member(api: Api) -> None:
    """A UUIDv7 is answered and spliced in; nothing else changes."""
    await api.engine.endpoint(HOOK)
    answer = await api.post("/v1/events", data=b'{"event_type":"message.received" ,"z":1}', headers=JSON)
    made = answer.json["event_id"]
    assert "7" == made[14]
    expected = b'{"event_id":"%b","event_type":"message.received" ,"z":1}' % made.encode()
    assert [expected] == await delivered(api)


async def test_the_same_event_again_is_a_duplicate_and_delivered_once(api: Api) -> None:
    """Same id, same bytes: 202 with `duplicate`; same id, other bytes: 409."""
    await api.engine.endpoint(HOOK)
    await api.post("/v1/events", data=ONE, headers=JSON)
    again = await api.post("/v1/events", data=ONE + b"\n", headers=JSON)
    assert (202, {"event_id": "a", "deliveries": 1, "duplicate": True}) == (again.status, again.json)
    other = await api.post("/v1/events", data=ONE.replace(b"}", b',"x":1}'), headers=JSON)
    assert (409, "event_id_conflict") == (other.status, other.code)
    assert [ONE] == await delivered(api)


async def test_the_trace_of_a_request_goes_out_with_each_delivery(api: Api) -> None:
    """Of one event, an array, a stream; with a retry, from the table and with a replay; else there is none."""
    endpoint = await api.engine.endpoint(HOOK)
    own = await api.post("/v1/endpoints", {"url": OWN, "event_types": ["*"], "headers": {"TraceParent": "of its own"}})
    parents = [f"00-{number:032x}-b7ad6b7169203331-01" for number in range(1, 5)]
    large = b'{"event_type":"message.received","event_id":"d","text":"%b"}' % (b"x" * 20_000)

    def traced(parent: str, kind: dict[str, str]) -> dict[str, str]:
        return {**kind, "traceparent": parent, "tracestate": " a=1 ,,b=2"}

    def line(name: str) -> bytes:
        return ONE.replace(b'"a"', b'"%b"' % name.encode())

    api.engine.network.answer = lambda url, webhook_id: 500 if webhook_id == "a" else 200
    await api.post("/v1/events", data=ONE, headers=traced(parents[0], JSON))
    await api.engine.advance(30)
    api.engine.network.answer = lambda url, webhook_id: 200
    await api.engine.advance(60)
    await api.app.services.endpoints.disable("default", endpoint.id)
    await api.post("/v1/events", data=b"[%b,%b]" % (line("b"), line("b2")), headers=traced(parents[1], JSON))
    await api.post("/v1/events", data=line("c") + b"\n" + line("c2"), headers=traced(parents[2], NDJSON))
    await api.post("/v1/events", data=large, headers=traced(parents[3], JSON))
    await api.post("/v1/events", data=line("e"), headers=traced("00-no-trace-01", JSON))
    await api.post("/v1/events", data=line("f"), headers=JSON | {"tracestate": "a=1"})
    await api.app.services.endpoints.enable("default", endpoint.id)
    await api.engine.quiet()
    await api.post("/v1/replay", {"endpoint": endpoint.id, "event_id": "a", "state": "delivered"})
    await api.engine.quiet()
    posted = [each for each in api.engine.network.posted if each.url == HOOK]
    of = dict(zip("abcd", parents, strict=True))
    expected = [(of.get(each.webhook_id[0]), "a=1,b=2" if each.webhook_id[0] in of else None) for each in posted]
    assert expected == [(each.headers.get("traceparent"), each.headers.get("tracestate")) for each in posted]
    assert ["a", "a", "a", "b", "b2", "c", "c2", "d", "e", "f", "a"] == [each.webhook_id for each in posted]
    assert {("of its own", None)} == {
        (each.headers.get("TraceParent"), each.headers.get("tracestate"))
        for each in api.engine.network.posted
        if each.url == own.json["url"]
    }


@pytest.mark.parametrize("sample", sorted(SAMPLES.iterdir()), ids=lambda path: path.stem)
async def test_every_sample_is_accepted(api: Api, sample: Path) -> None:
    """Each built-in type as a producer pipes it in."""
    answer = await api.post("/v1/events", data=sample.read_bytes(), headers=JSON)
    assert 202 == answer.status


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b'{"event_type":"message.received","x":"\xff"}', 400, "invalid_json"),
        (b'{"event_type":"message.received","x":"\\ud800"}', 400, "invalid_json"),
        (b'{"event_type":"message.received","x":' + b"[" * 10_000 + b"]" * 10_000 + b"}", 400, "invalid_json"),
        (b"[" + ONE + b",", 400, "invalid_json"),
        (b"[" + ONE + b"] x", 400, "invalid_json"),
        (b"[" + ONE + b',{"a":}]', 400, "invalid_json"),
        (b"[" + ONE + b',"\xff"]', 400, "invalid_json"),
        (b'"text"', 422, "invalid_event"),
        (b'{"event_type":"message.received","event_type":"contact.created"}', 422, "invalid_event"),
        (b"{}", 422, "missing_event_type"),
        (b'{"event_type":"message.recieved"}', 422, "unknown_event_type"),
        (b'{"event_type":"message.received","event_id":"a b"}', 422, "invalid_event_id"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_faulty_event_is_refused_with_its_code(api: Api, body: bytes, status: int, code: str) -> None:
    """Every fault has its own code, a message and the one form; nothing is accepted, of an array neither."""
    answer = await api.post("/v1/events", data=body, headers=JSON)
    assert (status, code) == (answer.status, answer.code)
    assert {"code", "message", "details"} == answer.json["error"].keys()
    assert 0 == api.app.services.ingest.accepted_count


async def test_an_unknown_workspace_is_not_found(api: Api) -> None:
    """404, for one event and for a stream."""
    for headers in (JSON, NDJSON):
        assert (404, "not_found") == (await api.post("/v1/workspaces/nobody/events", data=ONE, headers=headers)).error


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 202),
        ("Application/JSON; charset=UTF-8", 202),
        ("application/json; charset=latin-1", 415),
        ("application/cloudevents+json", 415),
    ],
)
async def test_the_media_type_decides(api: Api, content_type: str | None, status: int) -> None:
    """JSON in UTF-8, also where no type is given; what a browser's form can send is refused."""
    answer = await api.post("/v1/events", data=ONE, headers={"Content-Type": content_type} if content_type else {})
    assert status == answer.status
    if status == 415:
        assert "unsupported_media_type" == answer.code


@pytest.mark.parametrize("headers", [JSON, NDJSON])
async def test_a_compressed_body_is_refused(api: Api, headers: dict[str, str]) -> None:
    """415, and it is never decompressed; `identity` says nothing and passes."""
    answer = await api.post("/v1/events", data=gzip.compress(ONE), headers={**headers, "Content-Encoding": "gzip"})
    assert (415, "unsupported_media_type") == (answer.status, answer.code)
    plain = await api.post("/v1/events", data=ONE, headers={**headers, "Content-Encoding": "identity"})
    assert 202 == plain.status


# Arrays
async def test_an_array_is_accepted_in_its_order(api: Api) -> None:
    """All good: 202 with three keys; delivered in the array's order, each element's own bytes."""
    await api.engine.endpoint(HOOK)
    elements = [b'{"event_type": "message.received", "event_id": "e%d", "n": 1.50}' % n for n in range(50)]
    answer = await api.post("/v1/events", data=b" [ " + b" ,\n".join(elements) + b" ] ", headers=JSON)
    assert (202, {"accepted": 50, "duplicates": 0, "rejected": []}) == (answer.status, answer.json)
    assert elements == await delivered(api)


async def test_faults_of_elements_concern_them_alone(api: Api) -> None:
    """422 names each refused element; the good ones stand, a known one counts as duplicate."""
    await api.engine.endpoint(HOOK)
    await api.post("/v1/events", data=ONE, headers=JSON)
    elements = [
        b"7",
        ONE,
        b'{"event_type":"contact.created","event_id":"b"}',
        b'{"event_type":"message.received","event_id":"b"}',
        b'{"event_type":"contact.created","event_id":"b"}',
        b'{"event_type":"message.received","event_id":"c","x":"\\ud800"}',
        b"[" + ONE + b"]",
    ]
    answer = await api.post("/v1/events", data=b"[" + b",".join(elements) + b"]", headers=JSON)
    report = answer.json
    assert 422 == answer.status
    assert (1, 2, 4) == (report["accepted"], report["duplicates"], report["rejected_count"])
    codes = [(each["index"], each["error"]["code"]) for each in report["rejected"]]
    expected = [(0, "invalid_event"), (3, "event_id_conflict"), (5, "invalid_json"), (6, "invalid_event")]
    assert expected == codes
    assert [ONE, elements[2]] == await delivered(api)


async def test_the_limits_of_an_array(api: Api) -> None:
    """1,000 events pass and 1,001 don't; 8 MiB in all pass and one byte more doesn't."""
    element = b'{"event_type":"message.received"}'
    full = await api.post("/v1/events", data=b"[" + b",".join([element] * 1000) + b"]", headers=JSON)
    assert (202, 1000) == (full.status, full.json["accepted"])
    over = await api.post("/v1/events", data=b"[" + b",".join([element] * 1001) + b"]", headers=JSON)
    assert (413, "payload_too_large") == (over.status, over.code)
    wide = b"[" + element + b" " * (8 * 1024 * 1024 - 2 - len(element)) + b"]"
    assert 202 == (await api.post("/v1/events", data=wide, headers=JSON)).status
    assert (413, "payload_too_large") == (await api.post("/v1/events", data=wide + b" ", headers=JSON)).error


async def test_at_most_a_hundred_refusals_are_listed(api: Api) -> None:
    """`rejected` has the first 100, `rejected_count` all."""
    answer = await api.post("/v1/events", [{}] * 150)
    assert (422, 150) == (answer.status, answer.json["rejected_count"])
    assert list(range(100)) == [each["index"] for each in answer.json["rejected"]]


async def test_a_thousand_events_leave_the_loop_to_others(api: Api) -> None:
    """While a large array is checked the loop gets its turns: a task beside it runs many times."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    element = b'{"event_type":"message.received","x":"\\u0065%b"}' % (b"\\u0041" * 1300)  # slow to check
    batch_ingest = BatchIngest(api.app.services, api.app.registry.workspaces()[0], api.application[REFUSED])
    counting = asyncio.create_task(count_turns())
    await asyncio.sleep(0)
    before = turns
    checked = await batch_ingest.check([Line(index, element) for index in range(1000)])
    counting.cancel()
    assert 1000 == len(checked)
    assert turns - before >= 2


# Where the promise can't be kept
async def test_a_workspace_too_far_behind_is_reported_when_to_come_back(tmp_path: Path) -> None:
    """503 `too_far_behind` with Retry-After; nothing of the array is accepted."""
    config = Config(limits=Limits(waiting_per_workspace=1))
    async with running_api(tmp_path, config) as api:
        api.engine.network.answer = lambda url, webhook_id: 500
        await api.engine.endpoint(HOOK)
        assert 202 == (await api.post("/v1/events", data=ONE, headers=JSON)).status
        answer = await api.post("/v1/events", [{"event_type": "message.received"}])
        assert (503, "too_far_behind") == (answer.status, answer.code)
        assert int(answer.headers["Retry-After"]) > 0


async def test_a_daemon_that_stops_takes_nothing(api: Api) -> None:
    """503 `unavailable` with Retry-After."""
    api.app.services.ingest.close()
    answer = await api.post("/v1/events", data=ONE, headers=JSON)
    assert (503, "unavailable", "2") == (answer.status, answer.code, answer.headers["Retry-After"])


# Slow and broken bodies
async def test_a_connection_cut_in_the_body_leaves_nothing(api: Api) -> None:
    """Half an event is none, and the daemon goes on."""
    async with wire(api.port) as line:
        line.send(head(api, Content_Length="1000", Content_Type="application/json"))
        line.send(ONE)
        await line.sent()
        line.reset()
    assert 202 == (await api.post("/v1/events", data=ONE, headers=JSON)).status
    assert 1 == api.app.services.ingest.accepted_count


async def test_a_query_is_never_overlooked(api: Api) -> None:
    """A parameter that POST events doesn't know is named, so that `?workspace=` isn't silently ignored."""
    answer = await api.post("/v1/events?workspace=acme&x=1", data=ONE, headers=JSON)
    assert (422, "unknown_field", ["workspace", "x"]) == (*answer.error, answer.json["error"]["details"]["fields"])


async def test_refused_events_are_counted_by_code(api: Api) -> None:
    """What was refused shows in the metrics."""
    await api.post("/v1/events", [{}, {}, {"event_type": "x"}])
    await api.post("/v1/events", data=orjson.dumps({}), headers=JSON)
    text = (await api.get("/metrics")).body.decode()
    assert 'webhookd_events_refused_total{code="missing_event_type"} 3.0' in text
    assert 'webhookd_events_refused_total{code="unknown_event_type"} 1.0' in text


async def test_events_that_no_endpoint_gets_are_reported(api: Api) -> None:
    """No endpoint subscribes, or the plan has no webhooks: in the answer to one, to an array and to lines."""
    await api.engine.endpoint("https://hooks.example/in", ["message.sent"])
    events = [{"event_type": name} for name in ("contact.created", "message.sent", "contact.created")]
    lines = b"\n".join(map(orjson.dumps, events))
    expected = {"accepted": 3, "duplicates": 0, "rejected": [], "unsubscribed": {"contact.created": 2}}
    assert expected == (await api.post("/v1/events", events)).json
    assert expected == (await api.post("/v1/events", data=lines, headers=NDJSON)).json
    assert {"event_id", "deliveries", "duplicate"} == (await api.post("/v1/events", events[0])).json.keys()
    await api.call("PATCH", "/v1/workspaces/default", {"plan": "starter"})
    expected = {"accepted": 3, "duplicates": 0, "rejected": [], "paused_by": "plan"}
    assert expected == (await api.post("/v1/events", events)).json
    assert "plan" == (await api.post("/v1/events", events[1])).json["paused_by"]
