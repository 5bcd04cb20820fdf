"""Power cuts: what the disk may hold after each write of a daemon at work, opened again and judged.

    python -m tests.crash.power_loss [IMAGES]

A real daemon accepts events and delivers them while strace records every write, truncation, removal and sync of its
database's files, and in the same order what it promised: each 202, each request to a receiver.  Then the record is
replayed, and after each step the power goes: everything synced is on the disk, and of the rest nothing, all, some, or
some of it torn at the 512-byte sectors.  Each such image is opened and held against what had been promised by then:

- the database is sound, and no event that was answered with 202 is missing, nor any of its deliveries;
- at most one attempt per lane is not traced: that one will be repeated;
- what is finished came before what still waits in its lane, so the order will hold.

On a few of the images a daemon is started as well, and everything arrives.  The same with `synchronous=NORMAL` has to
lose events: that shows that the test can tell.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash import disk_trace
from tests.crash.disk_image import Disk, Image
from tests.crash.disk_trace import Accepted, Attempted, Step, Sync
from tests.crash.supervisor import why_no_kill_points
from tests.support import process
from tests.support.process import Daemon, daemon
from tests.support.receiver import Receiver, receiver
from tests.support.results import recorded
from webhookd.store import connection

ENOUGH_IMAGES = 12_000
STARTS = 24
PRODUCERS = 3
CONFIG = """
[egress]
allow = ["127.0.0.0/8"]
[delivery]
retry_seconds = [0.02, 0.02]
[budget]
limit = 1000000
[log]
format = "json"
"""
LANES = 3
ENDPOINTS = {"well": 1, "ill": 1, "slow": 1, "lanes": LANES, "ill-lanes": LANES}  # and how many lanes each has
MEMORY = Path("/dev/shm")
DRAIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Promised:
    """What had been said by a moment: the accepted events, and how many requests had left for each endpoint."""

    accepted: tuple[str, ...]
    attempts: dict[str, int]


@dataclass
class Result:
    images: int = 0
    started: int = 0
    lost: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    most_repeats: int = 0
    examples: list[str] = field(default_factory=list)

    def note(self, faults: list[str]) -> None:
        self.broken.update(fault.split(":", 1)[0] for fault in faults)
        self.lost += any(fault.startswith("lost") for fault in faults)
        self.examples += faults[: max(0, 10 - len(self.examples))]


# The record
async def record(folder: Path, where: Receiver, synchronous: str, rounds: int) -> list[Step]:
    """Let a daemon work for so many rounds under strace, stop it, and read what it did."""
    state_dir, trace = folder / "state", folder / "trace"
    d, tracer = await traced(state_dir, trace, synchronous)
    try:
        for name, lanes in ENDPOINTS.items():
            fields = {"url": f"{where.url}/{name}", "event_types": ["*"]}
            if lanes > 1:
                fields["ordering"] = {"key": "contact.id", "lanes": lanes}
            await d.call("POST", "/v1/endpoints", fields, expect=201)
        await asyncio.gather(*(produce(d, producer, rounds) for producer in range(PRODUCERS)))
        await drained(d)
    finally:
        assert 0 == await d.stop()
        await d.session.close()
        await asyncio.to_thread(tracer.wait)
    return disk_trace.read(trace, state_dir)


async def traced(state_dir: Path, trace: Path, synchronous: str) -> tuple[Daemon, subprocess.Popen[bytes]]:
    """A daemon that is ready, all it does written down by strace from its beginning on; strace ends with it."""
    program = ("-m", "tests.crash.eager", synchronous)
    d = await process.start(state_dir, CONFIG, program=program, alive=False)
    strace = shutil.which("strace")
    assert strace is not None
    tracer = subprocess.Popen(  # noqa: ASYNC220 - it returns at once, and is waited for in a thread
        [
            strace, "-f", "-q", "-yy", "-xx", "-s", "1000000", "-p", str(d.process.pid), "-o", str(trace),
            "-e", f"trace={disk_trace.CALLS}", "-e", "signal=none",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert await process.until_ready(d), d.log_file.read_text()
    return d, tracer


async def produce(d: Daemon, producer: int, rounds: int) -> None:
    for number in range(rounds):
        name = f"e{producer}-{number}"
        event = {"event_type": "message.sent", "text": "x" * 300, "contact": {"id": number % 4}}
        one = event | {"event_id": name}
        batch = [event | {"event_id": f"{name}-{part}"} for part in range(4)]
        await d.call("POST", "/v1/events", batch if number % 5 == 0 else one, expect=202)


async def drained(d: Daemon) -> None:
    async with asyncio.timeout(DRAIN_SECONDS):
        while (await d.call("GET", "/v1/status"))["backlog"]["waiting"]:
            await asyncio.sleep(0.02)


def manners() -> Receiver:
    """`ill` ones say 500 two times of three, so that attempts fail and deliveries are dropped."""
    turns = itertools.count(1)
    return Receiver(lambda name: 500 if name.startswith("ill") and next(turns) % 3 else 200)


# The images
def images(steps: list[Step], seed: int) -> Iterator[tuple[Image, Promised]]:
    """Every image of a record with what had been promised by then; no two are the same.

    The same seed gives the same images.  Each is to be used before the next is asked for.
    """
    chance = random.Random(seed)
    disk = Disk()
    accepted: list[str] = []
    attempts: Counter[str] = Counter()
    seen: set[tuple[object, ...]] = set()
    for number, step in enumerate(steps):
        if isinstance(step, Accepted):
            accepted += step.event_ids
        elif isinstance(step, Attempted):
            attempts[step.endpoint] += 1
        elif isinstance(step, Sync):
            disk.sync(step)
        else:
            disk.change(number, step)
        following = steps[number + 1] if number + 1 < len(steps) else None
        if isinstance(following, Accepted | Attempted):
            continue  # the power goes as late as possible: with as much promised as can be
        for image in disk.images(chance):
            signature = (*image.signature, len(accepted), attempts.total())
            if signature not in seen:
                seen.add(signature)
                yield image, Promised(tuple(accepted), dict(attempts))


# The judgement
def judge(image: Image, promised: Promised, folder: Path) -> tuple[list[str], int]:
    """The faults of an image, and the most attempts that would be repeated at one endpoint."""
    image.lay_out(folder)
    path = folder / "webhookd.db"
    if not path.exists():
        return ([f"lost: the file, with {len(promised.accepted)} events"] if promised.accepted else []), 0
    try:
        with closing(sqlite3.connect(path)) as db:
            return _judge(db, promised)
    except sqlite3.DatabaseError as error:
        return [f"unsound: {error}"], 0


def _judge(db: sqlite3.Connection, promised: Promised) -> tuple[list[str], int]:
    sound = db.execute("PRAGMA integrity_check").fetchall()
    if sound != [("ok",)]:
        return [f"unsound: {sound[0][0]}"], 0
    if db.execute("PRAGMA user_version").fetchone()[0] < len(connection._migrations()):  # it was just being made
        return ([f"lost: all {len(promised.accepted)} events"] if promised.accepted else []), 0
    faults = _lost(db, promised)
    traced: Counter[str] = Counter()
    for endpoint, attempts, last_finished, first_waiting, unequal in db.execute(
        "SELECT e.url, coalesce(sum(d.attempt_count), 0), max(d.seq) FILTER (WHERE d.state <> 0), "
        "min(d.seq) FILTER (WHERE d.state = 0), sum(d.attempt_count <> "
        "(SELECT count(*) FROM attempts a WHERE a.delivery_seq = d.seq) + (d.final_attempt IS NOT NULL)) "
        "FROM endpoints e LEFT JOIN deliveries d ON d.endpoint_seq = e.seq GROUP BY e.seq, d.lane_hash"
    ):
        traced[endpoint.rsplit("/", 1)[1]] += attempts
        if first_waiting is not None and last_finished is not None and first_waiting < last_finished:
            faults.append(f"reordered: {endpoint} waits for {first_waiting}, and {last_finished} is finished")
        if unequal:
            faults.append(f"halved: {endpoint} has {unequal} deliveries whose attempts are not all there")
    most_repeats = 0
    for name, count in promised.attempts.items():
        repeats = count - traced[name]
        most_repeats = max(most_repeats, repeats)
        if repeats > ENDPOINTS[name]:
            faults.append(f"repeated: {repeats} attempts of {name} aren't traced, it has {ENDPOINTS[name]} lanes")
    return faults, most_repeats


def _lost(db: sqlite3.Connection, promised: Promised) -> list[str]:
    found = dict(
        db.execute(
            "SELECT v.id, count(d.seq) FROM events v LEFT JOIN deliveries d ON d.event_seq = v.seq GROUP BY v.seq"
        ).fetchall()
    )
    lost = [each for each in promised.accepted if found.get(each) != len(ENDPOINTS)]
    return [f"lost: {len(lost)} of {len(promised.accepted)} events, {lost[0]} the first"] if lost else []


async def start_on(image: Image, promised: Promised, folder: Path, where: Receiver) -> list[str]:
    """Start a daemon on an image and let it come to rest; the faults."""
    state_dir = folder / "state"
    state_dir.mkdir()
    image.lay_out(state_dir)
    where.received.clear()
    async with daemon(state_dir, CONFIG) as d:
        if d.process.returncode is not None:
            return [f"dead: exit {d.process.returncode}: {d.log_file.read_text()[-500:]}"]
        await drained(d)
    with closing(sqlite3.connect(state_dir / "webhookd.db")) as db:
        faults, _ = _judge(db, Promised(promised.accepted, {}))
        rows = db.execute(
            "SELECT e.url, d.lane_hash, v.id FROM deliveries d JOIN events v ON v.seq = d.event_seq "
            "JOIN endpoints e ON e.seq = d.endpoint_seq ORDER BY d.seq"
        ).fetchall()
    order: dict[tuple[str, int | None], list[str]] = defaultdict(list)
    for url, lane_hash, event_id in rows:
        order[url.rsplit("/", 1)[1], lane_hash].append(event_id)
    for (name, _), expected in order.items():
        arrived = [each for each in dict.fromkeys(where.ids(name)) if each in expected]
        if arrived != expected[len(expected) - len(arrived) :]:
            faults.append(f"reordered: {name} got {arrived}")
    return faults


# All of it
async def cut(synchronous: str, most_images: int, starts: int, *, rounds: int, seed: int = 1) -> Result:
    """Record, replay and judge at least `most_images` images, or as many as the record gives, and start on some."""
    result = Result()
    chance = random.Random(seed)
    async with receiver() as where:
        where.answer = manners().answer
        with tempfile.TemporaryDirectory(prefix="webhookd-power-", dir=MEMORY) as scratch:
            folder = Path(scratch)
            steps = await record(folder, where, synchronous, rounds)
            where.answer = lambda name: 200
            count = sum(1 for _ in images(steps, seed))
            judged = set(chance.sample(range(count), min(most_images, count)))
            started = set(chance.sample(sorted(judged), min(starts, len(judged))))
            for number, (image, promised) in enumerate(images(steps, seed)):
                if number in judged:
                    with tempfile.TemporaryDirectory(dir=folder) as place:
                        faults, repeats = await asyncio.to_thread(judge, image, promised, Path(place))
                    result.images += 1
                    result.note(faults)
                    result.most_repeats = max(result.most_repeats, repeats)
                if number in started:
                    with tempfile.TemporaryDirectory(dir=folder) as place:
                        result.note(await start_on(image, promised, Path(place), where))
                    result.started += 1
    return result


def line(name: str, result: Result, seconds: float) -> str:
    broken = ", ".join(f"{kind} {count}" for kind, count in sorted(result.broken.items())) or "none"
    return (
        f"{name:7} {result.images} images, a daemon started on {result.started}: faults {broken}; "
        f"most repeats per endpoint {result.most_repeats}  {seconds:.0f} s"
    )


def main() -> int:
    """Run and print; 1 if a promise was broken, or if NORMAL broke none."""
    reason = why_no_kill_points()
    if reason is not None:
        print(reason)
        return 2
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else ENOUGH_IMAGES
    results = {}
    for name, most_images, starts, rounds in (("FULL", wanted, STARTS, 20), ("NORMAL", wanted // 8, 0, 8)):
        began = time.monotonic()
        results[name] = result = asyncio.run(cut(name, most_images, starts, rounds=rounds))
        print(line(name, result, time.monotonic() - began), flush=True)
        for example in result.examples[:5]:
            print("    " + example, flush=True)
    return 0 if not results["FULL"].broken and results["NORMAL"].lost else 1


if __name__ == "__main__":
    sys.exit(recorded(main))
