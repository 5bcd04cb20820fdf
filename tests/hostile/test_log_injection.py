"""Whatever strangers write into what is stored and logged: a log line stays one line of JSON, small and in clear."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.api import wire
from tests.support.process import Daemon, daemon

CONFIG = '[egress]\nallow = ["127.0.0.0/8"]\n[delivery]\nretry_seconds = []\n[log]\nlevel = "debug"\n'
FORGED = '{"timestamp":"2026-01-01T00:00:00.000Z","level":"error","event":"daemon.failed","forged":true}'
HOSTILE = {
    "a forged line": f"x\r\n{FORGED}\r\n",
    "escape sequences": "\x1b[2J\x1b]0;owned\x07\x9b31m",
    "bidi marks": "\u202egnp.exe\u2066\u200f\u061c",
    "line separators": f"x\u2028{FORGED}\u2029\x85{FORGED}",
    "NUL and others": "".join(map(chr, range(32))) + "\x7f",
    "quotes": '","forged":true,"x":"',
    "a template": "%s %n {0} {{7*7}} ${jndi:ldap://127.0.0.1/x}",
    "400 KB": "x" * 400_000,
    "lone surrogates": "\\ud800",
    "a script": "<script>alert(1)</script>",
}
IN_CLEAR = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
SECRET = "hunter2hunter2"


@pytest.fixture
async def d(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with daemon(tmp_path / "state", CONFIG) as running:
        yield running


async def answer_badly(text: str) -> asyncio.Server:
    """A receiver with this in its status line, a header and its body."""
    said = text.encode("utf-8", "surrogatepass").replace(b"\r\n", b" ").replace(b"\n", b" ")[:3000]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(b"HTTP/1.1 500 %b\r\nX: %b\r\nContent-Length: %d\r\n\r\n%b" % (said, said, len(said), said))
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


async def store_everywhere(d: Daemon, text: str) -> None:
    """Into every field that takes a text, as often as the API lets it; what it refuses may be logged as well."""
    server = await answer_badly(text)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook?token={SECRET}"
    for fields in (
        {"description": text},
        {"description": text[:400]},
        {"headers": {"X-Name": text}},
        {"url": url + text},
    ):
        await d.call(
            "POST", "/v1/endpoints", {"url": url, "event_types": ["*"], "headers": {"X-Key": SECRET}, **fields}
        )
    for size in (len(text), 150):
        await d.call("POST", "/v1/workspaces", {"id": "acme", "name": text[:size], "notify": [text[:size]]})
        await d.call("POST", "/v1/tokens", {"scope": "observe", "note": text[:size]})
        await d.call("POST", f"/v1/workspaces/{text[:size][:30].encode().hex()}/events", {"event_type": text[:size]})
    await d.call("POST", "/v1/events", {"event_type": "message.received", "event_id": "one", "text": text[:50_000]})
    await d.call("POST", "/v1/events", {"event_type": text[:1000], "event_id": text[:1000]})
    async with wire(d.port) as line:
        line.send(b"GET /" + text.encode("utf-8", "surrogatepass")[:3000] + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await line.ended() if "\n" in text else await line.answer()
    async with asyncio.timeout(30):
        while '"delivery.attempted"' not in d.log_file.read_text("utf-8", "replace"):
            await asyncio.sleep(0.02)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_log_line_stays_one_line_of_json(d: Daemon, name: str) -> None:
    """Valid UTF-8 and JSON, at most 16 KiB, nothing forged, no mark in clear, no secret, no URL's query."""
    await store_everywhere(d, HOSTILE[name])
    assert 0 == await d.stop()
    lines = d.log_file.read_bytes().splitlines()
    assert len(lines) == d.log_file.read_bytes().count(b"\n")
    assert len(lines) > 5
    for line in lines:
        assert len(line) <= 16 * 1024
        report = json.loads(line)
        assert "forged" not in report and {"timestamp", "level", "event"} <= set(report)
        assert not IN_CLEAR.search(line.decode("utf-8"))
        assert SECRET.encode() not in line
