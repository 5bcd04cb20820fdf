"""What the manual promises of receivers that restart, and of a certificate authority of one's own."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from tests.support.listening import free_port
from tests.support.process import Daemon, daemon, start
from tests.support.receiver import receiver

CONFIG = '[egress]\nallow = ["127.0.0.0/8"]\n'
ENDPOINTS = 35  # as many as a workspace has, and more than the failure budget


async def add_endpoints(d: Daemon, port: int, count: int = ENDPOINTS) -> None:
    for number in range(count):
        fields = {"url": f"http://127.0.0.1:{port}/{number}", "event_types": ["*"]}
        await d.call("POST", "/v1/endpoints", fields, expect=201)


async def finished(d: Daemon, count: int) -> list[dict[str, object]]:
    """The attempts, once there are so many (of one page of the log)."""
    async with asyncio.timeout(60):
        while True:
            found = (await d.call("GET", "/v1/deliveries?limit=500"))["data"]
            if count == sum(1 for each in found if each["last_attempt"]):
                return list(found)
            await asyncio.sleep(0.05)


class Generation:
    """One process of a receiver: it takes connections from the socket that all of them share."""

    def __init__(self) -> None:
        self._server = web.Server(self._answer)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=5)
        self._used: set[object] = set()

    async def start(self, listener: socket.socket) -> None:
        await self._runner.setup()
        await web.SockSite(self._runner, listener.dup()).start()

    async def stop(self) -> None:
        """As nginx does: take no connection, answer the first request of those that were taken, close what is idle."""
        for site in list(self._runner.sites):
            await site.stop()
        await asyncio.sleep(0.1)
        while set(self._server.connections) - self._used:
            await asyncio.sleep(0.01)
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        self._used.add(request.protocol)
        await request.read()
        await asyncio.sleep(0.002)
        return web.Response()


async def _generation(listener: socket.socket) -> Generation:
    made = Generation()
    await made.start(listener)
    return made


async def test_a_graceful_reload_fails_nothing(tmp_path: Path) -> None:
    """Old processes answer what they have begun and close what is idle, while new ones take connections."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    events = [{"event_type": "message.sent", "event_id": f"m-{number}"} for number in range(100)]
    async with daemon(tmp_path / "state", CONFIG) as d:
        await add_endpoints(d, listener.getsockname()[1], 5)
        running = await _generation(listener)
        await d.call("POST", "/v1/events", events, expect=202)
        reloads = 0
        async with asyncio.timeout(60):
            while (await d.call("GET", "/v1/status"))["backlog"]["waiting"]:
                old, running = running, await _generation(listener)
                await old.stop()
                reloads += 1
                await asyncio.sleep(0.05)
        log = await finished(d, 500)
        await running.stop()
    listener.close()
    assert reloads >= 2
    assert {"delivered"} == {each["state"] for each in log}
    lines = d.log_file.read_text("utf-8").splitlines()
    assert [] == [line for line in lines if '"failed"' in line]
    assert {1} == {each["attempt_count"] for each in log}


async def test_a_stop_spends_the_budget_of_many_endpoints_on_one_host(tmp_path: Path) -> None:
    """35 refused connections: from the 31st on, each disables its endpoint."""
    async with daemon(tmp_path / "state", CONFIG) as d:
        await add_endpoints(d, free_port())
        await d.call("POST", "/v1/events", {"event_type": "message.sent"}, expect=202)
        await finished(d, ENDPOINTS)
        states = [each["state"] for each in (await d.call("GET", "/v1/endpoints?limit=100"))["data"]]
    assert (30, 5) == (states.count("active"), states.count("auto_disabled"))


@pytest.mark.parametrize(("trusted", "outcome"), [(True, None), (False, "tls")])
async def test_a_certificate_authority_of_ones_own(tmp_path: Path, trusted: bool, outcome: str | None) -> None:
    """`SSL_CERT_FILE` names it; without it, or where the file isn't there, the receiver isn't trusted."""
    authority = trustme.CA()
    if trusted:
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with receiver(ssl_context=context) as where:
        d = await start(tmp_path / "state", CONFIG, environ={"SSL_CERT_FILE": str(tmp_path / "ca.pem")})
        try:
            fields = {"url": f"{where.url}/hook", "event_types": ["*"]}
            endpoint = (await d.call("POST", "/v1/endpoints", fields, expect=201))["id"]
            tested = await d.call("POST", f"/v1/endpoints/{endpoint}/test", {}, expect=200)
        finally:
            await d.stop()
            await d.session.close()
    assert outcome == tested["reason"]
