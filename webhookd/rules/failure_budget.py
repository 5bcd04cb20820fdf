"""The failure budget: how many failed attempts a workspace may have before its failing endpoints are disabled.

The rule is in manual/behaviour.md.  *Exceeded* is about the present failure: with it, the count is past the limit.
*Spent* is about the next one: the count has reached the limit, and one more failure will exceed it.

A window holds the failures of one workspace in the order of their ends.  Its time never runs backwards: "now" is the
latest time that it was given, so a failure that arrives late is counted beside those that overtook it, and one that
aged out never returns.  All times are monotonic seconds, given by the caller.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from webhookd.models import BudgetView, Failure


@dataclass(frozen=True, slots=True)
class FailureBudget:
    """The settings: `limit` failures in `window_seconds`; `warn_at` are shares of the limit, such as 0.5."""

    limit: int
    window_seconds: float
    warn_at: tuple[float, ...] = (0.5, 0.8)

    def crossed(self, before: int, after: int) -> tuple[float, ...]:
        """The thresholds above the count `before` and not above the count `after`."""
        # Rounded first: 0.07 * 100 is 7.000000000000001, and the threshold is 7.
        return tuple(share for share in self.warn_at if before < math.ceil(round(share * self.limit, 6)) <= after)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The effect of one failure: `exceeded` disables its endpoint, `crossed` are the thresholds to warn of."""

    count_before: int
    count: int
    exceeded: bool
    crossed: tuple[float, ...]


class FailureWindow:
    """The failures of one workspace that count at present.  A reload of the settings may replace `budget`."""

    def __init__(self, budget: FailureBudget) -> None:
        self.budget = budget
        self._failures: deque[Failure] = deque()  # by ended_at
        self._now = -math.inf

    def fail(self, endpoint_seq: int, ended_at: float) -> Verdict:
        """Count a failed attempt of an endpoint that ended at `ended_at` (monotonic seconds)."""
        self._age(ended_at)
        before = len(self._failures)
        self._insert(Failure(endpoint_seq, ended_at))
        count = len(self._failures)
        return Verdict(before, count, count > self.budget.limit, self.budget.crossed(before, count))

    def forget(self, endpoint_seq: int) -> None:
        """Remove an endpoint's failures: it was enabled or deleted."""
        self._failures = deque(failure for failure in self._failures if failure.endpoint_seq != endpoint_seq)

    def restore(self, failures: Iterable[Failure]) -> None:
        """Replace all failures by these, given in any order."""
        self._failures = deque(sorted(failures, key=lambda failure: failure.ended_at))
        if self._failures:
            self._age(self._failures[-1].ended_at)

    def view(self, now: float, endpoint_id: Callable[[int], str] = str) -> BudgetView:
        """The budget at `now`; `endpoint_id` maps an endpoint's number to its public id."""
        self._age(now)
        counts = Counter(failure.endpoint_seq for failure in self._failures)
        return BudgetView(
            limit=self.budget.limit,
            window_seconds=self.budget.window_seconds,
            failures=len(self._failures),
            by_endpoint={endpoint_id(seq): count for seq, count in counts.most_common()},
            oldest_expires_in_seconds=self._expires_at(0) - self._now if self._failures else None,
        )

    def spent_until(self, now: float) -> float | None:
        """Until when (monotonic) one more failure disables its endpoint; None where the count is below the limit."""
        self._age(now)
        surplus = len(self._failures) - self.budget.limit
        return None if surplus < 0 else self._expires_at(surplus)

    def _expires_at(self, place: int) -> float:
        return self._failures[place].ended_at + self.budget.window_seconds

    def _age(self, now: float) -> None:
        self._now = max(self._now, now)
        while self._failures and self._expires_at(0) <= self._now:
            self._failures.popleft()

    def _insert(self, failure: Failure) -> None:
        if failure.ended_at + self.budget.window_seconds <= self._now:
            return  # it arrived after it aged out
        place = len(self._failures)
        while place and self._failures[place - 1].ended_at > failure.ended_at:
            place -= 1
        self._failures.insert(place, failure)
