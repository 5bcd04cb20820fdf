"""Where a call came from: behind proxies, over the unix socket, and what guessing costs each address."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector
from multidict import CIMultiDict

from tests.support.api import Api, running_api
from tests.support.reader import Browser
from webhookd.admin.throttle import KEYS_MAX, NOTED_MAX, REFUSED_MAX, WINDOW_SECONDS
from webhookd.config import Config, Listen
from webhookd.web.router import make_app
from webhookd.web.server.http_server import Runner

PROXIES = ("127.0.0.1/32", "10.0.0.0/8", "2001:db8:1::/48")


def behind(*trusted: str) -> Config:
    return Config(listen=Listen(trusted_proxies=trusted))


async def noted(api: Api, *forwarded: str) -> str:
    """The address that the audit trail has of a change."""
    headers = CIMultiDict({"Authorization": f"Bearer {api.admin_token}"})
    for each in forwarded:
        headers.add("X-Forwarded-For", each)
    async with api.session.patch(f"{api.url}/v1/workspaces/default", json={"name": "x"}, headers=headers) as answer:
        assert 200 == answer.status
    return str((await api.get("/v1/audit?limit=1")).json["data"][0]["address"])


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ((), "127.0.0.1"),
        (("192.0.2.7",), "192.0.2.7"),
        (("198.51.100.9, 192.0.2.7",), "192.0.2.7"),
        (("198.51.100.9", "192.0.2.7"), "192.0.2.7"),
        (("192.0.2.7, 10.1.2.3",), "192.0.2.7"),
        (("192.0.2.7", "10.1.2.3, 2001:db8:1::5"), "192.0.2.7"),
        (("10.9.9.9, 10.1.2.3",), "10.9.9.9"),
        (("192.0.2.7:5060",), "192.0.2.7"),
        (("[2001:db8::7]:5060",), "2001:db8::7"),
        (("2001:DB8::7",), "2001:db8::7"),
        (("::ffff:192.0.2.7",), "192.0.2.7"),
        (("192.0.2.7, unknown",), "127.0.0.1"),
        (("192.0.2.7, <script>, 10.1.2.3",), "10.1.2.3"),
        (("192.0.2.7,",), "127.0.0.1"),
        (("",), "127.0.0.1"),
    ],
)
async def test_a_trusted_proxy_names_the_caller(tmp_path: Path, forwarded: tuple[str, ...], address: str) -> None:
    """The rightmost address that is no trusted proxy's; what is left of it anybody could have written."""
    async with running_api(tmp_path, behind(*PROXIES)) as api:
        assert address == await noted(api, *forwarded)


@pytest.mark.parametrize("trusted", [(), ("192.0.2.0/24",)])
async def test_nobody_else_names_anybody(tmp_path: Path, trusted: tuple[str, ...]) -> None:
    """Without the setting, or from another peer, the peer's own address counts."""
    async with running_api(tmp_path, behind(*trusted)) as api:
        assert "127.0.0.1" == await noted(api, "192.0.2.7")


async def test_over_the_unix_socket_it_is_local(tmp_path: Path) -> None:
    """Whatever the caller says."""
    async with running_api(tmp_path, behind("0.0.0.0/0", "::/0")) as api:
        runner = Runner(make_app(api.app.services), shutdown_seconds=0.2)
        await runner.setup()
        await runner.listen_unix(tmp_path / "socket")
        headers = {"Authorization": f"Bearer {api.admin_token}", "X-Forwarded-For": "192.0.2.7"}
        try:
            async with (
                ClientSession(connector=UnixConnector(str(tmp_path / "socket"))) as session,
                session.patch("http://localhost/v1/workspaces/default", json={"name": "x"}, headers=headers) as answer,
            ):
                assert 200 == answer.status
        finally:
            await runner.cleanup()
        assert "local" == (await api.get("/v1/audit?limit=1")).json["data"][0]["address"]


async def test_each_address_behind_a_proxy_guesses_on_its_own(tmp_path: Path) -> None:
    """Who guesses is slowed down, a network of IPv6 as one; another address is not, nor the right token."""
    async with running_api(tmp_path, behind("127.0.0.1/32")) as api:

        async def guess(address: str, secret: str = "wrong") -> int:
            browser = Browser(api)
            return (await browser.send_form("/sign-in", {"secret": secret}, "/sign-in", X_Forwarded_For=address)).status

        for n in range(REFUSED_MAX):
            assert 403 == await guess(f"2001:db8::{n}")
        assert (429, 429) == (await guess("2001:db8::ffff"), await guess("2001:db8::1"))
        assert (403, 403) == (await guess("2001:db8:0:1::1"), await guess("192.0.2.7"))
        assert 303 == await guess("2001:db8::1", api.admin_token)


async def test_a_flood_of_guesses_is_bounded(tmp_path: Path) -> None:
    """So many entries a minute from however many addresses, and so much memory; a token's overreach is not hidden."""
    async with running_api(tmp_path, behind("127.0.0.1/32")) as api:
        audit = api.app.services.audit
        for n in range(KEYS_MAX + 10):
            await audit.refused(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", "/v1/status")
        assert 403 == (await api.get("/v1/status?x=1", token="ingest")).status
        found = await _count(api)
        assert {"unauthorized": NOTED_MAX, "forbidden": 1} == found
        await api.engine.clock.advance(WINDOW_SECONDS)
        await audit.refused("10.0.0.1", "/v1/status")
        assert NOTED_MAX + 1 == (await _count(api))["unauthorized"]


async def _count(api: Api) -> dict[str, int]:
    sql = "SELECT outcome, count(*) FROM audit GROUP BY outcome"
    return dict(await api.app.store.read(lambda db: db.execute(sql).fetchall()))
