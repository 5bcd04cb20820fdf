"""What the store's less usual choices bring: `python -m tests.bench.store_choices`; the least of three runs each.

Processor time per event where a batch is one statement and where its commands run one by one; where the writer gathers
commands and where it doesn't; the time of a search by date with and without bisection; the price of a look at the disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.support.stores import add_endpoint, add_workspace, open_store
from webhookd.models import NewEvent
from webhookd.store import events, time_index, writer
from webhookd.store.delivery_log import LogFilter, page
from webhookd.store.events import ACCEPT, Ingested
from webhookd.store.store import Store

RUNS, BODY, ROWS = 3, b'{"event_type":"message.sent","x":"' + b"x" * 500 + b'"}', 200_000
Command = Callable[[int, Ingested], Any]
number_of_run = iter(range(1000))


def together(number: int, item: Ingested) -> Any:
    return ACCEPT.of(item)


def alone(number: int, item: Ingested) -> Any:
    return lambda db: ACCEPT.one(db, item)


def tenth_alone(number: int, item: Ingested) -> Any:
    return (together if number % 10 else alone)(number, item)


async def accept(store: Store, command: Command, *, callers: int, count: int) -> float:
    """Microseconds of processor time per event; each caller takes some turns of the loop before it submits."""
    run, chance, numbers = next(number_of_run), Random(1), iter(range(count))

    async def call() -> None:
        for number in numbers:
            for _ in range(chance.randrange(1, 9)):
                await asyncio.sleep(0)
            item = Ingested(1, [NewEvent(f"{run}-{number}", "message.sent", BODY)], True, 1)
            await store.write(command(number, item))

    began = time.process_time()
    await asyncio.gather(*[call() for _ in range(callers)])
    return (time.process_time() - began) / count * 1e6


async def compare_batches(store: Store) -> None:
    run_batch, idle_turns = writer.run_batch, writer.IDLE_TURNS
    costs: dict[str, list[float]] = {}
    for _ in range(RUNS):
        for name, command, callers, patched in (
            ("100 callers, one statement", together, 100, {}),
            ("100 callers, one by one", alone, 100, {}),
            ("100 callers, every tenth alone, statements between", tenth_alone, 100, {}),
            (
                "100 callers, every tenth alone, one by one",
                tenth_alone,
                100,
                {"run_batch": lambda db, _, batch: run_batch(db, None, batch)},
            ),
            ("8 callers, gathered", together, 8, {}),
            ("8 callers, not gathered", together, 8, {"IDLE_TURNS": 0}),
        ):
            vars(writer).update({"run_batch": run_batch, "IDLE_TURNS": idle_turns} | patched)
            costs.setdefault(name, []).append(await accept(store, command, callers=callers, count=callers * 50))
    vars(writer).update(run_batch=run_batch, IDLE_TURNS=idle_turns)
    for name, each in costs.items():
        print(f"{name}: {min(each):.0f} us of processor time an event")


async def compare_searches(store: Store) -> None:
    def fill(db: sqlite3.Connection) -> None:
        for number in range(ROWS):
            new = [NewEvent(f"e{number}", "message.sent", b"{}")]
            events.accept(db, Ingested(1, new, True, number * 1000))

    def look(db: sqlite3.Connection) -> float:
        began = time.thread_time()
        assert 50 == len(
            page(db, LogFilter(1, False, since_ms=5_000_000, until_ms=5_600_000), before_seq=None, limit=50)
        )
        return (time.thread_time() - began) * 1000

    await store.add(0, fill)
    bisected = min([await store.read(look) for _ in range(RUNS)])
    between, time_index.between = time_index.between, lambda *_: [(0, 2**63 - 1)]
    walked = min([await store.read(look) for _ in range(RUNS)])
    time_index.between = between
    print(f"a page of ten minutes among {ROWS:,} deliveries: {bisected:.1f} ms bisected, {walked:.1f} ms walked")


def price_of_a_look(store: Store) -> None:
    began = time.process_time()
    for _ in range(10_000):
        store.disk_space._settle()
    print(f"a look at the disk: {(time.process_time() - began) * 100:.1f} us of processor time")


async def main() -> None:
    for measure in (compare_batches, compare_searches):
        with tempfile.TemporaryDirectory(dir=".") as folder:
            async with open_store(Path(folder)) as store:
                await add_endpoint(store, await add_workspace(store))
                await measure(store)
                if measure is compare_searches:
                    price_of_a_look(store)


if __name__ == "__main__":
    asyncio.run(main())
