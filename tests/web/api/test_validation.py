"""Events held against the schemas of their types, and these schemas over the API."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.api import Api, running_api
from webhookd import log
from webhookd.catalogue.json_schema import type_schema
from webhookd.catalogue.types import TypeFile
from webhookd.config import Config, Events, ExtraType
from webhookd.rules.event_types import BUILT_IN

NDJSON = {"Content-Type": "application/x-ndjson"}
GOOD: dict[str, Any] = next(each.sample for each in BUILT_IN if each.name == "message.received")
PROBLEM = {"path": "contact.id", "reason": "is of the type string, not integer"}


def good(event_id: str) -> dict[str, Any]:
    return {**deepcopy(GOOD), "event_id": event_id}


def bad(event_id: str) -> dict[str, Any]:
    return {**good(event_id), "contact": {**GOOD["contact"], "id": "1"}}


def config(mode: Any) -> Config:
    return Config(events=Events(validate=mode))


async def metric(api: Api, name: str) -> float:
    text = (await api.get("/metrics")).body.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


async def test_off_looks_at_nothing(api: Api) -> None:
    """The default: what doesn't fit is accepted without a word."""
    answer = await api.post("/v1/events", bad("a"))
    assert (202, {"event_id": "a", "deliveries": 0, "duplicate": False}) == (answer.status, answer.json)
    assert {"accepted", "duplicates", "rejected", "unsubscribed"} == (
        await api.post("/v1/events", [bad("b")])
    ).json.keys()


async def test_warn_accepts_with_a_warning_in_answer_log_and_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One event, an array, a stream: each warning with its place; the log's are throttled by workspace and type."""
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(log, "throttled", lambda event, **fields: lines.append({"event": event, **fields}))
    stream = b"\n".join(map(orjson.dumps, (bad("e"), good("f"))))
    async with running_api(tmp_path, config("warn")) as api:
        one = await api.post("/v1/events", bad("a"))
        fine = await api.post("/v1/events", good("b"))
        nameless = await api.post("/v1/events", {key: value for key, value in GOOD.items() if key != "event_id"})
        many = [
            await api.post("/v1/events", [good("c"), bad("d")]),
            await api.post("/v1/events", data=stream, headers=NDJSON),
        ]
        assert 7 == len((await api.get("/v1/events")).json["data"])
        assert 3 == await metric(api, "webhookd_events_mismatched_total")
    assert 202 == one.status and "schema_mismatch" == one.json["warning"]["code"]
    assert {"event_type": "message.received", "problems": [PROBLEM]} == one.json["warning"]["details"]
    assert "warning" not in fine.json and "warning" not in nameless.json
    for place, answer in zip((1, 0), many, strict=True):
        assert (202, 2, 1) == (answer.status, answer.json["accepted"], answer.json["warned_count"])
        (warned,) = answer.json["warnings"]
        assert (place, [PROBLEM]) == (warned["index"], warned["warning"]["details"]["problems"])
    assert 3 * [("event.mismatched", ("default", "message.received"), "contact.id", PROBLEM["reason"])] == [
        (line["event"], line["key"], line["path"], line["problem"]) for line in lines
    ]


async def test_refuse_refuses_with_path_and_reason(tmp_path: Path) -> None:
    """422 for one; of many those that don't fit, the others stand."""
    async with running_api(tmp_path, config("refuse")) as api:
        one = await api.post("/v1/events", bad("a"))
        array = await api.post("/v1/events", [good("c"), bad("d")])
        stream = await api.post("/v1/events", data=b"\n".join(map(orjson.dumps, (bad("e"), good("f")))), headers=NDJSON)
        assert {"c", "f"} == {each["event_id"] for each in (await api.get("/v1/events")).json["data"]}
        assert 3 == await metric(api, 'webhookd_events_refused_total{code="schema_mismatch"}')
        assert 202 == (await api.post("/v1/events", good("g"))).status
    assert (422, "schema_mismatch") == (one.status, one.code)
    assert "contact.id is of the type string, not integer" in one.json["error"]["message"]
    assert [PROBLEM] == one.json["error"]["details"]["problems"]
    for place, answer in ((1, array), (0, stream)):
        assert (422, 1) == (answer.status, answer.json["accepted"])
        assert [(place, "schema_mismatch")] == [(r["index"], r["error"]["code"]) for r in answer.json["rejected"]]


async def test_a_reload_switches_it(tmp_path: Path) -> None:
    """And the configuration's own types are held against their schema."""
    own = TypeFile(schema={"type": "object", "required": ["order"]}, sample={"order": 1})
    events = Events(validate="refuse", types={"order.paid": ExtraType(label="Order Paid", file=own)})
    async with running_api(tmp_path) as api:
        assert 202 == (await api.post("/v1/events", bad("a"))).status
        api.app.reload(Config(events=events))
        assert 422 == (await api.post("/v1/events", bad("b"))).status
        answer = await api.post("/v1/events", {"event_type": "order.paid"})
        assert [{"path": "order", "reason": "is missing"}] == answer.json["error"]["details"]["problems"]
        assert 202 == (await api.post("/v1/events", {"event_type": "order.paid", "order": 2})).status
        schema = (await api.get("/v1/event-types/order.paid/schema")).json
        assert ["order"] == schema["required"]
        assert "OrderPaid" in (await api.get("/openapi.json")).json["components"]["schemas"]
        assert "OrderPaid" in (await api.get("/asyncapi.json")).json["components"]["messages"]


async def test_the_schema_of_a_type_is_served(api: Api) -> None:
    """As the files of the package have it; an unknown type is 404 with the nearest name."""
    for kind in BUILT_IN:
        answer = await api.get(f"/v1/event-types/{kind.name}/schema")
        assert (200, type_schema(kind)) == (answer.status, answer.json)
    missing = await api.get("/v1/event-types/message.recieved/schema")
    assert (404, "not_found") == (missing.status, missing.code)
    assert 'did you mean "message.received"?' in missing.json["error"]["message"]


async def test_the_documents_describe_what_receivers_get(api: Api) -> None:
    """OpenAPI's webhooks beside its paths, with schemas that clash with none of the API's own; AsyncAPI."""
    document = (await api.get("/openapi.json")).json
    assert [each.name for each in BUILT_IN] == list(document["webhooks"])
    body = document["webhooks"]["message.received"]["post"]["requestBody"]["content"]["application/json"]
    assert {"$ref": "#/components/schemas/MessageReceived"} == body["schema"]
    assert {"code", "message", "details"} <= document["components"]["schemas"]["ErrorDetail"]["properties"].keys()
    assert "3.0.0" == (await api.get("/asyncapi.json")).json["asyncapi"]
    ids = [operation["operationId"] for path in (*document["paths"].values(), *document["webhooks"].values())
           for operation in path.values()]  # fmt: skip
    assert len(ids) == len(set(ids))


def test_without_the_library_the_setting_is_a_mistake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It names the extra; the default doesn't need it."""
    from webhookd.config.loader import check

    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    path = tmp_path / "webhookd.toml"
    path.write_text('[events]\nvalidate = "warn"\n', "utf-8")
    assert ["pip install 'webhookd[validate]'"] == [mistake.form for mistake in check(path)]
    path.write_text("", "utf-8")
    assert [] == check(path)
