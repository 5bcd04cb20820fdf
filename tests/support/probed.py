"""A webhookd that writes down, every few milliseconds, how late its event loop is.

    python -m tests.support.probed FILE serve …

Each line: wall clock in ms, how late the loop was in ms, and how much of that the process itself used the processor:
on a busy machine the loop is also late because others run.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TextIO

from webhookd.app import App
from webhookd.cli import main

EVERY_SECONDS = 0.005


class Lag(NamedTuple):
    at_ms: float
    late_ms: float
    own_ms: float


def read_lags(file: Path) -> list[Lag]:
    lines = file.read_text().split("\n")[:-1]
    return [Lag(*map(float, line.split())) for line in lines]


async def _probe(out: TextIO) -> None:
    while True:
        due, used = time.monotonic() + EVERY_SECONDS, time.thread_time()
        await asyncio.sleep(EVERY_SECONDS)
        late_ms = max(0.0, (time.monotonic() - due) * 1000)
        own_ms = min(late_ms, (time.thread_time() - used) * 1000)
        out.write(f"{time.time() * 1000:.0f} {late_ms:.2f} {own_ms:.2f}\n")


def run(file: str) -> None:
    start = App.start

    async def probed(app: App, environ: Mapping[str, str]) -> None:
        await start(app, environ)
        app.tasks.start("probe", lambda: _probe(out))

    App.start = probed  # type: ignore[method-assign]
    with Path(file).open("a", buffering=16 * 1024) as out:
        main()


if __name__ == "__main__":
    _, where, *sys.argv[1:] = sys.argv
    run(where)
