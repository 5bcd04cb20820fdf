"""199 hostile receivers and one healthy endpoint in one real daemon with the default timeout of 5 s.

    python -m tests.hostile.beside [SECONDS]

Every behaviour of `tests.support.bad_receivers` is among them, over http and https in turns, in a process of its own.
First their events come one by one, then all at once every three seconds; a failed one is given up at once, so that the
next begins.  Before that the healthy one gets as much alone.  Prints the longest attempt, the loop's lag, the healthy
endpoint's times from accepted to delivered, and by how much the daemon's memory grew.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.bad_receiver_server import ScriptedReceiver
from tests.support.bad_receivers import ALL, healthy
from tests.support.probed import Lag, read_lags
from tests.support.process import ROOT, Daemon, start
from tests.support.results import recorded
from webhookd.models import Reason

HOSTILE = 199
SECONDS = 20.0
BURST_EVERY_SECONDS = 3.0
WARM_UP_SECONDS = 60.0
HEALTHY_PER_SECOND = 20
HOSTILE_PER_SECOND = 200
JSON = {"Content-Type": "application/json"}

CONFIG = """
[egress]
allow = ["127.0.0.0/8"]
[delivery]
timeout_seconds = {timeout_seconds}
retry_seconds = []
[budget]
limit = 1000000
[limits]
endpoints = 1000
[log]
format = "json"
"""


@dataclass(frozen=True, slots=True)
class Hostile:
    scheme: str
    name: str
    url: str

    @property
    def expected(self) -> Reason | None:
        return ALL[self.scheme][self.name].reason


@dataclass(slots=True)
class Figures:
    hostile: int
    attempts: int
    longest_ms: float
    healthy_ms: list[float]
    lags: list[Lag]
    grown_bytes: int
    surprises: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        late, own = [lag.late_ms for lag in self.lags], [lag.own_ms for lag in self.lags]
        lines = [
            f"{self.hostile} hostile endpoints, {self.attempts} attempts; the longest took {self.longest_ms:.0f} ms",
            f"loop lag: median {statistics.median(late):.1f} ms, p99 {p99(late):.1f} ms, longest {max(late):.1f} ms; "
            f"of the process's own doing: p99 {p99(own):.1f} ms, longest {max(own):.1f} ms",
            f"healthy endpoint, accepted to delivered, {len(self.healthy_ms)} events: "
            f"median {statistics.median(self.healthy_ms):.0f} ms, p99 {p99(self.healthy_ms):.0f} ms, "
            f"longest {max(self.healthy_ms):.0f} ms",
            f"memory grew by {self.grown_bytes / 1024**2:.1f} MiB",
        ]
        return "\n".join([*lines, *self.surprises])


def p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def choose(ports: dict[str, dict[str, int]], number: int, turn: int) -> list[Hostile]:
    """`number` endpoints, every behaviour among them if there is room, http and https in turns."""
    other = {"http": "https", "https": "http"}
    first: list[Hostile] = []
    second: list[Hostile] = []
    for at, name in enumerate(ports["https"]):
        scheme = ("http", "https")[(at + turn) % 2] if name in ports["http"] else "https"
        for place, each in ((first, scheme), (second, other[scheme])):
            if name in ports[each]:
                place.append(Hostile(each, name, f"{each}://127.0.0.1:{ports[each][name]}/hook"))
    return (first + second)[:number]


@asynccontextmanager
async def _receivers() -> AsyncIterator[tuple[dict[str, dict[str, int]], str]]:
    """The process of the hostile receivers: its ports, and the certificate of its authority."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.bad_receivers", cwd=ROOT, limit=1 << 20,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    said = json.loads(await process.stdout.readline())
    try:
        yield said["ports"], said["authority"]
    finally:
        process.stdin.close()
        await process.wait()


@dataclass(slots=True)
class Run:
    daemon: Daemon
    hostile: list[Hostile]
    peak_bytes: int = 0

    async def post(self, events: list[dict[str, Any]]) -> None:
        data = json.dumps(events).encode()
        async with self.daemon.session.post(
            self.daemon.url + "/v1/events", data=data, headers=self.daemon.admin() | JSON
        ) as answer:
            assert 202 == answer.status, await answer.text()

    async def beat(self, seconds: float, per_second: float, once: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        began = time.monotonic()
        for number in range(int(seconds * per_second)):
            await asyncio.sleep(began + number / per_second - time.monotonic())
            await once(number)

    async def send_healthy(self, number: int) -> None:
        await self.post([{"event_type": "message.received", "number": number}])

    async def send_hostile(self, number: int) -> None:
        await self.post([self._event(number % len(self.hostile))])

    async def send_all(self, _: int) -> None:
        await self.post([self._event(number) for number in range(len(self.hostile))])

    async def warm_up(self, seconds: float, endpoint: str) -> None:
        """Let the daemon carry as much, and as large, to the healthy endpoint alone."""
        for _ in range(3):
            events = [self._event(number) for number in range(len(self.hostile))]
            await self.post([event | {"event_type": "message.received"} for event in events])
        await self.beat(seconds, HEALTHY_PER_SECOND, self.send_healthy)
        async with asyncio.timeout(WARM_UP_SECONDS):
            while (await self.daemon.call("GET", f"/v1/endpoints/{endpoint}"))["queue"]["waiting"]:
                await asyncio.sleep(0.05)

    async def watch_memory(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, self.daemon.resident_bytes())
            await asyncio.sleep(0.05)

    def _event(self, number: int) -> dict[str, Any]:
        each = self.hostile[number]
        return {"event_type": f"bad.n{number}", "text": "x" * ALL[each.scheme][each.name].body_bytes}


async def measure(
    number: int = HOSTILE, *, turn: int = 0, seconds: float = SECONDS, timeout_seconds: float = 5.0
) -> Figures:
    """The figures of one run: `seconds` one by one, `seconds` in bursts."""
    with tempfile.TemporaryDirectory(prefix="webhookd-beside-") as folder:
        async with _receivers() as (ports, authority), ScriptedReceiver(healthy) as receiver:
            Path(folder, "authority.pem").write_text(authority)
            hostile = choose(ports, number, turn)
            types = "".join(f'[events."bad.n{at}"]\nlabel = "Bad receiver {at}"\n' for at in range(len(hostile)))
            daemon = await _start(Path(folder), CONFIG.format(timeout_seconds=timeout_seconds) + types)
            try:
                return await _measure(Run(daemon, hostile), receiver.url, Path(folder), seconds, timeout_seconds)
            finally:
                await daemon.stop()
                await daemon.session.close()


async def _start(folder: Path, config: str) -> Daemon:
    command = ["-m", "tests.support.probed", str(folder / "lags"), "serve", "--config", "CONFIG"]
    return await start(
        folder / "state",
        config,
        command=[*command, "--state-dir", str(folder / "state")],
        environ={"SSL_CERT_FILE": str(folder / "authority.pem")},
    )


async def _measure(run: Run, healthy_url: str, folder: Path, seconds: float, timeout_seconds: float) -> Figures:
    d = run.daemon
    well = await d.call("POST", "/v1/endpoints", {"url": healthy_url, "event_types": ["message.received"]}, expect=201)
    names = {}
    for at, each in enumerate(run.hostile):
        fields = {"url": each.url, "event_types": [f"bad.n{at}"]}
        names[(await d.call("POST", "/v1/endpoints", fields, expect=201))["id"]] = each
    await run.warm_up(min(seconds, 2.0), well["id"])
    before_bytes, began_ms = d.resident_bytes(), time.time() * 1000
    watcher = asyncio.create_task(run.watch_memory())
    for send, per_second in ((run.send_hostile, HOSTILE_PER_SECOND), (run.send_all, 1 / BURST_EVERY_SECONDS)):
        neighbour = asyncio.create_task(run.beat(seconds, HEALTHY_PER_SECOND, run.send_healthy))
        await run.beat(seconds, per_second, send)
        await neighbour
    ended_ms = time.time() * 1000
    await asyncio.sleep(timeout_seconds + 0.5)
    watcher.cancel()
    attempts: list[dict[str, Any]] = [line for line in _lines(d.log_file) if line["event"] == "delivery.attempted"]
    took = await _healthy_times(d, well["id"], began_ms)
    await d.stop()
    return Figures(
        hostile=len(run.hostile),
        attempts=len(attempts),
        longest_ms=max(line["duration_ms"] for line in attempts),
        healthy_ms=took,
        lags=[lag for lag in read_lags(folder / "lags") if began_ms <= lag.at_ms <= ended_ms],
        grown_bytes=run.peak_bytes - before_bytes,
        surprises=sorted(
            {_surprise(names[at], line) for line in attempts if (at := line["endpoint_id"]) in names} - {""}
        ),
    )


def _surprise(hostile: Hostile, line: dict[str, Any]) -> str:
    """What an attempt came to, if it isn't what its receiver leads to."""
    if line.get("reason") == hostile.expected:
        return ""
    return (
        f"  {hostile.scheme}, {hostile.name}: {line.get('reason')} instead of {hostile.expected}: {line.get('detail')}"
    )


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines() if line.startswith("{")]


async def _healthy_times(d: Daemon, endpoint: str, since_ms: float) -> list[float]:
    """How long each delivery to the healthy endpoint took from its acceptance on, in ms."""
    found: list[dict[str, Any]] = []
    more = ""
    while True:
        page = await d.call("GET", f"/v1/deliveries?endpoint={endpoint}&limit=500{more}", expect=200)
        found += page["data"]
        if page["next"] is None:
            break
        more = f"&cursor={page['next']}"
    assert {"delivered"} == {each["state"] for each in found}
    times = [(_ms(each["accepted_at"]), _ms(each["finished_at"])) for each in found]
    return [finished - accepted for accepted, finished in times if accepted >= since_ms]


def _ms(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() * 1000


def main() -> None:
    """Measure and print: two runs, so that each behaviour comes over http and over https."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}")
    for turn in (0, 1):
        print(asyncio.run(measure(turn=turn, seconds=seconds)), flush=True)


if __name__ == "__main__":
    sys.exit(recorded(main))
