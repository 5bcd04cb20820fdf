"""A machine with an empty disk goes on where the last one was: what it has to know is in the cluster."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from tests.cluster.conftest import PARTITIONS
from tests.cluster.machines import Machine, machines, until
from tests.cluster.nats_servers import HOW_TO_GET_ONE, Servers, find_server
from tests.support.mailserver import MailServer, mail_server
from tests.support.receiver import receiver
from webhookd.app import App
from webhookd.cluster.jetstream import JetStream
from webhookd.cluster.names import (
    DEAD_STREAM,
    PROGRESS_BUCKET,
    REASON_HEADER,
    partition_of,
)
from webhookd.cluster.partition import KNOWN_MESSAGES
from webhookd.cluster.progress import Progress, ProgressValue, decode, encode
from webhookd.config import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_server() is None, reason=HOW_TO_GET_ONE)]

CONFIG = """\
[events]
validate = "refuse"
[events."app.made"]
[events."app.changed"]
[mail]
host = "127.0.0.1"
port = {port}
"""
WORKSPACE = "acme"


class Tenant:
    """The workspace, whose partition isn't that of `default`, at whichever machine is there."""

    def __init__(self, machine: Machine, url: str) -> None:
        assert partition_of(WORKSPACE, PARTITIONS) != partition_of("default", PARTITIONS)
        self._machine, self._url = machine, url
        self._ids: dict[str, str] = {}

    async def call(self, method: str, path: str, fields: Any = None, expect: int = 200, **more: Any) -> Any:
        return await self._machine.call(method, f"/v1/workspaces/{WORKSPACE}{path}", fields, expect=expect, **more)

    async def add(self, name: str, *, active: bool = False, **fields: Any) -> None:
        made = await self.call("POST", "/endpoints", {"url": f"{self._url}/{name}", **fields}, 201)
        self._ids[name] = made["id"]
        if not active:
            await self.of(name, "POST", "/disable", {})

    async def of(self, name: str, method: str, path: str = "", fields: Any = None) -> None:
        await self.call(method, f"/endpoints/{self._ids[name]}{path}", fields)

    async def send(self, event_type: str, *ids: str) -> list[dict[str, Any]]:
        return [
            await self.call("POST", "/events", {"event_type": event_type, "event_id": each, "who": 7}, 202)
            for each in ids
        ]


async def publish(servers: Servers, subject: str, ids: Iterable[str]) -> None:
    """Straight to NATS, many at a time."""
    stream = (await servers.client()).jetstream(publish_async_max_pending=1000)
    acks = [
        await stream.publish_async(subject, json.dumps({"event_type": "app.made", "event_id": each}).encode())
        for each in ids
    ]
    await asyncio.gather(*acks)


def logged(machine: Machine, event: str) -> list[dict[str, Any]]:
    lines = (machine.state_dir.parent / f"{machine.state_dir.name}.log").read_text().splitlines()
    return [found for line in lines if line.startswith("{") and (found := json.loads(line))["event"] == event]


async def send_form(machine: Machine, path: str, **fields: str) -> tuple[int, str]:
    """As a browser does that opened the page of that form; status and where the answer leads."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        async with browser.get(machine.url + path) as shown:
            page = await shown.text()
        proof = re.search(r'name="proof" value="([0-9a-f]+)"', page)
        assert proof is not None, page
        form = {"proof": proof[1], **fields}
        address = machine.url + path.partition("?")[0]
        async with browser.post(address, data=form, headers={"Origin": machine.url}, allow_redirects=False) as answer:
            return answer.status, answer.headers.get("Location", "")


async def dead_letter(servers: Servers) -> Any:
    stream = (await servers.client()).jetstream()
    subscription = await stream.subscribe(f"webhookd.dead.{WORKSPACE}", stream=DEAD_STREAM, ordered_consumer=True)
    return await subscription.next_msg(timeout=20)


async def until_applied(machine: Machine) -> None:
    async with asyncio.timeout(30):
        while any(each["lag"] for each in (await machine.call("GET", "/v1/cluster"))["partitions"]):
            await asyncio.sleep(0.1)


async def sent_before(tenant: Tenant, servers: Servers) -> None:
    """What waits for endpoints that ask for something else by now, and what was delivered."""
    await tenant.add("plan", event_types=["app.made"])
    await tenant.add("types", event_types=["app.made"])
    await tenant.add("filters", event_types=["app.made"])
    await tenant.add("key", event_types=["app.made"])
    await tenant.send("app.made", "m1", "m2")
    await tenant.of("types", "PATCH", "", {"event_types": ["app.changed"]})
    await tenant.of("filters", "PATCH", "", {"filters": {"app.made": {"who": [8]}}})
    await tenant.of("key", "PATCH", "", {"ordering": {"key": "who", "lanes": 4}})
    await tenant.send("app.made", "m3")
    await tenant.send("app.changed", "c1")
    await tenant.call("PATCH", "", {"plan": "starter"})
    await tenant.send("app.made", "paused")
    await tenant.call("PATCH", "", {"plan": "advanced"})
    await tenant.send("app.changed", "c2")
    await tenant.call("PATCH", "", {"plan": "starter"})
    await tenant.send("app.changed", "paused-too")
    stream = (await servers.client()).jetstream()
    await stream.publish(f"webhookd.events.{WORKSPACE}", b'{"event_type":"contact.created","event_id":"x"}')
    found = await dead_letter(servers)
    assert "schema_mismatch" == found.headers[REASON_HEADER] and b'"x"' in found.data


async def links_of(tenant: Tenant, machine: Machine, mail: MailServer) -> tuple[str, str]:
    """A link into the portal, and the path of one by which an address confirms."""
    link = (await tenant.call("POST", "/portal-links", {}, 201))["url"]
    made = await machine.call("POST", "/v1/tokens", {"scope": "admin", "workspace": WORKSPACE}, expect=201)
    async with machine.session.patch(
        f"{machine.url}/v1/workspaces/{WORKSPACE}", json={"notify": ["new@example.com"]},
        headers={"Authorization": f"Bearer {made['secret']}"},
    ) as answer:  # fmt: skip
        assert 200 == answer.status, await answer.text()
    (asked,) = await mail.until(1)
    text = asked.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    found = re.search(rf"{machine.url}(/confirm-address\?code=[\w-]{{32}})\s", text)
    assert found is not None
    return link.partition("#")[2], found[1]


async def test_an_empty_disk_takes_over(tmp_path: Path, servers: Servers) -> None:
    """Nothing is lost that waited, whatever its endpoint asks for by now; ids, numbers and links that it gave hold."""
    async with (
        receiver() as where,
        mail_server() as mail,
        machines(
            servers, tmp_path, count=1, lease_seconds=9, through_relays=False, config=CONFIG.format(port=mail.port),
            listen='public_url = "{url}"\n',
        ) as (machine,),
    ):  # fmt: skip
        tenant = Tenant(machine, where.url)
        await machine.call("POST", "/v1/workspaces", {"id": WORKSPACE}, expect=201)
        await tenant.add("numbers", active=True, event_types=["app.made"], ordering={"key": "who", "lanes": 2})
        await sent_before(tenant, servers)
        await where.until(3)
        portal_code, confirm_path = await links_of(tenant, machine, mail)
        await publish(servers, "webhookd.events.default", (f"n{each}" for each in range(KNOWN_MESSAGES + 100)))
        await until_applied(machine)
        assert 0 == await machine.stop()
        machine.empty_disk()
        await machine.start()
        await until("older ids are known", lambda: logged(machine, "cluster.ids_known"))

        await tenant.call("PATCH", "", {"plan": "advanced"})
        for name in ("plan", "types", "filters", "key"):
            await tenant.of(name, "POST", "/enable", {})
        await tenant.send("app.made", "m4")
        await tenant.send("app.changed", "c3")
        await where.until(3 + 4 + 5 + 2 + 4 + 1)
        assert ["m1", "m2", "m3", "m4"] == where.ids("plan")
        assert ["m1", "m2", "c1", "c2", "c3"] == where.ids("types")
        assert ["m1", "m2"] == where.ids("filters")
        assert ["m1", "m2", "m3", "m4"] == where.ids("key")
        numbers = [each.headers["webhook-sequence"] for each in where.received if each.name == "numbers"]
        assert (["m1", "m2", "m3", "m4"], ["1", "2", "3", "4"]) == (where.ids("numbers"), numbers)

        again = await tenant.send("app.made", "m1", "paused")
        assert [True, True] == [each["duplicate"] for each in again]
        old = {"event_type": "app.made", "event_id": "n0"}
        assert (await machine.call("POST", "/v1/events", old, expect=202))["duplicate"]
        await machine.call("POST", "/v1/events", old | {"other": 1}, expect=409)
        assert (303, "/portal/webhooks") == await send_form(machine, "/portal", secret=portal_code)
        code = confirm_path.partition("code=")[2]
        assert (303, "/confirm-address/done") == await send_form(machine, confirm_path, code=code)
        assert ["new@example.com"] == (await tenant.call("GET", ""))["notify"]


async def test_the_progress_does_not_go_back(servers: Servers) -> None:
    """While past messages are read once more: a further takeover would deliver again what they were about."""
    jetstream = JetStream(Cluster(servers=tuple(servers.urls)), "test")
    await jetstream.open()
    try:
        await jetstream.ensure_bucket(PROGRESS_BUCKET, replicas=3)
        await jetstream.put(PROGRESS_BUCKET, "0", encode(ProgressValue("before", 100)))
        progress = Progress(jetstream, 0, "after", applied=lambda: 50, may_write=lambda: True)
        assert 100 == (await progress.take_over()).applied
        await progress.write(cast("App", None))  # it is asked for nothing
        found = await jetstream.get(PROGRESS_BUCKET, "0")
        assert found is not None and ProgressValue("before", 100) == decode(found.value)
    finally:
        await jetstream.close()
