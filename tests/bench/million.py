"""A great many waiting events: disable, enable, skip and delete their endpoint while others get theirs.

    python -m tests.bench.million [EVENTS]

Prints how long each call took and, for the commits of a healthy endpoint's events meanwhile, their p99 and the longest.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.process import Daemon, daemon
from tests.support.receiver import receiver
from tests.support.results import recorded
from webhookd.store.connection import open_writer

CONFIG = '[egress]\nallow = ["127.0.0.0/8"]\n[log]\nlevel = "warning"\n[limits]\nwaiting_per_workspace = 10000000\n'
CONFIG += "[hold]\nmax_events = 10000000\nmax_mb = 100000\n"
FILL_ROWS = 50_000


@dataclass
class Meanwhile:
    """One event after the other for the healthy endpoint, each timed until its 202."""

    d: Daemon
    label: str
    latencies_ms: list[float] = field(default_factory=list)

    async def run(self) -> None:
        """Send until cancelled."""
        for number in range(1_000_000):
            event = {"event_type": "message.sent", "event_id": f"{self.label}-{number}"}
            began = time.perf_counter()
            await self.d.call("POST", "/v1/events", event, expect=202)
            self.latencies_ms.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(0.002)


@dataclass(frozen=True)
class Figure:
    """What one call cost: its own time, and the healthy endpoint's commits meanwhile."""

    call: str
    took_ms: float
    p99_ms: float
    longest_ms: float


async def fill(state_dir: Path, endpoint_seq: int, events: int) -> None:
    """Put waiting deliveries into the table as ingest does, without the HTTP around it."""
    connection, _, _ = await open_writer(state_dir / "webhookd.db")
    body = b'{"event_type":"message.received","text":"' + b"x" * 160 + b'"}'
    for first in range(0, events, FILL_ROWS):
        numbers = range(first, min(events, first + FILL_ROWS))
        await connection.run(
            lambda db, numbers=numbers: (  # type: ignore[misc]
                db.execute("BEGIN"),
                db.executemany(
                    "INSERT INTO events (workspace_seq, id, type, accepted_at, body) "
                    "VALUES (1, ?, 'message.received', ?, ?)",
                    [(f"old-{number}", time.time_ns() // 1_000_000, body) for number in numbers],
                ),
                db.executemany(
                    "INSERT INTO deliveries (event_seq, endpoint_seq, event_type, size, accepted_at) "
                    "SELECT seq, ?, type, 200, accepted_at FROM events WHERE workspace_seq = 1 AND id = ?",
                    [(endpoint_seq, f"old-{number}") for number in numbers],
                ),
                db.execute("COMMIT"),
            )
        )
    await connection.close()


async def measure(events: int, meanwhile_seconds: float = 2.0) -> list[Figure]:
    """The figures; each call is watched from a quarter of `meanwhile_seconds` before it until so long after it."""
    figures = []
    with tempfile.TemporaryDirectory(prefix="webhookd-million-") as folder:
        state_dir = Path(folder) / "state"
        async with receiver(lambda name: 200 if name == "well" else 500) as where:
            async with daemon(state_dir, CONFIG) as d:
                for name, kind in (("dead", "message.received"), ("well", "message.sent")):
                    fields = {"url": f"{where.url}/{name}", "event_types": [kind]}
                    await d.call("POST", "/v1/endpoints", fields, expect=201)
            await fill(state_dir, 1, events)
            began = time.perf_counter()
            async with daemon(state_dir, CONFIG) as d:
                print(f"start with {events} waiting: {time.perf_counter() - began:.2f} s until ready", flush=True)
                dead = (await d.call("GET", "/v1/endpoints"))["data"][0]["id"]
                for method, path, fields in (
                    ("POST", f"/v1/endpoints/{dead}/disable", None),
                    ("POST", f"/v1/endpoints/{dead}/enable", None),
                    ("POST", f"/v1/endpoints/{dead}/disable", None),
                    ("PATCH", "/v1/workspaces/default", {"plan": "growth"}),
                    ("PATCH", "/v1/workspaces/default", {"plan": "advanced"}),
                    ("POST", f"/v1/endpoints/{dead}/enable", {"skip_held": True}),
                    ("DELETE", f"/v1/endpoints/{dead}", None),
                ):
                    figures.append(await timed(d, method, path, fields, meanwhile_seconds))
    return figures


async def timed(d: Daemon, method: str, path: str, fields: object, meanwhile_seconds: float) -> Figure:
    """Make one call while the healthy endpoint gets its events."""
    what = f"{method} {path.replace('/v1/endpoints/', '')[-20:]} {fields or ''}"
    meanwhile = Meanwhile(d, f"{method}-{time.monotonic_ns()}")
    sending = asyncio.create_task(meanwhile.run())
    await asyncio.sleep(meanwhile_seconds / 4)
    began = time.perf_counter()
    await d.call(method, path, fields)
    took_ms = (time.perf_counter() - began) * 1000
    await asyncio.sleep(meanwhile_seconds)
    sending.cancel()
    with suppress(asyncio.CancelledError):
        await sending
    latencies = meanwhile.latencies_ms
    return Figure(what, took_ms, statistics.quantiles(latencies, n=100)[98], max(latencies))


def main() -> None:
    """Measure and print."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    for figure in asyncio.run(measure(events)):
        print(
            f"{figure.call:60} {figure.took_ms:8.1f} ms; a healthy endpoint's commits meanwhile: "
            f"p99 {figure.p99_ms:.1f} ms, longest {figure.longest_ms:.1f} ms"
        )


if __name__ == "__main__":
    sys.exit(recorded(main))
