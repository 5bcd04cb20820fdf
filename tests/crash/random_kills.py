"""SIGKILL at random moments under load, again and again.

    python -m tests.crash.random_kills [--kills 1000] [--seed 1] [--endpoints 50] [--round 50]

Fifty endpoints of five workspaces, half of them in order by key, a fifth failing, silent, resetting, slow or flaky,
with a budget that stops some and somebody who enables them; producers with single events, arrays and pipes that go on
through it all.  The daemon is killed at a moment drawn by the seed, before it is ready as well, and started again at
once.  After each round of kills everything comes to rest and is judged, and the next round begins with a new state;
that bounds the memory.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.crash import snapshot
from tests.crash.case import Violation
from tests.crash.checker import judge
from tests.crash.history import Crash, History, Terms
from tests.crash.load import Enabler, Manners, Producers, ordering, subscribers
from tests.crash.producer import Body, Producer
from tests.crash.witness import Witness, caught_up, witness
from tests.support import process
from tests.support.process import Daemon
from tests.support.results import recorded

TERMS = Terms(retry_seconds=(0.1, 0.2, 0.3), limit=20, window_seconds=15.0)
CONFIG = f"""
[egress]
allow = ["127.0.0.0/8"]
[log]
level = "warning"
[delivery]
timeout_seconds = 2
retry_seconds = {list(TERMS.retry_seconds)}
[budget]
limit = {TERMS.limit}
window_seconds = {TERMS.window_seconds}
"""
DURING_START = 0.25
LIFE_SECONDS = 0.5
LONGEST_LIFE_SECONDS = 4.0
REST_SECONDS = 600.0
STARTS_MAX = 10  # times `process.START_SECONDS`


@dataclass(slots=True)
class Total:
    """What all rounds came to.  `starts`: seconds from a SIGKILL to the next ready, and what waited then."""

    kills: int = 0
    accepted: int = 0
    received: int = 0
    repeats: int = 0
    most_repeats: int = 0
    disabled: int = 0
    starts: list[tuple[float, int]] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)

    def count(self, rule: str) -> int:
        return sum(violation.rule == rule for violation in self.violations)


class Round:
    def __init__(self, state_dir: Path, where: Witness, seed: int, endpoints: int) -> None:
        self.chance = random.Random(seed)
        self.state_dir = state_dir
        self.history = History(TERMS, subscribers(endpoints))
        self.workspaces = sorted({each.workspace for each in self.history.subscribers})
        self.starts: list[tuple[float, int]] = []
        self.witness = where
        self.manners = Manners(random.Random(seed + 1))
        self.history.received = where.begin(self.manners)
        self.ready = asyncio.Event()
        self.daemon: Daemon | None = None
        producer = Producer(self._ask_events, self._again, self.history.asked)
        self.producers = Producers(producer, random.Random(seed + 2), f"r{seed}")
        self.enabler = Enabler(self._ask, self.history, self.workspaces, random.Random(seed + 3))
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))

    async def run(self, kills: int) -> None:
        try:
            await self._begin()
            load = asyncio.create_task(self.producers.run(self.workspaces))
            enabling = asyncio.create_task(self.enabler.run())
            try:
                for _ in range(kills):
                    assert not load.done() and not enabling.done(), (load, enabling)
                    await self._kill_once()
                await self._start(until_ready=True)
                await self._rest(load)
            finally:
                for task in (load, enabling):
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
            assert self.daemon is not None and 0 == await self.daemon.stop()
        finally:
            await self._close()

    async def _begin(self) -> None:
        await self._start(until_ready=True)
        for workspace in self.workspaces:
            await self._ask("POST", "/v1/workspaces", {"id": workspace})
        for each in self.history.subscribers:
            url = self.witness.url(each.endpoint, apart=each.endpoint.endswith("resetting"))
            fields = {"url": url, "event_types": list(each.event_types), "ordering": ordering(each.endpoint)}
            status, answer = await self._ask("POST", f"/v1/workspaces/{each.workspace}/endpoints", fields)
            assert status == 201, answer

    async def _start(self, *, until_ready: bool) -> None:
        if self.daemon is None:
            self.daemon = await process.start(self.state_dir, CONFIG, alive=False)
        if until_ready and not self.ready.is_set():
            assert await _is_ready(self.daemon), self.daemon.log_file.read_text()[-3000:]
            ready_at = time.time()
            self.ready.set()
            crashes = self.history.crashes
            if crashes and not crashes[-1].ready_at:
                crashes[-1] = Crash(crashes[-1].at, ready_at)
                _, status = await self._ask("GET", "/v1/status", None)
                self.starts.append((ready_at - self._killed_at, status["backlog"]["waiting"]))

    async def _kill_once(self) -> None:
        """Let it live for a while, or not even begin to, and kill it; the next one is started at once."""
        if self.chance.random() < DURING_START:
            await self._start(until_ready=False)
            await asyncio.sleep(self.chance.uniform(0.0, 0.8))
        else:
            await self._start(until_ready=True)
            await asyncio.sleep(min(LONGEST_LIFE_SECONDS, self.chance.expovariate(1 / LIFE_SECONDS)))
        assert self.daemon is not None
        assert self.daemon.process.returncode is None, self.daemon.log_file.read_text()[-3000:]
        self.ready.clear()
        self._killed_at = time.time()
        os.kill(self.daemon.process.pid, signal.SIGKILL)
        await self.daemon.until_dead()
        await caught_up()
        self.history.crashes.append(Crash(time.time(), 0.0))
        await self.daemon.session.close()
        self.daemon = None
        await self._start(until_ready=False)

    async def _rest(self, load: asyncio.Task[None]) -> None:
        self.producers.stopped = True
        self.manners.healed = self.enabler.eager = True
        async with asyncio.timeout(REST_SECONDS):
            await load
            while await self.enabler.look():
                await asyncio.sleep(0.05)

    async def _again(self) -> None:
        await asyncio.sleep(0.002)
        await self.ready.wait()

    async def _ask(self, method: str, path: str, json: Any) -> tuple[int, Any]:
        return await self._call(method, path, json=json)

    async def _ask_events(self, path: str, body: Body, content_type: str) -> tuple[int, Any]:
        return await self._call("POST", path, data=body, content_type=content_type)

    async def _call(self, method: str, path: str, *, content_type: str = "", **sent: Any) -> tuple[int, Any]:
        await self.ready.wait()
        assert self.daemon is not None
        headers = self.daemon.admin() | ({"Content-Type": content_type} if content_type else {})
        async with self._session.request(method, self.daemon.url + path, headers=headers, **sent) as answer:
            return answer.status, await answer.json()

    async def _close(self) -> None:
        if self.daemon is not None:
            if self.daemon.process.returncode is None:
                self.daemon.process.kill()
                await self.daemon.until_dead()
            await self.daemon.session.close()
        await self._session.close()


async def _is_ready(daemon: Daemon) -> bool:
    """Wait until it answers, however little of the machine is left for it; False if it died."""
    for _ in range(STARTS_MAX):
        with suppress(TimeoutError):
            return await process.until_ready(daemon)
    raise AssertionError(f"it never became ready: {daemon.log_file.read_text()[-3000:]}")


async def kill_at_random(*, kills: int, seed: int, endpoints: int, per_round: int) -> Total:
    total = Total()
    asyncio.get_running_loop().set_exception_handler(_report_fault)
    async with witness() as where:
        for number in itertools.count():
            if total.kills >= kills:
                return total
            with tempfile.TemporaryDirectory(prefix="webhookd-random-") as folder:
                state_dir = Path(folder) / "state"
                this = Round(state_dir, where, seed * 1000 + number, endpoints)
                await this.run(min(per_round, kills - total.kills))
                _judge(this, total)
            print(
                f"{total.kills} kills: {total.accepted} accepted, {total.received} requests, "
                f"{total.disabled} enabled again, {total.repeats} repeats, {len(total.violations)} violations",
                file=sys.stderr,
                flush=True,
            )
    return total


def _report_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say nothing of a pipe that broke while aiohttp was writing into it: its producer has heard of it already."""
    if not isinstance(context.get("exception"), aiohttp.ClientError):
        loop.default_exception_handler(context)


def _judge(this: Round, total: Total) -> None:
    judgement = judge(this.history, snapshot.read(this.state_dir / "webhookd.db"))
    total.kills += len(this.history.crashes)
    total.accepted += judgement.accepted
    total.received += judgement.received
    total.repeats += judgement.repeats
    total.most_repeats = max(total.most_repeats, judgement.most_repeats)
    total.disabled += len(this.history.enabled)
    total.starts += this.starts
    total.violations += judgement.violations
    for violation in judgement.violations[:20]:
        print(f"    {violation.rule}: {violation.text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.random_kills")
    for name, default in (("kills", 1000), ("seed", 1), ("endpoints", 50), ("round", 50)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    total = asyncio.run(
        kill_at_random(kills=given.kills, seed=given.seed, endpoints=given.endpoints, per_round=given.round)
    )
    print(
        f"{total.kills} kills: lost {total.count('lost')}, reordered {total.count('reordered')}, all violations "
        f"{len(total.violations)}, most repeats per endpoint per crash {total.most_repeats}"
    )
    if len(total.starts) > 1:
        seconds = sorted(took for took, _ in total.starts)
        print(
            f"SIGKILL to ready, {len(seconds)} times: p50 {statistics.median(seconds):.2f} s, "
            f"p99 {statistics.quantiles(seconds, n=100)[98]:.2f} s, with {min(w for _, w in total.starts)} to "
            f"{max(w for _, w in total.starts)} deliveries waiting"
        )
    return 1 if total.violations else 0


if __name__ == "__main__":
    sys.exit(recorded(main))
