"""Endpoints over HTTP: their form, what is refused with which code, the actions, the signing key."""

from __future__ import annotations

import asyncio
import base64
import hmac
import io
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.api import Api, running_api
from webhookd import log
from webhookd.config import Budget, Config, Delivery, Events, ExtraType, Limits
from webhookd.models import Reason
from webhookd.rules.signing import Signer
from webhookd.web.api.endpoints import (
    CreatedEndpointSchema,
    EnabledEndpointSchema,
    EndpointListSchema,
    SigningKeysSchema,
)
from webhookd.web.api.schemas import AttemptSchema, EndpointSchema

URL = "https://hooks.example/in"
NEW = {"url": URL, "event_types": ["message.received"]}
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = "2026-01-01T00:00:00.000Z"
ONLY = {"x_webhook_signature_key": None, "previous_key": None, "previous_key_until": None, "previous_keys": []}


async def make(api: Api, path: str = "/v1/endpoints", **fields: Any) -> dict[str, Any]:
    answer = await api.post(path, NEW | fields)
    assert 201 == answer.status, answer.body
    made: dict[str, Any] = answer.json
    return made


async def show(api: Api, endpoint_id: str) -> dict[str, Any]:
    answer = await api.get(f"/v1/endpoints/{endpoint_id}")
    assert 200 == answer.status
    msgspec.convert(answer.json, EndpointSchema)
    shown: dict[str, Any] = answer.json
    return shown


async def test_an_endpoint_is_made_and_shown_as_it_was_given(api: Api) -> None:
    """201 with every field of the contract and the signing key, which later looks don't have; nor lists the headers."""
    made = await make(api, event_types=["*"], description="the warehouse", success="2xx", headers={"X-Tenant": "acme"})
    msgspec.convert(made, CreatedEndpointSchema)
    key = made.pop("signing_key")
    assert key.startswith("whsec_")
    expected = {
        "id": made["id"],
        "workspace": "default",
        "url": URL,
        "event_types": ["*"],
        "description": "the warehouse",
        "success": "2xx",
        "headers": {"X-Tenant": "acme"},
        "x_webhook_signature": True,
        "x_webhook_signature_key": None,
        "ordering": "endpoint",
        "filters": {},
        "state": "active",
        "paused_by": None,
        "disabled": None,
        "created_at": NOW,
        "updated_at": NOW,
        "queue": {
            "waiting": 0,
            "held": 0,
            "oldest_at": None,
            "next_attempt_at": None,
            "in_flight": False,
            "lanes": None,
        },
        "last_attempt": None,
    }
    assert expected == made
    assert expected == await show(api, made["id"])
    listed = expected | {"headers": {"X-Tenant": "***"}}
    assert {"data": [listed], "next": None} == (await api.get("/v1/endpoints")).json


async def test_defaults_come_from_the_configuration(tmp_path: Path) -> None:
    """Without a success rule the configured one holds; without a key webhookd makes one of 32 bytes."""
    async with running_api(tmp_path, Config(delivery=Delivery(success="2xx"))) as api:
        made = await make(api)
        assert ("2xx", "", {}) == (made["success"], made["description"], made["headers"])
        assert len("whsec_") + 44 == len(made["signing_key"])


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({"event_types": ["message.received"]}, 422, "invalid_field", "url"),
        ({"url": URL}, 422, "invalid_field", "event_types"),
        (NEW | {"event_types": "message.received"}, 422, "invalid_field", "event_types"),
        (NEW | {"event_types": ["*", "message.received"]}, 422, "invalid_field", "event_types"),
        (NEW | {"event_types": ["message.recieved"]}, 422, "unknown_event_type", None),
        (NEW | {"url": 7}, 422, "invalid_field", "url"),
        (NEW | {"url": "https://u:p@hooks.example/"}, 422, "invalid_url", "url"),
        (NEW | {"url": "https://127.0.0.1/"}, 422, "blocked_address", "url"),
        (NEW | {"success": "3xx"}, 422, "invalid_field", "success"),
        (NEW | {"description": None}, 422, "invalid_field", "description"),
        (NEW | {"description": "x" * 501}, 422, "invalid_field", "description"),
        (NEW | {"headers": ["X-A"]}, 422, "invalid_field", "headers"),
        (NEW | {"headers": {"X-A": "a\r\nX-B: b"}}, 422, "invalid_field", "headers"),
        (NEW | {"signing_key": "whsec_c2hvcnQ="}, 422, "invalid_field", "signing_key"),
        (NEW | {"state": "disabled"}, 422, "unknown_field", None),
        ([NEW], 422, "invalid_field", ""),
    ],
)
async def test_what_cannot_be_an_endpoint_is_refused(
    api: Api, body: Any, status: int, code: str, field: str | None
) -> None:
    """With the code, the name of the field, and nothing made; no secret is repeated."""
    answer = await api.post("/v1/endpoints", body)
    assert (status, code) == (answer.status, answer.code)
    assert field == answer.json["error"]["details"].get("field")
    assert [] == (await api.get("/v1/endpoints")).json["data"]


async def test_every_unknown_field_is_named(api: Api) -> None:
    """A typing mistake never passes for left out."""
    answer = await api.post("/v1/endpoints", NEW | {"event_type": "x", "colour": "red"})
    assert (422, ["event_type", "colour"]) == (answer.status, answer.json["error"]["details"]["fields"])


async def test_one_url_once_per_workspace(api: Api) -> None:
    """409 names the endpoint that has it; another workspace may have it too; a deleted one frees it."""
    first = await make(api)
    again = await api.post("/v1/endpoints", NEW)
    assert (409, "endpoint_exists") == (again.status, again.code)
    assert first["id"] == again.json["error"]["details"]["id"]
    await api.post("/v1/workspaces", {"id": "acme"})
    other = await make(api, "/v1/workspaces/acme/endpoints")
    assert "acme" == other["workspace"]
    await api.call("DELETE", f"/v1/endpoints/{first['id']}")
    await make(api)


SAME = ("https://example.com:443/hook", "https://example.com./hook", "https://EXAMPLE.com/hook?")


async def test_a_url_is_the_same_in_every_form(api: Api) -> None:
    """Port 443 of https, the dot after the host, an empty query; the form that was typed is kept, and may change.

    A PATCH with the URL of another endpoint is 409 with its id; its own, in any form, is no conflict.
    """
    first = await make(api, url=SAME[0])
    await make(api, url="https://example.com/hook/")
    assert SAME[0] == first["url"]
    for url in ("https://example.com/hook", *SAME):
        again = await api.post("/v1/endpoints", NEW | {"url": url})
        assert (409, first["id"]) == (again.status, again.json["error"]["details"]["id"])
    other = await make(api, url="https://example.com/other")
    for url in SAME[:2]:
        taken = await api.call("PATCH", f"/v1/endpoints/{other['id']}", {"url": url})
        assert (409, "endpoint_exists", first["id"]) == (*taken.error, taken.json["error"]["details"]["id"])
        changed = await api.call("PATCH", f"/v1/endpoints/{first['id']}", {"url": url})
        assert (200, url) == (changed.status, changed.json["url"])


async def test_a_workspace_has_so_many_endpoints_and_no_more(tmp_path: Path) -> None:
    """`limits.endpoints`: 409, until one is deleted."""
    async with running_api(tmp_path, Config(limits=Limits(endpoints=2))) as api:
        for number in (1, 2):
            last = await make(api, url=f"{URL}/{number}")
        assert (409, "too_many_endpoints") == (await api.post("/v1/endpoints", NEW)).error
        await api.call("DELETE", f"/v1/endpoints/{last['id']}")
        await make(api)


async def test_endpoints_are_listed_in_pages_oldest_first(api: Api) -> None:
    """`next` leads on until it is null; a changed endpoint keeps its place."""
    made = [(await make(api, url=f"{URL}/{number}"))["id"] for number in range(5)]
    await api.call("PATCH", f"/v1/endpoints/{made[1]}", {"description": "changed"})
    found, cursor = [], ""
    for _ in range(3):
        page = (await api.get(f"/v1/endpoints?limit=2&cursor={cursor}")).json
        msgspec.convert(page, EndpointListSchema)
        found += [one["id"] for one in page["data"]]
        cursor = page["next"]
    assert made == found and cursor is None


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "cursor=%21", "cursor=eA", "colour=red"])
async def test_a_wrong_page_is_refused(api: Api, query: str) -> None:
    """Limits, cursors and parameters that aren't any."""
    answer = await api.get(f"/v1/endpoints?{query}")
    assert answer.code in ("invalid_field", "invalid_request", "unknown_field")


@pytest.mark.parametrize("name", ["ep_nope", "%00", "..%2f..", "%ed%a0%80", "x" * 2000, "ep_'%20OR%201=1"])
async def test_what_names_no_endpoint_is_not_found(api: Api, name: str) -> None:
    """Whatever stands in the path: 404 in the one form, for every method."""
    for method, path in (
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("GET", "/signing-key"),
        *(("POST", f"/{action}") for action in ("enable", "disable", "test", "rotate-key")),
    ):
        assert (404, "not_found") == (await api.call(method, f"/v1/endpoints/{name}{path}")).error, (method, path)


async def test_another_workspaces_endpoint_is_not_found(api: Api) -> None:
    """Each workspace has endpoints of its own; an unknown workspace has none."""
    made = await make(api)
    await api.post("/v1/workspaces", {"id": "acme"})
    for workspace in ("acme", "nope", "%00"):
        assert (404, "not_found") == (await api.get(f"/v1/workspaces/{workspace}/endpoints/{made['id']}")).error
    assert 200 == (await api.get(f"/v1/workspaces/default/endpoints/{made['id']}")).status


async def test_only_what_is_given_is_changed(api: Api) -> None:
    """PATCH changes fields one by one, all or none; without fields it changes nothing."""
    made = await make(api, headers={"X-A": "a"})
    made.pop("signing_key")
    path = f"/v1/endpoints/{made['id']}"
    await api.engine.advance(5)
    assert made == (await api.call("PATCH", path, {})).json
    changed = await api.call("PATCH", path, {"event_types": ["contact.created", "message.sent"], "headers": {}})
    expected = made | {
        "event_types": ["contact.created", "message.sent"],
        "headers": {},
        "updated_at": "2026-01-01T00:00:05.000Z",
    }
    assert (200, expected) == (changed.status, changed.json)
    refused = await api.call("PATCH", path, {"description": "new", "success": "no"})
    assert (422, expected) == (refused.status, await show(api, made["id"]))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"url": "https://169.254.169.254/"}, "blocked_address"),
        ({"url": None}, "invalid_field"),
        ({"event_types": []}, "invalid_field"),
        ({"event_types": ["nope"]}, "unknown_event_type"),
        ({"signing_key": "x"}, "invalid_field"),
        ({"headers": {"Authorization": "***"}}, "invalid_field"),
        ({"id": "ep_other"}, "unknown_field"),
        ({"queue": {}}, "unknown_field"),
    ],
)
async def test_a_wrong_change_is_refused(api: Api, change: dict[str, Any], code: str) -> None:
    """The same rules as when it was made."""
    made = await make(api)
    assert (422, code) == (await api.call("PATCH", f"/v1/endpoints/{made['id']}", change)).error


async def test_a_type_that_the_configuration_lost_may_stay(tmp_path: Path) -> None:
    """PATCH takes what GET shows, a test sends it by its name; it can't be added to another endpoint."""
    async with running_api(tmp_path, Config(events=Events(types={"order.paid": ExtraType()}))) as api:
        made = await make(api, event_types=["order.paid", "message.sent"])
        api.app.reload(Config())
        path = f"/v1/endpoints/{made['id']}"
        shown = await show(api, made["id"])
        settings = {name: shown[name] for name in ("url", "event_types", "description", "success", "headers")}
        assert (200, shown | {"updated_at": None}) == (
            (changed := await api.call("PATCH", path, settings)).status,
            changed.json | {"updated_at": None},
        )
        assert "delivered" == (await api.post(f"{path}/test")).json["outcome"]
        assert b'"event_type":"order.paid"' in api.engine.network.posted[0].body
        assert 422 == (await api.post(f"{path}/test", {"event_type": "order.lost"})).status
        other = {"url": "https://example.com/other", "event_types": ["order.paid"]}
        assert "unknown_event_type" == (await api.post("/v1/endpoints", other)).code
        assert 200 == (await api.call("PATCH", path, {"event_types": ["message.sent"]})).status
        assert 422 == (await api.call("PATCH", path, settings)).status


async def test_a_deleted_endpoint_is_gone(api: Api) -> None:
    """204 without a body; then it is neither found nor listed, nor deleted again."""
    made = await make(api)
    deleted = await api.call("DELETE", f"/v1/endpoints/{made['id']}")
    assert (204, b"") == (deleted.status, deleted.body)
    assert 404 == (await api.call("DELETE", f"/v1/endpoints/{made['id']}")).status
    assert 404 == (await api.get(f"/v1/endpoints/{made['id']}")).status
    assert [] == (await api.get("/v1/endpoints")).json["data"]


async def test_the_queue_of_a_disabled_endpoint_is_held(api: Api) -> None:
    """Disable says by whom and when, what comes is held; enable lets it go, in order."""
    made = await make(api)
    path = f"/v1/endpoints/{made['id']}"
    disabled = await api.post(f"{path}/disable")
    stopped = disabled.json["disabled"]
    assert (200, "disabled") == (disabled.status, disabled.json["state"])
    assert ("person", NOW) == (stopped["reason"], stopped["at"])
    await api.engine.advance(1)
    await api.engine.send("a", "b")
    expected = {"waiting": 2, "held": 2, "oldest_at": "2026-01-01T00:00:01.000Z", "next_attempt_at": None}
    assert expected | {"in_flight": False, "lanes": None} == (await show(api, made["id"]))["queue"]
    assert 200 == (await api.post(f"{path}/disable")).status
    enabled = await api.post(f"{path}/enable", {"skip_held": False})
    msgspec.convert(enabled.json, EnabledEndpointSchema)
    assert (200, "active", None) == (enabled.status, enabled.json["state"], enabled.json["disabled"])
    await api.engine.quiet()
    assert ["a", "b"] == api.engine.network.ids(URL)
    shown = await show(api, made["id"])
    assert (0, None, 200) == (shown["queue"]["waiting"], shown["queue"]["oldest_at"], shown["last_attempt"]["status"])


async def test_held_events_can_be_skipped(api: Api) -> None:
    """`skip_held`: nothing of before goes out, and nothing waits any more."""
    made = await make(api)
    await api.post(f"/v1/endpoints/{made['id']}/disable")
    await api.engine.send("a", "b")
    enabled = await api.post(f"/v1/endpoints/{made['id']}/enable", {"skip_held": True})
    assert (0, 0, None) == tuple(enabled.json["queue"][name] for name in ("waiting", "held", "oldest_at"))
    await api.engine.deliver("c")
    assert ["c"] == api.engine.network.ids(URL)


@pytest.mark.parametrize(
    ("action", "body", "field"),
    [
        ("enable", {"skip_held": "yes"}, "skip_held"),
        ("rotate-key", {"overlap_seconds": -1}, "overlap_seconds"),
        ("rotate-key", {"overlap_seconds": 10**9}, "overlap_seconds"),
        ("rotate-key", {"overlap_seconds": "1d"}, "overlap_seconds"),
        ("test", {"event_type": 1}, "event_type"),
        ("disable", {"why": "x"}, None),
    ],
)
async def test_wrong_words_to_an_action_are_refused(
    api: Api, action: str, body: dict[str, Any], field: str | None
) -> None:
    """422 that names the field, and nothing done."""
    made = await make(api)
    answer = await api.post(f"/v1/endpoints/{made['id']}/{action}", body)
    assert (422, field) == (answer.status, answer.json["error"]["details"].get("field"))
    assert "active" == (await show(api, made["id"]))["state"]


async def test_a_plan_without_webhooks_pauses(api: Api) -> None:
    """The state stays, `paused_by` says why, what waits is held; adding, enabling and testing are refused."""
    made = await make(api)
    api.engine.network.answer = lambda url, webhook_id: 503
    await api.engine.deliver("a")
    await api.call("PATCH", "/v1/workspaces/default", {"plan": "growth"})
    await api.engine.quiet()
    shown = await show(api, made["id"])
    assert ("active", "plan", None) == (shown["state"], shown["paused_by"], shown["disabled"])
    assert (1, 1, None) == tuple(shown["queue"][name] for name in ("waiting", "held", "next_attempt_at"))
    for path, body in (("", NEW | {"url": f"{URL}/2"}), (f"/{made['id']}/enable", {}), (f"/{made['id']}/test", {})):
        assert (403, "plan_required") == (await api.post(f"/v1/endpoints{path}", body)).error, path


async def test_the_queue_says_when_the_next_attempt_comes(api: Api) -> None:
    """While a retry is waited for: its time, and what the last attempt gave."""
    made = await make(api)
    api.engine.network.answer = lambda url, webhook_id: Reason.TIMEOUT
    await api.engine.deliver("a", "b")
    shown = await show(api, made["id"])
    expected = {"waiting": 2, "held": 0, "oldest_at": NOW, "next_attempt_at": "2026-01-01T00:00:30.000Z"}
    assert expected | {"in_flight": False, "lanes": None} == shown["queue"]
    msgspec.convert(shown["last_attempt"], AttemptSchema)
    last = shown["last_attempt"]
    assert ("failed", "timeout", None, True) == (last["outcome"], last["reason"], last["status"], last["counted"])


async def test_an_endpoint_that_orders_by_key_shows_the_lane_that_waits(api: Api) -> None:
    """With the key of the event whose retry it waits for; in the status and in the metrics too."""
    made = await make(api, event_types=["*"], ordering={"key": "contact.id"})
    assert {"key": "contact.id", "lanes": 8} == made["ordering"]
    api.engine.network.answer = lambda url, webhook_id: 500 if webhook_id == "a-1" else 200
    for each in ("a-1", "b-1", "a-2"):
        event = {"event_type": "contact.updated", "event_id": each, "contact": {"id": each[0]}}
        assert 202 == (await api.post("/v1/events", event)).status
    await api.engine.quiet()
    blocked = {"key": "a", "event_id": "a-1", "since": NOW, "next_attempt_at": "2026-01-01T00:00:30.000Z", "waiting": 2}
    assert {"busy": 0, "most_waiting": 2, "blocked": [blocked]} == (await show(api, made["id"]))["queue"]["lanes"]
    status = (await api.get("/v1/status")).json
    named = {"id": made["id"], "workspace": "default", "url": URL, "path": "contact.id"}
    assert [named | blocked] == status["blocked_lanes"]
    metrics = (await api.get("/metrics")).body.decode()
    for name, value in (("lanes_busy", 0.0), ("lane_waiting_most", 2.0)):
        assert f'webhookd_endpoint_{name}{{endpoint_id="{made["id"]}",workspace="default"}} {value}' in metrics


async def test_the_order_of_an_endpoint_can_change(api: Api) -> None:
    """To other lanes, another key, and back to strict order."""
    made = await make(api)
    path = f"/v1/endpoints/{made['id']}"
    for ordering in ({"key": "contact.id", "lanes": 2}, {"key": "contact.id", "lanes": 64}, {"key": "a.b"}, "endpoint"):
        changed = await api.call("PATCH", path, {"ordering": ordering})
        assert 200 == changed.status
        expected = ordering if isinstance(ordering, str) else {"lanes": 8} | ordering
        assert expected == changed.json["ordering"] == (await show(api, made["id"]))["ordering"]
    for wrong in (None, "key", 5, {}, {"lanes": 8}, {"key": "a b"}, {"key": "a", "lanes": 1}, {"key": "a", "more": 1}):
        for refused in (
            await api.call("PATCH", path, {"ordering": wrong}),
            await api.post("/v1/endpoints", NEW | {"url": f"{URL}/other", "ordering": wrong}),
        ):
            assert (422, "invalid_field") == refused.error, wrong
            assert "ordering" in refused.json["error"]["message"]
            assert "ordering" == refused.json["error"]["details"]["field"]
    for wrong, message in (
        ("key", """ordering is 'key': did you mean "endpoint"? It is one of endpoint, or an object."""),
        ({}, "ordering has no key."),
    ):
        assert message == (await api.call("PATCH", path, {"ordering": wrong})).json["error"]["message"]
    assert "endpoint" == (await show(api, made["id"]))["ordering"]


async def test_a_request_under_way_is_seen(api: Api) -> None:
    """`in_flight` while the receiver has not answered yet."""
    made = await make(api)
    gate = api.engine.network.gates[URL] = asyncio.Event()
    await api.engine.deliver("a")
    assert (await show(api, made["id"]))["queue"]["in_flight"]
    gate.set()
    await api.engine.quiet()
    assert not (await show(api, made["id"]))["queue"]["in_flight"]


async def test_enabling_says_that_the_budget_is_spent(tmp_path: Path) -> None:
    """Until when one more failure disables again; without that, nothing is said."""
    config = Config(budget=Budget(limit=2, window_seconds=600), delivery=Delivery(retry_seconds=()))
    async with running_api(tmp_path, config) as api:
        made = await make(api)
        other = await make(api, url=f"{URL}/2")
        api.engine.network.answer = lambda url, webhook_id: 500
        await api.engine.deliver("a")
        await api.engine.advance(60)
        await api.engine.deliver("b")
        states = [one["state"] for one in (await api.get("/v1/endpoints")).json["data"]]
        assert ["auto_disabled", "auto_disabled"] == states
        stopped = (await show(api, made["id"]))["disabled"]
        assert ("failure_budget", "2026-01-01T00:01:00.000Z") == (stopped["reason"], stopped["at"])
        first = await api.post(f"/v1/endpoints/{made['id']}/enable")
        assert {
            "spent_until": "2026-01-01T00:10:00.000Z",
            "message": "The failure budget (2 of 2) is spent until 00:10 UTC, one more failure disables again.",
        } == first.json["budget"]
        second = await api.post(f"/v1/endpoints/{other['id']}/enable")
        assert "budget" not in second.json


async def test_the_signing_key_is_reported_on_request_and_that_is_logged(tmp_path: Path) -> None:
    """Only its own path tells it; the log says who looked, and never what they saw."""
    lines = io.BytesIO()
    log.configure("json", "info", lines)
    try:
        async with running_api(tmp_path) as api:
            made = await make(api, signing_key=KEY)
            assert KEY == made["signing_key"]
            await show(api, made["id"])
            report = await api.get(f"/v1/endpoints/{made['id']}/signing-key")
            msgspec.convert(report.json, SigningKeysSchema)
            assert (200, {"signing_key": KEY, **ONLY}) == (report.status, report.json)
        log.flush()
    finally:
        written = lines.getvalue()
        log.configure("json", "error", io.BytesIO())
    revealed = [line for line in map(msgspec.json.decode, written.splitlines()) if line["event"] == "key.revealed"]
    assert [(made["id"], "default", "tok_admin")] == [
        (line["endpoint_id"], line["workspace"], line["token_id"]) for line in revealed
    ]
    assert KEY.removeprefix("whsec_").encode() not in written


async def test_a_rotated_key_overlaps_with_the_one_before(api: Api) -> None:
    """Both sign until the overlap ends, and only until then the previous one is shown."""
    made = await make(api, signing_key=KEY)
    path = f"/v1/endpoints/{made['id']}"
    rotated = await api.post(f"{path}/rotate-key", {"overlap_seconds": 60})
    assert (200, True) == (rotated.status, "signing_key" not in rotated.json)
    msgspec.convert(rotated.json, EndpointSchema)
    keys = (await api.get(f"{path}/signing-key")).json
    assert KEY != keys["signing_key"]
    assert (KEY, "2026-01-01T00:01:00.000Z") == (keys["previous_key"], keys["previous_key_until"])
    await api.engine.advance(60)
    later = (await api.get(f"{path}/signing-key")).json
    assert {"signing_key": keys["signing_key"], **ONLY} == later


async def test_every_key_signs_until_its_own_overlap_ends(api: Api) -> None:
    """However often it is rotated meanwhile; ten at most.

    X-Webhook-Signature is the oldest's, but after a rotation without overlap the new one's.
    """
    made = await make(api, signing_key=KEY)
    path = f"/v1/endpoints/{made['id']}"
    keys = [KEY]

    async def rotate(overlap_seconds: int) -> None:
        await api.post(f"{path}/rotate-key", {"overlap_seconds": overlap_seconds})
        keys.append((await api.get(f"{path}/signing-key")).json["signing_key"])

    async def signing() -> list[str]:
        await api.post(f"{path}/test")
        request = api.engine.network.posted[-1]
        headers = dict(request.headers)
        found = []
        for key in keys:
            own = dict(Signer(key).headers(headers["webhook-id"], int(headers["webhook-timestamp"]), request.body))
            if own["webhook-signature"] in headers["webhook-signature"].split():
                found.append(key)
            if own["X-Webhook-Signature"] == headers["X-Webhook-Signature"]:
                found.append("older")
        return found

    for overlap_seconds in (60, 600, 30):
        await rotate(overlap_seconds)
    assert [keys[0], "older", *keys[1:]] == await signing()
    await rotate(0)
    assert [keys[0], keys[1], keys[2], keys[4], "older"] == await signing()
    await api.engine.advance(31)
    assert [keys[0], keys[1], keys[4], "older"] == await signing()
    await api.engine.advance(30)
    assert [keys[1], keys[4], "older"] == await signing()
    shown = (await api.get(f"{path}/signing-key")).json["previous_keys"]
    assert [{"signing_key": keys[1], "until": "2026-01-01T00:10:00.000Z"}] == shown
    for _ in range(9):
        assert 200 == (await api.post(f"{path}/rotate-key")).status
    assert (409, "too_many_keys") == ((refused := await api.post(f"{path}/rotate-key")).status, refused.code)
    await api.engine.advance(600)
    assert 200 == (await api.post(f"{path}/rotate-key")).status


async def test_the_receivers_own_key_signs_the_older_header(api: Api) -> None:
    """As it is, however the signing key rotates; it is shown with that one and nowhere else; null removes it."""
    own = "phím của ai? 0123456789"
    made = await make(api, x_webhook_signature_key=own)
    path = f"/v1/endpoints/{made['id']}"
    assert "***" == made["x_webhook_signature_key"] == (await show(api, made["id"]))["x_webhook_signature_key"]
    assert own not in (await api.get("/v1/endpoints")).body.decode()
    assert own == (await api.get(f"{path}/signing-key")).json["x_webhook_signature_key"]

    async def signature() -> tuple[str, bool]:
        await api.post(f"{path}/test")
        posted = api.engine.network.posted[-1]
        keys = (await api.get(f"{path}/signing-key")).json
        signed = dict(
            Signer(keys["signing_key"]).headers(
                posted.webhook_id, int(posted.headers["webhook-timestamp"]), posted.body
            )
        )
        assert signed["webhook-signature"] in posted.headers["webhook-signature"]
        mine = base64.b64encode(hmac.digest(own.encode(), posted.body, "sha256")).decode()
        return posted.headers["X-Webhook-Signature"], posted.headers["X-Webhook-Signature"] == mine

    assert (await signature())[1]
    await api.post(f"{path}/rotate-key")
    assert (await signature())[1]
    for wrong in ("***", "seven77", "x" * 257, "with\nline ends", 12345678):
        refused = await api.call("PATCH", path, {"x_webhook_signature_key": wrong})
        assert (422, "invalid_field") == (refused.status, refused.code)
        assert str(wrong) not in refused.json["error"]["message"]
    await api.call("PATCH", path, {"x_webhook_signature_key": None})
    assert not (await signature())[1]


async def test_the_older_header_can_be_left_out(api: Api) -> None:
    """It has no timestamp; `webhook-signature` is always there."""
    made = await make(api, x_webhook_signature=False)
    assert not made["x_webhook_signature"]
    for sent in (False, True):
        await api.post(f"/v1/endpoints/{made['id']}/test")
        headers = api.engine.network.posted[-1].headers
        assert (sent, True) == ("X-Webhook-Signature" in headers, "webhook-signature" in headers)
        changed = await api.call("PATCH", f"/v1/endpoints/{made['id']}", {"x_webhook_signature": True})
        assert changed.json["x_webhook_signature"]


async def test_a_key_that_is_set_holds_at_once_and_alone(api: Api) -> None:
    """PATCH with a key ends an overlap."""
    made = await make(api)
    path = f"/v1/endpoints/{made['id']}"
    await api.post(f"{path}/rotate-key")
    changed = await api.call("PATCH", path, {"signing_key": KEY})
    assert "signing_key" not in changed.json
    assert {"signing_key": KEY, **ONLY} == (await api.get(f"{path}/signing-key")).json


async def test_a_test_answers_with_its_attempt(api: Api) -> None:
    """In every state, of the type asked for, beside the queue; it is neither counted nor the last attempt."""
    made = await make(api, headers={"X-Secret": "hush"})
    path = f"/v1/endpoints/{made['id']}"
    await api.post(f"{path}/disable")
    api.engine.network.answer = lambda url, webhook_id: 500
    answer = await api.post(f"{path}/test", {"event_type": "contact.created"})
    msgspec.convert(answer.json, AttemptSchema)
    attempt = answer.json
    shown = tuple(attempt[name] for name in ("outcome", "reason", "status", "counted"))
    assert (200, "failed", "status", 500, False) == (answer.status, *shown)
    assert ("true", "***") == tuple(attempt["request"]["headers"][name] for name in ("X-Webhook-Test", "X-Secret"))
    assert b'"event_type":"contact.created"' in api.engine.network.posted[0].body
    assert None is (await show(api, made["id"]))["last_attempt"]
    assert 0 == (await api.get("/v1/budget")).json["failures"]
    assert (422, "unknown_event_type") == (await api.post(f"{path}/test", {"event_type": "nope"})).error
