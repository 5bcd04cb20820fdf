"""What a user would pick instead: a task queue on Redis, its worker posting to the same sink, against webhookd.

Celery posts with `requests`, arq with aiohttp, BullMQ with undici, each with its stock settings (BullMQ with one job at
a time for each of the 100 endpoints: its stock setting is one in all).  None of them keeps an order or syncs what it
took.  A producer enqueues while the worker works; processor time is that of worker and Redis, or of webhookd.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import venv
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import processes
from tests.bench.measure import Figure, Yard, steady_rate
from tests.bench.peer import EVENT_BYTES
from tests.bench.rows import through

NAME = "others"
HERE = Path(__file__).parent / "rivals"
NEEDED = ("redis-server", "node", "npm")
INSTALL_SECONDS = 300.0
SECONDS_OF_WORK = 4


@dataclass(frozen=True, slots=True)
class Rival:
    """A rival: its commands, in its folder, and about how many jobs a second it does."""

    name: str
    worker: tuple[str, ...]
    producer: tuple[str, ...]
    about_per_second: int
    goal: float
    cpu_goal: float = 0.0


RIVALS = (
    Rival("Celery + Redis", ("bin/celery", "-A", "celery_rival", "worker"), ("bin/python", "celery_rival.py"), 700, 8),
    Rival("arq + Redis", ("bin/arq", "arq_rival.WorkerSettings"), ("bin/python", "arq_rival.py"), 1500, 4),
    Rival(
        "BullMQ + Redis",
        ("node", "bullmq_rival.mjs", "worker"),
        ("node", "bullmq_rival.mjs", "produce"),
        5000,
        1,
        cpu_goal=0.8,
    ),
)


async def measure(yard: Yard) -> list[Figure]:
    """Each rival's figures, on each loop; nothing, and why, where what it needs is missing."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        print(f"not compared with others: {', '.join(missing)} is missing (Debian: apt-get install redis-server npm)")
        return []
    folder = yard.folder / "rivals"
    await _install(folder)
    figures = {}
    for _ in range(yard.scale.rounds):
        ours = {loop: await through(yard, loop, 1) for loop in processes.loops()}
        for rival in RIVALS:
            rate, us = await _run(yard, folder, rival)
            for loop, (our_rate, our_us, _) in ours.items():
                name = f"end to end ÷ {rival.name}"
                figure = figures.setdefault((name, loop), Figure(name, loop, "", rival.goal, at_least=True))
                figure.add(our_rate / rate, theirs_per_s=rate, ours_per_s=our_rate)
                if rival.cpu_goal:
                    name = f"processor time an event ÷ {rival.name}"
                    figure = figures.setdefault((name, loop), Figure(name, loop, "", rival.cpu_goal, at_least=False))
                    figure.add(our_us / us, theirs_us=us, ours_us=our_us)
    return list(figures.values())


async def _install(folder: Path) -> None:
    shutil.copytree(HERE, folder)
    await asyncio.to_thread(venv.create, folder, with_pip=True)
    for command in (
        [str(folder / "bin/pip"), "install", "-q", "celery", "redis", "requests", "arq", "aiohttp"],
        ["npm", "install", "--silent", "--no-fund", "--no-audit", "bullmq", "undici"],
    ):
        process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=asyncio.subprocess.DEVNULL)
        assert 0 == await asyncio.wait_for(process.wait(), INSTALL_SECONDS), command


async def _run(yard: Yard, folder: Path, rival: Rival) -> tuple[float, float]:
    """Jobs a second, and µs of processor time for each."""
    count = int(rival.about_per_second * SECONDS_OF_WORK * min(1.0, yard.scale.seconds))
    async with AsyncExitStack() as stack:
        redis_port = _free_port()
        environ = {**os.environ, "RIVAL_REDIS": f"redis://127.0.0.1:{redis_port}", "C_FORCE_ROOT": "1"}
        command = ("redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--dir", str(folder))
        redis = await stack.enter_async_context(_process(folder, command, environ))
        await _listens(redis_port)
        await yard.peer.ask("clear")
        worker = await stack.enter_async_context(_process(folder, rival.worker, environ))
        base = f"http://127.0.0.1:{yard.peer.port}"
        first = ("1", str(EVENT_BYTES))
        warm = await stack.enter_async_context(_process(folder, (*rival.producer, base, *first), environ))
        await warm.wait()
        await yard.peer.ask("watch", count=1, timeout_seconds=30)
        await yard.peer.ask("clear")
        pids = [redis.pid, *_family(worker.pid)]
        before = processes.cpu_seconds(pids)
        produce = (*rival.producer, base, str(count), str(EVENT_BYTES))
        await stack.enter_async_context(_process(folder, produce, environ))
        seen = await yard.peer.ask("watch", count=count, timeout_seconds=120)
        cpu = processes.cpu_seconds(pids) - before
    assert seen["taken"] >= count, f"{rival.name} delivered {seen['taken']} of {count}"
    return steady_rate(seen["stamps"]), cpu / seen["taken"] * 1e6


@asynccontextmanager
async def _process(
    folder: Path, command: tuple[str, ...], environ: dict[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    program = str(folder / command[0]) if command[0].startswith("bin/") else command[0]
    process = await asyncio.create_subprocess_exec(
        program,
        *command[1:],
        cwd=folder,
        env=environ,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)  # its workers too: the session is its own
        await process.wait()


def _family(pid: int) -> list[int]:
    """A process and its children's children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *[each for child in children for each in _family(int(child))]]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _listens(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return
