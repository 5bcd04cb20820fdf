"""SIGKILL at every write and every sync of every scenario, one after the other, until a run gets through.

    python -m tests.crash.kill_points [SCENARIO …]

For each scenario and each of `pwrite64`, `fdatasync`, `ftruncate` and `unlink` on the database's files: begin with the
same state, kill the daemon as it is about to make the call for the N-th time, start it again on what is left, let it
come to rest, and judge; N = 1, 2, 3 … until the scenario ends without reaching N.  A run's start and stop belong to it,
so recovery and the checkpoint at the end are killed at as well.
"""

from __future__ import annotations

import asyncio
import copy
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.crash import snapshot
from tests.crash.case import Judgement, Violation
from tests.crash.checker import judge
from tests.crash.history import History
from tests.crash.play import Play, Scenario
from tests.crash.scenarios import SCENARIOS, all_well, silent
from tests.crash.supervisor import CALLS, Forkserver, KillPoint, Supervisor, forkserver, why_no_kill_points
from tests.crash.witness import Witness, witness
from tests.support.mailserver import MailServer, mail_server
from tests.support.results import recorded

T = TypeVar("T")

AT_ONCE = 2
MOST_POINTS = 2000


@dataclass
class Stage:
    """Where one scenario is played again and again: its prepared state, its receivers, its mail server."""

    scenario: Scenario
    folder: Path
    forkserver: Forkserver
    witness: Witness
    mails: MailServer
    history: History
    runs: int = 0

    async def run(self, point: KillPoint | None) -> tuple[Judgement, bool]:
        """One run with a kill or a fault at `point`: the judgement, and whether the point was reached."""
        self.runs += 1
        state_dir = self.folder / f"run-{self.runs}"
        shutil.copytree(self.folder / "prepared", state_dir, ignore=shutil.ignore_patterns("*-reserve"))
        history = copy.deepcopy(self.history)
        before = list(history.received)
        prepared_crashes = len(history.crashes)
        received = self.witness.begin(self.scenario.manners)
        reported_before = list(self.mails.taken)
        play = self._play(state_dir, history, point)
        try:
            await self._through(play)
            history.received = before + received
            final = snapshot.read(state_dir / "webhookd.db")
            judgement = judge(history, final)
            judgement.violations += self.scenario.check(play, final)
        except (AssertionError, TimeoutError) as error:
            judgement = Judgement(
                [Violation("stuck", f"{type(error).__name__}: {error}; {play.supervisor.log()[-1000:]}")]
            )
        finally:
            await play.supervisor.close()
            self.mails.taken[:] = reported_before
        trace = play.supervisor.trace_file
        injected = trace.exists() and "(INJECTED)" in trace.read_text()
        reached = injected or len(history.crashes) > prepared_crashes
        assert not judgement.violations or self._keep(state_dir)
        shutil.rmtree(state_dir)
        for suffix in (".log", ".toml", ".trace"):
            state_dir.with_suffix(suffix).unlink(missing_ok=True)
        return judgement, reached

    async def _through(self, play: Play) -> None:
        play.supervisor.migration = self.scenario.migration
        play.history.restarts.append(time.time())  # what waits since `prepare` may go out from now on
        await play.supervisor.start()
        play.history.restarts.append(time.time())
        await self.scenario.act(play)
        await play.drained()
        while not await play.supervisor.stop():
            await play.supervisor.start()
            await play.drained()

    def _keep(self, state_dir: Path) -> bool:
        """Leave a state that broke a promise where somebody can look at it."""
        shutil.copytree(state_dir, Path(tempfile.mkdtemp(prefix="webhookd-broken-")) / "state")
        return True

    def _play(self, state_dir: Path, history: History, point: KillPoint | None) -> Play:
        config = self.scenario.settings(self.mails.port)
        supervisor = Supervisor(self.forkserver, state_dir, config, point, survived=self.scenario.survived)
        supervisor.crashes = history.crashes
        return Play(supervisor, self.witness, self.mails, history, point=point)

    async def prepare(self) -> None:
        prepared = self.folder / "prepared"
        prepared.mkdir()
        self.history.received = self.witness.begin(silent)
        if self.scenario.prepare is not None:
            play = self._play(prepared, self.history, None)
            try:
                await self.scenario.prepare(play)
            finally:
                await play.supervisor.close()
        self.witness.begin(all_well)


@asynccontextmanager
async def stage(scenario: Scenario, kept: Forkserver) -> AsyncIterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="webhookd-kill-", ignore_cleanup_errors=True) as folder:
        async with witness() as receivers, mail_server() as mails:
            made = Stage(scenario, Path(folder), kept, receivers, mails, History(scenario.terms))
            await made.prepare()
            yield made


@dataclass
class Result:
    points: int = 0
    most_repeats: int = 0
    repeats: int = 0
    seconds: float = 0.0
    violations: list[tuple[KillPoint, Violation]] = field(default_factory=list)

    def add(self, point: KillPoint, judgement: Judgement) -> None:
        self.points += 1
        self.repeats += judgement.repeats
        self.most_repeats = max(self.most_repeats, judgement.most_repeats)
        self.violations += [(point, violation) for violation in judgement.violations]

    def include(self, other: Result) -> None:
        self.points += other.points
        self.repeats += other.repeats
        self.most_repeats = max(self.most_repeats, other.most_repeats)
        self.seconds += other.seconds
        self.violations += other.violations

    def count(self, rule: str) -> int:
        return sum(violation.rule == rule for _, violation in self.violations)

    def line(self, name: str) -> str:
        lost, reordered = self.count("lost"), self.count("reordered")
        return (
            f"{name:26} {self.points:5} points  lost {lost}  reordered {reordered}  "
            f"other {len(self.violations) - lost - reordered}  "
            f"repeats {self.repeats}, most per endpoint and end {self.most_repeats}  {self.seconds:.0f} s"
        )


async def exhaust(scenario: Scenario, kept: Forkserver) -> Result:
    result = Result()
    began = time.monotonic()
    async with stage(scenario, kept) as where:
        for call in CALLS:
            points = (KillPoint(call, number, scenario.anywhere) for number in range(1, MOST_POINTS))
            await until_clean(result, points, where.run)
    result.seconds = time.monotonic() - began
    return result


async def until_clean(
    result: Result, points: Iterable[KillPoint], run: Callable[[KillPoint], Awaitable[tuple[Judgement, bool]]]
) -> None:
    """One run after the other, until one gets through without reaching its point."""
    for point in points:
        judgement, reached = await run(point)
        if not reached:
            result.violations += [(point, violation) for violation in judgement.violations]
            return
        result.add(point, judgement)


async def all_of(named: Iterable[tuple[str, T]], exhausted: Callable[[T, Forkserver], Awaitable[Result]]) -> Result:
    left = list(named)
    total = Result()

    async def work() -> None:
        while left:
            name, each = left.pop(0)
            result = await exhausted(each, kept)
            print(result.line(name), flush=True)
            for point, violation in result.violations[:20]:
                print(f"    {point.call} {point.number}: {violation.rule}: {violation.text}", flush=True)
            total.include(result)

    async with forkserver() as kept:
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return total


def run_all(named: Iterable[tuple[str, T]], exhausted: Callable[[T, Forkserver], Awaitable[Result]]) -> int:
    """Run all and print; 1 if a promise was broken, 2 where it can't be tried."""
    reason = why_no_kill_points()
    if reason is not None:
        print(reason)
        return 2
    total = asyncio.run(all_of(named, exhausted))
    print(total.line("all"))
    return 1 if total.violations else 0


def main() -> int:
    names = sys.argv[1:]
    return run_all([(each.name, each) for each in SCENARIOS if not names or each.name in names], exhaust)


if __name__ == "__main__":
    sys.exit(recorded(main))
