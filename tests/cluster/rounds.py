"""Rounds under load, each with one random fault, judged by the checker of `tests/crash`.

Four workspaces in four partitions, two endpoints each: one quick, one that fails now and then.  A producer for each
workspace sends steadily, singly and in batches, to a random machine, and asks another one when it hears nothing.  After
`per_cluster` rounds everything comes to rest and is judged, and the next begin with new servers and new machines.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

from tests.cluster.machines import Machine, machines, until
from tests.cluster.nats_servers import Servers, nats_servers
from tests.cluster.truth import Leases, final
from tests.crash.case import Violation
from tests.crash.checker import judge
from tests.crash.history import History, Received, Subscriber, Terms
from tests.crash.producer import Body, Event, Producer
from tests.crash.witness import Reply, Witness, witness
from webhookd.cluster.names import partition_of

PARTITIONS = 4
WORKSPACES = 4
CONFIG = """\
[delivery]
timeout_seconds = {timeout_seconds}
retry_seconds = [0.3, 0.3, 0.3]
[budget]
limit = 100000
"""
ASK_SECONDS = 5.0
REST_SECONDS = 120.0
SAVED_EVERY_SECONDS = 1.5
SLACK_SECONDS = 0.5  # a machine with other things to do


@dataclass(slots=True)
class Total:
    """What all rounds came to.  `pauses`: for each fault, the longest that an endpoint got nothing, in seconds."""

    faults: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    received: int = 0
    repeats: int = 0
    takeovers: int = 0
    pauses: dict[str, list[float]] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)

    def count(self, *rules: str) -> int:
        return sum(each.rule in rules for each in self.violations)


@dataclass
class Manners:
    """The quick ones answer 200; the flaky ones fail a tenth, never twice in a row."""

    chance: random.Random
    failed: set[str] = field(default_factory=set)

    def __call__(self, received: Received) -> Reply:
        name = received.endpoint
        if not name.endswith("flaky"):
            return Reply()
        if name in self.failed or self.chance.random() > 0.1:
            self.failed.discard(name)
            return Reply(200, after_seconds=self.chance.uniform(0.0, 0.03))
        self.failed.add(name)
        return Reply(500)


class Rounds:
    """One cluster and what happens to it."""

    def __init__(
        self, servers: Servers, cluster: list[Machine], where: Witness, leases: Leases, seed: int, lease_seconds: float
    ) -> None:
        self.servers, self.machines, self.where, self.leases = servers, cluster, where, leases
        self.chance = random.Random(seed)
        self.lease_seconds = lease_seconds
        self.label = f"s{seed}"
        workspaces = [f"w{number}" for number in range(WORKSPACES)]
        self.history = History(
            Terms(repeat_seconds=SAVED_EVERY_SECONDS + SLACK_SECONDS, pause_seconds=lease_seconds + 5),
            [Subscriber(f"{each}-{kind}", each, ("*",)) for each in workspaces for kind in ("quick", "flaky")],
        )
        self.workspaces = workspaces
        self.history.received = where.begin(Manners(random.Random(seed + 1)))
        self.faults: list[tuple[str, float]] = []
        self.fault_times: list[float] = []
        self.stopped = False
        self._number = 0
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_SECONDS))
        self._last_failure = ""

    async def run(self, rounds: int, faults: list[str]) -> None:
        """Set up, let the load run, do one fault after another, come to rest."""
        await self._set_up()
        load = [asyncio.create_task(self._produce(each)) for each in self.workspaces]
        try:
            await asyncio.sleep(1.0)
            for _ in range(rounds):
                name = self.chance.choice(faults)
                began = time.time()
                await FAULTS[name](self)
                await self._until_going_on(began)
                self.faults.append((name, began))
                assert not any(each.done() for each in load), load
                await asyncio.sleep(self.chance.uniform(0.5, 2.0))
            self.stopped = True
            async with asyncio.timeout(REST_SECONDS):
                await asyncio.gather(*load)
            await self._until_delivered()
        finally:
            for task in load:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await self._session.close()

    async def judge(self, total: Total) -> None:
        """What this cluster's rounds came to."""
        moments = self.fault_times
        for subscriber in self.history.subscribers:
            partition = partition_of(subscriber.workspace, PARTITIONS)
            self.history.takeovers[subscriber.endpoint] = self.leases.takeovers(partition, moments)
        judgement = judge(self.history, await final(await self.servers.client(), self.history, PARTITIONS))
        total.accepted += judgement.accepted
        total.received += judgement.received
        total.repeats += judgement.repeats
        total.takeovers += sum(len(each) - 1 for each in self.history.takeovers.values()) // 2
        total.violations += judgement.violations
        self._count_pauses(total)

    def keep(self, folder: Path, keep: Path | None) -> None:
        """Copy what helps to explain a violation: logs, faults, takeovers, requests."""
        if keep is None:
            return
        place = keep / self.label
        place.mkdir(parents=True, exist_ok=True)
        for log in folder.glob("*.log"):
            shutil.copy(log, place)
        lines = [f"{at:.3f} fault {name}" for name, at in self.faults]
        lines += [f"{at:.3f} struck" for at in self.fault_times]
        for endpoint, found in self.history.takeovers.items():
            lines += [f"{each.at:.3f} {endpoint} to {each.machine}, since {each.unsaved_since:.3f}" for each in found]
        for each in self.history.received:
            lines.append(f"{each.arrived_at:.3f} {each.endpoint} {each.event_id} {each.sender} {each.answer}")
        (place / "history.txt").write_text("\n".join(sorted(lines)))

    def _count_pauses(self, total: Total) -> None:
        arrivals: dict[str, list[float]] = {}
        for each in self.history.received:
            arrivals.setdefault(each.endpoint, []).append(each.arrived_at)
        bounds = [began for _, began in self.faults] + [max(at for times in arrivals.values() for at in times)]
        for (name, began), end in zip(self.faults, bounds[1:], strict=True):
            longest = 0.0
            for times in arrivals.values():
                within = [began, *(at for at in times if began <= at <= end)]
                longest = max([longest, *(after - before for before, after in pairwise(within))])
            total.faults[name] += 1
            total.pauses.setdefault(name, []).append(longest)

    async def _set_up(self) -> None:
        def is_shared() -> bool:
            owners = {self.leases.owner(partition) for partition in range(PARTITIONS)}
            return "" not in owners and len(owners) == min(len(self.machines), PARTITIONS)

        await until("each machine has a partition", is_shared, timeout_seconds=90)
        for workspace in self.workspaces:
            await self._until_answered("POST", "/v1/workspaces", {"id": workspace})
        for each in self.history.subscribers:
            fields = {"url": self.where.url(each.endpoint), "event_types": ["*"]}
            await self._until_answered("POST", f"/v1/workspaces/{each.workspace}/endpoints", fields)

    async def _until_answered(self, method: str, path: str, fields: Any) -> None:
        async with asyncio.timeout(60):
            while True:
                with suppress(TimeoutError):
                    status, answer = await self._ask(method, path, json=fields)
                    if status in (200, 201, 409):  # 409: it was made, and the answer came too late
                        return
                    assert status in (503, 502, 504), (status, answer)
                await asyncio.sleep(0.2)

    async def _produce(self, workspace: str) -> None:
        chance = random.Random(f"{self.label}{workspace}")
        producer = Producer(self._ask_events, self._again, self.history.asked)
        number = 0
        while not self.stopped:
            size = 1 if chance.random() < 0.8 else chance.randint(2, 12)
            batch = [Event(f"{self.label}-{workspace}-{number + place}", workspace=workspace) for place in range(size)]
            number += size
            await (producer.one(batch[0]) if size == 1 else producer.array(batch))
            await asyncio.sleep(chance.uniform(0.02, 0.15))

    async def _again(self) -> None:
        await asyncio.sleep(0.1)

    async def _ask_events(self, path: str, body: Body, content_type: str) -> tuple[int, Any]:
        try:
            status, answer = await self._ask("POST", path, data=body, content_type=content_type)
        except TimeoutError as error:
            raise aiohttp.ClientError("no answer in time") from error
        if status in (500, 502, 504):
            self._last_failure = f"{status}: {answer}"
            raise aiohttp.ClientError(self._last_failure)
        return status, answer

    async def _ask(self, method: str, path: str, *, content_type: str = "", **sent: Any) -> tuple[int, Any]:
        machine = self.chance.choice(self.machines)
        headers = {"Authorization": f"Bearer {machine.token}"} | (
            {"Content-Type": content_type} if content_type else {}
        )
        async with self._session.request(method, machine.url + path, headers=headers, **sent) as answer:
            return answer.status, await answer.json(content_type=None)

    async def _until_going_on(self, began: float) -> None:
        """Until each endpoint has got something since, every machine is ready, and every partition owned."""
        healed = time.time()

        def goes_on() -> bool:
            since = {each.endpoint for each in self.history.received[-20_000:] if each.arrived_at > healed}
            return len(since) == len(self.history.subscribers)

        async with asyncio.timeout(90):
            for each in self.machines:
                await each.until_ready()
        await self.servers.until_healthy()
        await until(f"deliveries go on; the last failure was {self._last_failure}", goes_on, timeout_seconds=90)

    async def _until_delivered(self) -> None:
        taken = {each.event_id for each in self.history.asked if each.said == "taken"}

        def all_came() -> bool:
            came = Counter(
                event_id for _, event_id in {(e.endpoint, e.event_id) for e in self.history.received if e.answer == 200}
            )
            return all(came[event_id] == 2 for event_id in taken)

        with suppress(AssertionError):  # what is missing then is for the judge
            await until("everything delivered", all_came, timeout_seconds=60)

    # The faults

    def _struck(self) -> None:
        self.fault_times.append(time.time())

    def _one(self) -> Machine:
        """A machine, one that owns something if possible."""
        owners = {self.leases.owner(partition) for partition in range(PARTITIONS)}
        return self.chance.choice([each for each in self.machines if each.name in owners] or self.machines)

    async def kill_daemon(self) -> None:
        """SIGKILL; it comes back at once, or after somebody else took over."""
        machine = self._one()
        self._struck()
        await machine.kill()
        await asyncio.sleep(self.chance.choice((0.0, self.lease_seconds + 2)))
        await machine.start(until_ready=False)

    async def freeze_daemon(self) -> None:
        """Stop it beyond its lease, and let it go on."""
        machine = self._one()
        self._struck()
        machine.signal(signal.SIGSTOP)
        await asyncio.sleep(self.lease_seconds + self.chance.uniform(2.0, 5.0))
        machine.signal(signal.SIGCONT)

    async def empty_disk(self) -> None:
        """SIGKILL, and nothing left on its disk."""
        machine = self._one()
        self._struck()
        await machine.kill()
        machine.empty_disk()
        await asyncio.sleep(self.chance.choice((0.0, self.lease_seconds + 2)))
        await machine.start(until_ready=False)

    async def kill_nats(self) -> None:
        """SIGKILL a NATS server, and start it again a little later."""
        server = self.chance.choice(self.servers.servers)
        self._struck()
        server.kill()
        await asyncio.sleep(self.chance.uniform(0.5, 6.0))
        server.start()

    async def cut_link(self) -> None:
        """One daemon reaches no NATS server, for less or longer than its lease; then its connections end."""
        machine = self._one()
        self._struck()
        for relay in machine.relays:
            relay.cut()
        await asyncio.sleep(self.chance.choice((2.0, self.lease_seconds + 3)))
        for relay in machine.relays:
            if self.chance.random() < 0.5:
                relay.reset()
            relay.mend()

    async def set_clock(self) -> None:
        """A machine's wall clock is set, by up to two hours either way."""
        machine = self._one()
        self._struck()
        machine.set_clock(self.chance.uniform(-7200, 7200))
        await asyncio.sleep(self.chance.uniform(1.0, 3.0))
        machine.set_clock(0)

    async def leave_in_peace(self) -> None:
        """SIGTERM: nothing may come twice."""
        machine = self._one()
        assert 0 == await machine.stop(), machine.log()
        await machine.start(until_ready=False)


FAULTS: dict[str, Callable[[Rounds], Awaitable[None]]] = {
    "SIGKILL a daemon": Rounds.kill_daemon,
    "stop a daemon beyond its lease": Rounds.freeze_daemon,
    "SIGKILL a NATS server": Rounds.kill_nats,
    "empty a daemon's disk": Rounds.empty_disk,
    "cut a daemon's link": Rounds.cut_link,
    "set a clock": Rounds.set_clock,
    "SIGTERM a daemon": Rounds.leave_in_peace,
}


async def run_rounds(
    *,
    rounds: int,
    per_cluster: int,
    seed: int,
    lease_seconds: float,
    faults: list[str] | None = None,
    keep: Path | None = None,
) -> Total:
    """So many rounds, on one cluster after another."""
    total = Total()
    chosen = faults or list(FAULTS)
    begun = time.monotonic()
    async with witness() as where:
        done = 0
        while done < rounds:
            now = min(per_cluster, rounds - done)
            await _run_cluster(where, now, seed * 1000 + done, lease_seconds, chosen, total, keep)
            done += now
            print(
                f"{done} rounds, {time.monotonic() - begun:.0f} s: {total.accepted} accepted, "
                f"{total.received} requests, "
                f"{total.takeovers} takeovers, {total.repeats} repeats, {len(total.violations)} violations",
                file=sys.stderr,
                flush=True,
            )
    return total


async def _run_cluster(
    where: Witness, rounds: int, seed: int, lease_seconds: float, faults: list[str], total: Total, keep: Path | None
) -> None:
    config = CONFIG.format(timeout_seconds=min(5, lease_seconds - 4))
    with tempfile.TemporaryDirectory(prefix="webhookd-cluster-") as name:
        folder = Path(name)
        async with (
            nats_servers(folder, partitions=PARTITIONS) as servers,
            machines(
                servers, folder, partitions=PARTITIONS, lease_seconds=lease_seconds, config=config, with_clocks=True
            ) as cluster,
        ):
            leases = Leases(await servers.client(), {each.url: each.name for each in cluster})
            following = asyncio.create_task(leases.follow())
            try:
                this = Rounds(servers, cluster, where, leases, seed, lease_seconds)
                before = len(total.violations)
                try:
                    await this.run(rounds, faults)
                except BaseException:
                    for each in cluster:
                        print(f"--- {each.name}\n{each.log()}", file=sys.stderr)
                    raise
                await this.judge(total)
                for violation in total.violations[before : before + 20]:
                    print(f"    seed {seed}: {violation.rule}: {violation.text}", flush=True)
                if len(total.violations) > before:
                    this.keep(folder, keep)
            finally:
                following.cancel()
                with suppress(asyncio.CancelledError):
                    await following


def report(total: Total, lease_seconds: float, version: str) -> str:
    """The table that goes into RESULTS.md."""
    lines = [
        f"{sum(total.faults.values())} rounds, nats-server {version}, lease {lease_seconds:g} s: "
        f"{total.accepted} events accepted, {total.received} requests, {total.takeovers} takeovers",
        f"lost {total.count('lost', 'unaccounted', 'altered')}, reordered {total.count('reordered', 'overlapping')}, "
        f"by a non-owner {total.count('by_another')}, repeated beyond the promise "
        f"{total.count('repeated', 'answers')}, "
        f"paused longer than {lease_seconds + 5:g} s {total.count('paused')}; repeats {total.repeats}",
        "",
        f"{'fault':<32} rounds  longest pause of an endpoint: median, most",
    ]
    for name, count in sorted(total.faults.items()):
        pauses = total.pauses[name]
        lines.append(f"{name:<32} {count:>6}  {statistics.median(pauses):>27.1f} s  {max(pauses):>6.1f} s")
    return "\n".join(lines)
