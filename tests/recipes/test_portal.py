"""The recipes of a product's backend: each shows a page whose frame signs in to the portal of a real daemon."""

from __future__ import annotations

import asyncio
import html
import re
from pathlib import Path

import aiohttp
import pytest

from tests.recipes.languages import RECIPES, Program, needs
from tests.support.listening import free_port
from tests.support.process import Daemon, daemon

COMMANDS = {"portal.py": "python3", "portal.mjs": "node", "portal.php": "php"}
START_SECONDS = 30.0


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_backend_shows_a_customer_its_webhooks(tmp_path: Path, name: str) -> None:
    """Each time with another link, which signs in to that customer's workspace; its token stays in the backend."""
    command = needs(COMMANDS[name])
    async with daemon(tmp_path / "state") as d:
        await d.call("POST", "/v1/workspaces", {"id": "acme"}, expect=201)
        token, port = (d.state_dir / "admin-token").read_text().strip(), free_port()
        environ = {"WEBHOOKD_URL": d.url, "WEBHOOKD_ADMIN_TOKEN": token, "WORKSPACE": "acme", "PORT": str(port)}
        words = [command, *(["-S", f"127.0.0.1:{port}"] if name.endswith(".php") else []), str(RECIPES / name)]
        process = await Program(name, tmp_path, environ).start(*words)
        try:
            pages = [await shown(d, f"http://127.0.0.1:{port}/settings") for _ in "12"]
        finally:
            process.kill()
            await process.communicate()
        links = [html.unescape(re.findall(r'<iframe id="webhooks"[^>]* src="([^"]+)"', page)[0]) for page in pages]
        assert links[0] != links[1] and token not in "".join(pages)
        for link in links:
            assert link.startswith(f"{d.url}/portal#")
            await enters(d, link)
        sessions = (await d.call("GET", "/v1/sessions"))["data"]
        assert [("acme", True)] * 2 == [(each["workspace"], each["portal"]) for each in sessions]


async def shown(d: Daemon, url: str) -> str:
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                async with d.session.get(url) as answer:
                    assert (200, "no-store") == (answer.status, answer.headers["Cache-Control"])
                    return await answer.text()
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.1)


async def enters(d: Daemon, link: str) -> None:
    """What the script of the page does: the code of the fragment goes into its form."""
    url, _, code = link.partition("#")
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        async with browser.get(url) as entrance:
            proof = re.findall(r'name="proof" value="(\w+)"', await entrance.text())[0]
        fields = {"proof": proof, "secret": code}
        async with browser.post(url, data=fields, headers={"Origin": d.url}) as answer:
            assert "/portal/webhooks" == answer.url.path and 200 == answer.status
