"""A real daemon full of hostile endpoints: every connect of its process is written down, canaries listen beside it.

The URLs are put into its database as if an older or broken version had kept them, so that nothing but what happens at
delivery stands between them and the network.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

from tests.hostile.urls import CASES, NAMES, OWN_PORT, Saved, Sent
from tests.support.bad_receiver_server import ScriptedReceiver
from tests.support.bad_receivers import healthy
from tests.support.nameserver import NameServer, Silence
from tests.support.process import Daemon, start

CONFIG = """
[egress]
allow = ["127.0.0.1"]
[delivery]
timeout_seconds = {timeout_seconds}
retry_seconds = []
[budget]
limit = 1000000
[limits]
endpoints = 10000
[log]
level = "error"
"""
WAIT_SECONDS = 60.0

# Where a canary listens on 127.77.7.7, in several spellings; its network is not allowed.
CANARY = "127.77.7.7"
SPELLINGS = (CANARY, "127.77.1799", "2135754503", "0x7f4d0707", "0177.77.7.7", "[::ffff:127.77.7.7]", "canary.test")
# No public addresses; nor 127.0.0.1, which is allowed here (and by NAT64, judged by the one inside), well spelled.
ALLOWED = {"127.0.0.1", "64:ff9b::7f00:1"}
DENIED = [
    case
    for _, case in CASES
    if case.sent is not Sent.PUBLIC
    and (case.saved[1] is not Saved.KEPT or ALLOWED.isdisjoint(case.leads_to))
    and str(OWN_PORT) not in case.url
    and case.url.isprintable()
]


async def _start(state_dir: Path, names: NameServer, *, timeout_seconds: float) -> Daemon:
    watched = ("-m", "tests.support.changed", f"dialled={names.address},{state_dir.parent / 'dialled'}")
    return await start(state_dir, CONFIG.format(timeout_seconds=timeout_seconds), program=watched)


async def _stop(daemon: Daemon) -> None:
    assert 0 == await daemon.stop()
    await daemon.session.close()


async def _add(daemon: Daemon, url: str, event_type: str) -> str:
    fields = {"url": url, "event_types": [event_type]}
    return str((await daemon.call("POST", "/v1/endpoints", fields, expect=201))["id"])


def _replace_urls(state_dir: Path, urls: dict[str, str]) -> None:
    with closing(sqlite3.connect(state_dir / "webhookd.db")) as db, db:
        db.executemany("UPDATE endpoints SET url = ? WHERE id = ?", [(url, each) for each, url in urls.items()])


async def _finished(daemon: Daemon, event_id: str) -> dict[str, dict[str, Any]]:
    """The last attempt of each delivery of an event by endpoint, once all have ended."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            found = await daemon.call("GET", f"/v1/deliveries?event_id={event_id}&limit=500", expect=200)
            if all(each["finished_at"] for each in found["data"]):
                assert found["next"] is None
                return {each["endpoint_id"]: each["last_attempt"] for each in found["data"]}
            await asyncio.sleep(0.05)


def _dialled(state_dir: Path) -> Counter[str]:
    return Counter((state_dir.parent / "dialled").read_text().splitlines())


async def test_a_daemon_full_of_hostile_endpoints_dials_the_allowed_one_alone(tmp_path: Path) -> None:
    """Each attempt fails with its reason; of all connects of the process none went anywhere else."""
    state_dir = tmp_path / "state"
    answers = {name.name: name.answer for name in NAMES} | {"canary.test": (CANARY,)}
    async with AsyncExitStack() as stack:
        names = await stack.enter_async_context(NameServer(answers))
        receiver = await stack.enter_async_context(ScriptedReceiver(healthy))
        canary = await stack.enter_async_context(ScriptedReceiver(healthy, host=CANARY))
        # Silence has a test of its own below; noise goes on until the deadline, too.
        denied = [name for name in NAMES if name.opened is not None and not isinstance(name.answer, type)]
        d = await _start(state_dir, names, timeout_seconds=4)
        well = await _add(d, receiver.url, "*")
        urls = {await _add(d, f"https://{number}.example/", "*"): case.url for number, case in enumerate(DENIED)}
        for number, host in enumerate(SPELLINGS):
            urls[await _add(d, f"https://canary{number}.example/", "*")] = f"http://{host}:{canary.port}/"
        expected = dict.fromkeys(urls, "blocked_address")
        for name in denied:
            expected[await _add(d, f"http://{name.name}:{receiver.port}/", "*")] = str(name.opened)
        await _stop(d)
        _replace_urls(state_dir, urls)
        d = await _start(state_dir, names, timeout_seconds=4)
        own = await _add(d, f"http://own.example:{d.url.rpartition(':')[2]}/", "*")
        names.answers["own.example"] = ("127.0.0.1",)  # type: ignore[index]
        expected[own] = "blocked_address"
        await d.call("POST", "/v1/events", {"event_type": "message.sent", "event_id": "one"}, expect=202)
        attempts = await _finished(d, "one")
        await _stop(d)
        assert expected | {well: None} == {each: attempt["reason"] for each, attempt in attempts.items()}
        assert {f"127.0.0.1 {receiver.port}": 1} == _dialled(state_dir)
        assert (1, 0) == (receiver.connections, canary.connections)
        assert len(expected) > 250


async def test_two_hundred_silent_names_slow_no_other_endpoint(tmp_path: Path) -> None:
    """Fifty events for a healthy endpoint are all delivered while the 200 others still wait for their names."""
    answers = {f"silent{number}.test": Silence for number in range(200)} | {"good.test": ("127.0.0.1",)}
    async with NameServer(answers) as names, ScriptedReceiver(healthy) as receiver:
        d = await _start(tmp_path / "state", names, timeout_seconds=4)
        for name in answers:
            kind = "message.received" if name == "good.test" else "message.sent"
            await _add(d, f"http://{name}:{receiver.port}/", kind)
        await d.call("POST", "/v1/events", {"event_type": "message.sent", "event_id": "silent"}, expect=202)
        events = [{"event_type": "message.received", "event_id": f"good{number}"} for number in range(50)]
        await d.call("POST", "/v1/events", events, expect=202)
        async with asyncio.timeout(WAIT_SECONDS):
            while (await d.call("GET", "/v1/deliveries?state=delivered", expect=200))["data"][49:] == []:
                await asyncio.sleep(0.02)
        assert 200 == (await d.call("GET", "/v1/status", expect=200))["backlog"]["in_flight"]
        attempts = await _finished(d, "silent")
        assert Counter(dns=200) == Counter(attempt["reason"] for attempt in attempts.values())
        await _stop(d)
