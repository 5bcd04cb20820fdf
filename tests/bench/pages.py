"""Which pages an event in and out writes, by the tree that they belong to: counted, so other work changes nothing.

    python -m tests.bench.pages [--events 1000] [--together 1]

Each commit has the outcomes of the events before and the next events, `--together` of each, as at a steady rate; the
last of a commit's frames fills a block of the disk only in part, which is written again with the next.  Checkpoints are
made when the log holds 4 MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path

import orjson

from tests.bench import stock
from tests.bench.peer import event
from tests.bench.stock import Stock
from tests.support.stores import new_endpoint
from webhookd.delivery.attempt_record import attempt_record
from webhookd.models import NewEvent, Outcome
from webhookd.sender.request_builder import RequestBuilder
from webhookd.store.batch import BatchItem, PackedBatch
from webhookd.store.connection import open_writer
from webhookd.store.deliveries import RECORD_SUCCESS, Success
from webhookd.store.events import ACCEPT, Ingested
from webhookd.store.records import shortened
from webhookd.store.store import BATCH
from webhookd.store.writer import CHECKPOINT_BYTES

ENDPOINTS = 100
PAGE_BYTES, FRAME_BYTES = 4096, 4120
NOW_MS = 1_767_225_600_000


class Pages:
    """Counts the frames of each commit and the pages of each checkpoint."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db, self._log = db, path.with_name(f"{path.name}-wal")
        self._index = path.with_name(f"{path.name}-shm")
        self._seen = 0
        self._pending: set[int] = set()
        self.commits = 0
        self.logged: Counter[int] = Counter()
        self.carried: Counter[int] = Counter()

    def commit(self, items: list[BatchItem[object]]) -> list[object]:
        batch = PackedBatch(BATCH, items)
        assert batch.run(self._db)
        self.commits += 1
        frames = int.from_bytes(self._index.read_bytes()[16:20], "little")
        with self._log.open("rb") as log:
            for number in range(self._seen, frames):
                log.seek(32 + number * FRAME_BYTES)
                page = int.from_bytes(log.read(4), "big")
                self.logged[page] += 1
                self._pending.add(page)
        self._seen = frames
        if frames * PAGE_BYTES >= CHECKPOINT_BYTES:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self.carried.update(self._pending)
            self._pending.clear()
            self._seen = 0
        return batch.results()

    def report(self, events: int) -> None:
        trees = dict(self._db.execute("SELECT pageno, name FROM dbstat").fetchall())
        logged: Counter[str] = Counter()
        carried: Counter[str] = Counter()
        for total, counts in ((logged, self.logged), (carried, self.carried)):
            for page, count in counts.items():
                total[trees.get(page, "pointer map")] += count
        print("| tree | pages logged an event | carried over |\n| --- | --- | --- |")
        for name, count in logged.most_common():
            print(f"| {name} | {count / events:.2f} | {carried[name] / events:.2f} |")
        frames = logged.total() * FRAME_BYTES + self.commits * PAGE_BYTES
        print(f"| **all** | {logged.total() / events:.2f} | {carried.total() / events:.2f} |\n")
        print(f"{(frames + carried.total() * PAGE_BYTES) / events / 1e3:.1f} KB an event")


def write(db: sqlite3.Connection, path: Path, events: int, together: int) -> None:
    db.execute("PRAGMA synchronous = OFF")
    BATCH.prepare(db)
    pages, names = Pages(db, path), stock.type_names(ENDPOINTS)
    outcomes: list[BatchItem[object]] = []
    for first in range(0, events, together):
        now_ms = NOW_MS + first * 5
        new = [(n, names[n % ENDPOINTS]) for n in range(first, first + together)]
        accepting = [
            ACCEPT.of(Ingested(1, [NewEvent(f"b-{n:012d}", name, event(name, n))], True, now_ms, 1)) for n, name in new
        ]
        results = pages.commit([*outcomes, *accepting])[len(outcomes) :]
        queued = [each.queued[0] for result in results for each in result]  # type: ignore[attr-defined]
        outcomes = [
            RECORD_SUCCESS.of(Success(each.seq, 1, record(each.event_id, each.body), now_ms + 4)) for each in queued
        ]
    pages.report(events)


def record(event_id: str, body: bytes) -> bytes:
    endpoint = new_endpoint(url="http://127.0.0.1:34567/hook/12")
    request = RequestBuilder(endpoint, NOW_MS).build(event_id, body, number=1, now_ms=NOW_MS)
    headers = (("Content-Length", "2"), ("Content-Type", "text/plain"))
    outcome = Outcome(NOW_MS, 4.2, None, 200, "answered 200", response_headers=headers, response_body=b"ok")
    return shortened(orjson.dumps(attempt_record(1, outcome, request, counted=False)))


async def measure(events: int, together: int) -> None:
    with tempfile.TemporaryDirectory(prefix="webhookd-bench-") as folder:
        state_dir = Path(folder) / "state"
        await stock.fill(state_dir, Stock(endpoints=ENDPOINTS, types=ENDPOINTS))
        connection, _, _ = await open_writer(state_dir / "webhookd.db")
        try:
            await connection.run(lambda db: write(db, state_dir / "webhookd.db", events, together))
        finally:
            await connection.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pages")
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--together", type=int, default=1)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.events, arguments.together))
