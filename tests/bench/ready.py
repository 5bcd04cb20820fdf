"""From SIGKILL to ready: with a great many deliveries waiting, and a write-ahead log to be read back.

    python -m tests.bench.ready [EVENTS …]

A daemon with so many events waiting for a dead endpoint takes and delivers others for a second, is killed, and started
again at once; five times for each number (100,000 and 1,000,000 unless given).
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.million import CONFIG, fill
from tests.support import process
from tests.support.process import Daemon
from tests.support.receiver import receiver
from tests.support.results import recorded

KILLS = 5
LOAD_SECONDS = 1.0
BATCHES = 20
BATCH = 50


async def load(d: Daemon, label: str) -> None:
    """Events for the healthy endpoint, for a second."""
    for number in range(BATCHES):
        batch = [{"event_type": "message.sent", "event_id": f"{label}-{number}-{each}"} for each in range(BATCH)]
        await d.call("POST", "/v1/events", batch, expect=202)
        await asyncio.sleep(LOAD_SECONDS / BATCHES)


async def measure(events: int) -> list[float]:
    """Seconds from each SIGKILL to the next ready."""
    took = []
    with tempfile.TemporaryDirectory(prefix="webhookd-ready-") as folder:
        state_dir = Path(folder) / "state"
        async with receiver(lambda name: 200 if name == "well" else 500) as where:
            d = await process.start(state_dir, CONFIG)
            for name, kind in (("dead", "message.received"), ("well", "message.sent")):
                await d.call("POST", "/v1/endpoints", {"url": f"{where.url}/{name}", "event_types": [kind]}, expect=201)
            await d.stop()
            await d.session.close()
            await fill(state_dir, 1, events)
            d = await process.start(state_dir, CONFIG)
            for number in range(KILLS):
                await load(d, f"kill-{number}")
                began = time.perf_counter()
                os.kill(d.process.pid, signal.SIGKILL)
                await d.until_dead()
                await d.session.close()
                wal_mb = (state_dir / "webhookd.db-wal").stat().st_size / 1024**2
                d = await process.start(state_dir, CONFIG)
                took.append(time.perf_counter() - began)
                waiting = (await d.call("GET", "/v1/status"))["backlog"]["waiting"]
                print(
                    f"  ready {took[-1]:.2f} s after SIGKILL, {waiting} waiting, a log of {wal_mb:.1f} MiB", flush=True
                )
            await d.stop()
            await d.session.close()
    return took


def main() -> None:
    """Measure and print."""
    for events in [int(each) for each in sys.argv[1:]] or [100_000, 1_000_000]:
        took = asyncio.run(measure(events))
        print(f"{events} waiting: median {statistics.median(took):.2f} s, longest {max(took):.2f} s", flush=True)


if __name__ == "__main__":
    sys.exit(recorded(main))
