"""The event log with a million deliveries in it, while 500 events a second go through.

    python -m tests.bench.log_page [DELIVERIES]

Prints the median and the p95 of the page's and the API's answers, filter by filter.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.support.process import Daemon, daemon
from tests.support.receiver import receiver
from tests.support.results import recorded
from webhookd.clock import rfc3339
from webhookd.store.connection import open_writer

CONFIG = '[egress]\nallow = ["127.0.0.0/8"]\n[log]\nlevel = "warning"\n[retention]\nmax_size_mb = 100000\n'
ENDPOINTS = 20
STEP = 50_000
RATE_PER_SECOND = 500
RECORD = b'{"number":1,"started_at":"2026-01-01T00:00:00.000Z","duration_ms":4.2,"outcome":"delivered","reason":null,'
RECORD += b'"status":200,"detail":"answered 200","counted":false,"connection_retried":false,"request":{"headers":{}},'
RECORD += b'"response":{"headers":{},"body":"ok","truncated":false}}'


@dataclass(frozen=True)
class Figure:
    """How fast one address answered."""

    address: str
    median_ms: float
    p95_ms: float


async def fill(state_dir: Path, deliveries: int, began_ms: int) -> None:
    """Put finished deliveries into the table, a tenth of them dropped, one per millisecond."""
    connection, _, _ = await open_writer(state_dir / "webhookd.db")
    for first in range(0, deliveries, STEP):
        numbers = range(first, min(deliveries, first + STEP))
        await connection.run(
            lambda db, numbers=numbers: (  # type: ignore[misc]
                db.execute("BEGIN"),
                db.executemany(
                    "INSERT INTO events (seq, workspace_seq, id, type, accepted_at, body) "
                    "VALUES (?, 1, ?, 'message.received', ?, ?)",
                    [(n + 1, f"old-{n}", began_ms + n, b'{"event_type":"message.received"}') for n in numbers],
                ),
                db.executemany(
                    "INSERT INTO deliveries (event_seq, endpoint_seq, event_type, size, accepted_at, state, "
                    "attempt_count, tries, finished_at, final_attempt) "
                    "VALUES (?, ?, 'message.received', 33, ?, ?, 1, 1, ?, ?)",
                    [
                        (n + 1, n % ENDPOINTS + 1, began_ms + n, 2 if n % 10 == 0 else 1, began_ms + n, RECORD)
                        for n in numbers
                    ],
                ),
                db.execute("COMMIT"),
            )
        )
    await connection.close()


async def traffic(d: Daemon) -> None:
    """500 events a second, as one stream of lines, until cancelled."""

    async def lines() -> AsyncIterator[bytes]:
        for number in range(1_000_000):
            yield b'{"event_type":"message.sent","event_id":"new-%d"}\n' % number
            await asyncio.sleep(1 / RATE_PER_SECOND)

    headers = {**d.admin(), "Content-Type": "application/x-ndjson"}
    async with d.session.post(d.url + "/v1/events", data=lines(), headers=headers) as answer:
        await answer.read()


async def signed_in(d: Daemon) -> aiohttp.ClientSession:
    """A browser's session on the page."""
    session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
    async with session.get(d.url + "/sign-in") as answer:
        proof = re.findall(r'name="proof" value="([0-9a-f]+)"', await answer.text())[0]
    form = {"secret": (d.state_dir / "admin-token").read_text().strip(), "proof": proof}
    async with session.post(d.url + "/sign-in", data=form, headers={"Origin": d.url}) as answer:
        assert answer.ok, await answer.text()
    return session


async def timed(d: Daemon, session: aiohttp.ClientSession, address: str, rounds: int) -> Figure:
    """Ask for one address again and again."""
    headers = d.admin() if address.startswith("/v1") else {}
    taken_ms = []
    for _ in range(rounds):
        began = time.perf_counter()
        async with session.get(d.url + address, headers=headers) as answer:
            await answer.read()
            assert 200 == answer.status, address
        taken_ms.append((time.perf_counter() - began) * 1000)
    return Figure(address, statistics.median(taken_ms), statistics.quantiles(taken_ms, n=20)[18])


async def measure(deliveries: int, rounds: int = 22) -> list[Figure]:
    """The figures, under traffic."""
    began_ms = time.time_ns() // 1_000_000 - deliveries
    with tempfile.TemporaryDirectory(prefix="webhookd-log-") as folder:
        state_dir = Path(folder) / "state"
        async with receiver() as where:
            async with daemon(state_dir, CONFIG) as d:
                ids = []
                for number in range(ENDPOINTS):
                    kind = "message.sent" if number == 0 else "message.received"
                    fields = {"url": f"{where.url}/hook{number}", "event_types": [kind]}
                    ids.append((await d.call("POST", "/v1/endpoints", fields, expect=201))["id"])
            await fill(state_dir, deliveries, began_ms)
            early = rfc3339(began_ms + 100)
            addresses = [
                "/log",
                f"/log?endpoint={ids[3]}",
                "/log?state=dropped",
                "/log?event_id=old-77",
                f"/log?until={early[:-5]}",
                "/log?since=2100-01-01T00:00",
                "/log?event_type=comment.created",  # of which there is none
                "/v1/deliveries",
                f"/v1/deliveries?until={early}",
                "/webhooks",
            ]
            async with daemon(state_dir, CONFIG) as d:
                going = asyncio.create_task(traffic(d))
                session = await signed_in(d)
                figures = [await timed(d, session, address, rounds) for address in addresses]
                await session.close()
                going.cancel()
                with suppress(asyncio.CancelledError):
                    await going
    return figures


def main() -> None:
    """Measure and print."""
    for figure in asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)):
        print(f"{figure.address:60} median {figure.median_ms:6.1f} ms, p95 {figure.p95_ms:6.1f} ms")


if __name__ == "__main__":
    sys.exit(recorded(main))
