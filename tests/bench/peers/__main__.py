"""What a user would pick instead: a task queue on Redis, its worker signing and posting, against webhookd.

    python -m tests.bench.peers [--rounds 5] [--seconds 2] [--record]

Installs what webhookd is compared with into a temporary directory: needs redis-server, node, npm and the network.

Same 1 KB events for the same 100 URLs, same sink, same run.  Each pair hands its events over alike, from a small
program in the same language: singly with Celery (`delay`) and arq (`enqueue_job`), which have no other way; with BullMQ
both singly (`add`, 100 under way) and 100 at once (`addBulk`, against an array of 100 in one request).  Singly is one
request an event to webhookd, 64 (in Node 100) of them under way; against Celery and arq it is measured a second time as
its users would rather pipe: one request, a line an event.  Each has its stock settings, but for what would only make it
wait: BullMQ's worker does one job at a time for each of the 100 URLs, not one in all; arq's as well, not ten, and it
looks for more every 10 ms, not every 500.  None of them keeps an order, syncs what it took, or records what was
answered.

A rate is events by the time from the first hand-over to the last delivery; processor time is that of all that is not
the sink: worker, Redis and producer; daemon and producer.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import sys
import tempfile
import venv
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import processes, report, stock
from tests.bench.measure import Figure, Scale, Yard
from tests.bench.stock import Stock
from tests.support.listening import free_port
from tests.support.process import cpu_seconds
from tests.support.results import recorded

HERE = Path(__file__).parent
NEEDED = {"redis-server": "redis-server", "node": "nodejs", "npm": "npm"}
# Two virtual environments: Celery wants a redis-py that arq can't use yet.
PYTHON_PACKAGES = {"celery": ("celery[redis]", "packaging", "requests"), "arq": ("arq", "aiohttp")}
NODE_PACKAGES = ("bullmq", "ioredis", "undici")
INSTALL_SECONDS = 300.0
RUN_SECONDS = 60.0
ENDPOINTS = 100
ERRORS = "errors"  # what the processes of one run said to stderr
WARM_UP = 200  # events that aren't counted: connections, caches


@dataclass(frozen=True, slots=True)
class Way:
    """One way in to webhookd: its producer, and about how many events a second go through."""

    producer: tuple[str, ...]
    about_per_second: int = 3000


PYTHON = Way(("arq/bin/python", "webhookd_producer.py", "singly"))
PYTHON_STREAM = Way(("arq/bin/python", "webhookd_producer.py", "stream"))
NODE = Way(("node", "webhookd_producer.mjs", "singly"))
NODE_BULK = Way(("node", "webhookd_producer.mjs", "bulk"))


@dataclass(frozen=True, slots=True)
class Rival:
    """A rival: its commands, about how many jobs a second it does, and the ways in of ours it is measured against."""

    name: str
    worker: tuple[str, ...]
    producer: tuple[str, ...]
    about_per_second: int
    ways: dict[str, Way]
    goal: float
    cpu_goal: float = 0.0


CELERY = ("celery/bin/celery", "-A", "celery_peer", "worker")
ARQ = ("arq/bin/arq", "arq_peer.WorkerSettings")
BULLMQ = ("node", "bullmq_peer.mjs")
SINGLY = {"singly": PYTHON, "singly, ours by a stream of lines": PYTHON_STREAM}
RIVALS = (
    Rival("Celery + Redis", CELERY, ("celery/bin/python", "celery_peer.py"), 500, SINGLY, 8),
    Rival("arq + Redis", ARQ, ("arq/bin/python", "arq_peer.py"), 900, SINGLY, 4.5),
    Rival("BullMQ + Redis", (*BULLMQ, "worker"), (*BULLMQ, "singly"), 3500, {"singly": NODE}, 1, cpu_goal=0.9),
    Rival("BullMQ + Redis", (*BULLMQ, "worker"), (*BULLMQ, "bulk"), 3500, {"100 at once": NODE_BULK}, 1, cpu_goal=0.9),
)


@dataclass(frozen=True, slots=True)
class Through:
    per_second: float
    us: float  # of processor time for each event, all in all
    producer_us: float  # and the producer's part of it


async def measure(yard: Yard) -> list[Figure]:
    """Each rival's figures, on each loop; nothing, and why, where what it needs is missing."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        packages = " ".join(NEEDED[name] for name in missing)
        print(f"not compared with others: {', '.join(missing)} is missing (Debian: apt-get install {packages})")
        return []
    folder = yard.folder / "rivals"
    await _install(folder)
    figures: dict[tuple[str, str], Figure] = {}
    for _ in range(yard.scale.rounds):
        ours: dict[tuple[Way, str], Through] = {}
        for rival in RIVALS:
            theirs = await _rival(yard, folder, rival)
            for (how, way), loop in itertools.product(rival.ways.items(), processes.loops()):
                if (way, loop) not in ours:
                    ours[way, loop] = await _webhookd(yard, folder, way, loop)
                _enter(figures, rival, how, loop, theirs, ours[way, loop])
    return list(figures.values())


def _enter(
    figures: dict[tuple[str, str], Figure], rival: Rival, how: str, loop: str, theirs: Through, ours: Through
) -> None:
    costs = {
        "theirs_us": theirs.us,
        "its_producer_us": theirs.producer_us,
        "ours_us": ours.us,
        "our_producer_us": ours.producer_us,
    }
    name = f"end to end ÷ {rival.name}, {how}"
    figure = figures.setdefault((name, loop), Figure(name, loop, "", rival.goal, at_least=True))
    rates = {"theirs_per_s": theirs.per_second, "ours_per_s": ours.per_second}
    figure.add(ours.per_second / theirs.per_second, **rates, **costs)
    if rival.cpu_goal:
        name = f"processor time an event ÷ {rival.name}, {how}"
        figure = figures.setdefault((name, loop), Figure(name, loop, "", rival.cpu_goal, at_least=False))
        figure.add(ours.us / theirs.us, **costs)


async def _install(folder: Path) -> None:
    shutil.copytree(HERE, folder)
    for name, packages in PYTHON_PACKAGES.items():
        await asyncio.to_thread(venv.create, folder / name, with_pip=True)
        await _installed(folder, str(folder / name / "bin/pip"), "install", "-q", *packages)
    await _installed(folder, "npm", "install", "--silent", "--no-fund", "--no-audit", *NODE_PACKAGES)


async def _installed(folder: Path, *command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=asyncio.subprocess.DEVNULL)
    assert 0 == await asyncio.wait_for(process.wait(), INSTALL_SECONDS), " ".join(command)


async def _rival(yard: Yard, folder: Path, rival: Rival) -> Through:
    redis_port = free_port()
    environ = {**os.environ, "RIVAL_REDIS": f"redis://127.0.0.1:{redis_port}"}
    state = yard.folder / "redis"
    state.mkdir()
    redis_command = ("redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--dir", str(state))
    try:
        async with _process(folder, redis_command, environ) as redis:
            await _listens(redis_port)
            async with _process(folder, rival.worker, environ) as worker:
                base = f"http://127.0.0.1:{yard.peer.port}"
                count = _count(yard, rival.about_per_second)
                return await _through(yard, folder, (*rival.producer, base), environ, count, [redis.pid, worker.pid])
    finally:
        shutil.rmtree(state)


async def _webhookd(yard: Yard, folder: Path, way: Way, loop: str) -> Through:
    state_dir = await yard.stocked("empty-1", Stock(endpoints=ENDPOINTS, types=ENDPOINTS, port=yard.peer.port))
    async with yard.daemon_on_copy(state_dir, stock.config(ENDPOINTS), loop) as daemon:
        environ = {**os.environ, "WEBHOOKD_TOKEN": (daemon.state_dir / "ingest-token").read_text().strip()}
        count = _count(yard, way.about_per_second)
        return await _through(yard, folder, (*way.producer, daemon.url), environ, count, [daemon.process.pid])


def _count(yard: Yard, about_per_second: int) -> int:
    return int(about_per_second * yard.scale.seconds * 1.5)


async def _through(
    yard: Yard, folder: Path, produce: Sequence[str], environ: dict[str, str], count: int, pids: list[int]
) -> Through:
    """Warm up; hand over `count` events and wait until they are delivered."""
    await yard.peer.ask("clear")
    async with _process(folder, (*produce, "0", str(WARM_UP)), environ):
        await _delivered(yard, folder, WARM_UP)
    await yard.peer.ask("clear")
    family = [each for pid in pids for each in _family(pid)]
    before = cpu_seconds(family)
    produce = (*produce, str(WARM_UP), str(count))
    async with _process(folder, produce, environ, stdout=asyncio.subprocess.PIPE) as producer:
        ended = await _delivered(yard, folder, count)
        assert producer.stdout is not None
        reported = json.loads(await asyncio.wait_for(producer.stdout.readline(), RUN_SECONDS))
    cpu = cpu_seconds(family) - before + reported["cpu_seconds"]
    return Through(count / (ended - reported["began"]), cpu / count * 1e6, reported["cpu_seconds"] / count * 1e6)


async def _delivered(yard: Yard, folder: Path, count: int) -> float:
    """Wait until the sink has `count`; when it had them, by the system's monotonic clock."""
    seen = await yard.peer.ask("watch", count=count, timeout_seconds=RUN_SECONDS)
    assert count == seen["taken"], f"{seen['taken']} of {count} came\n{(folder / ERRORS).read_text()[-2000:]}"
    return float(seen["ended"])


@asynccontextmanager
async def _process(
    folder: Path, command: Sequence[str], environ: dict[str, str], *, stdout: int = asyncio.subprocess.DEVNULL
) -> AsyncIterator[asyncio.subprocess.Process]:
    with (folder / ERRORS).open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            str(folder / command[0]) if "/" in command[0] else command[0],
            *command[1:],
            cwd=folder,
            env=environ,
            stdout=stdout,
            stderr=errors,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)  # its workers too: the session is its own
        await process.wait()


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *[each for child in children for each in _family(int(child))]]


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


async def _compare(scale: Scale) -> None:
    with tempfile.TemporaryDirectory(prefix="webhookd-peers-") as folder:
        async with processes.peer() as peer:
            print(report.table(await measure(Yard(Path(folder), peer, scale))))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    chosen = parser.parse_args()
    asyncio.run(_compare(Scale(rounds=chosen.rounds, seconds=chosen.seconds)))


if __name__ == "__main__":
    sys.exit(recorded(main))
