"""Random histories against a simple model: events, answers, time, people, restarts.

The model is what behaviour.md says, written down without queues, tables or tasks.  After every step the house and
the model must have made the same attempts at the same times, and agree on every delivery's state and on the budget.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.support.clock import ManualClock
from tests.support.engine import ScriptedNetwork, engine
from webhookd.config import Budget, Config
from webhookd.store import delivery_log
from webhookd.store.delivery_log import LogFilter

WAITS = (30.0, 60.0, 90.0)
LIMIT, WINDOW_SECONDS = 7, 900.0
# Each endpoint has a type of its own, so that no two of them ever act in the same moment.
TYPES = ("message.received", "message.sent", "contact.created")
URLS = tuple(f"https://{number}.example/hook" for number in range(3))


@dataclass
class Delivery:
    """A delivery of the model."""

    event_id: str
    state: str = "pending"
    tries: int = 0
    number: int = 0
    due: float = 0.0


@dataclass
class Hook:
    """An endpoint of the model."""

    answer: int = 200
    state: str = "active"
    log: list[Delivery] = field(default_factory=list)


@dataclass
class Model:
    """The house as behaviour.md describes it."""

    now: float
    # Two of them broken to begin with: what fails has the longer story.
    hooks: list[Hook] = field(default_factory=lambda: [Hook(500), Hook(), Hook(500)])
    attempts: list[tuple[float, int, str, int]] = field(default_factory=list)
    failures: list[tuple[float, int]] = field(default_factory=list)

    def run(self, until: float) -> None:
        """Let everything happen that comes due up to `until`, in the order of time."""
        while (step := self._next()) is not None and step[0] <= until:
            self.now = max(self.now, step[0])
            self._attempt(step[1])
        self.now = until

    def _next(self) -> tuple[float, int] | None:
        """When the next attempt is due, and whose."""
        dues = []
        for number, hook in enumerate(self.hooks):
            head = next((d for d in hook.log if d.state == "pending"), None)
            if hook.state == "active" and head is not None:
                dues.append((max(head.due, self.now), number))
        return min(dues, default=None)

    def _attempt(self, number: int) -> None:
        hook = self.hooks[number]
        head = next(d for d in hook.log if d.state == "pending")
        head.tries, head.number = head.tries + 1, head.number + 1
        self.attempts.append((round(self.now, 3), number, head.event_id, head.number))
        if hook.answer == 200:
            head.state = "delivered"
            return
        self.failures.append((self.now, number))
        if head.tries > len(WAITS):
            head.state = "dropped"
        else:
            head.due = self.now + WAITS[head.tries - 1]
        if self.spent() > LIMIT:
            hook.state = "auto_disabled"

    def spent(self) -> int:
        """How many failures count now."""
        return sum(1 for at, _ in self.failures if self.now - at < WINDOW_SECONDS)

    def enable(self, number: int, *, skip: bool) -> None:
        """A person presses Enable."""
        hook = self.hooks[number]
        if hook.state == "active":
            return
        hook.state = "active"
        self.failures = [failure for failure in self.failures if failure[1] != number]
        waiting = [d for d in hook.log if d.state == "pending"]
        for delivery in waiting[:1]:
            delivery.tries, delivery.due = 0, self.now
        for delivery in waiting if skip else ():
            delivery.state = "skipped"

    def states(self, number: int) -> list[tuple[str, str]]:
        """Each delivery's state as it reads."""
        hook = self.hooks[number]
        held = hook.state != "active"
        return [(d.event_id, "held" if held and d.state == "pending" else d.state) for d in hook.log]


class History(RuleBasedStateMachine):
    """Does the same to the house and to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="webhookd-history-")
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.network = ScriptedNetwork(self.clock, answer=self._answer)
        self.model = Model(self.clock.monotonic())
        self.count = 0
        self.stack = AsyncExitStack()
        self.runner.run(self._start())
        self.ids = [self.runner.run(self.e.endpoint(url, [kind])).id for url, kind in zip(URLS, TYPES, strict=True)]

    def _answer(self, url: str, webhook_id: str) -> int:
        return self.model.hooks[URLS.index(url)].answer

    async def _start(self) -> None:
        config = Config(budget=Budget(limit=LIMIT, window_seconds=WINDOW_SECONDS))
        self.e = await self.stack.enter_async_context(
            engine(Path(self.folder.name), config, clock=self.clock, network=self.network)
        )

    def teardown(self) -> None:
        """Stop the house, whatever was found."""
        self.runner.run(self.stack.aclose())
        self.runner.close()
        self.folder.cleanup()

    def _advance(self, seconds: float) -> None:
        self.runner.run(self.e.advance(seconds))
        self.model.run(round(self.model.now + seconds, 3))

    def _tick(self) -> None:
        """A little time of its own for each step, so that nothing falls together by accident."""
        self.count += 1
        self._advance(0.017 + self.count * 0.003)

    @rule(number=st.integers(0, 2), size=st.integers(1, 5))
    def accept(self, number: int, size: int) -> None:
        """Accept a few events of one type."""
        self._tick()
        ids = [f"e{self.count}-{place}" for place in range(size)]
        self.runner.run(self.e.send(*ids, event_type=TYPES[number]))
        self.runner.run(self.e.quiet())
        self.model.hooks[number].log += [Delivery(event_id, due=self.model.now) for event_id in ids]
        self.model.run(self.model.now)

    @rule(number=st.integers(0, 2), answer=st.sampled_from([200, 500]))
    def change_answer(self, number: int, answer: int) -> None:
        """A receiver breaks or is mended."""
        self.model.hooks[number].answer = answer

    @rule(seconds=st.sampled_from([31.0, 61.0, 91.0, 29.0, 400.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self._tick()
        self._advance(seconds)

    @rule(number=st.integers(0, 2))
    def disable(self, number: int) -> None:
        """A person disables."""
        self._tick()
        self.runner.run(self.e.app.services.endpoints.disable("default", self.ids[number]))
        self.model.hooks[number].state = "disabled"

    @rule(number=st.integers(0, 2))
    def disable_and_enable(self, number: int) -> None:
        """A person gives what waits for a retry its whole schedule again."""
        self.disable(number)
        self.enable(number, skip=False)

    @rule(number=st.integers(0, 2), skip=st.sampled_from([False, False, True]))
    def enable(self, number: int, skip: bool) -> None:
        """A person enables."""
        self._tick()
        self.runner.run(self.e.app.services.endpoints.enable("default", self.ids[number], skip_held=skip))
        self.runner.run(self.e.quiet())
        self.model.enable(number, skip=skip)
        self.model.run(self.model.now)

    @rule()
    def restart(self) -> None:
        """The daemon stops and starts again."""
        self._tick()
        self.runner.run(self.stack.aclose())
        self.runner.run(self._start())
        self.runner.run(self.e.quiet())

    @invariant()
    def same_attempts(self) -> None:
        """The same requests at the same times."""
        posted = [(round(p.at, 3), URLS.index(p.url), p.webhook_id, p.number) for p in self.network.posted]
        assert self.model.attempts == posted

    @invariant()
    def same_states(self) -> None:
        """The same state of every delivery and endpoint, and the same count in the budget."""
        for number, endpoint_id in enumerate(self.ids):
            endpoint = self.e.app.registry.endpoint("default", endpoint_id)
            assert self.model.hooks[number].state == endpoint.state
            assert self.model.states(number) == self.runner.run(self._states(endpoint.seq))
        assert self.model.spent() == self.e.app.watchdog.view("default").failures

    async def _states(self, endpoint_seq: int) -> list[tuple[str, str]]:
        wanted = LogFilter(workspace_seq=1, paused=False, endpoint_seq=endpoint_seq)
        views = await self.e.app.store.read(lambda db: delivery_log.page(db, wanted, before_seq=None, limit=1000))
        return [(view.event_id, view.state.value) for view in reversed(views)]


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
