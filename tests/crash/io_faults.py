"""A disk that is full or broken, at every single call: ENOSPC, EIO and EDQUOT, once and for ever.

    python -m tests.crash.io_faults [CALL …] [ERROR …]

For each call that writes (`pwrite64`, `fdatasync`, `ftruncate`, `fallocate`, `openat`) and each error: a daemon with
deliveries waiting is started while strace makes its N-th such call fail on the database's files, once or from then on;
events are sent, some attempts fail, and a while later the disk is well again; N = 1, 2, 3 … until N is never reached.
Judged as kills are: nothing that was answered with 202 is lost, order and records hold, an endpoint repeats one attempt
at most for each end of the daemon.  Beyond that

- a full disk ends no daemon that is ready: what can't be taken is refused, outcomes wait, and all goes on by itself;
- a broken disk ends the daemon with an exit code that systemd restarts, never with 78.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass

from tests.crash.case import Violation
from tests.crash.history import Final, Terms
from tests.crash.kill_points import MOST_POINTS, Result, run_all, stage, until_clean
from tests.crash.play import Play, Scenario
from tests.crash.producer import events
from tests.crash.scenarios import fails_until, some_wait
from tests.crash.supervisor import Forkserver, KillPoint
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
    call: str
    error: str
    for_ever: bool

    def at(self, number: int) -> KillPoint:
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
    await asyncio.sleep(seconds)
    await play.supervisor.heal()
    await play.supervisor.again()


def ended_when_full(log: str) -> list[Violation]:
    """A daemon that is ready lives through a full disk; one that starts on it may have to try again."""
    first, *later = log.split('"event":"daemon.started"')[1:]
    if later and '"event":"daemon.ready"' in first:
        return [Violation("ended", f"a full disk ended it: {first[-1500:]}")]
    return []


def lives_when_full(play: Play, final: Final) -> list[Violation]:
    """See `ended_when_full`; a disk may fail to write for other reasons."""
    full = play.point is not None and (play.point.call, play.point.inject) == ("pwrite64", "error=ENOSPC")
    return ended_when_full(play.supervisor.log()) if full else []


SCENARIO = Scenario(
    "faults", work, fails_until(3), some_wait, lives_when_full, Terms((0.02, 0.02), limit=1000), survived=RESTARTED
)


async def exhaust(fault: Fault, kept: Forkserver) -> Result:
    result = Result()
    began = time.monotonic()
    async with stage(SCENARIO, kept) as where:
        await until_clean(result, (fault.at(number) for number in range(1, MOST_POINTS)), where.run)
    result.seconds = time.monotonic() - began
    return result


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
    return run_all([(str(fault), fault) for fault in faults(sys.argv[1:])], exhaust)


if __name__ == "__main__":
    sys.exit(recorded(main))
