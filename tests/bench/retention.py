"""Retention at work on a large log while 500 events a second go through.

    python -m tests.bench.retention [DELIVERIES]

The log has events of 1 KB under random ids, each with an attempt of 1 KB, one in ten dropped after four.  Half of it is
removed by age, then half of the rest by size, and the file is made smaller.  For each part: how long the steps held
the writer, how long the transactions took that they were in, and how long the others' commits took meanwhile.
"""

from __future__ import annotations

import asyncio
import copy
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.results import recorded
from tests.support.stores import accept, add_endpoint, add_workspace, open_store
from webhookd.clock import SystemClock
from webhookd.config import Config
from webhookd.config import Retention as Settings
from webhookd.models import Workspace
from webhookd.retention import Retention, Swept
from webhookd.store import deliveries, retention
from webhookd.store.deliveries import Success
from webhookd.store.store import Db, Store

ENDPOINTS = 20
FILL_ROWS = 20_000
RATE_PER_SECOND = 500
DAY_MS = 86_400_000
BODY = b'{"event_type":"message.sent","text":"' + b"x" * 985 + b'"}'
RECORD = b'{"number":1,"duration_ms":4.2,"outcome":"delivered","response":{"body":"' + b"y" * 950 + b'"}}'


@dataclass(frozen=True)
class Figure:
    """What one part came to, in milliseconds; `steps` as the writer had them, `others` as ingest and outcomes did."""

    part: str
    events: int
    took_ms: float
    steps: list[float]
    transactions: list[float]
    others: list[float]


@dataclass
class Watch:
    """Looks over the writer's shoulder: each command's own time, by whose it was."""

    steps: list[float] = field(default_factory=list)
    transactions: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    def taken(self, part: str, events: int, took_ms: float) -> Figure:
        figure = Figure(part, events, took_ms, self.steps, self.transactions, self.others)
        self.steps, self.transactions, self.others = [], [], []
        return figure


@contextmanager
def watched(store: Store, watch: Watch) -> Iterator[Store]:
    """A copy of the store for retention alone, whose steps are timed, and every transaction that one was in."""
    copied, connection = copy.copy(store), store.writer._connection
    write, run = store.write, connection.run

    async def write_timed(command: Callable[[Db], Any], **more: Any) -> Any:
        def timed(db: Db) -> Any:
            began = time.perf_counter()
            result = command(db)
            watch.steps.append((time.perf_counter() - began) * 1000)
            return result

        return await write(timed, **more)

    async def run_timed(function: Callable[[Db], Any]) -> Any:
        def timed(db: Db) -> tuple[Any, float]:
            began = time.perf_counter()
            return function(db), (time.perf_counter() - began) * 1000

        before = len(watch.steps)
        result, took_ms = await run(timed)
        if len(watch.steps) > before:
            watch.transactions.append(took_ms)
        return result

    copied.write = write_timed  # type: ignore[assignment]
    connection.run = run_timed  # type: ignore[method-assign]
    yield copied
    connection.run = run  # type: ignore[method-assign]


async def fill(store: Store, workspace: Workspace, count: int, now_ms: int) -> None:
    """Put finished deliveries into the table: the older half of 40 days ago, the younger of yesterday."""
    for first in range(0, count, FILL_ROWS):
        numbers = range(first, min(count, first + FILL_ROWS))
        await store.write(lambda db, numbers=numbers: _fill_some(db, workspace.seq, numbers, count, now_ms))  # type: ignore[misc]


def _fill_some(db: Db, workspace_seq: int, numbers: range, count: int, now_ms: int) -> None:
    at = [now_ms - (40 if n < count // 2 else 1) * DAY_MS + n for n in numbers]
    db.executemany(
        "INSERT INTO events (seq, workspace_seq, id, type, accepted_at, body) VALUES (?, ?, ?, 'message.sent', ?, ?)",
        [(n + 1, workspace_seq, secrets.token_hex(16), at[i], BODY) for i, n in enumerate(numbers)],
    )
    db.executemany(
        "INSERT INTO deliveries (seq, event_seq, endpoint_seq, event_type, size, accepted_at, state, attempt_count, "
        "tries, finished_at, final_attempt) VALUES (?, ?, ?, 'message.sent', 1024, ?, ?, 1, 1, ?, ?)",
        [
            (n + 1, n + 1, n % ENDPOINTS + 1, at[i], 1 if n % 10 else 2, at[i], RECORD if n % 10 else None)
            for i, n in enumerate(numbers)
        ],
    )
    db.executemany(
        "INSERT INTO attempts (delivery_seq, endpoint_seq, workspace_seq, ended_at, counted, record) "
        "VALUES (?, ?, ?, ?, 1, ?)",
        [
            (n + 1, n % ENDPOINTS + 1, workspace_seq, at[i], RECORD)
            for i, n in enumerate(numbers)
            for _ in range(0 if n % 10 else 4)
        ],
    )


async def traffic(store: Store, workspace: Workspace, watch: Watch, per_second: float) -> None:
    """So many events a second, each accepted and its outcomes recorded, until cancelled."""
    due = time.perf_counter()
    going: set[asyncio.Task[None]] = set()
    while True:
        task = asyncio.create_task(_one(store, workspace, watch))
        going.add(task)
        task.add_done_callback(going.discard)
        due += 1 / per_second
        await asyncio.sleep(max(0.0, due - time.perf_counter()))


async def _one(store: Store, workspace: Workspace, watch: Watch) -> None:
    now_ms = SystemClock().wall_ms()
    began = time.perf_counter()
    queued = await accept(store, workspace, secrets.token_hex(16), now_ms=now_ms, body=BODY)
    accepted = time.perf_counter()

    def outcomes(db: Db) -> None:
        deliveries.delivered(db, Success(queued[0].seq, 1, RECORD, now_ms))

    await store.write(outcomes)
    watch.others += [(accepted - began) * 1000, (time.perf_counter() - accepted) * 1000]


async def measure(count: int, alone_seconds: float = 10.0, per_second: float = RATE_PER_SECOND) -> list[Figure]:
    watch, clock, now_ms = Watch(), SystemClock(), SystemClock().wall_ms()
    with tempfile.TemporaryDirectory(prefix="webhookd-retention-") as folder:
        async with open_store(Path(folder)) as store:
            workspace = await add_workspace(store)
            await add_endpoint(store, workspace)
            await fill(store, workspace, count, now_ms)
            settings = Config(retention=Settings(max_size_mb=1_000_000))
            with watched(store, watch) as timed:
                upkeep = Retention(timed, clock, lambda: settings)
                going = asyncio.create_task(traffic(store, workspace, watch, per_second))
                await asyncio.sleep(alone_seconds)
                figures = [watch.taken("traffic alone", 0, alone_seconds * 1000)]
                figures.append(await _sweep("by age", upkeep, watch))
                used = (await store.read(retention.file_size)).used_bytes
                settings = Config(retention=Settings(max_size_mb=used / 2 / 2**20))
                figures.append(await _sweep("by size", upkeep, watch))
                going.cancel()
                with suppress(asyncio.CancelledError):
                    await going
    return figures


async def _sweep(part: str, upkeep: Retention, watch: Watch) -> Figure:
    began = time.perf_counter()
    swept: Swept = await upkeep.sweep()
    return watch.taken(part, swept.events, (time.perf_counter() - began) * 1000)


def spread(times_ms: list[float]) -> str:
    if len(times_ms) < 2:
        return "none"
    p99 = statistics.quantiles(times_ms, n=100)[98]
    return f"median {statistics.median(times_ms):.1f}, p99 {p99:.1f}, longest {max(times_ms):.1f} ms"


def main() -> None:
    for figure in asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 300_000)):
        print(f"{figure.part}: {figure.events} events in {figure.took_ms / 1000:.1f} s")
        for name, times_ms in (
            (f"  {len(figure.steps)} steps", figure.steps),
            ("  their transactions", figure.transactions),
            (f"  {len(figure.others)} commits of others", figure.others),
        ):
            print(f"{name:32} {spread(times_ms)}")


if __name__ == "__main__":
    sys.exit(recorded(main))
