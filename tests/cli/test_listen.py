"""`webhookd listen`: what it says of a request's signature, what it prints, and how it misbehaves."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import standardwebhooks

from webhookd.cli.listen import verify
from webhookd.rules.signing import Signer

KEY = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
OWN = "the receiver's own key"
NOW = 1_700_000_000
BODY = b'{"event_type":"message.sent","event_id":"e1"}'


def signed(key: str = KEY, *previous: str, at: int = NOW, body_text: str | None = "") -> dict[str, str]:
    return dict(Signer(key, *previous, body_text=body_text).headers("e1", at, BODY))


@pytest.mark.parametrize(
    ("headers", "keys", "expected"),
    [
        (signed(), [], (None, "not verified: no --key")),
        (signed(), [KEY], (True, "signature good")),
        (signed(), [OTHER, KEY], (True, "signature good")),
        (signed(OTHER, KEY), [KEY], (True, "signature good")),
        (signed(OTHER, KEY), [OTHER], (True, "signature good")),
        (signed(at=NOW - 299), [KEY], (True, "signature good")),
        (signed(at=NOW - 301), [KEY], (False, "SIGNATURE TOO OLD: 301 s")),
        (signed(), [OTHER], (False, "WRONG SIGNATURE")),
        (signed() | {"webhook-id": "e2"}, [KEY], (False, "WRONG SIGNATURE")),
        (signed() | {"X-Webhook-Signature": "AAAA"}, [KEY], (False, "WRONG X-Webhook-Signature")),
        (signed() | {"webhook-timestamp": "now"}, [KEY], (False, "NOT SIGNED")),
        (signed() | {"webhook-timestamp": "9" * 400}, [KEY], (False, "NOT SIGNED")),
        (signed() | {"webhook-signature": "v1,\xff"}, [KEY], (False, "WRONG SIGNATURE")),
        ({}, [KEY], (False, "NOT SIGNED")),
        (signed(body_text=OWN), [OWN], (True, "signature good")),
        (signed(body_text=OWN), [KEY, OWN], (True, "signature good")),
        (signed(body_text=OWN), [OTHER, OWN], (False, "WRONG SIGNATURE")),
        (signed(body_text=OWN), [KEY], (False, "WRONG X-Webhook-Signature")),
        (signed(), [OWN], (False, "WRONG X-Webhook-Signature")),
        (signed(OTHER, KEY), [OWN], (False, "WRONG X-Webhook-Signature")),
        (signed(body_text=None), [OWN], (False, "WRONG X-Webhook-Signature")),
        (signed(body_text=None), [KEY], (True, "signature good")),
    ],
)
def test_verify(headers: dict[str, str], keys: list[str], expected: tuple[bool | None, str]) -> None:
    """Every way in which a signature can be right or wrong."""
    assert expected == verify(headers, BODY, keys, now=NOW)


def test_verify_agrees_with_the_standards_own_library() -> None:
    """What the Standard Webhooks library signs is good here."""
    at = int(time.time())
    stamp = standardwebhooks.webhooks.datetime.fromtimestamp(at, tz=standardwebhooks.webhooks.timezone.utc)
    signature = standardwebhooks.Webhook(KEY).sign("e1", stamp, BODY.decode())
    headers = {"webhook-id": "e1", "webhook-timestamp": str(at), "webhook-signature": signature}
    assert (True, "signature good") == verify(headers, BODY, [KEY], now=at)


@pytest.fixture
async def listening(start: Any) -> AsyncIterator[Any]:
    """Starts `webhookd listen` on a free port; gives its process and its URL."""

    async def starting(*words: str, **options: Any) -> tuple[asyncio.subprocess.Process, str]:
        process = await start("listen", "--port", "0", *words, **options)
        async with asyncio.timeout(20):
            said = await (process.stderr if "--json" in words else process.stdout).readline()
        assert said.startswith(b"Listening on http://127.0.0.1:")
        return process, said.split()[-1].decode()

    return starting


async def post(url: str, *, body: bytes = BODY, headers: dict[str, str] | None = None) -> int:
    given = signed(at=int(time.time())) | {"X-Webhook-Attempt": "1"} if headers is None else headers
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session,
        session.post(url, data=body, headers=given, allow_redirects=False) as answer,
    ):
        return answer.status


async def stop(process: asyncio.subprocess.Process) -> list[str]:
    """Ends it as a person would; returns the lines it printed about requests."""
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert (0, False) == (process.returncode, b"Traceback" in err)
    lines = out.decode().splitlines()
    return lines[lines.index(next(filter(lambda line: line.startswith("To get"), lines), lines[0])) + 1 :]


@pytest.mark.slow
async def test_prints_each_event(listening: Any) -> None:
    """One line: time, type, id, attempt, verdict, answer."""
    process, url = await listening("--key", KEY)
    assert 200 == await post(url)
    assert 200 == await post(url + "any/path?x=1", headers={"X-Webhook-Test": "true"}, body=b"\x1b[2J")
    [first, second] = await stop(process)
    columns = [column.strip() for column in first.split("  ") if column.strip()]
    assert ["message.sent", "e1", "attempt 1", "signature good", "→ 200"] == columns[1:]
    assert "(no event_type)" in second
    assert "attempt ?, test  NOT SIGNED" in second


async def test_says_that_nothing_is_verified(listening: Any) -> None:
    """Without a key it says so, at the start and with each event."""
    process, url = await listening()
    await post(url)
    process.send_signal(signal.SIGTERM)
    out, _ = await process.communicate()
    assert b"No --key whsec_" in out
    assert b"not verified: no --key" in out
    assert 0 == process.returncode


async def test_bodies_are_harmless(listening: Any) -> None:
    """`--body` shows the body, with what could steer a terminal written out."""
    process, url = await listening("--body")
    await post(url, body=b'{"event_type":"a\\u001b[2J","text":"\xe2\x80\xae"}')
    await post(url, body=b"\x1b[2J\xff\n2")
    lines = await stop(process)
    assert "a\\x1b[2J" in lines[0]
    assert '    {"event_type":"a\\u001b[2J","text":"\\u202e"}' == lines[1]
    assert ["    \\x1b[2J\ufffd", "    2"] == lines[3:]


@pytest.mark.slow
async def test_json(listening: Any) -> None:
    """With `--json` stdout is one object per request and nothing else."""
    process, url = await listening("--json", "--key", KEY)
    await post(url)
    out = json.loads(await process.stdout.readline())
    process.send_signal(signal.SIGINT)
    rest, _ = await process.communicate()
    assert ("message.sent", "e1", "1", True, 200) == tuple(
        out[key] for key in ("event_type", "event_id", "attempt", "verified", "status")
    )
    assert BODY.decode() == out["body"]
    assert b"" == rest


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--fail", "2"), [500, 500, 200, 200]),
        (("--fail", "1", "--status", "503"), [503, 200, 200, 200]),
        (("--fail", "always"), [500] * 4),
        (("--status", "302"), [302] * 4),
        (("--status", "204"), [204] * 4),
    ],
)
@pytest.mark.slow
async def test_misbehaves(listening: Any, words: tuple[str, ...], expected: list[int]) -> None:
    """`--fail` and `--status` answer what was asked for."""
    process, url = await listening(*words)
    assert expected == [await post(url) for _ in expected]
    assert [f"→ {status}" for status in expected] == [line[-5:] for line in await stop(process)]


@pytest.mark.slow
async def test_slow(listening: Any) -> None:
    """`--slow` waits before the answer, and Ctrl-C doesn't wait for it."""
    process, url = await listening("--slow", "0.2")
    began = time.monotonic()
    assert 200 == await post(url)
    assert 0.2 <= time.monotonic() - began
    await stop(process)
    process, url = await listening("--slow", "3600")
    _, writer = await asyncio.open_connection("127.0.0.1", int(url.rstrip("/").rsplit(":", 1)[1]))
    writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    await stop(process)
    writer.close()


async def test_port_taken(listening: Any, run: Any) -> None:
    """A port that is taken is said, with the way out."""
    _, url = await listening()
    ran = await run("listen", "--port", url.rstrip("/").rsplit(":", 1)[1])
    assert 1 == ran.code
    assert "--port 0 takes a free one" in ran.err
