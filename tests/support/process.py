"""A real daemon in a process of its own, and the API as a stranger's program calls it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0
CPU_CLOCK = 2  # of a process, by its number; Python has no name for it


def cpu_seconds(pids: Iterable[int]) -> float:
    """The processor time that processes have taken so far, to the nanosecond (clock_getcpuclockid(3))."""
    return sum(time.clock_gettime((~pid << 3) | CPU_CLOCK) for pid in pids)


@dataclass(slots=True)
class Daemon:
    url: str
    state_dir: Path
    process: asyncio.subprocess.Process
    session: aiohttp.ClientSession
    log_file: Path

    async def call(self, method: str, path: str, json: Any = None, *, expect: int | None = None) -> Any:
        """Call the API as admin; the JSON of the answer, whose status is checked if `expect` is given."""
        async with self.session.request(method, self.url + path, json=json, headers=self.admin()) as answer:
            body = await answer.json() if answer.content_type == "application/json" else await answer.text()
            if expect is not None:
                assert expect == answer.status, body
            return body

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def token(self) -> str:
        """The admin's."""
        return (self.state_dir / "admin-token").read_text().strip()

    def admin(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def until_dead(self, *, timeout_seconds: float = 60.0) -> int:
        async with asyncio.timeout(timeout_seconds):
            return await self.process.wait()

    async def stop(self) -> int:
        if self.process.returncode is None:
            self.process.terminate()
        return await self.until_dead()


async def start(
    state_dir: Path,
    config: str = "",
    *,
    program: Sequence[str] = ("-m", "webhookd"),
    alive: bool = True,
    environ: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Daemon:
    """Start a daemon on a free port; with `alive`, wait until it is ready.  `program` runs instead of webhookd."""
    state_dir.mkdir(parents=True, exist_ok=True)
    (state_dir / "address").unlink(missing_ok=True)
    config_file = state_dir.parent / f"{state_dir.name}.toml"
    config_file.write_text("[listen]\nport = 0\n" + config)
    log_file = state_dir.parent / f"{state_dir.name}.log"
    with log_file.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *program, "serve", "--config", str(config_file), "--state-dir", str(state_dir),
            cwd=ROOT, stdout=log, stderr=log, pass_fds=pass_fds,
            env={n: v for n, v in os.environ.items() if not n.startswith("WEBHOOKD_")} | dict(environ or {}),
        )  # fmt: skip
    daemon = Daemon("", state_dir, process, aiohttp.ClientSession(), log_file)
    if alive:
        await until_ready(daemon)
    return daemon


async def until_ready(daemon: Daemon) -> bool:
    async with asyncio.timeout(START_SECONDS):
        while daemon.process.returncode is None:
            try:
                daemon.url = (daemon.state_dir / "address").read_text().strip()
                async with daemon.session.get(daemon.url + "/readyz") as answer:
                    if answer.status == 200:
                        return True
            except (FileNotFoundError, aiohttp.ClientError):
                pass  # it doesn't listen yet, or has died
            await asyncio.sleep(0.01)
    return False


@asynccontextmanager
async def daemon(state_dir: Path, config: str = "", **more: Any) -> AsyncIterator[Daemon]:
    """`start` for the time of a test."""
    running = await start(state_dir, config, **more)
    try:
        yield running
    finally:
        await running.stop()
        await running.session.close()
