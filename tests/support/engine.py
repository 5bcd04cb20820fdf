"""The whole app on a manual clock and a scripted network; the store is a real SQLite file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.support.clock import ManualClock
from tests.support.database import new_database
from webhookd.app import App
from webhookd.config import Config, Delivery, Mail
from webhookd.models import Accepted, Endpoint, EndpointState, NewEvent, Outcome, Reason, Request
from webhookd.store import delivery_log
from webhookd.store.connection import StateLock
from webhookd.store.delivery_log.log_filter import LogFilter

Answer = int | Reason
POLLS = 20_000
RESERVE_BYTES = 16 * 1024**2  # what `store.min_free_mb` has by default
ONE, TWO, WELL = "https://one.example/", "https://two.example/", "https://well.example/"
# Each event is one attempt, so failures come fast.
NO_RETRIES = Config(
    delivery=Delivery(retry_seconds=()), mail=Mail(host="mail.example", notify=("ops@example.com",), on_drop=False)
)
HOUR, DAY = 3600.0, 86400.0
# The wall clock is set forward or back, while webhookd runs or while it doesn't.
JUMPS = pytest.mark.parametrize("jump_seconds", [HOUR, -HOUR, DAY, -DAY], ids=["+1h", "-1h", "+1d", "-1d"])


def failing(url: str, webhook_id: str) -> int:
    return 500 if url in (ONE, TWO) else 200


def full(*_: Any, **__: Any) -> NoReturn:
    """In place of a function of the store: what SQLite raises on a full disk."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorname = "SQLITE_FULL"
    raise error


@dataclass(frozen=True, slots=True)
class Posted:
    """One request as the scripted network got it; `at` is monotonic seconds."""

    at: float
    url: str
    webhook_id: str
    number: int
    body: bytes
    headers: dict[str, str]
    answer: Answer


@dataclass(slots=True)
class ScriptedNetwork:
    """A `Transport`: `answer` says what each URL gives; an attempt takes `takes_seconds` of the clock."""

    clock: ManualClock
    answer: Callable[[str, str], Answer] = lambda url, webhook_id: 200
    takes_seconds: float = 0.0
    posted: list[Posted] = field(default_factory=list)
    under_way: dict[str, int] = field(default_factory=dict)
    most_under_way: dict[str, int] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    blocked: int = 0

    async def post(self, request: Request) -> Outcome:
        headers = dict(request.headers)
        started_ms, started = self.clock.wall_ms(), self.clock.monotonic()
        url = request.url
        self.under_way[url] = self.under_way.get(url, 0) + 1
        self.most_under_way[url] = max(self.most_under_way.get(url, 0), self.under_way[url])
        try:
            if url in self.gates:
                self.blocked += 1
                await self.gates[url].wait()
                self.blocked -= 1
            if self.takes_seconds:
                self.blocked += 1
                await self.clock.wait(asyncio.Event(), self.takes_seconds)
                self.blocked -= 1
        finally:
            self.under_way[url] -= 1
        answer = self.answer(url, headers["webhook-id"])
        number = int(headers["X-Webhook-Attempt"])
        self.posted.append(Posted(started, url, headers["webhook-id"], number, request.body, headers, answer))
        return _outcome(answer, started_ms, (self.clock.monotonic() - started) * 1000, request)

    async def close(self) -> None:
        """Nothing to end."""

    def ids(self, url: str, *, delivered_only: bool = False) -> list[str]:
        return [p.webhook_id for p in self.posted if p.url == url and (not delivered_only or p.answer == 200)]


def _outcome(answer: Answer, started_ms: int, duration_ms: float, request: Request) -> Outcome:
    if isinstance(answer, Reason):
        return Outcome(started_ms, duration_ms, answer, detail=f"scripted: {answer}")
    good = 200 <= answer <= 299 if request.accept_any_2xx else answer == 200
    return Outcome(started_ms, duration_ms, None if good else Reason.STATUS, answer, f"answered {answer}")


@dataclass(slots=True)
class Engine:
    app: App
    clock: ManualClock
    network: ScriptedNetwork
    looking: bool = False

    async def endpoint(self, url: str, event_types: Sequence[str] = ("*",), workspace: str = "default") -> Endpoint:
        return await self.app.services.endpoints.create(workspace, url=url, event_types=list(event_types))

    async def send(self, *ids: str, event_type: str = "message.received", workspace: str = "default") -> list[Accepted]:
        events = [
            NewEvent(i, event_type, b'{"event_type":"%b","event_id":"%b"}' % (event_type.encode(), i.encode()))
            for i in ids
        ]
        return await self.app.services.ingest.accept(workspace, events)

    async def deliver(self, *ids: str, event_type: str = "message.received") -> None:
        """Send events and return when each has had its first attempt."""
        await self.send(*ids, event_type=event_type)
        await self.quiet()

    def state(self, endpoint: Endpoint) -> EndpointState:
        return self.app.registry.endpoint(endpoint.workspace, endpoint.id).state

    async def states(self, endpoint: Endpoint) -> dict[str, int]:
        wanted = LogFilter(workspace_seq=endpoint.workspace_seq, paused=False, endpoint_seq=endpoint.seq)
        views = await self.app.store.read(lambda db: delivery_log.page(db, wanted, before_seq=None, limit=500))
        return dict(Counter(view.state.value for view in views))

    async def quiet(self) -> None:
        """Return when all that can happen without the clock has happened (real time, bounded)."""
        calm = 0
        for _ in range(POLLS):
            calm = calm + 1 if self._is_quiet() else 0
            if calm > 3:
                return
            await asyncio.sleep(0 if calm else 0.0002)
        raise AssertionError("the app doesn't come to rest")

    async def advance(self, seconds: float) -> None:
        """Move the clock, letting everything happen that comes due on the way."""
        await self.quiet()
        while True:
            due = self.clock.next_due_in_seconds
            if due is None or due > seconds:
                break
            await self.clock.advance(due)
            seconds = round(seconds - due, 6)
            await self.quiet()
        await self.clock.advance(seconds)
        await self.quiet()

    async def leap(self, seconds: float) -> None:
        """Move the clock at once, and let happen what came due: hours take as long as a second."""
        await self.quiet()
        await self.clock.leap(seconds)
        await self.quiet()

    def _is_quiet(self) -> bool:
        dispatcher = self.app.dispatcher
        views = [dispatcher.view(endpoint.seq) for endpoint in self.app.registry.endpoints()]
        resting = sum(view.retrying + view.queued for view in views) + self.network.blocked
        return self.app.store.writer.idle and dispatcher.alive == resting and not self.looking


def _watch_held_events(e: Engine) -> None:
    """Let the engine know while the held events are looked at: those steps go through the store's threads."""
    look = e.app.held_events.look

    async def watched() -> None:
        e.looking = True
        try:
            await look()
        finally:
            e.looking = False

    e.app.held_events.look = watched  # type: ignore[method-assign]


@asynccontextmanager
async def engine(
    state_dir: Path,
    config: Config | None = None,
    *,
    clock: ManualClock | None = None,
    network: ScriptedNetwork | None = None,
) -> AsyncIterator[Engine]:
    """A started app in `state_dir`; stopped at the end, whatever happens."""
    clock = clock or ManualClock()
    network = network or ScriptedNetwork(clock)
    config = config or Config()
    await new_database(state_dir / config.store.path, reserve_bytes=RESERVE_BYTES)
    lock = StateLock(state_dir)
    await lock.acquire(wait_seconds=0)
    app = await App.open(config, state_dir, clock=clock, transport=network)
    try:
        e = Engine(app, clock, network)
        _watch_held_events(e)
        await app.start({})
        yield e
    finally:
        for gate in network.gates.values():
            gate.set()
        network.takes_seconds = 0
        await app.stop()
        lock.release()
