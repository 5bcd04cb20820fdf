"""A disk that is full or broken, at every single call: ENOSPC, EIO and EDQUOT, once and for ever.

    python -m tests.crash.io_faults [CALL …] [ERROR …]

For each call that writes (`pwrite64`, `fdatasync`, `ftruncate`, `fallocate`, `openat`) and each error: a daemon with
deliveries waiting is started while strace makes its N-th such call fail on the database's files, once or from then on;
events are sent, some attempts fail, and a while later the disk is well again; N = 1, 2, 3 … until N is never reached.
Judged as kills are: nothing that was answered with 202 is lost, order and records hold, an endpoint repeats one attempt
at most for each end of the daemon.  Beyond that

- a full disk ends nobody who is ready: what can't be taken is refused, outcomes wait, and all goes on by itself;
- a broken disk ends the daemon with an exit code that systemd restarts, never with 78.
"""

from __future__ import annotations

import asyncio
import copy
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.crash import snapshot
from tests.crash.case import Judgement, Violation
from tests.crash.checker import judge
from tests.crash.history import History, Terms
from tests.crash.kill_points import MOST_POINTS, Tally, told, until_clean
from tests.crash.play import Play, Scenario
from tests.crash.producer import events
from tests.crash.scenarios import all_well, fails_until, some_wait
from tests.crash.supervisor import Forkserver, KillPoint, Supervisor
from tests.crash.witness import Witness, witness
from tests.support.mailserver import MailServer, mail_server
from tests.support.results import recorded

ERRORS = {
    "pwrite64": ("ENOSPC", "EIO", "EDQUOT"),
    "fdatasync": ("ENOSPC", "EIO", "EDQUOT"),
    "ftruncate": ("EIO",),
    "fallocate": ("ENOSPC", "EIO", "EDQUOT"),
    "openat": ("ENOSPC", "EIO", "EDQUOT"),
}
BROKEN_SECONDS = 0.6
# Of the exits: 1 is a store that failed, 75 something that passes.  systemd starts both again.
RESTARTED = (1, 75)


@dataclass(frozen=True, slots=True)
class Fault:
    """A call that fails, from its N-th time on or just then."""

    call: str
    error: str
    for_ever: bool

    def at(self, number: int) -> KillPoint:
        """The point at which it begins."""
        return KillPoint(self.call, number, inject=f"error={self.error}", for_ever=self.for_ever)

    def __str__(self) -> str:
        return f"{self.call} {self.error} {'for ever' if self.for_ever else 'once'}"


async def work(play: Play) -> None:
    """What waits fails twice before it arrives; meanwhile singles and an array are sent, and the disk heals."""
    healing = asyncio.create_task(heal_after(play, BROKEN_SECONDS))
    try:
        for event in events("single", 3):
            await play.producer.one(event)
        await play.producer.array(events("array", 5))
    finally:
        await healing


async def heal_after(play: Play, seconds: float) -> None:
    """Let the disk be well again, and see that somebody lives."""
    await asyncio.sleep(seconds)
    await play.supervisor.heal()
    await play.supervisor.again()


def ended_when_full(log: str) -> list[Violation]:
    """A daemon that is ready lives through a full disk; one that starts on it may have to try again."""
    first, *later = log.split('"event":"daemon.started"')[1:]
    if later and '"event":"daemon.ready"' in first:
        return [Violation("ended", f"a full disk ended it: {first[-1500:]}")]
    return []


SCENARIO = Scenario("faults", work, fails_until(3), some_wait, terms=Terms((0.02, 0.02), limit=1000))


@dataclass
class Bench:
    """A prepared state on which one fault after the other is tried."""

    folder: Path
    forkserver: Forkserver
    witness: Witness
    mails: MailServer
    history: History
    runs: int = 0

    async def run(self, fault: Fault, number: int) -> tuple[Judgement, bool]:
        """One run: the judgement, and whether the call was reached at all."""
        self.runs += 1
        state_dir = self.folder / f"run-{self.runs}"
        shutil.copytree(self.folder / "prepared", state_dir, ignore=shutil.ignore_patterns("*-reserve"))
        history = copy.deepcopy(self.history)
        before = list(history.received)
        received = self.witness.begin(SCENARIO.manners)
        play = self.play(state_dir, history, fault.at(number))
        try:
            await play.supervisor.start()
            await SCENARIO.act(play)
            await play.drained()
            await play.supervisor.stop()
            history.received = before + received
            judgement = judge(history, snapshot.read(state_dir / "webhookd.db"))
        except (AssertionError, TimeoutError) as error:
            text = f"{type(error).__name__}: {error}; {play.supervisor.log()[-1500:]}"
            judgement = Judgement([Violation("stuck", text)])
        finally:
            await play.supervisor.close()
        reached = "(INJECTED)" in play.supervisor.trace_file.read_text()
        if (fault.call, fault.error) == ("pwrite64", "ENOSPC"):
            judgement.violations += ended_when_full(play.supervisor.log())
        if not judgement.violations:
            shutil.rmtree(state_dir)
        return judgement, reached

    def play(self, state_dir: Path, history: History, point: KillPoint | None) -> Play:
        """A play on a state."""
        config = SCENARIO.settings(self.mails.port)
        supervisor = Supervisor(self.forkserver, state_dir, config, point, survived=RESTARTED, crashes=history.crashes)
        return Play(supervisor, self.witness, self.mails, history)

    async def prepare(self) -> None:
        """Make the state that every run begins with."""
        prepared = self.folder / "prepared"
        prepared.mkdir()
        self.history.received = self.witness.begin(lambda received: all_well(received))
        play = self.play(prepared, self.history, None)
        assert SCENARIO.prepare is not None
        try:
            await SCENARIO.prepare(play)
        finally:
            await play.supervisor.close()


@asynccontextmanager
async def bench(kept: Forkserver) -> AsyncIterator[Bench]:
    """A bench for the time of some runs."""
    with tempfile.TemporaryDirectory(prefix="webhookd-faults-", ignore_cleanup_errors=True) as folder:
        async with witness() as receivers, mail_server() as mails:
            made = Bench(Path(folder), kept, receivers, mails, History(SCENARIO.terms))
            await made.prepare()
            yield made


async def exhaust(fault: Fault, kept: Forkserver) -> Tally:
    """Every call at which a fault may begin."""
    tally = Tally()
    began = time.monotonic()
    async with bench(kept) as where:
        points = (fault.at(number) for number in range(1, MOST_POINTS))
        await until_clean(tally, points, lambda point: where.run(fault, point.number))
    tally.seconds = time.monotonic() - began
    return tally


def faults(words: list[str]) -> list[Fault]:
    """All faults of the calls and the errors that are named, or of all."""
    calls = [word for word in words if word in ERRORS] or list(ERRORS)
    wanted = [word for word in words if word not in ERRORS]
    return [
        Fault(call, error, for_ever)
        for call in calls
        for error in ERRORS[call]
        for for_ever in (False, True)
        if not wanted or error in wanted
    ]


def main() -> int:
    """As the arguments say."""
    return told([(str(fault), fault) for fault in faults(sys.argv[1:])], exhaust)


if __name__ == "__main__":
    sys.exit(recorded(main))
