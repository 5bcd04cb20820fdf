"""How a figure is come by: rounds in which reference and subject take turns, their medians, the noise beside them."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import processes, stock
from tests.bench.processes import Peer
from tests.bench.stock import Stock
from tests.support.process import Daemon, cpu_seconds

PEER_BUSY = 0.85  # of a core: above it the peer was the bottleneck


@dataclass(frozen=True, slots=True)
class Scale:
    rounds: int = 5
    seconds: float = 2.0
    per_endpoint: int = 300
    many_endpoints: int = 5000
    idle_endpoints: int = 10_000
    million: int = 1_000_000


SMALL = Scale(rounds=1, seconds=0.3, per_endpoint=10, many_endpoints=50, idle_endpoints=100, million=3000)


@dataclass(slots=True)
class Figure:
    """One figure of the table: the values of the rounds, and what the median should be (`goal`, `at_least` or most)."""

    row: str
    loop: str
    unit: str
    goal: float
    at_least: bool
    values: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)  # what the values were made of, round by round

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def noise(self) -> float:
        """Half of the middle half's width (IQR), as a share of the median."""
        if len(self.values) < 2 or not self.median:
            return 0.0
        low, _, high = statistics.quantiles(self.values, n=4)
        return (high - low) / 2 / self.median

    @property
    def met(self) -> bool:
        return self.median >= self.goal if self.at_least else self.median <= self.goal

    def add(self, value: float, **parts: float) -> None:
        self.values.append(value)
        for name, part in parts.items():
            self.parts.setdefault(name, []).append(part)

    def line(self) -> str:
        made_of = ", ".join(f"{name.replace('_', ' ')} {statistics.median(p):,.4g}" for name, p in self.parts.items())
        sign = "≥" if self.at_least else "≤"
        verdict = "reached" if self.met else "missed"
        measured = f"{self.median:.3g}{self.unit} ± {self.noise:.0%}"
        return f"| {self.row} | {self.loop} | {measured} | {sign} {self.goal:g}{self.unit} {verdict} | {made_of} |"


@dataclass(slots=True)
class Yard:
    """Where a row is measured: a folder, a peer, how large the run is."""

    folder: Path
    peer: Peer
    scale: Scale

    async def stocked(self, name: str, wanted: Stock) -> Path:
        """A state directory with that stock, made once; `copied` it before it is used up."""
        state_dir = self.folder / name
        if not state_dir.exists():
            await stock.fill(state_dir, wanted)
        return state_dir

    @asynccontextmanager
    async def daemon_on_copy(
        self, state_dir: Path, config: str, loop: str, *, ready: bool = True
    ) -> AsyncIterator[Daemon]:
        copy = self.folder / "copy"
        shutil.copytree(state_dir, copy)
        try:
            async with processes.webhookd(copy, config, loop, ready=ready) as daemon:
                yield daemon
        finally:
            shutil.rmtree(copy)

    async def load(self, daemon: Daemon | int, **order: Any) -> dict[str, Any]:
        """Let the peer post events to a daemon, or to the bare server of that port."""
        if isinstance(daemon, int):
            address, token = daemon, "none"
        else:
            address, token = daemon.port, daemon.token
        answer = await self.peer.ask("load", address=["127.0.0.1", address], token=token, **order)
        assert {"202"} == set(answer["statuses"]), answer["statuses"]
        assert answer["busy"] < PEER_BUSY, "the load generator was the bottleneck"
        return answer

    async def bare_deliveries(self, loop: str, endpoints: int, each: int) -> tuple[float, float]:
        """Requests a second of the bare client, `each` to every endpoint, and its µs of processor time for each."""
        await self.peer.ask("clear")
        cpu = await processes.bare_client(loop, self.peer.port, endpoints, each)
        seen = await self.peer.ask("watch", count=0, timeout_seconds=0)
        return steady_rate(seen["stamps"]), cpu / seen["taken"] * 1e6

    async def deliveries(self, daemon: Daemon, count: int, *, timeout_seconds: float = 120.0) -> tuple[float, float]:
        """Deliveries a second of a daemon until `count` came, and its µs of processor time for each."""
        before = cpu_seconds([daemon.process.pid])
        seen = await self.peer.ask("watch", count=count, timeout_seconds=timeout_seconds)
        cpu = cpu_seconds([daemon.process.pid]) - before
        assert seen["busy"] < PEER_BUSY, "the sink was the bottleneck"
        return steady_rate(seen["stamps"]), cpu / seen["taken"] * 1e6


def steady_rate(stamps: list[tuple[float, int]]) -> float:
    """Requests a second in the middle eight tenths of what came, without the start and the last few endpoints."""
    tenth = len(stamps) // 10
    (began, first), (ended, last) = stamps[tenth], stamps[-1 - tenth]
    return (last - first) / (ended - began)
