"""A daemon at steady load for an hour: does anything grow that shouldn't?

    python -m tests.bench.soak [--minutes 60] [--json FILE]

200 events a second go into 30 endpoints, most of them well, two always failing (a person enables them again and again),
two slow, two shaky; endpoints come and go, the log and the page are looked at.  Retention is set to minutes, so that
the log is pruned as fast as it is written.  The first quarter is left to it to fill up; after that each figure has to
be flat: the median of the last quarter against that of the second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from tests.support.listening import served
from tests.support.process import Daemon, cpu_seconds, daemon
from tests.support.results import recorded
from webhookd.clock import rfc3339

RATE_PER_SECOND = 200
BATCH = 20
ENDPOINTS = 30
SICK, SLOW, SHAKY = (0, 1), (2, 3), (4, 5)
MEBIBYTE = 1024 * 1024
PAYLOAD = "x" * 600
CONFIG = """
[egress]
allow = ["127.0.0.0/8"]
[log]
level = "warning"
[delivery]
retry_seconds = [0.5, 1, 1.5]
[budget]
window_seconds = {window_seconds}
[hold]
max_events = 300
[limits]
endpoints = 100
[retention]
max_age_days = {kept_days}
idempotency_hours = {kept_hours}
max_size_mb = 96
"""


@dataclass(frozen=True)
class Bound:
    """How a figure may differ from the second quarter to the last and still be called flat."""

    ratio: float
    slack: float


# Memory moves with the allocator, the files with the moment of the look between two prunings or checkpoints.
BOUNDS = {
    "rss_bytes": Bound(1.05, 2 * MEBIBYTE),
    "descriptors": Bound(1.0, 4),
    "threads": Bound(1.0, 1),
    "wal_bytes": Bound(1.1, 8 * MEBIBYTE),
    "database_bytes": Bound(1.1, 8 * MEBIBYTE),
    "free_inside_bytes": Bound(1.2, 16 * MEBIBYTE),
    "loop_lag_ms": Bound(1.5, 5),
    "waiting": Bound(1.5, 500),
}


@dataclass(frozen=True)
class Verdict:
    """One figure: its median in the second and the last quarter, its extremes after the first, whether it is flat."""

    name: str
    second_quarter: float
    last_quarter: float
    lowest: float
    highest: float
    flat: bool


@dataclass
class Receivers:
    """All the receivers; they keep no more than each one's newest number, and count what comes out of order."""

    url: str = ""
    answered: Counter[int] = field(default_factory=Counter)
    newest: dict[str, int] = field(default_factory=dict)
    out_of_order: int = 0

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer as the endpoint's name says: `sick-0`, `slow-2`, `shaky-4`, `well-6`."""
        name = request.path.lstrip("/")
        number = int(request.headers["webhook-id"].rpartition("-")[2])
        await request.read()
        if name.startswith("slow"):
            await asyncio.sleep(0.08)
        failing = name.startswith("sick") or (
            name.startswith("shaky") and number % 4 == 0 and request.headers["X-Webhook-Attempt"] == "1"
        )
        status = 500 if failing else 200
        self.answered[status] += 1
        if status == 200 and "X-Webhook-Replay" not in request.headers:
            self.out_of_order += number <= self.newest.get(name, -1)
            self.newest[name] = number
        return web.Response(status=status)


def name_of(number: int) -> str:
    for kind, numbers in (("sick", SICK), ("slow", SLOW), ("shaky", SHAKY)):
        if number in numbers:
            return f"{kind}-{number}"
    return f"well-{number}"


async def produce(d: Daemon, sent: Counter[str]) -> None:
    """A batch of events at a steady pace, one type of 30 after the other, until cancelled."""
    number, due = 0, time.monotonic()
    while True:
        batch = [
            {"event_type": f"soak.n{n % ENDPOINTS}", "event_id": f"soak-{n}", "text": PAYLOAD}
            for n in range(number, number + BATCH)
        ]
        await d.call("POST", "/v1/events", batch, expect=202)
        number += BATCH
        sent["events"] = number
        due += BATCH / RATE_PER_SECOND
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def live_with_it(d: Daemon, where: Receivers, every_seconds: float) -> None:
    """What people do with a daemon: enable what was stopped, add and remove endpoints, look at the log."""
    for number in range(10**9):
        await asyncio.sleep(every_seconds)
        endpoints = (await d.call("GET", "/v1/endpoints"))["data"]
        for each in endpoints:
            if each["state"] == "auto_disabled":
                await d.call("POST", f"/v1/endpoints/{each['id']}/enable", {"skip_held": number % 4 == 0}, expect=200)
        guest = {"url": f"{where.url}/guest-{number}", "event_types": ["soak.n7"]}
        made = await d.call("POST", "/v1/endpoints", guest, expect=201)
        await d.call("GET", "/v1/deliveries?state=dropped&limit=20", expect=200)
        again = {
            "endpoint": next(each["id"] for each in endpoints if "/well-" in each["url"]),
            "state": "delivered",
            "since": rfc3339(time.time_ns() // 1_000_000 - 5000),
        }
        await d.call("POST", "/v1/replay", again, expect=200)
        await d.call("DELETE", f"/v1/endpoints/{made['id']}")


async def sample(d: Daemon, began: float) -> dict[str, float]:
    """How the daemon stands now, by /proc, by its files and by its own metrics."""
    metrics = await d.call("GET", "/metrics", expect=200)
    said = {
        line.split("{")[0].split(" ")[0]: float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line[:1] != "#"
    }
    process = Path(f"/proc/{d.process.pid}")
    with (d.state_dir / "webhookd.db").open("rb") as file:
        head = file.read(40)  # SQLite's header: the page size, and how many pages are free, as of the last checkpoint
    return {
        "at_seconds": round(time.monotonic() - began, 1),
        "rss_bytes": d.resident_bytes(),
        "descriptors": len(os.listdir(process / "fd")),
        "threads": len(os.listdir(process / "task")),
        "wal_bytes": said["webhookd_wal_bytes"],
        "database_bytes": said["webhookd_database_bytes"],
        "free_inside_bytes": int.from_bytes(head[16:18], "big") * int.from_bytes(head[36:40], "big"),
        "loop_lag_ms": round(said["webhookd_loop_lag_seconds"] * 1000, 2),
        "waiting": said["webhookd_deliveries_waiting"],
        "accepted": said["webhookd_events_accepted_total"],
        "cpu_seconds": cpu_seconds([d.process.pid]),
    }


def judge(samples: list[dict[str, float]]) -> list[Verdict]:
    """Each figure's last quarter against its second."""
    quarter = len(samples) // 4
    verdicts = []
    for name, bound in BOUNDS.items():
        values = [each[name] for each in samples]
        second, last = statistics.median(values[quarter : 2 * quarter]), statistics.median(values[-quarter:])
        flat = last <= max(second * bound.ratio, second + bound.slack)
        verdicts.append(Verdict(name, second, last, min(values[quarter:]), max(values[quarter:]), flat))
    return verdicts


@dataclass(frozen=True)
class Soaked:
    samples: list[dict[str, float]]
    verdicts: list[Verdict]
    sent: int
    delivered: int
    failed: int
    out_of_order: int
    pruned: bool


async def soak(minutes: float, *, sample_seconds: float = 10.0, people_seconds: float = 20.0) -> Soaked:
    """Run the daemon under load for so long; what was sampled, and the verdict on each figure."""
    samples: list[dict[str, float]] = []
    sent: Counter[str] = Counter()
    kept_seconds = minutes * 60 / 6
    config = CONFIG.format(
        kept_days=round(kept_seconds / 86400, 6),
        kept_hours=round(kept_seconds / 3000, 6),
        window_seconds=min(60, max(1, round(kept_seconds / 2))),
    )
    types = "".join(f'[events."soak.n{number}"]\n' for number in range(ENDPOINTS))
    with tempfile.TemporaryDirectory(prefix="webhookd-soak-") as folder:
        where = Receivers()
        async with served(where.handle) as where.url, daemon(Path(folder) / "state", config + types) as d:
            for number in range(ENDPOINTS):
                fields = {"url": f"{where.url}/{name_of(number)}", "event_types": [f"soak.n{number}"]}
                await d.call("POST", "/v1/endpoints", fields, expect=201)
            work = [asyncio.create_task(produce(d, sent)), asyncio.create_task(live_with_it(d, where, people_seconds))]
            began = time.monotonic()
            try:
                while time.monotonic() - began < minutes * 60:
                    done, _ = await asyncio.wait(work, timeout=sample_seconds, return_when=asyncio.FIRST_COMPLETED)
                    for each in done:
                        each.result()  # neither ends but by a fault
                    samples.append(await sample(d, began))
                gone = "error" in await d.call("GET", f"/v1/events/soak-{ENDPOINTS - 1}")
            finally:
                for each in work:
                    each.cancel()
                    with suppress(asyncio.CancelledError, Exception):
                        await each
    return Soaked(
        samples, judge(samples), sent["events"], where.answered[200], where.answered[500], where.out_of_order, gone
    )


def main() -> None:
    """Soak, print, write; exit 1 if anything grows or came out of order."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--json", type=Path, default=Path(tempfile.gettempdir()) / "webhookd-soak.json")
    wanted = parser.parse_args()
    found = asyncio.run(soak(wanted.minutes, sample_seconds=min(10.0, wanted.minutes * 60 / 40)))
    last = found.samples[-1]
    wanted.json.write_text(json.dumps(found.samples, indent=0))
    print(
        f"{found.sent} events in {last['at_seconds']:.0f} s, {found.delivered} delivered, {found.failed} attempts "
        f"failed, {found.out_of_order} out of order; {100 * last['cpu_seconds'] / last['at_seconds']:.0f} % of a core; "
        f"samples in {wanted.json}"
    )
    print(f"{'after 1st quarter':<18} {'2nd quarter':>11} {'last':>11} {'lowest':>11} {'highest':>11}")
    for verdict in found.verdicts:
        scale, unit = (MEBIBYTE, "MiB") if verdict.name.endswith("_bytes") else (1, "")
        values = [verdict.second_quarter, verdict.last_quarter, verdict.lowest, verdict.highest]
        figures = " ".join(f"{value / scale:>11.1f}" for value in values)
        print(f"{verdict.name:<18} {figures} {unit:<4} {'flat' if verdict.flat else 'GROWS'}")
    if not found.pruned:
        print("nothing was pruned: it ran too shortly to say anything")
    sys.exit(0 if found.pruned and not found.out_of_order and all(each.flat for each in found.verdicts) else 1)


if __name__ == "__main__":
    sys.exit(recorded(main))
