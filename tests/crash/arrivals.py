"""The rules about what reaches a receiver and when: order, one at a time, repeats, the schedule."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from tests.crash.case import Case, Rule, Violation
from tests.crash.history import DeliveryRow, Received

# A stamp in the table is rounded to the millisecond.
ROUNDING_SECONDS = 0.005
# How late an attempt may come on a machine that has other things to do; what is meant is a wait of another step.
LATE_SECONDS = 10.0


def reordered(case: Case) -> Iterator[Violation]:
    """First successes come in the order of acceptance: of the answers, within a batch, and of the table."""
    for endpoint, arrivals in case.by_endpoint.items():
        seen: set[str] = set()
        latest_asked, latest_id = -math.inf, ""
        last_of_request: dict[int, int] = {}
        for each in arrivals:
            asked, taken = case.first_asked.get(each.event_id), case.first_taken.get(each.event_id)
            if each.answer != 200 or each.replay or each.event_id in seen or asked is None or taken is None:
                continue
            seen.add(each.event_id)
            assert taken.answered_at is not None
            if taken.answered_at < latest_asked:
                yield Violation("reordered", f"{endpoint} got {latest_id} before {each.event_id}, accepted earlier")
            if taken.index < last_of_request.get(taken.request, -1):
                yield Violation("reordered", f"{endpoint} got {each.event_id} late in its batch")
            last_of_request[taken.request] = taken.index
            if asked.asked_at > latest_asked:
                latest_asked, latest_id = asked.asked_at, each.event_id


def overtaken(case: Case) -> Iterator[Violation]:
    """Nothing of an endpoint's queue starts before what stands in front of it was finished, whatever came of that."""
    seq_of = {id(each): seq for seq, arrivals in case.arrivals.items() for each in arrivals}
    for endpoint, arrivals in case.by_endpoint.items():
        reached = 0
        for each in arrivals:
            seq = seq_of.get(id(each))
            if seq is None:
                continue
            if seq < reached:
                yield Violation("reordered", f"{endpoint} got {each.event_id} again after one that stands behind it")
            reached = max(reached, seq)


def overlapping(case: Case) -> Iterator[Violation]:
    """One request in flight per endpoint, within the life of a process."""
    for endpoint, arrivals in case.by_endpoint.items():
        for before, after in pairwise(arrivals):
            ended = math.inf if before.ended_at is None else before.ended_at
            apart = case.history.crash_between(before.arrived_at, after.arrived_at) is not None
            if after.arrived_at < ended and not apart:
                yield Violation("overlapping", f"{endpoint}: {after.event_id} came before {before.event_id} had ended")


def repeated(case: Case) -> Iterator[Violation]:
    """The same attempt comes again only after a crash that left its outcome unknown, one per endpoint and crash.

    After a success that was not cut off by a crash nothing more comes of a delivery.
    """
    for row, before, after in _again(case):
        if case.history.crash_between(before.arrived_at, after.arrived_at) is None:
            yield Violation("repeated", f"{row.endpoint} got attempt {after.attempt} of {row.event_id} twice, no crash")
    for (endpoint, crash), count in repeats_per_crash(case).items():
        if count > 1:
            yield Violation("repeated", f"{endpoint} got {count} repeats after crash {crash}")
    for row in case.final.deliveries:
        arrivals = case.arrivals[row.seq]
        for before, after in pairwise(arrivals):
            between = range(before.attempt + 1, after.attempt)
            unread = all(case.unread(row.seq, number) for number in between)
            if after.attempt < before.attempt or not unread:
                yield Violation("repeated", f"{row.endpoint} got attempt {after.attempt} of {row.event_id} out of turn")
            elif after.attempt != before.attempt and case.succeeded(row.seq, before):
                yield Violation("repeated", f"{row.endpoint} said 200 to {row.event_id} and got it again")


def repeats_per_crash(case: Case) -> Counter[tuple[str, int]]:
    """How many attempts each endpoint got again because of each crash."""
    counts: Counter[tuple[str, int]] = Counter()
    for row, before, after in _again(case):
        crash = case.history.crash_between(before.arrived_at, after.arrived_at)
        if crash is not None:
            counts[row.endpoint, crash] += 1
    return counts


def _again(case: Case) -> Iterator[tuple[DeliveryRow, Received, Received]]:
    for row in case.final.deliveries:
        arrivals = case.arrivals[row.seq]
        for before, after in pairwise(arrivals):
            if before.attempt == after.attempt:
                yield row, before, after


def gaps(case: Case) -> Iterator[Violation]:
    """A retry comes no sooner than its step of the schedule after the end of the attempt before, crash or not.

    And no later than that, or than its own step after the restart where there was one.
    """
    steps = case.history.terms.retry_seconds
    for row in case.final.deliveries:
        arrivals, failures = case.arrivals[row.seq], case.failures[row.seq]
        for each in arrivals:
            if each.attempt == 1:
                continue
            before = failures.get(each.attempt - 1)
            if before is None:
                yield Violation(
                    "gaps", f"attempt {each.attempt} of {row.event_id} came before the one before was recorded"
                )
                continue
            if case.history.enabled_between(row.endpoint, before.ended_at, each.arrived_at):
                continue  # the schedule began anew
            begun_anew = case.history.enabled_between(row.endpoint, arrivals[0].arrived_at, before.ended_at)
            due = sum(
                each_before.reason != "local" for number, each_before in failures.items() if number < each.attempt
            )
            shortest = min(steps) if begun_anew else steps[min(due, len(steps)) - 1]
            longest = max(steps) if begun_anew else shortest
            waited = each.arrived_at - before.ended_at
            what = f"attempt {each.attempt} of {row.event_id} to {row.endpoint} came after {waited:.3f} s"
            if waited < shortest - ROUNDING_SECONDS:
                yield Violation("gaps", f"{what}, {shortest} are due")
            crash = case.history.crash_between(before.ended_at, each.arrived_at)
            since = before.ended_at if crash is None else case.history.crashes[crash].started_at
            if each.arrived_at - since > longest + LATE_SECONDS:
                yield Violation("gaps", f"{what}, {each.arrived_at - since:.3f} after a restart; {longest} are due")


RULES: tuple[Rule, ...] = (reordered, overtaken, overlapping, repeated, gaps)
