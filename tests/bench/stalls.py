"""The slowest moments of a daemon at a steady rate, and what each was.

    python -m tests.bench.stalls [--rate 200] [--seconds 30]

The daemon runs with a recorder inside (`python -m tests.bench.stalls serve …`), which times every callback of the event
loop, every function on a thread of SQLite and every round of the collector.  A thread that only sleeps tells how often
the machine, or the interpreter's lock, kept a thread from running: what is below that can't be helped here.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench import processes, stock
from tests.bench.measure import SMALL, Yard
from tests.bench.stock import Stock
from tests.support.process import daemon
from tests.support.results import recorded

ENDPOINTS = 100
LONG_SECONDS = 0.010
REPORT = "WHD_BENCH_STALLS"  # where the recorder writes what it found
Found = dict[str, dict[str, float]]


class Recorder:
    """By cause: how many moments were longer than `LONG_SECONDS`, the longest one, how many there were in all."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._collecting = 0.0

    def note(self, cause: str, seconds: float) -> None:
        self._counts[cause] += 1
        if seconds > LONG_SECONDS / 5:
            self._seconds[cause].append(seconds)

    def found(self) -> Found:
        return {
            cause: {
                "moments": self._counts[cause],
                "long": sum(each > LONG_SECONDS for each in seconds),
                "longest_ms": max(seconds) * 1000,
            }
            for cause, seconds in self._seconds.items()
        }

    def install(self) -> None:
        """Time what runs in this process from now on."""
        from webhookd.store.connection import Connection

        run_handle, run_on_thread = asyncio.Handle._run, Connection.run

        def timed_handle(handle: asyncio.Handle) -> None:
            callback, began = handle._callback, time.perf_counter()  # type: ignore[attr-defined]
            run_handle(handle)
            self.note(f"event loop: {_name(callback)}", time.perf_counter() - began)

        async def timed_run(connection: Connection, function: Callable[[Any], Any]) -> Any:
            def timed(db: Any) -> Any:
                began = time.perf_counter()
                try:
                    return function(db)
                finally:
                    self.note(f"SQLite: {function.__qualname__}", time.perf_counter() - began)

            return await run_on_thread(connection, timed)

        asyncio.Handle._run = timed_handle  # type: ignore[method-assign]
        Connection.run = timed_run  # type: ignore[method-assign, assignment]
        gc.callbacks.append(self._collector)
        threading.Thread(target=self._sleep, daemon=True).start()

    def _collector(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = time.perf_counter()
        else:
            self.note(f"collector: generation {info['generation']}", time.perf_counter() - self._collecting)

    def _sleep(self) -> None:
        while True:
            began = time.perf_counter()
            time.sleep(LONG_SECONDS / 2)
            self.note("a thread that only sleeps woke late", time.perf_counter() - began - LONG_SECONDS / 2)


def _name(callback: Any) -> str:
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        coroutine = owner.get_coro()
        return f"task {getattr(coroutine, '__qualname__', coroutine)}"
    return str(getattr(callback, "__qualname__", type(callback).__name__))


async def measure(rate: float, seconds: float, folder: Path) -> tuple[dict[str, float], Found]:
    """The latencies at `rate` events a second into 100 endpoints, and what was slow meanwhile."""
    report, types = folder / "stalls.json", stock.type_names(ENDPOINTS)
    async with processes.peer() as peer:
        yard = Yard(folder, peer, SMALL)
        state_dir = await yard.stocked("empty", Stock(endpoints=ENDPOINTS, types=ENDPOINTS, port=peer.port))
        program, environ = ("-m", "tests.bench.stalls"), {REPORT: str(report)}
        async with daemon(state_dir, stock.config(ENDPOINTS), program=program, environ=environ) as running:
            got = await yard.load(running, types=types, rate=rate, seconds=seconds)
    return got["delivered_ms"], json.loads(report.read_text())


def serve() -> None:
    from webhookd.cli import main as webhookd

    recorder = Recorder()
    recorder.install()
    atexit.register(lambda: Path(os.environ[REPORT]).write_text(json.dumps(recorder.found())))
    webhookd()


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        serve()
        return
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m tests.bench.stalls", description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=30)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="webhookd-bench-") as folder:
        latencies, found = asyncio.run(measure(arguments.rate, arguments.seconds, Path(folder)))
    print(f"accepted to delivered at {arguments.rate:,g}/s: {latencies}\n")
    print(f"| what | moments | longer than {LONG_SECONDS * 1000:g} ms | longest, ms |\n| --- | --- | --- | --- |")
    for cause, each in sorted(found.items(), key=lambda item: -item[1]["longest_ms"])[:25]:
        print(f"| {cause} | {each['moments']:.0f} | {each['long']:.0f} | {each['longest_ms']:.1f} |")


if __name__ == "__main__":
    sys.exit(recorded(main))
