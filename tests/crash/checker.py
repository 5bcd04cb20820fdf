"""The judge: a pure function of what was seen from outside and of the final database.

`judge` knows nothing of webhookd's code.  Each rule is a promise of the public contract and yields a `Violation` for
each place where it is broken; `test_checker` shows for each rule that a history which breaks it is caught.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from tests.crash import arrivals, spending, takeovers
from tests.crash.case import UNREAD, Case, Judgement, Rule, Violation
from tests.crash.history import (
    CANCELLED,
    DELIVERED,
    DROPPED,
    EXPIRED,
    ORDINARY,
    PENDING,
    SKIPPED,
    DeliveryRow,
    Final,
    History,
)


def lost(case: Case) -> Iterator[Violation]:
    """Each accepted id is in the table, for each endpoint that wanted it.

    What was not accepted for sure (no answer came) is there for all of its endpoints or for none.
    """
    for event_id, asked in case.first_asked.items():
        known = event_id in case.final.bodies
        if event_id in case.history.prunable:
            continue
        if not known:
            if event_id in case.first_taken:
                yield Violation("lost", f"{event_id} was answered with 202 and is not in the table")
            continue
        if case.final.bodies[event_id] != asked.body:
            yield Violation("altered", f"the table has another body for {event_id}")
        for subscriber in case.history.subscribers:
            rows = case.rows.get((subscriber.endpoint, event_id, ORDINARY), [])
            if subscriber.wants(asked) and len(rows) != 1:
                yield Violation("lost", f"{event_id} has {len(rows)} deliveries to {subscriber.endpoint}, not 1")


def delivered(case: Case) -> Iterator[Violation]:
    for row in case.final.deliveries:
        if row.state != DELIVERED or row.event_id in case.history.prunable:
            continue
        if not any(each.answer == 200 and each.attempt == row.final_number for each in case.arrivals[row.seq]):
            yield Violation("lost", f"{_name(row)} is marked delivered, and no 200 was given to that attempt")


def unaccounted(case: Case) -> Iterator[Violation]:
    """What was not delivered has a reason: dropped after its whole schedule, held, skipped, cancelled."""
    for row in case.final.deliveries:
        endpoint = case.final.endpoints[row.endpoint]
        if row.state == PENDING and endpoint.state == "active":
            yield Violation("unaccounted", f"{_name(row)} still waits though its endpoint is active")
        elif row.state == SKIPPED:
            asked_for = any(each.endpoint == row.endpoint and each.skip_held for each in case.history.enabled)
            if not asked_for or row.seq > endpoint.skipped_upto:
                yield Violation("unaccounted", f"{_name(row)} was skipped without a request")
        elif row.state == CANCELLED and not endpoint.deleted:
            yield Violation("unaccounted", f"{_name(row)} was cancelled, and its endpoint is there")
        elif row.state == DROPPED:
            yield from _dropped(case, row)


def expired(case: Case) -> Iterator[Violation]:
    """Only what is past the limit of holding expires, and of that the oldest."""
    most = case.history.terms.hold_max_events
    if most is None:
        return
    held: dict[str, list[int]] = defaultdict(list)
    gone: dict[str, list[int]] = defaultdict(list)
    for row in case.final.deliveries:
        if row.state in (PENDING, EXPIRED):
            (held if row.state == PENDING else gone)[row.endpoint].append(row.seq)
    for endpoint, seqs in gone.items():
        full = len(held[endpoint]) >= most
        if not full or max(seqs) > min(held[endpoint]):
            yield Violation(
                "unaccounted", f"{endpoint}: {len(seqs)} expired, {len(held[endpoint])} held: not the oldest"
            )


def _dropped(case: Case, row: DeliveryRow) -> Iterator[Violation]:
    failures = [each for each in case.failures[row.seq].values() if each.reason != "local"]
    allowed = len(case.history.terms.retry_seconds) + 1
    if len(failures) < allowed:
        yield Violation("unaccounted", f"{_name(row)} was dropped after {len(failures)} of {allowed} attempts")
    begun = min((each.ended_at for each in failures), default=0.0)
    end = max((each.ended_at for each in failures), default=0.0)
    if len(failures) > allowed and not case.history.enabled_between(row.endpoint, begun, end):
        yield Violation("unaccounted", f"{_name(row)} was dropped after {len(failures)} attempts, {allowed} are due")


def answers(case: Case) -> Iterator[Violation]:
    """`duplicate` is true only of what was sent before, and false only once."""
    news: Counter[str] = Counter()
    for asked in case.history.asked:
        first = case.first_asked[asked.event_id]
        if asked.duplicate is True and first is asked:
            yield Violation("answers", f"{asked.event_id} was called a duplicate at its first sending")
        if asked.duplicate is False and asked.event_id not in case.history.prunable:
            news[asked.event_id] += 1
    for event_id, count in news.items():
        if count > 1:
            yield Violation("answers", f"{event_id} was called new {count} times")


def recorded(case: Case) -> Iterator[Violation]:
    """The attempts of a delivery are numbered without a hole, each once, and say what the receiver said."""
    for row in case.final.deliveries:
        failures = case.failures[row.seq]
        numbers = sorted([*failures, *([row.final_number] if row.final_number is not None else [])])
        if numbers != list(range(1, row.attempt_count + 1)):
            yield Violation("recorded", f"{_name(row)} has the attempts {numbers} of {row.attempt_count}")
        last = {each.attempt: each for each in case.arrivals[row.seq]}
        for number, failure in failures.items():
            if number in last and last[number].answer == 200 and failure.reason not in UNREAD:
                what = f"attempt {number} of {_name(row)}"
                yield Violation("recorded", f"{what} was answered 200 and recorded as failed: {failure.reason}")
    if len(case.final.failures) != sum(map(len, case.failures.values())):
        yield Violation("recorded", "an attempt was recorded twice")
    for each in case.strangers:
        yield Violation("recorded", f"{each.endpoint} got {each.event_id}, which the table doesn't know")


def altered(case: Case) -> Iterator[Violation]:
    for each in case.history.received:
        asked = case.first_asked.get(each.event_id)
        if asked is None or asked.body != each.body:
            yield Violation("altered", f"{each.endpoint} got other bytes for {each.event_id}")


def _name(row: DeliveryRow) -> str:
    return f"delivery {row.seq} ({row.event_id} to {row.endpoint})"


def judge(history: History, final: Final) -> Judgement:
    """Try every rule that holds for this history; one with takeovers is a cluster's."""
    case = Case(history, final)
    rules: tuple[Rule, ...] = (lost, delivered, unaccounted, answers, altered)
    if history.takeovers:
        rules += (arrivals.reordered, arrivals.overtaken, arrivals.overlapping, *takeovers.RULES)
        per_crash: Mapping[Any, int] = takeovers.repeats(case)
    else:
        rules += (expired, recorded, *arrivals.RULES, spending.disabled)
        per_crash = arrivals.repeats_per_crash(case)
    judgement = Judgement(accepted=len(case.first_taken), received=len(history.received))
    for rule in rules:
        judgement.violations.extend(rule(case))
    judgement.repeats = sum(per_crash.values())
    judgement.most_repeats = max(per_crash.values(), default=0)
    return judgement
