"""The rules for a cluster: what a partition's next owner may repeat, who may send, how long it may take.

They stand in the place of the rules about repeats, the schedule, the recorded attempts and the budget: a new owner that
had nothing on its disk begins a delivery's schedule, and its count of attempts, anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from tests.crash.case import Case, Rule, Violation
from tests.crash.history import Received

# How exact moments are that two processes wrote down.
EDGE_SECONDS = 0.1
# What was accepted before an outage is delivered for a while.
OUTAGE_BEGINS_SECONDS = 4.0


def first_out_of_order(case: Case) -> Iterator[Violation]:
    """The first request for each event comes after the first of each that stands before it."""
    seq_of = {id(each): seq for seq, arrivals in case.arrivals.items() for each in arrivals}
    for endpoint, arrivals in case.by_endpoint.items():
        seen: set[int] = set()
        reached = 0
        for each in arrivals:
            seq = seq_of.get(id(each), 0)
            if seq and seq not in seen:
                if seq < reached:
                    yield Violation("reordered", f"{endpoint} got {each.event_id} after one that stands behind it")
                reached = max(reached, seq)
                seen.add(seq)


def repeated(case: Case) -> Iterator[Violation]:
    """What was delivered comes again only from a new owner, and only what was not saved yet when it took over."""
    history = case.history
    for row in case.final.deliveries:
        for before, after in pairwise(case.arrivals[row.seq]):
            ended_at = before.arrived_at if before.ended_at is None else before.ended_at
            takeover = history.takeover_between(row.endpoint, before.arrived_at, after.arrived_at)
            what = f"{row.endpoint} got {row.event_id} again"
            if takeover is None:
                if before.answer == 200 or after.attempt <= before.attempt:
                    yield Violation("repeated", f"{what} from the same owner")
            elif before.answer == 200 and ended_at < takeover.unsaved_since - history.terms.repeat_seconds:
                late = takeover.unsaved_since - ended_at
                when = f"{late:.2f} s before its owner was lost" if late < math.inf else "before it was handed over"
                yield Violation("repeated", f"{what}, delivered {when}")


def repeats(case: Case) -> dict[float, int]:
    """How many requests each takeover (by its time) led to that had been answered with 200 before."""
    counts: dict[float, int] = {}
    for row in case.final.deliveries:
        for before, after in pairwise(case.arrivals[row.seq]):
            takeover = case.history.takeover_between(row.endpoint, before.arrived_at, after.arrived_at)
            if takeover is not None and before.answer == 200:
                counts[takeover.at] = counts.get(takeover.at, 0) + 1
    return counts


def by_another(case: Case) -> Iterator[Violation]:
    """Only the owner of an endpoint's partition sends to it."""
    for endpoint, arrivals in case.by_endpoint.items():
        takeovers = case.history.takeovers.get(endpoint, [])
        for each in arrivals:
            owner = next((one for one in reversed(takeovers) if one.at <= each.arrived_at + EDGE_SECONDS), None)
            near = [one for one in takeovers if abs(one.at - each.arrived_at) <= EDGE_SECONDS]
            if owner is None or (each.sender != owner.machine and not near):
                name = "nobody" if owner is None else owner.machine
                yield Violation("by_another", f"{each.sender} sent {each.event_id} to {endpoint}, owned by {name}")


def pauses(case: Case) -> Iterator[tuple[Received, Received, float]]:
    """Two requests in a row to an endpoint, and how long it waited between them: from when the second was accepted."""
    for arrivals in case.by_endpoint.values():
        for before, after in pairwise(arrivals):
            row = case.row_of(after)
            queued_at = row.queued_at if row is not None else None
            yield before, after, after.arrived_at - max(before.arrived_at, queued_at or 0.0)


def paused(case: Case) -> Iterator[Violation]:
    """What is accepted is delivered in time, whatever is lost.

    A producer whose requests all went to a machine that stood still has had nothing accepted meanwhile.
    """
    terms, outages = case.history.terms, case.history.outages
    for before, after, seconds in pauses(case):
        begin = before.arrived_at - OUTAGE_BEGINS_SECONDS
        is_outage = any(begin <= each <= after.arrived_at for each in outages)
        if seconds > max(terms.pause_seconds, terms.outage_seconds if is_outage else 0.0):
            yield Violation("paused", f"{after.endpoint} got nothing for {seconds:.1f} s before {after.event_id}")


RULES: tuple[Rule, ...] = (first_out_of_order, repeated, by_another, paused)
