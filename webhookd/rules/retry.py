"""The retry schedule, and the decision after each attempt.

The schedule is the same for every receiver: neither `Retry-After` nor 429 or 410 changes it.  A failure of webhookd's
own machine (`Reason.LOCAL`) uses up no attempt and is retried after `LOCAL_RETRY_SECONDS`, without limit.
"""

from __future__ import annotations

from dataclasses import dataclass

from webhookd.models import Reason

LOCAL_RETRY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """The waits after the first, the second … failed attempt, in seconds, each from the end of that attempt."""

    waits_seconds: tuple[float, ...]

    @property
    def attempts(self) -> int:
        """How many attempts a delivery gets: the first and one after each wait."""
        return len(self.waits_seconds) + 1


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has it; the next event follows."""


@dataclass(frozen=True, slots=True)
class RetryIn:
    """Try again `seconds` after the attempt ended; `uses_attempt` says whether it counts in the schedule."""

    seconds: float
    uses_attempt: bool


@dataclass(frozen=True, slots=True)
class Dropped:
    """It was the last attempt of the schedule: the delivery is given up, the next event follows."""


Decision = Delivered | RetryIn | Dropped


def decide(reason: Reason | None, tries: int, schedule: RetrySchedule) -> Decision:
    """What follows an attempt that failed for `reason` (None: delivered), of `tries` used up with this one."""
    if reason is None:
        return Delivered()
    if reason is Reason.LOCAL:
        return RetryIn(LOCAL_RETRY_SECONDS, uses_attempt=False)
    if tries >= schedule.attempts:
        return Dropped()
    return RetryIn(schedule.waits_seconds[tries - 1], uses_attempt=True)


def remaining_wait(
    next_attempt_at_ms: int, now_ms: int, tries: int, schedule: RetrySchedule, *, after_local_failure: bool = False
) -> float:
    """The seconds that remain of a wait read from the table, after a restart or a pause by the plan.

    Both times are wall clock, which may have been set meanwhile, so the wait is never longer than its step of the
    schedule, and never negative (manual/behaviour.md).  `tries` is the number of attempts used up so far.
    """
    step = wait_step(tries, schedule, after_local_failure=after_local_failure)
    return min(max(0.0, (next_attempt_at_ms - now_ms) / 1000), step)


def wait_step(tries: int, schedule: RetrySchedule, *, after_local_failure: bool) -> float:
    """The wait in seconds that the schedule has after `tries` attempts.

    With none used up, only a local failure can have set a wait, whose step is `LOCAL_RETRY_SECONDS`.  If the schedule
    became shorter than `tries`, its last step counts.
    """
    local = after_local_failure or not tries
    steps = (LOCAL_RETRY_SECONDS,) if local else schedule.waits_seconds[:tries]
    return steps[-1] if steps else 0.0
