"""The rule about the failure budget: an endpoint is disabled exactly by the failure that takes the count past it.

Recomputed from the recorded failures, in the order of their commits.  Where a failure stands so near to the window's
edge, or to the moment at which another endpoint was enabled, that both verdicts are right, both are accepted.
"""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from tests.crash.case import Case, Violation
from tests.crash.history import Enabled, FailureRow

EDGE_SECONDS = 0.25
ROUNDING_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class _Due:
    """The verdict on a failure: it has to disable its endpoint, or it may."""

    failure: FailureRow
    must: bool
    may: bool


def disabled(case: Case) -> Iterator[Violation]:
    """See the module."""
    by_workspace: dict[str, list[FailureRow]] = defaultdict(list)
    for failure in case.final.failures:
        if failure.counted:
            by_workspace[failure.workspace].append(failure)
    by_endpoint: dict[str, list[_Due]] = defaultdict(list)
    for failures in by_workspace.values():
        for due in _verdicts(case, failures):
            by_endpoint[due.failure.endpoint].append(due)
    for endpoint, row in case.final.endpoints.items():
        yield from _too_late(case, endpoint, by_endpoint[endpoint])
        yield from _too_early(case, endpoint, by_endpoint[endpoint], stopped=row.state == "auto_disabled")


def _verdicts(case: Case, failures: list[FailureRow]) -> Iterator[_Due]:
    terms = case.history.terms
    enabled: dict[str, list[Enabled]] = defaultdict(list)
    for each in case.history.enabled:
        enabled[each.endpoint].append(each)
    for place, failure in enumerate(failures):
        certain = possible = 0
        for before in reversed(failures[: place + 1]):
            age = failure.ended_at - before.ended_at
            if age > terms.window_seconds + 2 * EDGE_SECONDS:
                break
            surely, maybe = _forgiven(enabled[before.endpoint], before, failure)
            possible += age < terms.window_seconds + EDGE_SECONDS and not surely
            certain += age < terms.window_seconds - EDGE_SECONDS and not maybe
        yield _Due(failure, certain > terms.limit, possible > terms.limit)


def _forgiven(enabled: list[Enabled], before: FailureRow, now: FailureRow) -> tuple[bool, bool]:
    """Whether a failure no longer counted when a later one was judged: surely, and maybe."""
    if before.seq == now.seq:
        return False, False
    surely = any(before.ended_at <= each.asked_at and each.answered_at <= now.ended_at for each in enabled)
    maybe = any(before.ended_at <= each.answered_at and each.asked_at <= now.ended_at for each in enabled)
    return surely, maybe


def _too_late(case: Case, endpoint: str, dues: list[_Due]) -> Iterator[Violation]:
    """After the failure that disables nothing is sent until somebody enables."""
    moments = [each.arrived_at for each in case.by_endpoint[endpoint]]
    for due in dues:
        if not due.must:
            continue
        ended_at = due.failure.ended_at
        again = min(
            (
                each.asked_at
                for each in case.history.enabled
                if each.endpoint == endpoint and each.answered_at > ended_at
            ),
            default=math.inf,
        )
        after = bisect.bisect_right(moments, ended_at + ROUNDING_SECONDS)
        if after < len(moments) and moments[after] < again:
            yield Violation("disabled", f"{endpoint} got a request after the failure that disables it")
        if again == math.inf and case.final.endpoints[endpoint].state == "active":
            yield Violation("disabled", f"{endpoint} is active after the failure that disables it")


def _too_early(case: Case, endpoint: str, dues: list[_Due], *, stopped: bool) -> Iterator[Violation]:
    """Whenever it was stopped by the budget, its last failure before may have been the one that does that."""
    ends = sorted(each.asked_at for each in case.history.enabled if each.endpoint == endpoint)
    begin = -math.inf
    for end in [*ends, *([math.inf] if stopped else [])]:
        between = [due for due in dues if begin <= due.failure.ended_at <= end]
        begin = end
        if not between or not max(between, key=lambda due: due.failure.seq).may:
            yield Violation("disabled", f"{endpoint} was disabled before the budget was spent")
