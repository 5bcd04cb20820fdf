"""The rule about the failure budget: an endpoint is disabled exactly by the failure that takes the count past it.

Recomputed from the recorded failures, in the order of their ends.  Where a failure stands so near to the window's edge,
or to the moment at which its endpoint was enabled or deleted, that both verdicts are right, both are accepted.
"""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from tests.crash.case import Case, Violation
from tests.crash.history import FailureRow

ROUNDING_SECONDS = 0.002
# Between the end of a request that fails and the commit that disables its endpoint, other lanes of it may start.  The
# simulation, which sees the commit, allows them no more than that.
LANES_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Due:
    """The verdict on a failure: it has to disable its endpoint, or it may."""

    failure: FailureRow
    must: bool
    may: bool


def disabled(case: Case) -> Iterator[Violation]:
    by_endpoint: dict[str, list[_Due]] = defaultdict(list)
    for workspace in {failure.workspace for failure in case.final.failures}:
        failures = _counted(case, workspace)
        dues = [_verdict(case, failures[: place + 1]) for place in range(len(failures))]
        for due in dues:
            by_endpoint[due.failure.endpoint].append(due)
        if case.history.terms.disables_all:
            by_endpoint |= {name: dues for name, row in case.final.endpoints.items() if row.workspace == workspace}
    for endpoint, row in case.final.endpoints.items():
        yield from _too_late(case, endpoint, by_endpoint[endpoint])
        yield from _too_early(case, endpoint, by_endpoint[endpoint], stopped=row.state == "auto_disabled")


def spent(case: Case, workspace: str, now: float) -> tuple[int, int]:
    """How many failures count against a workspace at a moment, at least and at most."""
    return _count(case, [each for each in _counted(case, workspace) if each.ended_at <= now], now)


def _counted(case: Case, workspace: str) -> list[FailureRow]:
    failures = [each for each in case.final.failures if each.counted and each.workspace == workspace]
    return sorted(failures, key=lambda each: (each.ended_at, each.seq))


def _verdict(case: Case, failures: list[FailureRow]) -> _Due:
    certain, possible = _count(case, failures, failures[-1].ended_at)
    return _Due(failures[-1], certain > case.history.terms.limit, possible > case.history.terms.limit)


def _count(case: Case, failures: list[FailureRow], now: float) -> tuple[int, int]:
    """How many of the failures count at a moment, at least and at most."""
    history, edge = case.history, case.history.terms.edge_seconds
    window = history.terms.window_seconds
    certain = possible = 0
    for each in reversed(failures):
        age, future = now - each.ended_at, -math.inf
        if history.wall_steps and (start := history.started_between(each.ended_at, now)) is not None:
            moved = history.set_by(start) - history.set_by(each.ended_at)
            age, future = age + moved, each.ended_at - start - moved  # how far it lay ahead of the clock at the start
        elif age > window + 2 * edge and not history.wall_steps:
            break
        surely, maybe = _forgiven(case, each, now)
        possible += age < window + edge and future < edge and not surely
        # Pruned, it is not restored at a start, wherever the clock was set to.
        certain += age < window - edge and future < -edge and not maybe and not (each.pruned and future > -math.inf)
    return certain, possible


def _forgiven(case: Case, failure: FailureRow, now: float) -> tuple[bool, bool]:
    """Whether a failure no longer counts at a moment: surely, and maybe."""
    enabled = [each for each in case.history.enabled if each.endpoint == failure.endpoint]
    deleted = [each for each in case.history.deleted if each.endpoint == failure.endpoint]
    if failure.ended_at == now:
        return False, any(each.asked_at <= now for each in deleted)
    surely = any(failure.ended_at <= each.asked_at and each.answered_at <= now for each in (*enabled, *deleted))
    maybe = any(failure.ended_at <= each.answered_at and each.asked_at <= now for each in enabled)
    return surely, maybe or any(each.asked_at <= now for each in deleted)


def _too_late(case: Case, endpoint: str, dues: list[_Due]) -> Iterator[Violation]:
    """After the failure that disables nothing is sent until somebody enables."""
    moments = [each.arrived_at for each in case.by_endpoint[endpoint]]
    row = case.final.endpoints[endpoint]
    for due in dues:
        if not due.must or due.failure.endpoint != endpoint:
            continue
        ended_at = due.failure.ended_at
        enabled = [each for each in case.history.enabled if each.endpoint == endpoint and each.answered_at > ended_at]
        again = min((each.asked_at for each in enabled), default=math.inf)
        after = bisect.bisect_right(moments, ended_at + (ROUNDING_SECONDS if row.lanes == 1 else LANES_SECONDS))
        if after < len(moments) and moments[after] < again:
            yield Violation("disabled", f"{endpoint} got a request after the failure that disables it")
        if again == math.inf and row.state == "active" and not row.deleted:
            yield Violation("disabled", f"{endpoint} is active after the failure that disables it")


def _too_early(case: Case, endpoint: str, dues: list[_Due], *, stopped: bool) -> Iterator[Violation]:
    """Whenever the budget stopped it, its last failure before may have been the one that does that."""
    enabled = sorted((each.asked_at, each.auto) for each in case.history.enabled if each.endpoint == endpoint)
    begin = -math.inf
    for end, auto in [*enabled, (math.inf, stopped)]:
        between = [due for due in dues if begin <= due.failure.ended_at <= end]
        begin = end
        last = max(between, key=lambda due: (due.failure.ended_at, due.failure.seq), default=None)
        # Its other lanes' requests end, and may fail, after the failure that disables it.
        one_of_all = case.history.terms.disables_all or case.final.endpoints[endpoint].lanes > 1
        may = any(due.may for due in between) if one_of_all else last is not None and last.may
        if auto and not may:
            yield Violation("disabled", f"{endpoint} was disabled before the budget was spent")
