"""Answers written at once: on the wire they are as every other answer of the API."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.api import Api, running_api
from webhookd.web.server.responses import JSON_TYPE, SECURITY_HEADERS


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path, keep_alive_seconds=1) as running:
        yield running


EVENT = b'{"event_type":"message.received","event_id":"a"}'


async def answer(api: Api, first_line: str, *headers: str) -> tuple[str, dict[str, str], bytes]:
    """The status line, the headers and the body of what is answered to an event, read until its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    head = "\r\n".join([first_line, "Host: localhost", f"Authorization: Bearer {api.admin_token}", *headers])
    writer.write(f"{head}\r\nContent-Type: application/json\r\nContent-Length: {len(EVENT)}\r\n\r\n".encode() + EVENT)
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    body = await reader.readexactly(int(fields["Content-Length"]))
    if "close" in fields.get("Connection", "") or "HTTP/1.0" in first_line:
        assert b"" == await reader.read()
    writer.close()
    return status, fields, body


@pytest.mark.parametrize(
    ("first_line", "headers", "ending"),
    [
        ("POST /v1/events HTTP/1.1", (), None),
        ("POST /v1/events HTTP/1.1", ("Connection: close",), "close"),
        ("POST /v1/events HTTP/1.0", (), None),
        ("POST /v1/events HTTP/1.0", ("Connection: keep-alive",), "keep-alive"),
    ],
)
async def test_an_event_is_answered_as_http_wants_it(
    api: Api, first_line: str, headers: tuple[str, ...], ending: str | None
) -> None:
    """The status, the security headers, the length and the date, once each; the connection ends where it should."""
    status, fields, body = await answer(api, first_line, *headers)
    assert status.split(" ", 1)[1] == "202 Accepted"
    assert b'{"event_id":"a","deliveries":0,"duplicate":false}' == body
    expected = {"Content-Type": JSON_TYPE, **SECURITY_HEADERS}
    assert expected == {name: fields[name] for name in expected}
    assert re.fullmatch(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", fields["Date"])
    assert ending == fields.get("Connection")
    assert set(fields) <= {*expected, "Content-Length", "Date", "Connection"}


async def test_an_array_is_answered_as_a_single_event_is(api: Api) -> None:
    """With the summary and its status, 422 where an event was refused."""
    good = await api.call("POST", "/v1/events", [{"event_type": "message.sent"}])
    assert (202, 1) == (good.status, good.json["accepted"])
    bad = await api.call("POST", "/v1/events", [{"event_type": "nonsense"}])
    assert (422, 1) == (bad.status, bad.json["rejected_count"])
    assert {name: bad.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS


async def test_answers_to_pipelined_requests_come_in_order(api: Api) -> None:
    """Several events written at once on one connection are answered one after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    for number in range(5):
        body = b'{"event_type":"message.sent","event_id":"p%d"}' % number
        head = f"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.admin_token}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    for number in range(5):
        head_lines = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(re.findall(r"Content-Length: (\d+)", head_lines)[0])
        assert b'"event_id":"p%d"' % number in await reader.readexactly(length)
    writer.close()
