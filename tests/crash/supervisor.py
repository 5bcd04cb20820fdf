"""Keeps a daemon running that is killed at one exact system call, and starts it again when it died.

The kill comes from strace: it traces the daemon from before its first own instruction, and sends SIGKILL as the thread
that writes is about to make its N-th `pwrite64`, `fdatasync`, `ftruncate` or `unlink` of the database's files.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.crash.history import Crash
from tests.crash.witness import caught_up
from tests.support.process import ROOT

START_SECONDS = 300.0
# How often in a row a daemon is seen to stand still before it is believed.
LOOKS = 5
CALLS = ("pwrite64", "fdatasync", "ftruncate", "unlink")
# What the conditions of a point mean by the database: its file and those beside it.
FOLLOWED = ("", "-journal", "-wal", "-shm", "-reserve", "-reserve-probe")


def why_no_kill_points() -> str | None:
    """Why there is no kill at an exact system call here, or None."""
    strace = shutil.which("strace")
    if strace is None:
        return (
            "strace isn't installed (apt-get install strace), and without it there is no kill at an exact system call"
        )
    tried = subprocess.run([strace, "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    return f"strace can't trace here: {tried.stderr.strip()}" if tried.returncode else None


@dataclass(frozen=True, slots=True)
class KillPoint:
    """The `number`-th time that `call` is made on the database or its log; `anywhere` drops that condition.

    `inject` is what happens then, in strace's words, and with `for_ever` each time from then on.
    """

    call: str
    number: int
    anywhere: bool = False
    inject: str = "signal=SIGKILL"
    for_ever: bool = False


def _stands_still(pid: int) -> bool:
    """Whether all threads are stopped, by a signal or by their tracer."""
    stats = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(stat.read_text().rpartition(")")[2].split()[0] in "tTZX" for stat in stats)


class Forkserver:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._starts: asyncio.Queue[int] = asyncio.Queue()
        self._deaths: dict[int, asyncio.Future[int]] = {}
        self._turn = asyncio.Lock()

    async def spawn(self, order: dict[str, Any]) -> int:
        async with self._turn:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            return await self._starts.get()

    def death(self, pid: int) -> asyncio.Future[int]:
        """Has the exit code (or minus the signal) when the daemon has ended."""
        return self._deaths[pid]

    async def listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            report = json.loads(line)
            if "started" in report:
                self._deaths[report["started"]] = asyncio.get_running_loop().create_future()
                self._starts.put_nowait(report["started"])
            else:
                self._deaths[report["dead"]].set_result(report["status"])


@asynccontextmanager
async def forkserver() -> AsyncIterator[Forkserver]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.crash.forkserver",
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    kept = Forkserver(process)
    listening = asyncio.create_task(kept.listen())
    try:
        yield kept
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening


@dataclass(slots=True)
class Supervisor:
    """One state directory and the daemons that live on it, one after the other."""

    forkserver: Forkserver
    state_dir: Path
    config: str
    point: KillPoint | None = None
    migration: str | None = None
    survived: tuple[int, ...] = ()  # exit codes that are an end like a kill: systemd starts it again
    crashes: list[Crash] = field(default_factory=list)
    url: str = ""
    pid: int | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _session: aiohttp.ClientSession = field(default_factory=aiohttp.ClientSession)
    _strace: subprocess.Popen[bytes] | None = None
    _stopping: bool = False

    async def start(self) -> None:
        """Start, and start again if it died on the way, until it is ready."""
        async with self._turn:
            await self._start()

    async def _start(self) -> None:
        while self.pid is None:
            (self.state_dir / "address").unlink(missing_ok=True)
            config_file = self.state_dir.with_suffix(".toml")
            config_file.write_text("[listen]\nport = 0\n" + self.config)
            point, self.point = self.point, None
            self.pid = await self.forkserver.spawn(
                {
                    "state_dir": str(self.state_dir),
                    "config": str(config_file),
                    "log": str(self.state_dir.with_suffix(".log")),
                    "traced": point is not None,
                    "migration": self.migration,
                }
            )
            if point is not None:
                self._trace(self.pid, point)
            if not await self._ready():
                await self._await_end()
        if self.crashes and not self.crashes[-1].ready_at:
            self.crashes[-1] = Crash(self.crashes[-1].at, time.time())

    def _trace(self, pid: int, point: KillPoint) -> None:
        strace = shutil.which("strace")
        assert strace is not None
        files = [str(self.state_dir / f"webhookd.db{suffix}") for suffix in FOLLOWED]
        paths = [] if point.anywhere else [part for file in files for part in ("-P", file)]
        self._strace = subprocess.Popen(
            [
                strace, "-f", "-q", "-p", str(pid), "-o", str(self.trace_file), *paths, "-e", f"trace={point.call}",
                "-e", f"inject={point.call}:{point.inject}:when={point.number}{'+' if point.for_ever else ''}",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def trace_file(self) -> Path:
        return self.state_dir.with_suffix(".trace")

    async def heal(self) -> None:
        """Let every call do again what it does; the daemon goes on.

        It stands still meanwhile: a call that strace lets go of between its beginning and its end fails with ENOSYS
        (266 of 496 times in a loop of writes, never of 328 with this), which no disk says.
        """
        tracer, pid = self._strace, self.pid
        if tracer is None or pid is None:
            return
        with suppress(ProcessLookupError, FileNotFoundError):  # it died of the fault
            await self._stand_still(pid)
        tracer.terminate()
        await asyncio.to_thread(tracer.wait)
        self._strace = None
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    async def _stand_still(self, pid: int) -> None:
        """Stop every thread, and see that it lasts: strace stops them for an instant as well."""
        os.kill(pid, signal.SIGSTOP)
        looks = 0
        async with asyncio.timeout(START_SECONDS):
            while looks < LOOKS:
                looks = looks + 1 if _stands_still(pid) else 0
                await asyncio.sleep(0.004)

    async def _ready(self) -> bool:
        assert self.pid is not None
        death = self.forkserver.death(self.pid)
        async with asyncio.timeout(START_SECONDS):
            while not death.done():
                with suppress(FileNotFoundError, aiohttp.ClientError):
                    self.url = (self.state_dir / "address").read_text().strip()
                    async with self._session.get(self.url + "/readyz") as answer:
                        if answer.status == 200:
                            return True
                await asyncio.wait([death], timeout=0.004)
        return False

    async def _await_end(self) -> int:
        """Wait for its end; a kill is noted, any other end but the one asked for is a fault."""
        assert self.pid is not None
        async with asyncio.timeout(START_SECONDS):
            status = await self.forkserver.death(self.pid)
        self.pid = None
        if self._strace is not None:
            await asyncio.to_thread(self._strace.wait)
            self._strace = None
        if status == -signal.SIGKILL or status in self.survived:
            await caught_up()
            self.crashes.append(Crash(time.time(), 0.0))
        else:
            assert self._stopping and not status, f"exit {status}: {self.log()[-3000:]}"
        return status

    def log(self) -> str:
        return self.state_dir.with_suffix(".log").read_text()

    async def again(self) -> None:
        """After a lost connection: the daemon is dying; wait for that, and start the next one."""
        async with self._turn:
            if self.pid is not None and not await self._alive():
                await self._await_end()
            await self._start()

    async def _alive(self) -> bool:
        """Whether it still answers (another caller may have started it again already)."""
        with suppress(aiohttp.ClientError):
            async with self._session.get(self.url + "/healthz") as answer:
                return answer.status == 200
        return False

    async def ask(
        self, method: str, path: str, *, json: Any = None, data: Any = None, content_type: str = "application/json"
    ) -> tuple[int, Any]:
        """One request, once: the status and the JSON of its answer.  aiohttp.ClientError when the daemon died."""
        token = (self.state_dir / "admin-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"} | ({"Content-Type": content_type} if data is not None else {})
        async with self._session.request(method, self.url + path, json=json, data=data, headers=headers) as answer:
            return answer.status, await (answer.json() if answer.content_type == "application/json" else answer.read())

    async def call(self, method: str, path: str, json: Any = None) -> tuple[int, Any]:
        for _ in range(20):
            try:
                return await self.ask(method, path, json=json)
            except aiohttp.ClientError:
                await self.again()
        raise AssertionError(f"no answer to {method} {path}")

    async def stop(self) -> bool:
        """End it with SIGTERM; False if it was killed instead, on its way out."""
        assert self.pid is not None
        self._stopping = True
        os.kill(self.pid, signal.SIGTERM)
        status = await self._await_end()
        self._stopping = False
        return not status

    async def kill(self) -> None:
        assert self.pid is not None
        os.kill(self.pid, signal.SIGKILL)
        await self._await_end()

    async def close(self) -> None:
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            await self._await_end()
        await self._session.close()
