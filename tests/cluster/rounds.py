"""Rounds under load, each with one random fault, judged by the checker of `tests/crash`.

Four workspaces in four partitions, two endpoints each: one quick, one that fails now and then.  A producer for each
workspace sends steadily, singly and in batches, to a random machine, and asks another one when it hears nothing.  After
so many rounds everything comes to rest and is judged.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import aiohttp

from tests.cluster.faults import FAULTS, Faults
from tests.cluster.machines import Machine, machines, until
from tests.cluster.nats_servers import Servers, nats_servers
from tests.cluster.truth import Accepted, Leases, final, read_stream
from tests.crash.case import Case, Violation
from tests.crash.checker import judge
from tests.crash.history import History, Received, Subscriber, Terms
from tests.crash.producer import Body, Event, Producer
from tests.crash.takeovers import pauses
from tests.crash.witness import Reply, Witness, witness
from webhookd.cluster.names import partition_of

PARTITIONS = 4
WORKSPACES = 4
KINDS = ("quick", "flaky")
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
START_SECONDS = 5.0  # from the end of a lease to the next owner's deliveries
# A stream whose leader was killed gets another after 4 to 9 s (NATS' election timeouts), and is written from then on.
ELECTION_SECONDS = 9.0


@dataclass(slots=True)
class Total:
    """What rounds came to.  `pauses`: for each fault, the longest that an endpoint got nothing, in seconds.

    `failed`: clusters that could not be judged to the end, each with the reason.
    """

    faults: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    received: int = 0
    repeats: int = 0
    takeovers: int = 0
    pauses: dict[str, list[float]] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        return sum(self.faults.values())

    def count(self, *rules: str) -> int:
        return sum(each.rule in rules for each in self.violations)

    def add(self, other: Total) -> None:
        """Take what another cluster's rounds came to."""
        self.faults += other.faults
        self.accepted += other.accepted
        self.received += other.received
        self.repeats += other.repeats
        self.takeovers += other.takeovers
        for name, seconds in other.pauses.items():
            self.pauses.setdefault(name, []).extend(seconds)
        self.violations += other.violations
        self.failed += other.failed


def progress(total: Total, seconds: float) -> str:
    """One line on how far it is."""
    return (
        f"{total.rounds} rounds, {seconds:.0f} s: {total.accepted} accepted, {total.received} requests, "
        f"{total.takeovers} takeovers, {total.repeats} repeats, {len(total.violations)} violations, "
        f"{len(total.failed)} clusters not judged"
    )


def report(total: Total, lease_seconds: float, version: str) -> str:
    """The table that goes into RESULTS.md."""
    lines = [
        f"{total.rounds} rounds, nats-server {version}, lease {lease_seconds:g} s: "
        f"{total.accepted} events accepted, {total.received} requests, {total.takeovers} takeovers",
        f"lost {total.count('lost', 'unaccounted', 'altered')}, reordered {total.count('reordered')}, two at once "
        f"{total.count('overlapping')}, by a non-owner {total.count('by_another')}, repeated beyond the promise "
        f"{total.count('repeated', 'answers')}, paused beyond the promise {total.count('paused')}; "
        f"repeats {total.repeats}; clusters not judged {len(total.failed)}",
        "",
        f"{'fault':<32} rounds  longest pause of an endpoint: median, most",
    ]
    for name, count in sorted(total.faults.items()):
        pauses = total.pauses[name]
        lines.append(f"{name:<32} {count:>6}  {statistics.median(pauses):>27.1f} s  {max(pauses):>6.1f} s")
    return "\n".join([*lines, *total.failed])


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
        self.chance = random.Random(seed)  # of the load
        self.label = f"s{seed}"
        self.workspaces = [f"w{number}" for number in range(WORKSPACES)]
        terms = Terms(
            repeat_seconds=SAVED_EVERY_SECONDS + SLACK_SECONDS,
            pause_seconds=lease_seconds + START_SECONDS,
            outage_seconds=ELECTION_SECONDS + START_SECONDS + 1,
        )
        self.history = History(
            terms, [Subscriber(f"{each}-{kind}", each, ("*",)) for each in self.workspaces for kind in KINDS]
        )
        self.history.received = where.begin(Manners(random.Random(seed + 1)))
        self.faults = Faults(servers, cluster, leases, random.Random(f"faults {seed}"), lease_seconds)
        self.done: list[tuple[str, float]] = []  # each fault and when it began
        self.accepted: Sequence[Accepted] = ()
        self.stopped = False
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_SECONDS))
        self._last_failure = ""

    async def run(self, rounds: int, faults: Sequence[str]) -> None:
        """Set up, let the load run, do one fault after another, come to rest."""
        await self._set_up()
        load = [asyncio.create_task(self._produce(each)) for each in self.workspaces]
        try:
            await asyncio.sleep(1.0)
            for _ in range(rounds):
                name = self.faults.chance.choice(faults)
                began = time.time()
                await FAULTS[name](self.faults)
                await self._until_going_on()
                self.done.append((name, began))
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

    async def judge(self) -> Total:
        """What this cluster's rounds came to."""
        self.history.outages = self.faults.outages
        for subscriber in self.history.subscribers:
            partition = partition_of(subscriber.workspace, PARTITIONS)
            self.history.takeovers[subscriber.endpoint] = self.leases.takeovers(
                partition, self.faults.struck, self.faults.outages, ELECTION_SECONDS + SAVED_EVERY_SECONDS
            )
        client = await self.servers.client()
        self.accepted = [each for number in range(PARTITIONS) for each in await read_stream(client, number)]
        tables = final(self.accepted, self.history)
        judgement = judge(self.history, tables)
        total = Total(Counter(), judgement.accepted, judgement.received, judgement.repeats)
        total.takeovers = sum(len(each) - 1 for each in self.history.takeovers.values()) // len(KINDS)
        total.violations = judgement.violations
        self._count_pauses(total, Case(self.history, tables))
        return total

    async def keep(self, folder: Path, place: Path) -> None:
        """Copy what helps to explain a violation: logs, faults, takeovers, requests, answers, streams, replicas."""
        place.mkdir(parents=True, exist_ok=True)
        for server in self.servers.servers:
            with suppress(aiohttp.ClientError, TimeoutError):
                (place / f"{server.name}.json").write_bytes(await self.servers.replicas(server))
        for log in folder.glob("*.log"):
            shutil.copy(log, place)
        lines = [f"{at:.3f} fault {name}" for name, at in self.done]
        lines += [f"{at:.3f} struck" for at in self.faults.struck]
        for endpoint, found in self.history.takeovers.items():
            lines += [f"{each.at:.3f} {endpoint} to {each.machine}, since {each.unsaved_since:.3f}" for each in found]
        for each in self.history.received:
            ended = "never" if each.ended_at is None else f"{each.ended_at:.3f}"
            what = f"{each.endpoint} got {each.event_id} ({each.attempt}) from {each.sender}"
            lines.append(f"{each.arrived_at:.3f} {what}: {each.answer} at {ended}")
        for asked in self.history.asked:
            answered = "never" if asked.answered_at is None else f"{asked.answered_at:.3f}"
            lines.append(f"{asked.asked_at:.3f} asked {asked.event_id} ({asked.request}): {asked.said} at {answered}")
        (place / "history.txt").write_text("\n".join(sorted(lines)))
        stream = [json.dumps([each.partition, each.sequence, each.event_id]) for each in self.accepted]
        (place / "streams.txt").write_text("\n".join(stream))

    def _count_pauses(self, total: Total, case: Case) -> None:
        found = [(after.arrived_at, seconds) for _, after, seconds in pauses(case)]
        bounds = [began for _, began in self.done] + [math.inf]
        for (name, began), end in zip(self.done, bounds[1:], strict=True):
            total.faults[name] += 1
            longest = max((min(seconds, at - began) for at, seconds in found if began <= at <= end), default=0.0)
            total.pauses.setdefault(name, []).append(longest)

    async def _set_up(self) -> None:
        def is_shared() -> bool:
            owners = self.leases.owners()
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

    async def _until_going_on(self) -> None:
        """Until each endpoint has got something since, every machine is ready, and every server."""
        healed = time.time()

        def goes_on() -> bool:
            lately = takewhile(lambda each: each.arrived_at > healed, reversed(self.history.received))
            return len({each.endpoint for each in lately}) == len(self.history.subscribers)

        async with asyncio.timeout(90):
            for each in self.machines:
                await each.until_ready()
        await self.servers.until_healthy()
        await until(f"deliveries go on; the last failure was {self._last_failure}", goes_on, timeout_seconds=90)

    async def _until_delivered(self) -> None:
        """What is missing after a minute is for the judge."""
        taken = {each.event_id for each in self.history.asked if each.said == "taken"}
        for _ in range(60):
            came = {(each.endpoint, each.event_id) for each in self.history.received if each.answer == 200}
            counts = Counter(event_id for _, event_id in came)
            if all(counts[event_id] == len(KINDS) for event_id in taken):
                return
            await asyncio.sleep(1.0)


def run_cluster(rounds: int, seed: int, lease_seconds: float, faults: Sequence[str], keep: Path | None = None) -> Total:
    """So many rounds on one cluster; what explains a violation is copied to a folder in `keep`."""
    return asyncio.run(_run_cluster(rounds, seed, lease_seconds, faults, keep))


async def _run_cluster(rounds: int, seed: int, lease_seconds: float, faults: Sequence[str], keep: Path | None) -> Total:
    config = CONFIG.format(timeout_seconds=min(5, lease_seconds - 4))
    with tempfile.TemporaryDirectory(prefix="webhookd-cluster-") as name:
        folder = Path(name)
        async with (
            witness() as where,
            nats_servers(folder, partitions=PARTITIONS) as servers,
            machines(
                servers, folder, partitions=PARTITIONS, lease_seconds=lease_seconds, config=config, with_clocks=True
            ) as cluster,
        ):
            leases = Leases(await servers.client(), {each.url: each.name for each in cluster}, PARTITIONS)
            following = asyncio.create_task(leases.follow())
            this = Rounds(servers, cluster, where, leases, seed, lease_seconds)
            total, judged = Total(), False
            try:
                await this.run(rounds, faults)
                total, judged = await this.judge(), True
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the other clusters go on
                why = f"seed {seed}, after {len(this.done)} rounds: {type(error).__name__}: {error}"
                total.failed.append(why[:400])
            finally:
                following.cancel()
                with suppress(asyncio.CancelledError):
                    await following
            if keep is not None and (total.violations or not judged):
                await this.keep(folder, keep / this.label)
            return total
