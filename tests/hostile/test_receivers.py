"""Every bad receiver, over http and https: each ends in time with its own reason, and disturbs no other."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.support.bad_receivers import ALL, BAD_RECEIVERS, GZIP_BOMB, KINDS
from webhookd.clock import SystemClock
from webhookd.models import Outcome, Reason, Request
from webhookd.sender.client import KEPT_OF_SUCCESS_BYTES, READ_BYTES, HttpSender
from webhookd.sender.egress import DnsResolver, Egress

# Only those that can't but be late get the short time: what the others do takes as long as the machine takes.
TIMEOUT_SECONDS = {True: 2.0, False: 5.0}
SLACK_SECONDS = 0.25
AT_ONCE = {True: 24, False: 8}
TRIES = 3
ROOT = Path(__file__).parents[2]
FLOODS = [name for name in BAD_RECEIVERS if name.endswith("without end") and "slowly" not in name]
FLOODS += ["300 MB", "gzip bomb", "enormous header"]
EACH = [
    pytest.param(scheme, name, id=f"{kind} | {scheme}, {name}")
    for scheme, bad_receivers in ALL.items()
    for kind, named in KINDS.items()
    for name in named
    if name in bad_receivers
]


@dataclass(frozen=True, slots=True)
class Receivers:
    ports: dict[str, dict[str, int]]
    tls: ssl.SSLContext

    def url(self, scheme: str, name: str) -> str:
        return f"{scheme}://127.0.0.1:{self.ports[scheme][name]}/hook?secret=1"


@dataclass(frozen=True, slots=True)
class Run:
    outcome: Outcome
    seconds: float
    allowed_seconds: float


@dataclass(frozen=True, slots=True)
class Everything:
    """All bad receivers by scheme and name, and what a healthy endpoint got meanwhile."""

    bad_receivers: dict[tuple[str, str], Run]
    beside: list[Outcome]


@pytest.fixture(scope="module")
def receivers() -> Iterator[Receivers]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.bad_receivers"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    started = json.loads(process.stdout.readline())
    yield Receivers(started["ports"], ssl.create_default_context(cadata=started["authority"]))
    process.stdin.close()
    process.stdout.close()
    assert 0 == process.wait(timeout=10)


@pytest.fixture(scope="module")
def everything(receivers: Receivers) -> Everything:
    return asyncio.run(_run_all(receivers))


@pytest.fixture
def runs(everything: Everything) -> dict[tuple[str, str], Run]:
    return everything.bad_receivers


def _is_late(scheme: str, name: str) -> bool:
    return ALL[scheme][name].reason is Reason.TIMEOUT


def _sender(receivers: Receivers, *, late: bool) -> HttpSender:
    egress = Egress([ip_network("127.0.0.0/8")], allow_http=True, resolver=DnsResolver())
    return HttpSender(egress, timeout_seconds=TIMEOUT_SECONDS[late], clock=SystemClock(), ssl_context=receivers.tls)


async def _run_all(receivers: Receivers) -> Everything:
    senders = {late: _sender(receivers, late=late) for late in (True, False)}
    slots = {late: asyncio.Semaphore(number) for late, number in AT_ONCE.items()}
    beside: list[Outcome] = []

    async def run(scheme: str, name: str) -> tuple[tuple[str, str], Run]:
        late = _is_late(scheme, name)
        async with slots[late]:
            return (scheme, name), await _run(senders[late], receivers, scheme, name)

    async def keep_delivering() -> None:
        while True:
            beside.append((await _run(senders[False], receivers, "http", "healthy")).outcome)
            await asyncio.sleep(0.01)

    neighbour = asyncio.create_task(keep_delivering())
    try:
        bad_receivers = dict(await asyncio.gather(*(run(*which.values) for which in EACH)))
    finally:
        neighbour.cancel()
        await asyncio.gather(neighbour, return_exceptions=True)
        for sender in senders.values():
            await sender.close()
    return Everything(bad_receivers, beside)


async def _run(sender: HttpSender, receivers: Receivers, scheme: str, name: str) -> Run:
    """One attempt; again if it took too long, because a busy machine takes its time too."""
    body = b'"' + b"x" * (ALL[scheme][name].body_bytes - 2) + b'"'
    request = Request(receivers.url(scheme, name), (("Content-Type", "application/json"),), body, False)
    allowed_seconds = TIMEOUT_SECONDS[_is_late(scheme, name)] + SLACK_SECONDS
    runs = []
    for _ in range(TRIES):
        started = time.monotonic()
        outcome = await sender.post(request)
        runs.append(Run(outcome, time.monotonic() - started, allowed_seconds))
        if runs[-1].seconds < allowed_seconds:
            break
    return runs[-1]


@pytest.mark.parametrize(("scheme", "name"), EACH)
def test_each_receiver_leads_to_its_own_outcome(runs: dict[tuple[str, str], Run], scheme: str, name: str) -> None:
    """The reason and the status are the expected ones, and the attempt ends within its deadline."""
    run, bad_receiver = runs[scheme, name], ALL[scheme][name]
    assert (bad_receiver.reason, bad_receiver.status) == (run.outcome.reason, run.outcome.status), run.outcome
    assert run.seconds < run.allowed_seconds


@pytest.mark.parametrize(("scheme", "name"), EACH)
def test_what_is_kept_is_bounded_and_says_no_secret(runs: dict[tuple[str, str], Run], scheme: str, name: str) -> None:
    """At most 16 KiB of a failure, 1 KiB of a success, 64 KiB of headers; the detail is one line without the query."""
    outcome = runs[scheme, name].outcome
    limit = KEPT_OF_SUCCESS_BYTES if outcome.delivered else READ_BYTES
    assert len(outcome.response_body) <= limit
    assert sum(len(name) + len(value) for name, value in outcome.response_headers) <= 65536
    assert outcome.detail
    assert outcome.detail.isprintable()
    assert len(outcome.detail) < 200
    assert "secret" not in outcome.detail
    assert not outcome.connection_retried


def test_a_healthy_endpoint_beside_them_gets_everything(everything: Everything) -> None:
    """Through the same sender, all the while, every attempt is delivered."""
    assert len(everything.beside) > 20
    assert all(outcome.delivered and not outcome.connection_retried for outcome in everything.beside)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_gzip_bomb_is_kept_as_it_came(runs: dict[tuple[str, str], Run], scheme: str) -> None:
    """Bodies are never decompressed."""
    outcome = runs[scheme, "gzip bomb"].outcome
    assert (GZIP_BOMB[:KEPT_OF_SUCCESS_BYTES], True) == (outcome.response_body, outcome.truncated)


@pytest.mark.parametrize(
    ("name", "kept"), [("300 MB", 1024), ("body without end", 1024), ("failure's body without end", 16384)]
)
def test_a_long_body_is_cut(runs: dict[tuple[str, str], Run], name: str, kept: int) -> None:
    """What is kept of a body that goes on, and that it says so."""
    outcome = runs["http", name].outcome
    assert (kept, True) == (len(outcome.response_body), outcome.truncated)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_costs_the_loop_no_more_than_a_moment(receivers: Receivers, scheme: str, name: str) -> None:
    """No turn of the event loop takes more than 50 ms of the processor, whatever a receiver sends at full speed.

    The best of three: what the machine does beside it must not count.
    """
    turns = []
    for _ in range(3):
        turns.append(await _longest_turn(receivers, scheme, name))
        if turns[-1] < 0.05:
            break
    assert min(turns) < 0.05


async def _longest_turn(receivers: Receivers, scheme: str, name: str) -> float:
    """The longest turn of the event loop, in seconds of the processor, while one receiver floods us."""
    sender = _sender(receivers, late=_is_late(scheme, name))
    longest, done = 0.0, False

    async def watch() -> None:
        nonlocal longest
        while not done:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0)
    await _run(sender, receivers, scheme, name)
    done = True
    await watcher
    await sender.close()
    return longest
