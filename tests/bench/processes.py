"""The processes of a benchmark: the peer, the bare references, webhookd on the loop wanted; and what each costs."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.process import ROOT, Daemon, start, until_ready

ANSWER_SECONDS = 300.0


def loops() -> list[str]:
    """The event loops that can be measured here: `stock`, and `uvloop` where the extra `fast` is installed."""
    return ["stock", "uvloop"] if importlib.util.find_spec("uvloop") else ["stock"]


class Peer:
    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    async def ask(self, what: str, **fields: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **fields}).encode() + b"\n")
        line = await asyncio.wait_for(self._process.stdout.readline(), ANSWER_SECONDS)
        assert line, "the peer died"
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def peer() -> AsyncIterator[Peer]:
    async with program("-m", "tests.bench.peer", limit=1 << 26) as process:
        assert process.stdout is not None
        yield Peer(process, json.loads(await process.stdout.readline())["port"])


@asynccontextmanager
async def bare_server(loop: str) -> AsyncIterator[tuple[int, int]]:
    async with program("-m", "tests.bench.bare", "server", loop) as process:
        assert process.stdout is not None
        yield int(await process.stdout.readline()), process.pid


async def bare_client(loop: str, port: int, endpoints: int, each: int) -> float:
    """Run the bare client to its end; the seconds of processor time that it took."""
    before = os.times()
    async with program("-m", "tests.bench.bare", "client", loop, str(port), str(endpoints), str(each)) as process:
        assert 0 == await process.wait()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@asynccontextmanager
async def webhookd(state_dir: Path, config: str, loop: str = "stock", *, ready: bool = True) -> AsyncIterator[Daemon]:
    """A daemon on that loop, its log in a file; killed at the end, which it is made for.

    Without `ready` it isn't waited for: with thousands of endpoints to dial at once it has other things to do.
    """
    # structlog imports rich where it finds it (3 MB): here beside the test tools, not where users install webhookd.
    hidden = ("rich", "uvloop") if loop == "stock" else ("rich",)
    environ = {"PYTHONPATH": str(_hiding(state_dir.parent, hidden))}
    running = await start(state_dir, config, environ=environ, alive=False)
    try:
        if ready:
            assert await until_ready(running), running.log_file.read_text()[-2000:]
        yield running
    finally:
        if running.process.returncode is None:
            running.process.kill()
        await running.until_dead()
        await running.session.close()
        running.log_file.unlink(missing_ok=True)


def _hiding(folder: Path, packages: Sequence[str]) -> Path:
    """A folder for PYTHONPATH that hides these packages."""
    hiding = folder / "-".join(("hiding", *packages))
    hiding.mkdir(exist_ok=True)
    for package in packages:
        (hiding / f"{package}.py").write_text('raise ImportError("hidden by the benchmark")\n')
    return hiding


@asynccontextmanager
async def program(*arguments: str, limit: int = 1 << 16) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program of Python's, its input and output in pipes; killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=limit,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
