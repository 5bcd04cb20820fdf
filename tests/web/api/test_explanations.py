"""Filters over HTTP, and why an event was sent to an endpoint or wasn't."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from tests.support.api import Answer, Api, running_api
from webhookd.config import Config, Delivery, Hold
from webhookd.config.loader import KEYS
from webhookd.web.api.explanations import ExplanationSchema
from webhookd.web.api.schemas import EndpointSchema

CLOSED = "conversation.closed"
BY_USER = {CLOSED: {"conversation": {"closedBySource": ["user"]}}}
NEW = {"url": "https://hooks.example/in", "event_types": [CLOSED], "filters": BY_USER}


async def ingest(api: Api, event_id: str, source: Any = "user", event_type: str = CLOSED) -> Answer:
    fields = {"event_type": event_type, "event_id": event_id, "conversation": {"closedBySource": source}}
    data = json.dumps(fields).encode()
    answer = await api.call("POST", "/v1/events", data=data, headers={"Content-Type": "application/json"})
    await api.engine.quiet()
    return answer


async def explain(api: Api, endpoint_id: str, event_id: str) -> dict[str, Any]:
    answer = await api.get(f"/v1/endpoints/{endpoint_id}/explain/{event_id}")
    assert 200 == answer.status, answer.json
    msgspec.json.decode(answer.body, type=ExplanationSchema)
    found: dict[str, Any] = answer.json
    return found


async def test_filters_are_made_shown_changed_and_refused(tmp_path: Path) -> None:
    """Whole each time; {} is none; a mistake names its path, and nothing is saved."""
    async with running_api(tmp_path) as api:
        made = (await api.post("/v1/endpoints", NEW)).json
        path = f"/v1/endpoints/{made['id']}"
        assert BY_USER == made["filters"] == (await api.get(path)).json["filters"]
        msgspec.convert((await api.get(path)).json, EndpointSchema)
        other = {"*": {"a": [{"exists": True}]}}
        assert other == (await api.call("PATCH", path, {"filters": other})).json["filters"]
        assert other == (await api.call("PATCH", path, {"description": "x"})).json["filters"]
        for wrong, words in (
            ({CLOSED: {"a": [{"prefiks": "x"}]}}, "wrong at 'a[0]'. It has no operator 'prefiks'"),
            ({"contact.nothing": {"a": ["x"]}}, "no event type 'contact.nothing'"),
            ({CLOSED: ["x"]}, "filters"),
            ([], "filters"),
            (None, "filters"),
        ):
            refused = await api.call("PATCH", path, {"filters": wrong})
            assert 422 == refused.status and words in refused.json["error"]["message"]
        refused = await api.post("/v1/endpoints", NEW | {"url": "https://b.example/", "filters": {"*": {}}})
        assert (422, "*") == (refused.status, refused.json["error"]["details"]["event_type"])
        assert other == (await api.get(path)).json["filters"]
        assert {} == (await api.call("PATCH", path, {"filters": {}})).json["filters"]


async def test_each_reason(tmp_path: Path) -> None:
    """What is still in the log says why; a path, what was found there and what was wanted."""
    settings = Config(delivery=Delivery(retry_seconds=()))
    async with running_api(tmp_path, settings) as api:
        await ingest(api, "early")
        await api.engine.advance(1)
        endpoint = (await api.post("/v1/endpoints", NEW)).json["id"]
        for name, source in (("sent", "user"), ("kept", "bot"), ("strange", [10**30, "x"])):
            await ingest(api, name, source)
        await ingest(api, "other", event_type="message.sent")
        reasons = [(await explain(api, endpoint, name))["reason"] for name in ("early", "sent", "kept", "other")]
        assert ["created_after", "delivered", "filtered", "not_subscribed"] == reasons
        kept = await explain(api, endpoint, "kept")
        where = {"pattern": CLOSED, "path": "conversation.closedBySource", "wanted": ["user"], "missing": False}
        assert ([where | {"found": "bot"}], False, []) == (
            kept["mismatches"],
            kept["changed_since"],
            kept["deliveries"],
        )
        strange = await api.get(f"/v1/endpoints/{endpoint}/explain/strange")
        assert b'"found":[1000000000000000000000000000000, "x"]' in strange.body
        sent = await explain(api, endpoint, "sent")
        assert (["sent"], []) == ([each["event_id"] for each in sent["deliveries"]], sent["mismatches"])

        await api.engine.advance(1)
        await api.call("PATCH", f"/v1/endpoints/{endpoint}", {"filters": {}})
        kept = await explain(api, endpoint, "kept")
        assert ("unknown", True) == (kept["reason"], kept["changed_since"])
        assert "those that decided are no longer known" in kept["message"]
        assert (await explain(api, endpoint, "sent"))["changed_since"]

        await api.post(f"/v1/endpoints/{endpoint}/disable")
        await ingest(api, "held")
        assert "held" == (await explain(api, endpoint, "held"))["reason"]
        test = (await api.post("/v1/endpoints", NEW | {"url": "https://b.example/"})).json["id"]
        attempt = (await api.post(f"/v1/endpoints/{test}/test", {})).json
        tested = attempt["request"]["headers"]["webhook-id"]
        assert ["test", "delivered"] == [(await explain(api, each, tested))["reason"] for each in (endpoint, test)]

        await api.call("PATCH", "/v1/workspaces/default", {"plan": "starter"})
        await api.engine.advance(1)
        await ingest(api, "unpaid")
        assert "plan" == (await explain(api, endpoint, "unpaid"))["reason"]
        await api.engine.advance(1)
        await api.call("PATCH", "/v1/workspaces/default", {"plan": "advanced"})
        assert "has them since" in (await explain(api, endpoint, "unpaid"))["message"]

        await api.call("DELETE", f"/v1/endpoints/{endpoint}")
        await api.engine.advance(1)
        await ingest(api, "late")
        assert ["deleted", "cancelled"] == [(await explain(api, endpoint, n))["reason"] for n in ("late", "held")]
        await api.app.store.write(lambda db: db.execute("UPDATE events SET body = NULL WHERE id = 'kept'").rowcount)
        assert "pruned" == (await explain(api, endpoint, "kept"))["reason"]
        for pair in (f"{endpoint}/explain/nothing", "ep_nothing/explain/kept"):
            assert (404, "not_found") == (await api.get(f"/v1/endpoints/{pair}")).error


async def test_what_expired_names_the_settings_that_let_it(tmp_path: Path) -> None:
    """The keys in the message are the configuration's."""
    async with running_api(tmp_path, Config(hold=Hold(max_age_hours=1))) as api:
        endpoint = (await api.post("/v1/endpoints", NEW)).json["id"]
        await api.post(f"/v1/endpoints/{endpoint}/disable")
        await ingest(api, "old")
        await api.engine.leap(7200)
        found = await explain(api, endpoint, "old")
        assert "expired" == found["reason"]
        named = re.findall(r"\b([a-z]+)\.([a-z_]+)\b", found["message"])
        assert named and all(key in KEYS for key in named)
