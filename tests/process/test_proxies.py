"""Behind a reverse proxy: the manual's recipes, run by the real programs, in front of a real daemon."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.support.process import ROOT, Daemon, daemon

MANUAL = (ROOT / "webhookd" / "manual" / "installing.md").read_text("utf-8")
EVENT = '{"event_type": "message.received", "text": "%s"}\n'
STEP_SECONDS = 10.0
PUBLIC = "hooks.example.com"
TRUSTED = 'trusted_proxies = ["127.0.0.1/32"]'


def recipe(name: str) -> str:
    """The lines of the manual for one proxy."""
    assert TRUSTED in MANUAL
    section = MANUAL.split("\n## Behind a reverse proxy\n")[1].split("\n## ")[0]
    found = re.search(rf"^{name}\b[^\n]*:\n\n((?:    [^\n]*\n|\n)+)", section, re.MULTILINE)
    assert found is not None
    return textwrap.dedent(found[1])


def nginx(lines: str, port: int, folder: Path) -> tuple[str, list[str]]:
    paths = "".join(f"{each}_temp_path {folder};\n" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    server = f"server {{ listen 127.0.0.1:{port};\n{lines} }}"
    main = f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/log;\nevents {{}}\n"
    return f"{main}http {{ access_log off;\n{paths}{server} }}\n", ["nginx", "-c", "FILE", "-p", str(folder)]


def caddy(lines: str, port: int, folder: Path) -> tuple[str, list[str]]:
    lines = lines.replace(PUBLIC, f"http://127.0.0.1:{port}, http://{PUBLIC}:{port}, http://localhost:{port}")
    return f"{{\n admin off\n}}\n{lines}", ["caddy", "run", "--adapter", "caddyfile", "--config", "FILE"]


def haproxy(lines: str, port: int, folder: Path) -> tuple[str, list[str]]:
    lines = re.sub(r"bind :443 ssl crt \S+", f"bind 127.0.0.1:{port}", lines)
    return lines, ["haproxy", "-db", "-f", "FILE"]


PROXIES = {"nginx": nginx, "Caddy": caddy, "HAProxy": haproxy}


@asynccontextmanager
async def proxied(name: str, d: Daemon, folder: Path) -> AsyncIterator[str]:
    """The URL of a proxy of the manual's recipe in front of a daemon."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = recipe(name)
    assert "127.0.0.1:8780" in lines
    text, command = PROXIES[name](lines.replace("127.0.0.1:8780", d.url.removeprefix("http://")), port, folder)
    (folder / "config").write_text(text)
    command = [str(folder / "config") if each == "FILE" else each for each in command]
    environ = {"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/bin"}
    with (folder / "output").open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, env=environ)
    try:
        async with asyncio.timeout(STEP_SECONDS):
            while True:
                assert process.returncode is None, (folder / "output").read_text()
                try:
                    (await asyncio.open_connection("127.0.0.1", port))[1].close()
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest.mark.parametrize("name", PROXIES)
async def test_the_proxy_recipes(name: str, tmp_path: Path) -> None:
    """No event without a token under any name, although loopback is trusted; both kinds of streams get through."""
    if shutil.which(name.lower()) is None:
        pytest.skip(f"no {name} on this machine (`python -m tests --install`)")
    config = f'trust_local_ingest = true\nallowed_hosts = ["{PUBLIC}"]\n{TRUSTED}\n[egress]\nallow = ["127.0.0.0/8"]\n'
    async with daemon(tmp_path / "state", config) as d, proxied(name, d, tmp_path / "proxy") as url:
        kind = {"Content-Type": "application/json"}
        async with d.session.post(d.url + "/v1/events", data=EVENT % "local", headers=kind) as trusted:
            assert 202 == trusted.status
        port = url.rpartition(":")[2]
        for host in (PUBLIC, f"{PUBLIC}:{port}", f"localhost:{port}", f"127.0.0.1:{port}"):
            headers = {**kind, "Host": host}
            async with d.session.post(url + "/v1/events", data=EVENT % "stranger", headers=headers) as refused:
                assert (host, 401) == (host, refused.status)
        await _named(d, url)
        await d.call("POST", "/v1/endpoints", {"url": "http://127.0.0.1:9/", "event_types": ["*"]}, expect=201)
        async with asyncio.timeout(STEP_SECONDS):
            await _stream(d, url)


async def _named(d: Daemon, url: str) -> None:
    """A guess through the proxy has its caller's address in the audit trail, and not what the caller made up."""
    headers = {"Host": PUBLIC, "Authorization": "Bearer wrong", "X-Forwarded-For": "198.51.100.9"}
    here = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with aiohttp.ClientSession(connector=here) as session, session.get(url + "/v1/status", headers=headers) as no:
        assert 401 == no.status
    found = (await d.call("GET", "/v1/audit?what=unauthorized&limit=1"))["data"]
    assert ["127.0.0.2"] == [each["address"] for each in found]


async def _stream(d: Daemon, url: str) -> None:
    """Each line of a pipe that stays open is committed, and shown by a live log that stays open."""
    headers = {**d.admin(), "Host": PUBLIC}
    lines: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        while (line := await lines.get()) is not None:
            yield line

    async with d.session.get(url + "/v1/deliveries/stream", headers=headers) as live:
        assert 200 == live.status
        pipe = asyncio.create_task(_pipe(d.session, url, headers, body()))
        for text in ("one", "two"):
            lines.put_nowait((EVENT % text).encode())
            while b"message.received" not in await live.content.readline():
                pass
        assert not pipe.done()
        lines.put_nowait(None)
        assert 202 == await pipe


async def _pipe(session: aiohttp.ClientSession, url: str, headers: dict[str, str], body: AsyncIterator[bytes]) -> int:
    headers = {**headers, "Content-Type": "application/x-ndjson"}
    async with session.post(url + "/v1/events", data=body, headers=headers) as answer:
        return answer.status
