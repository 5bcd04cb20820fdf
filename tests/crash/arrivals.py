"""The rules about what reaches a receiver and when: order, one at a time, repeats, the schedule."""

from __future__ import annotations

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from tests.crash.case import Case, Rule, Violation
from tests.crash.history import ORDINARY, DeliveryRow, FailureRow, Received

# A stamp in the table is rounded to the millisecond.
ROUNDING_SECONDS = 0.005


def reordered(case: Case) -> Iterator[Violation]:
    """Each queue has the order of acceptance: of the answers, and within a batch."""
    queues: dict[str, list[DeliveryRow]] = defaultdict(list)
    for row in sorted(case.final.deliveries, key=lambda each: each.seq):
        if row.kind == ORDINARY and row.event_id in case.first_taken and row.event_id not in case.history.prunable:
            queues[row.endpoint].append(row)
    for endpoint, rows in queues.items():
        latest_asked, latest_id = -math.inf, ""
        last_of_request: dict[int, int] = {}
        for event_id in (row.event_id for row in rows):
            asked, taken = case.first_asked[event_id], case.first_taken[event_id]
            assert taken.answered_at is not None
            if taken.answered_at < latest_asked:
                yield Violation("reordered", f"{endpoint} has {latest_id} before {event_id}, accepted earlier")
            if taken.index < last_of_request.get(taken.request, -1):
                yield Violation("reordered", f"{endpoint} has {event_id} late in its batch")
            last_of_request[taken.request] = taken.index
            latest_asked, latest_id = max((latest_asked, latest_id), (asked.asked_at, event_id))


def overtaken(case: Case) -> Iterator[Violation]:
    """Nothing starts before what stands in front of it was finished, whatever came of that.

    In front stands what was accepted before it with the same key, or when its endpoint had another key to order by.
    """
    for endpoint, arrivals in case.by_endpoint.items():
        reached: dict[str, int] = defaultdict(int)
        era, latest = 0, -math.inf
        for each in arrivals:
            row = case.row_of(each)
            if row is None:
                continue
            if case.history.takeover_between(endpoint, latest, each.arrived_at):
                reached.clear()  # a new owner begins where the progress that it knows of ends
            latest = each.arrived_at
            if row.era < era or (row.era == era and row.seq < reached[row.key]):
                yield Violation("reordered", f"{endpoint} got {each.event_id} again after one that stands behind it")
            if row.era > era:
                era, reached = row.era, defaultdict(int)
            reached[row.key] = max(reached[row.key], row.seq)


def overlapping(case: Case) -> Iterator[Violation]:
    """One request in flight per key, and no more than an endpoint has lanes, within the life of a process."""
    for endpoint, arrivals in case.by_endpoint.items():
        under_way: list[Received] = []
        for each in arrivals:
            under_way = [before for before in under_way if not _is_over(case, before, each)]
            key = _order(case, each)
            for before in under_way:
                if _order(case, before) in (key, None) or key is None or _order(case, before)[1] != key[1]:
                    what = f"{each.event_id} came before {before.event_id} had ended"
                    yield Violation("overlapping", f"{endpoint}: {what}")
            under_way.append(each)
            if endpoint in case.final.endpoints and len(under_way) > case.final.endpoints[endpoint].lanes > 1:
                yield Violation("overlapping", f"{endpoint} had {len(under_way)} requests under way")


def _order(case: Case, each: Received) -> tuple[str, int] | None:
    """What a request keeps its order with; None where its delivery isn't known."""
    row = case.row_of(each)
    return None if row is None else (row.key, row.era)


def _is_over(case: Case, before: Received, after: Received) -> bool:
    ended = math.inf if before.ended_at is None else before.ended_at
    apart = case.history.interrupted_between(before.endpoint, before.arrived_at, after.arrived_at)
    return after.arrived_at >= ended or apart


def repeated(case: Case) -> Iterator[Violation]:
    """The same attempt comes again only after a crash that left its outcome unknown, one per lane and crash.

    After a success that was not cut off by a crash nothing more comes of a delivery.
    """
    for row, before, after in _again(case):
        if case.history.crash_between(before.arrived_at, after.arrived_at) is None:
            yield Violation("repeated", f"{row.endpoint} got attempt {after.attempt} of {row.event_id} twice, no crash")
    yield from _too_many_repeats(case)
    for row in case.final.deliveries:
        arrivals = case.arrivals[row.seq]
        for before, after in pairwise(arrivals):
            between = range(before.attempt + 1, after.attempt)
            unread = all(case.unread(row.seq, number) for number in between)
            if after.attempt < before.attempt or not unread:
                yield Violation("repeated", f"{row.endpoint} got attempt {after.attempt} of {row.event_id} out of turn")
            elif after.attempt != before.attempt and case.succeeded(row.seq, before):
                yield Violation("repeated", f"{row.endpoint} said 200 to {row.event_id} and got it again")


def _too_many_repeats(case: Case) -> Iterator[Violation]:
    of_key: Counter[tuple[str, str, int | None]] = Counter()
    for row, before, after in _again(case):
        of_key[row.endpoint, row.key, case.history.first_crash_between(before.arrived_at, after.arrived_at)] += 1
    for (endpoint, key, at), count in of_key.items():
        if count > 1 and at is not None:
            yield Violation("repeated", f"{endpoint} got {count} repeats of the key {key!r} after crash {at}")
    for (endpoint, crash), count in repeats_per_crash(case).items():
        if count > case.final.endpoints[endpoint].lanes:
            yield Violation("repeated", f"{endpoint} got {count} repeats after crash {crash}")


def repeats_per_crash(case: Case) -> Counter[tuple[str, int]]:
    """How many attempts each endpoint got again because of each crash."""
    counts: Counter[tuple[str, int]] = Counter()
    for row, before, after in _again(case):
        crash = case.history.first_crash_between(before.arrived_at, after.arrived_at)
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
    """An attempt comes when its step of the schedule is over, counted from the end of the attempt before.

    Not earlier, whatever crashed meanwhile; and not later than that, or than its endpoint could take the next one.
    """
    terms = case.history.terms
    for row in case.final.deliveries:
        failures, queued_at = case.failures[row.seq], case.queued_at(row)
        for each in case.arrivals[row.seq]:
            what = f"attempt {each.attempt} of {row.event_id} to {row.endpoint}"
            before = failures.get(each.attempt - 1)
            if before is None and each.attempt > 1:
                yield Violation("gaps", f"{what} came before the one before was recorded")
                continue
            moments = case.moments[row.endpoint]
            place = bisect.bisect_right(moments, each.arrived_at) - 1
            since = max(moments[place] if place >= 0 else -math.inf, -math.inf if queued_at is None else queued_at)
            earliest, latest = -math.inf, math.inf if before is None and queued_at is None else since
            if before is not None and not case.history.enabled_between(row.endpoint, before.ended_at, each.arrived_at):
                shortest, longest = _step(case, row, before)
                earliest, latest = before.ended_at + shortest, max(since, before.ended_at + longest)
                restored = case.history.restored_between(row.endpoint, before.ended_at, each.arrived_at)
                # It is read a little later than that.
                upto = -math.inf if restored is None else restored + terms.late_seconds
                if case.final.endpoints[row.endpoint].lanes > 1:  # each lane reads it whenever it begins
                    upto = each.arrived_at
                if any(before.ended_at < at < upto for at, _ in case.history.wall_steps):
                    # Restored by a wall clock that was set meanwhile: perhaps shorter, never longer than its own step.
                    earliest, latest = before.ended_at, since + longest
            if each.arrived_at < earliest - ROUNDING_SECONDS:
                yield Violation("gaps", f"{what} came {earliest - each.arrived_at:.3f} s before its time")
            late = each.arrived_at > latest + terms.late_seconds
            if late and not case.history.is_starting(each.arrived_at):
                yield Violation("gaps", f"{what} came {each.arrived_at - latest:.3f} s after its time")


def _step(case: Case, row: DeliveryRow, before: FailureRow) -> tuple[float, float]:
    """The wait after a failure, at least and at most: the schedule begins anew when an endpoint is enabled."""
    terms = case.history.terms
    steps = terms.retry_seconds
    if before.reason == "local":
        return terms.local_seconds, terms.local_seconds
    failures = [
        each for each in case.failures[row.seq].values() if each.reason != "local" and each.number <= before.number
    ]
    anew = [each for each in case.history.enabled if each.endpoint == row.endpoint and each.asked_at < before.ended_at]
    surely = sum(all(each.ended_at > enabled.answered_at for enabled in anew) for each in failures)
    maybe = sum(all(each.ended_at > enabled.asked_at for enabled in anew) for each in failures)
    possible = steps[max(min(surely, len(steps)), 1) - 1 : max(maybe, 1)] or (math.inf,)
    return min(possible), max(possible)


RULES: tuple[Rule, ...] = (reordered, overtaken, overlapping, repeated, gaps)
