"""The event log over HTTP: events and deliveries searched, looked at, and sent again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.api import Api, running_api
from webhookd.config import Budget, Config, Delivery, Events, ExtraType, Limits
from webhookd.models import Reason
from webhookd.rules.ids import delivery_id, delivery_seq
from webhookd.store.store import Store
from webhookd.web.api.deliveries import DeliveryListSchema, EventListSchema, ReplayedSchema
from webhookd.web.api.schemas import DeliveryDetailSchema, DeliverySchema, EventDetailSchema

URL = "https://hooks.example/in"
START = "2026-01-01T00:00:00.000Z"
NO_RETRIES = Config(delivery=Delivery(retry_seconds=()))


def failing(api: Api, *ids: str) -> None:
    """From now on the receivers answer these events with 503, all others with 200."""
    api.engine.network.answer = lambda url, webhook_id: 503 if webhook_id in ids else 200


async def deliveries(api: Api, query: str = "") -> list[dict[str, Any]]:
    answer = await api.get(f"/v1/deliveries?{query}")
    assert 200 == answer.status, answer.body
    msgspec.convert(answer.json, DeliveryListSchema)
    found: list[dict[str, Any]] = answer.json["data"]
    return found


async def events_of(api: Api, query: str = "") -> list[str]:
    return [one["event_id"] for one in await deliveries(api, query)]


async def test_a_delivery_is_listed_as_the_contract_has_it(api: Api) -> None:
    """Every field, and the last attempt in full."""
    endpoint = await api.engine.endpoint(URL)
    await api.engine.deliver("a")
    (found,) = await deliveries(api)
    last = found.pop("last_attempt")
    assert {
        "id": found["id"],
        "workspace": "default",
        "endpoint_id": endpoint.id,
        "event_id": "a",
        "event_type": "message.received",
        "state": "delivered",
        "replay_of": None,
        "test": False,
        "backfill": False,
        "sequence": None,
        "accepted_at": START,
        "next_attempt_at": None,
        "finished_at": START,
        "attempt_count": 1,
    } == found
    assert found["id"].startswith("dlv_")
    assert (1, START, "delivered", None, 200, False, False) == tuple(
        last[name] for name in ("number", "started_at", "outcome", "reason", "status", "counted", "connection_retried")
    )
    assert "a" == last["request"]["headers"]["webhook-id"]
    assert URL == last["request"]["url"]
    assert {"headers": {}, "body": "", "truncated": False} == last["response"]


async def test_one_alone_has_each_of_its_attempts(api: Api) -> None:
    """Failed ones and the last, in order; while it waits, its next attempt's time."""
    await api.engine.endpoint(URL)
    failing(api, "a")
    await api.engine.deliver("a")
    (listed,) = await deliveries(api)
    one = await api.get(f"/v1/deliveries/{listed['id']}")
    msgspec.convert(one.json, DeliveryDetailSchema)
    assert ("pending", "2026-01-01T00:00:30.000Z", None) == tuple(
        one.json[name] for name in ("state", "next_attempt_at", "finished_at")
    )
    assert [(1, "failed", "status", 503, True)] == [
        tuple(each[name] for name in ("number", "outcome", "reason", "status", "counted"))
        for each in one.json["attempts"]
    ]
    failing(api)
    await api.engine.advance(30)
    done = (await api.get(f"/v1/deliveries/{listed['id']}")).json
    assert [(1, "failed"), (2, "delivered")] == [(each["number"], each["outcome"]) for each in done["attempts"]]
    assert ("delivered", 2, None, done["attempts"][-1]) == tuple(
        done[name] for name in ("state", "attempt_count", "next_attempt_at", "last_attempt")
    )


async def test_deliveries_are_found_by_every_filter(tmp_path: Path) -> None:
    """Endpoint, event type, state, event id, and time: `since` included, `until` not."""
    async with running_api(tmp_path, NO_RETRIES) as api:
        first, second = await api.engine.endpoint(URL), await api.engine.endpoint(f"{URL}/2", ["contact.created"])
        failing(api, "b")
        for number, (event_id, event_type) in enumerate(
            [("a", "message.sent"), ("b", "contact.created"), ("c", "contact.created")]
        ):
            await api.engine.advance(1 if number else 0)
            await api.engine.deliver(event_id, event_type=event_type)
        assert ["c", "c", "b", "b", "a"] == await events_of(api)
        assert ["c", "b", "a"] == await events_of(api, f"endpoint={first.id}")
        assert ["c", "b"] == await events_of(api, f"endpoint={second.id}")
        assert ["a"] == await events_of(api, "event_type=message.sent")
        assert [] == await events_of(api, "event_type=message.received")
        assert ["b", "b"] == await events_of(api, "state=dropped")
        assert ["b", "b"] == await events_of(api, "event_id=b")
        assert [] == await events_of(api, "event_id=nothing")
        assert ["c", "c", "b", "b"] == await events_of(api, "since=2026-01-01T00:00:01Z")
        assert ["a"] == await events_of(api, "until=2026-01-01T00:00:01.000Z")
        assert ["b"] == await events_of(
            api,
            f"since=2026-01-01T01:00:01%2B01:00&until=2026-01-01T00:00:02Z&state=dropped&endpoint={second.id}"
            "&event_type=contact.created&event_id=b",
        )


async def test_deliveries_come_in_pages(api: Api) -> None:
    """Newest first, `next` leads on until it is null, and what comes meanwhile disturbs nothing."""
    await api.engine.endpoint(URL)
    await api.engine.send(*(f"e{number}" for number in range(5)))
    found, cursor = [], ""
    for number in range(3):
        page = (await api.get(f"/v1/deliveries?limit=2&cursor={cursor}&event_type=message.received")).json
        found += [one["event_id"] for one in page["data"]]
        cursor = page["next"]
        await api.engine.send(f"later{number}")
    assert ["e4", "e3", "e2", "e1", "e0"] == found and cursor is None
    exact = (await api.get("/v1/deliveries?limit=8")).json
    assert (8, None) == (len(exact["data"]), exact["next"])


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("state=lost", "invalid_field"),
        ("state=null", "invalid_field"),
        ("since=null", "invalid_field"),
        ("until=null", "invalid_field"),
        ("cursor=null", "invalid_request"),
        ("since=yesterday", "invalid_field"),
        ("until=2026-01-01T00:00:00", "invalid_field"),
        ("event_id=a%20b", "invalid_field"),
        ("event_id=%00", "invalid_field"),
        ("event_type=%27%20OR%201", "invalid_field"),
        ("limit=501", "invalid_field"),
        ("limit=1&limit=2", "invalid_field"),
        ("cursor=none", "invalid_request"),
        ("types=message.sent", "unknown_field"),
        ("endpoint=ep_nope", "not_found"),
        ("endpoint=%27", "not_found"),
        ("endpoint=%ed%a0%80", "not_found"),
    ],
)
async def test_a_wrong_question_is_refused(api: Api, query: str, code: str) -> None:
    """With its code; the stream and the list understand the same filters."""
    answer = await api.get(f"/v1/deliveries?{query}")
    assert code == answer.code
    if "limit" not in query and "cursor" not in query:
        assert code == (await api.get(f"/v1/deliveries/stream?{query}")).code


@pytest.mark.parametrize(
    "name",
    [
        "dlv_0000000000001",
        "dlv_fzzzzzzzzzzzz",
        "dlv_zzzzzzzzzzzzz",
        "dlv_",
        "1",
        "%00",
        "%ed%a0%80",
        "..%2f",
        "x" * 999,
    ],
)
async def test_what_names_no_delivery_or_event_is_not_found(api: Api, name: str) -> None:
    """404 in the one form, whatever stands in the path."""
    for method, path in (
        ("GET", f"/v1/deliveries/{name}"),
        ("POST", f"/v1/deliveries/{name}/replay"),
        ("GET", f"/v1/events/{name}"),
    ):
        assert (404, "not_found") == (await api.call(method, path)).error, path


async def test_what_waits_for_a_disabled_endpoint_reads_held(api: Api) -> None:
    """Also in the filter; skipped ones read so at once."""
    endpoint = await api.engine.endpoint(URL)
    await api.post(f"/v1/endpoints/{endpoint.id}/disable")
    await api.engine.send("a")
    assert ["held"] == [one["state"] for one in await deliveries(api)]
    assert (["a"], []) == (await events_of(api, "state=held"), await events_of(api, "state=pending"))
    await api.post(f"/v1/endpoints/{endpoint.id}/enable", {"skip_held": True})
    (skipped,) = await deliveries(api, "state=skipped")
    assert ("a", START) == (skipped["event_id"], skipped["finished_at"])


async def test_the_log_outlives_its_endpoint(api: Api) -> None:
    """Deliveries of a deleted endpoint are found by its id, what waited reads cancelled."""
    endpoint = await api.engine.endpoint(URL)
    await api.engine.deliver("a")
    await api.post(f"/v1/endpoints/{endpoint.id}/disable")
    await api.engine.send("b")
    await api.call("DELETE", f"/v1/endpoints/{endpoint.id}")
    found = await deliveries(api, f"endpoint={endpoint.id}")
    assert [("b", "cancelled"), ("a", "delivered")] == [(one["event_id"], one["state"]) for one in found]
    assert [endpoint.id] * 2 == [one["endpoint_id"] for one in found]


async def test_a_test_is_in_the_log_as_one(api: Api) -> None:
    """`test` is true, its event's id begins with `test_`, and it can't be replayed."""
    endpoint = await api.engine.endpoint(URL)
    await api.post(f"/v1/endpoints/{endpoint.id}/test")
    (found,) = await deliveries(api)
    assert (True, "delivered", 1) == (found["test"], found["state"], found["attempt_count"])
    assert found["event_id"].startswith("test_")
    assert found["event_id"] == (await api.get(f"/v1/events/{found['event_id']}")).json["payload"]["event_id"]
    assert 404 == (await api.post(f"/v1/deliveries/{found['id']}/replay")).status


async def test_an_event_is_shown_byte_for_byte(api: Api) -> None:
    """Large integers, floats and the order of keys come out as they went in, with its deliveries beside."""
    body = (
        b'{"z": 1.10, "event_type": "message.sent", "event_id": "big", "n": 123456789012345678901234567890, '
        b'"f": 0.1000000000000000055511151231257827}'
    )
    await api.engine.endpoint(URL)
    assert 202 == (await api.post("/v1/events", data=body, headers={"Content-Type": "application/json"})).status
    await api.engine.quiet()
    answer = await api.get("/v1/events/big")
    assert 200 == answer.status and b'"payload":' + body + b"," in answer.body
    shown = answer.json
    msgspec.convert(shown, EventDetailSchema)
    assert ("big", "default", "message.sent", START) == tuple(
        shown[name] for name in ("event_id", "workspace", "event_type", "accepted_at")
    )
    assert ["delivered"] == [one["state"] for one in shown["deliveries"]]


async def test_a_pruned_event_is_only_an_id(api: Api) -> None:
    """`payload` is null, and the list no longer has it."""
    await api.engine.send("a", "b")
    await api.app.store.write(
        lambda db: db.execute("UPDATE events SET body = NULL, body_sha256 = x'00' WHERE id = 'a'").fetchall()
    )
    shown = (await api.get("/v1/events/a")).json
    assert ("a", None, []) == (shown["event_id"], shown["payload"], shown["deliveries"])
    assert ["b"] == [one["event_id"] for one in (await api.get("/v1/events")).json["data"]]


async def test_events_are_listed_in_pages_and_filtered(api: Api) -> None:
    """Newest first, those without a subscriber too; by type and time."""
    for number in range(5):
        await api.engine.send(f"e{number}", event_type="message.sent" if number % 2 else "contact.created")
        await api.engine.advance(1)

    async def ids(query: str) -> list[str]:
        answer = await api.get(f"/v1/events?{query}")
        msgspec.convert(answer.json, EventListSchema)
        return [one["event_id"] for one in answer.json["data"]]

    assert ["e4", "e3", "e2", "e1", "e0"] == await ids("")
    assert ["e3", "e1"] == await ids("event_type=message.sent")
    assert ["e2", "e1"] == await ids("since=2026-01-01T00:00:01Z&until=2026-01-01T00:00:03Z")
    first = (await api.get("/v1/events?limit=3")).json
    assert {"event_id": "e4", "workspace": "default", "event_type": "contact.created"} | {
        "accepted_at": "2026-01-01T00:00:04.000Z"
    } == first["data"][0]
    second = (await api.get(f"/v1/events?limit=3&cursor={first['next']}")).json
    assert (["e1", "e0"], None) == ([one["event_id"] for one in second["data"]], second["next"])
    assert "unknown_field" == (await api.get("/v1/events?state=dropped")).code


async def test_a_delivery_is_replayed_as_a_new_one(tmp_path: Path) -> None:
    """201 with the new delivery at the end of the queue: same webhook-id, marked as a replay on the wire."""
    async with running_api(tmp_path, NO_RETRIES) as api:
        await api.engine.endpoint(URL)
        failing(api, "a")
        await api.engine.deliver("a", "b")
        (dropped,) = await deliveries(api, "state=dropped")
        failing(api)
        answer = await api.post(f"/v1/deliveries/{dropped['id']}/replay")
        made = answer.json
        msgspec.convert(made, DeliverySchema)
        assert (201, dropped["id"], "a") == (answer.status, made["replay_of"], made["event_id"])
        assert (delivery_seq(made["id"]) or 0) > (delivery_seq(dropped["id"]) or 0)
        await api.engine.quiet()
        assert ["a", "b", "a"] == api.engine.network.ids(URL)
        last = api.engine.network.posted[-1]
        assert ("true", "1") == (last.headers["X-Webhook-Replay"], last.headers["X-Webhook-Attempt"])
        assert api.engine.network.posted[0].body == last.body
        again = await api.post(f"/v1/deliveries/{made['id']}/replay", {})
        assert (201, made["id"]) == (again.status, again.json["replay_of"])
        assert 3 == len((await api.get("/v1/events/a")).json["deliveries"])


async def test_what_cannot_be_replayed_is_refused(api: Api) -> None:
    """409 while it waits, while its endpoint isn't active, and once that is gone."""
    endpoint = await api.engine.endpoint(URL)
    failing(api, "b")
    await api.engine.deliver("a", "b")
    waiting, done = [one["id"] for one in await deliveries(api)]
    path, waits = f"/v1/deliveries/{done}/replay", f"/v1/deliveries/{waiting}/replay"
    assert (409, "delivery_not_finished") == (await api.post(waits)).error
    assert (422, "unknown_field") == (await api.post(path, {"endpoint": "x"})).error
    await api.post(f"/v1/endpoints/{endpoint.id}/disable")
    assert (409, "endpoint_not_active") == (await api.post(path)).error
    assert (409, "delivery_not_finished") == (await api.post(waits)).error
    await api.call("DELETE", f"/v1/endpoints/{endpoint.id}")
    assert (409, "endpoint_gone") == (await api.post(path)).error
    assert 2 == len(await deliveries(api))


async def test_all_of_a_filter_are_replayed_oldest_first(tmp_path: Path) -> None:
    """Dropped ones by default; with `dry_run` they are only counted."""
    async with running_api(tmp_path, NO_RETRIES) as api:
        endpoint, other = await api.engine.endpoint(URL), await api.engine.endpoint(f"{URL}/2")
        failing(api, "a", "c", "d")
        for event_id in "abcd":
            await api.engine.send(event_id)
            await api.engine.advance(1)
        failing(api)
        sent = len(api.engine.network.posted)
        for body, expected in (
            ({"endpoint": endpoint.id}, 3),
            ({"since": START}, 6),
            ({"endpoint": endpoint.id, "state": "delivered"}, 1),
            ({"endpoint": endpoint.id, "since": "2026-01-01T00:00:02Z"}, 2),
            ({"since": "2026-01-01T00:00:02Z", "until": "2026-01-01T00:00:03Z"}, 2),
            ({"endpoint": endpoint.id, "state": "expired"}, 0),
        ):
            answer = await api.post("/v1/replay", body | {"dry_run": True})
            msgspec.convert(answer.json, ReplayedSchema)
            assert (200, {"replayed": expected, "left_out": {}}) == (answer.status, answer.json), body
        assert sent == len(api.engine.network.posted)
        all_three = {"replayed": 3, "left_out": {}}
        assert all_three == (await api.post("/v1/replay", {"endpoint": endpoint.id})).json
        await api.engine.quiet()
        assert ["a", "c", "d"] == [posted.webhook_id for posted in api.engine.network.posted[sent:]]
        assert {URL} == {posted.url for posted in api.engine.network.posted[sent:]}
        # What was replayed stays dropped, as the log has it, and was delivered since.
        left_out = {"replayed": 0, "left_out": {"delivered_since": 3}}
        assert left_out == (await api.post("/v1/replay", {"endpoint": endpoint.id, "dry_run": True})).json
        await api.post(f"/v1/endpoints/{other.id}/disable")
        left_out["left_out"] |= {"not_active": 3}
        assert left_out == (await api.post("/v1/replay", {"since": START, "dry_run": True})).json


async def test_a_replay_sends_nothing_twice(tmp_path: Path) -> None:
    """The same filter again and again while the receiver fails, waits or has it: once per event and endpoint."""
    async with running_api(tmp_path, Config(delivery=Delivery(retry_seconds=(60,)), budget=Budget(limit=1000))) as api:
        endpoint = await api.engine.endpoint(URL)

        async def replay(**fields: object) -> tuple[int, dict[str, int]]:
            would = (await api.post("/v1/replay", {"endpoint": endpoint.id, "dry_run": True, **fields})).json
            answer = (await api.post("/v1/replay", {"endpoint": endpoint.id, **fields})).json
            assert would == answer
            return answer["replayed"], answer["left_out"]

        failing(api, "a", "b", "c")
        await api.engine.send("a", "b", "c")
        await api.engine.advance(200)
        for times in range(4):
            assert (3, {"repeated": 3 * times} if times else {}) == await replay()
            assert (0, {"waiting": 3} | ({"repeated": 3 * times} if times else {})) == await replay()
            await api.engine.advance(200)
        assert 3 * 5 * 2 == len(api.engine.network.posted)
        failing(api, "b")
        *_, of_a = await deliveries(api, "event_id=a")
        assert 201 == (await api.post(f"/v1/deliveries/{of_a['id']}/replay")).status
        await api.engine.quiet()
        assert (409, "delivered_since") == (await api.post(f"/v1/deliveries/{of_a['id']}/replay")).error
        assert (2, {"delivered_since": 5, "repeated": 8}) == await replay()
        await api.engine.advance(1)
        waits = (await deliveries(api, "event_id=b&state=dropped"))[0]
        again = await api.post(f"/v1/deliveries/{waits['id']}/replay")
        assert (409, "delivery_not_finished") == (again.status, again.code)
        await api.engine.advance(200)
        # What was delivered goes out again if asked for, once.
        assert (2, {}) == await replay(state="delivered")
        await api.engine.quiet()
        assert (2, {"delivered_since": 2}) == await replay(state="delivered")


async def test_a_replay_leaves_room_for_live_events(tmp_path: Path) -> None:
    """It takes half of what may wait in the workspace; events are accepted beside it."""
    config = Config(delivery=Delivery(retry_seconds=()), limits=Limits(waiting_per_workspace=10))
    async with running_api(tmp_path, config) as api:
        endpoint = await api.engine.endpoint(URL)
        failing(api, *(ids := [f"e{number}" for number in range(9)]))
        await api.engine.deliver(*ids)
        taken = {"replayed": 5, "left_out": {"no_room": 4}}
        for dry_run in (True, False):
            assert taken == (await api.post("/v1/replay", {"endpoint": endpoint.id, "dry_run": dry_run})).json
        await api.engine.send("live")


async def test_a_replay_of_a_type_or_of_an_event(tmp_path: Path) -> None:
    """`event_type` narrows a replay; `event_id` is enough by itself, for every endpoint that is active."""
    async with running_api(tmp_path, NO_RETRIES) as api:
        endpoint, other = await api.engine.endpoint(URL), await api.engine.endpoint(f"{URL}/2")
        failing(api, "a", "b")
        await api.engine.send("a", event_type="message.sent")
        await api.engine.deliver("b", "c", event_type="contact.created")
        failing(api)
        await api.engine.app.services.endpoints.disable("default", other.id)
        for body, expected in (
            ({"since": START, "event_type": "message.sent"}, 1),
            ({"endpoint": endpoint.id, "event_type": "contact.created"}, 1),
            ({"event_id": "b", "event_type": "message.sent"}, 0),
            ({"event_id": "b", "endpoint": endpoint.id}, 1),
            ({"event_id": "c"}, 0),
            ({"event_id": "c", "state": "delivered"}, 1),
            ({"event_id": "nothing"}, 0),
        ):
            answer = await api.post("/v1/replay", body | {"dry_run": True})
            assert (200, expected) == (answer.status, answer.json["replayed"]), body
        sent = len(api.engine.network.posted)
        done = {"replayed": 1, "left_out": {"not_active": 1}}
        assert done == (await api.post("/v1/replay", {"event_id": "b"})).json
        await api.engine.quiet()
        assert [(URL, "b")] == [(one.url, one.webhook_id) for one in api.engine.network.posted[sent:]]


@pytest.mark.parametrize("path", ["events", "deliveries", "deliveries/stream"])
async def test_an_unknown_type_in_a_filter_is_an_error(api: Api, path: str) -> None:
    """With the nearest name; a type that the configuration lost is known while an endpoint keeps it."""
    answer = await api.get(f"/v1/{path}?event_type=message.recieved")
    assert (422, "unknown_event_type") == (answer.status, answer.code)
    assert "message.received" == answer.json["error"]["details"]["nearest"]


async def test_a_type_that_an_endpoint_kept_is_no_error(tmp_path: Path) -> None:
    """The configuration lost it, its events are in the log."""
    with_type = Config(events=Events(types={"order.paid": ExtraType(label="Order paid")}))
    async with running_api(tmp_path, with_type) as api:
        await api.engine.endpoint(URL, ["order.paid"])
        await api.engine.send("a", event_type="order.paid")
        api.engine.app.reload(Config())
        assert ["a"] == await events_of(api, "event_type=order.paid")


async def test_an_unknown_state_in_a_filter_is_an_error(api: Api) -> None:
    """With the nearest name and all that there are."""
    answer = await api.get("/v1/deliveries?state=droped")
    error = answer.json["error"]
    assert (422, {"field": "state", "nearest": "dropped"}) == (answer.status, error["details"])
    assert error["message"].startswith("state is 'droped': did you mean \"dropped\"? It is one of pending, held, ")


async def test_what_was_skipped_can_be_replayed_at_once(api: Api) -> None:
    """The mark finishes them; no request waits for the rows to follow."""
    endpoint = await api.engine.endpoint(URL)
    await api.post(f"/v1/endpoints/{endpoint.id}/disable")
    await api.engine.send("a", "b")
    await api.post(f"/v1/endpoints/{endpoint.id}/enable", {"skip_held": True})
    answer = await api.post("/v1/replay", {"endpoint": endpoint.id, "state": "skipped"})
    assert {"replayed": 2, "left_out": {}} == answer.json
    await api.engine.quiet()
    assert ["a", "b"] == api.engine.network.ids(URL)


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({}, 422, "invalid_field", "endpoint"),
        ({"state": "dropped", "until": START}, 422, "invalid_field", "endpoint"),
        ({"since": START, "state": "pending"}, 422, "invalid_field", "state"),
        ({"since": START, "state": "held"}, 422, "invalid_field", "state"),
        ({"since": START, "state": "gone"}, 422, "invalid_field", "state"),
        ({"since": "today"}, 422, "invalid_field", "since"),
        ({"since": 1767225600}, 422, "invalid_field", "since"),
        ({"since": START, "dry_run": "no"}, 422, "invalid_field", "dry_run"),
        ({"since": START, "event_types": "message.sent"}, 422, "unknown_field", None),
        ({"since": START, "event_type": "message.sentt"}, 422, "unknown_event_type", None),
        ({"event_type": "message.sent"}, 422, "invalid_field", "endpoint"),
        ({"event_id": "a b"}, 422, "invalid_field", "event_id"),
        ({"endpoint": "ep_nope"}, 404, "not_found", None),
        ({"endpoint": 7}, 422, "invalid_field", "endpoint"),
    ],
)
async def test_a_wrong_replay_is_refused(
    api: Api, body: dict[str, Any], status: int, code: str, field: str | None
) -> None:
    """Neither a whole log by accident nor what still waits."""
    answer = await api.post("/v1/replay", body)
    assert (status, code) == (answer.status, answer.code)
    assert field == answer.json["error"]["details"].get("field")


async def test_a_replay_to_an_endpoint_that_gets_nothing_is_refused(api: Api) -> None:
    """409: not active, paused by the plan, gone."""
    endpoint = await api.engine.endpoint(URL)
    body = {"endpoint": endpoint.id}
    await api.call("PATCH", "/v1/workspaces/default", {"plan": "starter"})
    assert (409, "endpoint_not_active") == (await api.post("/v1/replay", body)).error
    assert (409, "endpoint_not_active") == (await api.post("/v1/replay", {"since": START})).error
    await api.call("PATCH", "/v1/workspaces/default", {"plan": "advanced"})
    await api.post(f"/v1/endpoints/{endpoint.id}/disable")
    assert (409, "endpoint_not_active") == (await api.post("/v1/replay", body)).error
    await api.call("DELETE", f"/v1/endpoints/{endpoint.id}")
    assert (409, "endpoint_gone") == (await api.post("/v1/replay", body)).error


async def test_each_workspace_has_its_own_log(api: Api) -> None:
    """Another workspace's events, deliveries and endpoints are not found, by an id or a filter, nor replayed."""
    endpoint = await api.engine.endpoint(URL)
    await api.engine.deliver("a")
    (own,) = await deliveries(api)
    await api.post("/v1/workspaces", {"id": "acme"})
    base = "/v1/workspaces/acme"
    for path in ("deliveries", "events"):
        assert {"data": [], "next": None} == (await api.get(f"{base}/{path}")).json
    for method, path in (
        ("GET", f"deliveries/{own['id']}"),
        ("POST", f"deliveries/{own['id']}/replay"),
        ("GET", "events/a"),
        ("GET", f"deliveries?endpoint={endpoint.id}"),
    ):
        assert 404 == (await api.call(method, f"{base}/{path}")).status, path
    assert 404 == (await api.get("/v1/workspaces/nope/deliveries")).status
    assert 200 == (await api.get(f"/v1/workspaces/default/deliveries/{own['id']}")).status


async def test_what_receivers_answer_is_shown_and_never_breaks_the_answer(tmp_path: Path) -> None:
    """Every reason is an attempt in the contract's form."""
    async with running_api(tmp_path, Config(delivery=Delivery(retry_seconds=()))) as api:
        await api.engine.endpoint(URL)
        reasons = [reason for reason in Reason if reason not in (Reason.LOCAL, Reason.STATUS)]
        api.engine.network.answer = lambda url, webhook_id: Reason(webhook_id)
        await api.engine.deliver(*reasons)
        found = await deliveries(api)
        assert list(reversed(reasons)) == [one["last_attempt"]["reason"] for one in found]
        assert {None} == {one["last_attempt"]["response"] for one in found}
        assert [delivery_id(number) for number in range(len(reasons), 0, -1)] == [one["id"] for one in found]


async def test_backfill(api: Api) -> None:
    """Past events to an endpoint added later, marked in the log; what is wrong or can't be is refused."""
    await api.engine.send("a", "b")
    endpoint = await api.engine.endpoint(URL)
    path, since = f"/v1/workspaces/default/endpoints/{endpoint.id}/backfill", {"since": START}
    for body, status, code in (
        ({}, 422, "invalid_field"),
        (since | {"event_type": "message.recieved"}, 422, "unknown_event_type"),
        (since | {"state": "dropped"}, 422, "unknown_field"),
        ({"since": "yesterday"}, 422, "invalid_field"),
    ):
        assert (status, code) == (await api.post(path, body)).error, body
    assert 404 == (await api.post(path.replace(endpoint.id, "ep_x"), since)).status
    assert 403 == (await api.post(path, since, token="ingest")).status
    would = await api.post(path, since | {"dry_run": True})
    assert (200, {"backfilled": 2, "left_out": {}}) == (would.status, would.json)
    assert {"backfilled": 0, "left_out": {}} == (await api.post(path, since | {"until": START})).json
    assert {"backfilled": 2, "left_out": {}} == (await api.post(path, since)).json
    await api.engine.quiet()
    assert [("b", True), ("a", True)] == [(each["event_id"], each["backfill"]) for each in await deliveries(api)]
    assert {"backfilled": 0, "left_out": {"already_had": 2}} == (await api.post(path, since)).json
    await api.engine.app.services.endpoints.disable("default", endpoint.id)
    assert (409, "endpoint_not_active") == (await api.post(path, since)).error


async def test_deliveries_are_searched_by_text_status_and_retry(api: Api) -> None:
    """In ids and bodies; the last answer's status, by class too; what is tried again; the stream has no bodies."""
    await api.engine.endpoint(URL)
    await api.engine.deliver("good")
    api.engine.network.answer = lambda url, webhook_id: 503
    await api.engine.deliver("bad", "late")

    async def found(query: str) -> list[str]:
        answer = await api.get(f"/v1/deliveries?{query}")
        assert answer.status == 200, answer.body
        return [each["event_id"] for each in answer.json["data"]]

    assert (["bad"], ["late", "bad", "good"]) == (await found("text=BA"), await found("text=event_id"))
    assert (["good"], ["bad"], ["bad"]) == (
        await found("status=200"),
        await found("status=5xx"),
        await found("status=503&text=bad"),
    )
    assert (["bad"], []) == (await found("retrying=true"), await found("status=none"))
    for query in ("status=6xx", "status=20", "retrying=perhaps", "text=" + "x" * 201):
        assert (422, "invalid_field") == (await api.get(f"/v1/deliveries?{query}")).error, query
    assert (422, "unknown_field") == (await api.get("/v1/deliveries/stream?text=bad")).error


@pytest.mark.parametrize("path", ["events", "deliveries"])
async def test_a_long_list_stops_and_says_where_to_go_on(api: Api, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Pages are short or empty, and `next` leads to everything, once and in order."""
    monkeypatch.setattr("webhookd.store.events.WINDOW_EVENTS", 4)
    monkeypatch.setattr("webhookd.store.delivery_log.WINDOW_ROWS", 4)
    monkeypatch.setattr("webhookd.store.delivery_log.NEWEST_ROWS", 1)
    monkeypatch.setitem(Store.search.__kwdefaults__, "seconds", 0.0)
    await api.engine.endpoint(URL)
    for number in range(30):
        kind = "contact.created" if number % 10 == 5 else "message.sent"
        await api.engine.send(f"e{number}", event_type=kind)
    await api.engine.quiet()
    found: list[str] = []
    cursor, pages = "", 0
    while cursor is not None:
        page = (await api.get(f"/v1/{path}?event_type=contact.created&cursor={cursor}")).json
        found += [each["event_id"] for each in page["data"]]
        cursor, pages = page["next"], pages + 1
    assert ["e25", "e15", "e5"] == found
    assert pages > 5
