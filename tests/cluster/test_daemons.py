"""Three daemons over three NATS servers, as their users see them: the same from every machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.cluster.conftest import PARTITIONS
from tests.cluster.machines import Machine, machines
from tests.cluster.nats_servers import HOW_TO_GET_ONE, Servers, find_server
from tests.support.listening import served
from webhookd.cluster.names import DEAD_STREAM, REASON_HEADER, partition_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_server() is None, reason=HOW_TO_GET_ONE)]

WORKSPACES = ("default", "acme", "w1", "w2", "w3")
EVENT = "contact.created"


async def eventually(condition: Any, *, seconds: float = 20.0) -> Any:
    """The first true value of an async condition."""
    async with asyncio.timeout(seconds):
        while not (found := await condition()):
            await asyncio.sleep(0.1)
    return found


@asynccontextmanager
async def receiver() -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """An address and what came there."""
    seen: list[dict[str, Any]] = []

    async def take(request: web.BaseRequest) -> web.Response:
        seen.append({"workspace": request.path.strip("/"), **json.loads(await request.read())})
        return web.Response()

    async with served(take) as url:
        yield url, seen


@asynccontextmanager
async def cluster(servers: Servers, folder: Path) -> AsyncIterator[list[Machine]]:
    """Three machines, every partition shared out."""
    async with machines(servers, folder, lease_seconds=9, through_relays=False) as daemons:

        async def shared() -> bool:
            look = await daemons[0].call("GET", "/v1/cluster")
            owners = {each["node"] for each in look.get("partitions", ()) if each["node"]}
            return len(owners) == 3

        await eventually(shared, seconds=30)
        yield daemons


async def post(
    machine: Machine, workspace: str, body: bytes, content_type: str = "application/json"
) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {machine.token}", "Content-Type": content_type}
    url = f"{machine.url}/v1/workspaces/{workspace}/events"
    async with machine.session.post(url, data=body, headers=headers) as answer:
        return answer.status, await answer.json()


def event(event_id: str, **more: Any) -> bytes:
    return json.dumps({"event_type": EVENT, "event_id": event_id, **more}).encode()


async def test_three_machines_are_one(tmp_path: Path, servers: Servers) -> None:
    """API, page and metrics are the same at each; producers publish to NATS; a drained machine has nothing; without a
    majority of NATS nothing is accepted."""
    async with receiver() as (url, seen), cluster(servers, tmp_path) as daemons:
        await every_machine_answers(daemons, url, seen)
        await tokens_are_shared(daemons)
        await every_machine_refuses_alike(daemons)
        await many_at_once_go_together(daemons, seen)
        await the_page_works(daemons)
        await producers_publish(servers, daemons, seen)
        await a_drained_machine_has_nothing(daemons)
        await without_a_majority_nothing_is_accepted(servers, daemons)


async def every_machine_answers(daemons: list[Machine], url: str, seen: list[dict[str, Any]]) -> None:
    """Workspaces, endpoints, events of each kind, lists, tokens, sessions, metrics: made at one, used at another."""
    first, second, _ = daemons
    assert len({partition_of(each, PARTITIONS) for each in WORKSPACES}) > 1
    for each in WORKSPACES[1:]:
        await first.call("POST", "/v1/workspaces", {"id": each}, expect=201)
    for each in WORKSPACES:
        fields = {"url": f"{url}/{each}", "event_types": ["*"]}
        await second.call("POST", f"/v1/workspaces/{each}/endpoints", fields, expect=201)
    for machine in daemons:
        listed = await machine.call("GET", "/v1/workspaces?limit=2", expect=200)
        more = await machine.call("GET", f"/v1/workspaces?limit=100&cursor={listed['next']}", expect=200)
        assert sorted(each["id"] for each in listed["data"] + more["data"]) == sorted(WORKSPACES)

    for number, each in enumerate(WORKSPACES):
        at = [daemons[(number + turn) % 3] for turn in range(3)]
        assert await post(at[0], each, event("a")) == (202, {"event_id": "a", "deliveries": 1, "duplicate": False})
        assert await post(at[1], each, event("a")) == (202, {"event_id": "a", "deliveries": 1, "duplicate": True})
        assert (await post(at[2], each, event("a", text="other")))[0] == 409
        status, answer = await post(at[1], each, b"[" + event("b") + b"," + event("a") + b',{"event_type":"no"}]')
        assert (status, answer["accepted"], answer["duplicates"], answer["rejected_count"]) == (422, 1, 1, 1)
        lines = b"\n".join(event(f"n{line:03d}") for line in range(300))
        status, answer = await post(at[2], each, lines, "application/x-ndjson")
        assert (status, answer["accepted"]) == (202, 300)

    async def all_came() -> bool:
        return len(seen) >= 302 * len(WORKSPACES)

    await eventually(all_came)
    for each in WORKSPACES:
        came = [one["event_id"] for one in seen if one["workspace"] == each]
        assert came == ["a", "b", *(f"n{line:03d}" for line in range(300))]


async def every_machine_refuses_alike(daemons: list[Machine]) -> None:
    """What the owner declines of events that go together is answered as if it had been asked itself."""
    bodies = (
        b"no json",
        b'{"event_id": "x"}',
        b'{"event_type": "unheard.of"}',
        event("a", text="other"),
        event("a b"),
        event("large", text="x" * 300_000),
    )
    expected = [400, 422, 422, 409, 422, 413]
    for workspace in ("acme", "w1"):
        answers = [[await post(machine, workspace, body) for body in bodies] for machine in daemons]
        assert [expected] * 3 == [[status for status, _ in of_machine] for of_machine in answers]
        assert answers[0] == answers[1] == answers[2]
        for unknown in (f"no-{workspace}", "%ED%A0%80"):  # half of a surrogate pair
            assert [404] * 3 == [(await post(machine, unknown, event("n")))[0] for machine in daemons]
    for machine in daemons:  # what machines pass on together is nobody else's
        await machine.call("POST", "/v1/cluster/events", {}, expect=404)
    bound = await daemons[0].call("POST", "/v1/tokens", {"scope": "ingest", "workspace": "w2"}, expect=201)
    observing = await daemons[0].call("POST", "/v1/tokens", {"scope": "observe"}, expect=201)
    for machine in daemons:
        for secret, workspace, status in (
            ("whsk_unknown", "w2", 401),
            # Where another partition has that workspace, the token isn't known at all.
            (
                bound["secret"],
                "acme",
                403 if len({partition_of(each, PARTITIONS) for each in ("acme", "w2")}) == 1 else 401,
            ),
            (observing["secret"], "w2", 403),
            (bound["secret"], "w2", 202),
        ):

            async def status_there(machine: Machine = machine, secret: str = secret, workspace: str = workspace) -> int:
                headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
                url = f"{machine.url}/v1/workspaces/{workspace}/events"
                async with machine.session.post(url, data=event("bound"), headers=headers) as answer:
                    return answer.status

            # A new token is known everywhere within a second.
            await eventually(lambda there=status_there, status=status: _is(there, status), seconds=5)


async def _is(found: Any, status: int) -> bool:
    return bool(await found() == status)


async def many_at_once_go_together(daemons: list[Machine], seen: list[dict[str, Any]]) -> None:
    """Hundreds of single events at once to each machine: every caller gets its own answer, and each comes once."""
    calls = [
        post(machine, workspace, event(f"m{machine.name}-{workspace}-{number}"))
        for number in range(60)
        for machine in daemons
        for workspace in ("acme", "w1", "w2")
    ]
    answers = await asyncio.gather(*calls)
    ids = [answer["event_id"] for status, answer in answers if status == 202]
    assert len(calls) == len(set(ids))

    async def all_came() -> bool:
        return set(ids) <= {each["event_id"] for each in seen}

    await eventually(all_came)
    assert sorted(ids) == sorted(each["event_id"] for each in seen if each["event_id"] in set(ids))


async def tokens_are_shared(daemons: list[Machine]) -> None:
    """Made at one machine, known at each."""
    first, second, third = daemons
    made = await third.call("POST", "/v1/tokens", {"scope": "ingest", "workspace": "w2"}, expect=201)
    unbound = await first.call("POST", "/v1/tokens", {"scope": "observe"}, expect=201)

    async def known(machine: Machine) -> bool:
        headers = {"Authorization": f"Bearer {unbound['secret']}"}
        async with machine.session.get(f"{machine.url}/v1/status", headers=headers) as answer:
            return answer.status == 200

    for machine in daemons:
        await eventually(lambda machine=machine: known(machine), seconds=5)
        listed = await machine.call("GET", "/v1/tokens", expect=200)
        assert {made["id"], unbound["id"], "tok_admin"} <= {each["id"] for each in listed["data"]}
    await second.call("DELETE", f"/v1/tokens/{made['id']}", expect=204)
    await second.call("DELETE", f"/v1/tokens/{made['id']}", expect=404)
    total = await third.call("GET", "/v1/status", expect=200)
    assert (total["workspaces"], total["totals"]["accepted"]) == (len(WORKSPACES), 302 * len(WORKSPACES))


async def the_page_works(daemons: list[Machine]) -> None:
    """Signed in at one machine, the page of every workspace is there at each of them."""
    link = await daemons[1].call("POST", "/v1/sign-in-links", expect=201)
    code = link["url"].partition("#")[2]
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        async with browser.get(f"{daemons[2].url}/sign-in") as answer:
            page = await answer.text()
        proof = page.partition('name="proof" value="')[2].partition('"')[0]
        form = {"proof": proof, "secret": code, "then": "/webhooks"}
        headers = {"Origin": daemons[2].url}
        async with browser.post(f"{daemons[2].url}/sign-in", data=form, headers=headers) as answer:
            assert (answer.status, answer.url.path) == (200, "/webhooks"), await answer.text()

        async def shown(machine: Machine, workspace: str) -> bool:
            async with browser.get(f"{machine.url}/webhooks?workspace={workspace}") as answer:
                text = await answer.text()
                return answer.url.path == "/webhooks" and all(f'value="{each}"' in text for each in WORKSPACES)

        for machine in daemons:
            for each in WORKSPACES:
                await eventually(lambda machine=machine, each=each: shown(machine, each), seconds=5)


async def producers_publish(servers: Servers, daemons: list[Machine], seen: list[dict[str, Any]]) -> None:
    """What they publish is delivered once, in order, whoever has its partition; the rest are dead letters, counted."""
    seen.clear()
    stream = (await servers.client()).jetstream()
    for event_id in ("d1", "d2", "d2", "d3"):
        headers = {"Nats-Msg-Id": f"acme.{event_id}"}
        await stream.publish("webhookd.events.acme", event(event_id), headers=headers)
    await stream.publish("webhookd.events.acme", json.dumps({"event_type": EVENT}).encode())
    bad = [b"no json", b'{"event_type": "unheard.of"}']
    for body in bad:
        await stream.publish("webhookd.events.acme", body)
    await stream.publish("webhookd.events.nobody", event("x"))

    async def came() -> bool:
        return len(seen) == 4

    await eventually(came)
    assert ["d1", "d2", "d3"] == [each["event_id"] for each in seen[:3]] and len(seen[3]["event_id"]) == 36
    subscription = await stream.subscribe("webhookd.dead.*", stream=DEAD_STREAM, ordered_consumer=True)
    dead = [await subscription.next_msg(timeout=20) for _ in range(3)]
    assert bad == [each.data for each in dead if "acme" in each.subject]
    reasons = sorted(each.headers[REASON_HEADER] for each in dead)
    assert ["invalid_json", "not_found", "unknown_event_type"] == reasons
    status, answer = await post(daemons[1], "acme", event("d1"))
    assert (status, answer["duplicate"]) == (202, True)
    text = ""
    for machine in daemons:
        async with machine.session.get(
            f"{machine.url}/metrics", headers={"Authorization": f"Bearer {machine.token}"}
        ) as reply:
            text += await reply.text()
    assert 3 == sum(
        float(line.split()[-1]) for line in text.splitlines() if line.startswith("webhookd_cluster_dead_letters")
    )


async def a_drained_machine_has_nothing(daemons: list[Machine]) -> None:
    """And only a machine that there is can be drained."""
    node = (await daemons[2].call("GET", "/v1/cluster", expect=200))["nodes"][0]["node"]
    await daemons[2].call("POST", f"/v1/cluster/nodes/{node}/drain", {}, expect=204)

    async def drained() -> bool:
        look = await daemons[2].call("GET", "/v1/cluster")
        owners = [each["node"] for each in look.get("partitions", ())]
        return "" not in owners and node not in owners

    await eventually(drained, seconds=30)
    await daemons[0].call("POST", f"/v1/cluster/nodes/{node}/drain", {"no": 1}, expect=422)
    await daemons[0].call("POST", "/v1/cluster/nodes/nobody/drain", {}, expect=404)


async def without_a_majority_nothing_is_accepted(servers: Servers, daemons: list[Machine]) -> None:
    """503 while two of three servers are down, 202 again when they are back."""
    for server in servers.servers[:2]:
        server.kill()
    status, answer = await post(daemons[0], "default", event("no"))
    assert (status, answer["error"]["code"]) == (503, "unavailable")
    for server in servers.servers[:2]:
        server.start()

    async def taken() -> bool:
        return (await post(daemons[1], "default", event("yes")))[0] == 202

    await eventually(taken, seconds=60)
