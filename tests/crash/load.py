"""The load under which daemons are killed: producers of three kinds, receivers of five, somebody who enables.

An event type in nine is rare, and the endpoints that misbehave want that one alone, so that what waits for them stays
within what a round can bring to rest.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.crash.history import Enabled, History, Received, Subscriber
from tests.crash.producer import Event, Producer
from tests.crash.witness import Reply
from webhookd.models import Json

COMMON = (
    "conversation.opened",
    "conversation.closed",
    "contact.created",
    "contact.updated",
    "contact.assignee.updated",
    "contact.tag.updated",
    "message.received",
    "message.sent",
)
RARE = "comment.created"
PER_WORKSPACE = 10
# Two in each workspace, a fifth of all.
KINDS = (
    ("failing", "slow"),
    ("silent", "failing"),
    ("resetting", "slow"),
    ("failing", "resetting"),
    ("silent", "flaky"),
)
FLAKY_SECONDS = 5.0
AN_EVENT_IN = 25
CONTACTS = 12  # one event in so many has none
LANES = 4


def subscribers(endpoints: int) -> list[Subscriber]:
    """So many endpoints, ten to a workspace; the name says how each behaves."""
    made = []
    for number in range(endpoints):
        workspace, place = divmod(number, PER_WORKSPACE)
        kinds = KINDS[workspace % len(KINDS)]
        kind = kinds[place] if place < len(kinds) else "well"
        wanted = (RARE,) if place < len(kinds) else (COMMON[place - 2], COMMON[(place + 1) % len(COMMON)])
        if place == PER_WORKSPACE - 1:
            wanted = ("*",)
        made.append(Subscriber(f"w{workspace}-{place}-{kind}", f"w{workspace}", wanted))
    return made


def ordering(name: str) -> Any:
    """How the endpoint of a name orders its events: every other one by key."""
    return {"key": "contact.id", "lanes": LANES} if int(name.split("-")[1]) % 2 else "endpoint"


@dataclass
class Manners:
    chance: random.Random
    healed: bool = False

    def __call__(self, received: Received) -> Reply:
        kind = "well" if self.healed else received.endpoint.rsplit("-", 1)[1]
        bad = self.chance.random() < 0.6
        if kind == "failing":
            return Reply(500 if bad else 200)
        if kind == "silent":
            return Reply(None if bad else 200)
        if kind == "resetting":
            return Reply(0 if bad else 200, close=True)
        if kind == "slow":
            return Reply(200, after_seconds=self.chance.uniform(0.05, 0.3))
        if kind == "flaky":
            return Reply(503 if time.monotonic() % (2 * FLAKY_SECONDS) < FLAKY_SECONDS else 200)
        return Reply()


@dataclass
class Producers:
    """Three producers per workspace, until `stopped`: single events, arrays, pipes."""

    producer: Producer
    chance: random.Random
    label: str
    stopped: bool = False
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    async def run(self, workspaces: list[str]) -> None:
        """Produce; when stopped, each ends with what it was about to send."""
        kinds = (self._singly, self._arrays, self._pipes)
        async with asyncio.TaskGroup() as group:
            for workspace in workspaces:
                for kind in kinds:
                    group.create_task(kind(workspace))

    async def _singly(self, workspace: str) -> None:
        while not self.stopped:
            await self.producer.one(self._event(workspace))
            await asyncio.sleep(self.chance.uniform(0.0, 0.1))

    async def _arrays(self, workspace: str) -> None:
        while not self.stopped:
            await self.producer.array(self._events(workspace, 20))
            await asyncio.sleep(self.chance.uniform(0.1, 0.6))

    async def _pipes(self, workspace: str) -> None:
        while not self.stopped:
            await self.producer.pipe(self._events(workspace, 40), pause_seconds=self.chance.uniform(0.0, 0.06))
            await asyncio.sleep(self.chance.uniform(0.1, 0.6))

    def _events(self, workspace: str, most: int) -> list[Event]:
        return [self._event(workspace) for _ in range(self.chance.randint(1, most))]

    def _event(self, workspace: str) -> Event:
        event_type = RARE if self.chance.randrange(AN_EVENT_IN) == 0 else self.chance.choice(COMMON)
        size = self.chance.choice((0, 100, 400, 12_000)) if self.chance.random() < 0.1 else 50
        number = next(self._numbers)
        return Event(f"{self.label}-{number}", event_type, workspace, size, number % CONTACTS or None)


@dataclass
class Enabler:
    """Looks again and again for endpoints that the budget has stopped; enables some, or all when `eager`."""

    ask: Callable[[str, str, Any], Awaitable[tuple[int, Any]]]
    history: History
    workspaces: list[str]
    chance: random.Random
    eager: bool = False
    # What was asked without an answer: since when, and how the endpoint had been stopped.
    _open: dict[str, tuple[float, Json]] = field(default_factory=dict)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)  # it was killed
            await asyncio.sleep(0.05 if self.eager else 0.3)

    async def look(self) -> int:
        """One look at all endpoints, by one caller at a time; how many deliveries still wait."""
        async with self._turn:
            return await self._look()

    async def _look(self) -> int:
        waiting = 0
        for workspace in self.workspaces:
            _, listed = await self.ask("GET", f"/v1/workspaces/{workspace}/endpoints?limit=500", None)
            for endpoint in listed["data"]:
                waiting += endpoint["queue"]["waiting"]
                name = endpoint["url"].rsplit("/", 1)[1]
                self._settle(name, endpoint)
                if endpoint["state"] == "auto_disabled" and (self.eager or self.chance.random() < 0.2):
                    await self._enable(workspace, name, endpoint)
        return waiting

    async def _enable(self, workspace: str, name: str, endpoint: Json) -> None:
        self._open.setdefault(name, (time.time(), endpoint["disabled"]))
        status, now = await self.ask("POST", f"/v1/workspaces/{workspace}/endpoints/{endpoint['id']}/enable", {})
        assert status == 200, now
        self._done(name)

    def _settle(self, name: str, endpoint: Json) -> None:
        """An answer that never came: did it happen?  Stopped at another moment means that it was enabled before."""
        if name in self._open and endpoint["disabled"] != self._open[name][1]:
            self._done(name)

    def _done(self, name: str) -> None:
        asked_at, _ = self._open.pop(name)
        self.history.enabled.append(Enabled(name, asked_at, time.time()))
