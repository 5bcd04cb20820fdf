"""Random histories: events, answers, time, people and restarts; the checker of the crash tests judges each."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.crash import snapshot
from tests.crash.case import Case
from tests.crash.checker import judge
from tests.crash.history import Asked, Enabled, History, Received, Said, Subscriber, Terms
from tests.crash.spending import spent
from tests.support.clock import ManualClock
from tests.support.engine import ScriptedNetwork, engine
from webhookd.config import Budget, Config

# On a clock held by hand everything happens at once when it is due; the table has milliseconds.
TERMS = Terms(limit=7, window_seconds=900.0, late_seconds=0.01, edge_seconds=0.002)
TYPES = ("message.received", "message.sent", "*")
URLS = tuple(f"https://receiver.example/{number}" for number in range(3))
SETTLE_SECONDS = 400.0


class RandomHistory(RuleBasedStateMachine):
    """Acts at random on a webhookd that is real but for its clock and its network."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="webhookd-history-")
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        # Two of three are broken to begin with: what fails has the longer story.
        self.answers = dict(zip(URLS, (500, 200, 500), strict=True))
        self.network = ScriptedNetwork(self.clock, answer=lambda url, webhook_id: self.answers[url])
        self.history = History(TERMS)
        self.stack = AsyncExitStack()
        self.steps = 0
        self.runner.run(self._start())
        self.ids = [self.runner.run(self.e.endpoint(url, [each])).id for url, each in zip(URLS, TYPES, strict=True)]
        self.history.subscribers = [
            Subscriber(url[-1], "default", (each,)) for url, each in zip(URLS, TYPES, strict=True)
        ]

    @property
    def now(self) -> float:
        """The wall clock, as the table has it."""
        return self.clock.wall_ms() / 1000

    async def _start(self) -> None:
        config = Config(budget=Budget(limit=TERMS.limit, window_seconds=TERMS.window_seconds))
        opening = engine(Path(self.folder.name), config, clock=self.clock, network=self.network)
        self.e = await self.stack.enter_async_context(opening)
        await self.e.quiet()

    def _tick(self) -> None:
        """A little time of its own for each step, so that nothing falls together by accident."""
        self.steps += 1
        self.runner.run(self.e.advance(0.017 + self.steps * 0.003))

    @rule(event_type=st.sampled_from(TYPES[:2]), size=st.integers(1, 5))
    def accept(self, event_type: str, size: int) -> None:
        """Accept a few events of one type."""
        self._tick()
        ids = [f"e{self.steps}-{index}" for index in range(size)]
        results = self.runner.run(self.e.send(*ids, event_type=event_type))
        for index, (event_id, result) in enumerate(zip(ids, results, strict=True)):
            body = b'{"event_type":"%b","event_id":"%b"}' % (event_type.encode(), event_id.encode())
            self.history.asked.append(
                Asked(event_id, event_type, "default", body, self.now, self.now, Said.TAKEN, self.steps, index,
                      result.duplicate)
            )  # fmt: skip
        self.runner.run(self.e.quiet())

    @rule(url=st.sampled_from(URLS), answer=st.sampled_from([200, 500]))
    def change_answer(self, url: str, answer: int) -> None:
        """A receiver breaks or recovers."""
        self.answers[url] = answer

    @rule(seconds=st.sampled_from([31.0, 61.0, 91.0, 29.0, 400.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self._tick()
        self.runner.run(self.e.advance(seconds))

    @rule(number=st.integers(0, 2))
    def disable(self, number: int) -> None:
        """A person disables an endpoint."""
        self._tick()
        self.runner.run(self.e.app.services.endpoints.disable("default", self.ids[number]))

    @rule(number=st.integers(0, 2))
    def disable_and_enable(self, number: int) -> None:
        """A person gives what waits for a retry its whole schedule again."""
        self.disable(number)
        self.enable(number, skip=False)

    @rule(number=st.integers(0, 2), skip=st.sampled_from([False, False, True]))
    def enable(self, number: int, skip: bool) -> None:
        """A person enables an endpoint."""
        self._tick()
        state = self.e.app.registry.endpoint("default", self.ids[number]).state
        self.runner.run(self.e.app.services.endpoints.enable("default", self.ids[number], skip_held=skip))
        if state != "active":
            auto = state == "auto_disabled"
            # What it starts may fail in the same millisecond, and counts; what it forgives ended before the tick.
            at = self.now - 0.001
            self.history.enabled.append(Enabled(str(number), at, at, skip, auto))
        self.runner.run(self.e.quiet())

    @rule()
    def restart(self) -> None:
        """The daemon stops and starts again."""
        self._tick()
        self.runner.run(self.stack.aclose())
        self.runner.run(self._start())
        self.history.restarts.append(self.now)

    def teardown(self) -> None:
        """Compare the budget, let all receivers recover and all deliveries end, and judge."""
        try:
            self._tick()
            self._judge_budget()
            self.answers = dict.fromkeys(URLS, 200)
            for number in range(3):
                self.enable(number, skip=False)
            self.runner.run(self.e.advance(SETTLE_SECONDS))
            self.runner.run(self.stack.aclose())
            assert [] == judge(self._seen(), self._final()).violations
        finally:
            self.runner.run(self.stack.aclose())
            self.runner.close()
            self.folder.cleanup()

    def _judge_budget(self) -> None:
        least, most = spent(Case(self._seen(), self._final()), "default", self.now)
        assert least <= self.e.app.watchdog.view("default").failures <= most

    def _final(self) -> snapshot.Final:
        return snapshot.read(Path(self.folder.name) / "webhookd.db")

    def _seen(self) -> History:
        offset = self.now - self.clock.monotonic()
        self.history.received = [
            Received(p.url[-1], p.webhook_id, p.body, p.number, False, p.at + offset, p.at + offset, int(p.answer))
            for p in self.network.posted
        ]
        return self.history


TestHistory = pytest.mark.slow(RandomHistory.TestCase)


def test_what_fails_as_it_is_enabled_counts_after_the_enabling() -> None:
    """The shortest history in which an attempt fails in the very millisecond in which its endpoint was enabled."""
    history = RandomHistory()
    history.disable(number=0)
    history.accept(event_type="message.received", size=1)
    history.enable(number=0, skip=False)
    history.teardown()
