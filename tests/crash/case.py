"""One case before the judge: the history and the final database, indexed for the rules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.crash.history import (
    BACKFILL,
    ORDINARY,
    REPLAY,
    Asked,
    DeliveryRow,
    FailureRow,
    Final,
    History,
    Received,
    Said,
)

# Why an attempt failed whose answer was not read: it came too late, or the daemon's machine stood still meanwhile.
UNREAD = ("timeout", "local")


@dataclass(frozen=True, slots=True)
class Violation:
    rule: str
    text: str


@dataclass(slots=True)
class Judgement:
    """What came out.  `repeats` counts requests made again; `most_repeats` is the most for one endpoint and crash."""

    violations: list[Violation] = field(default_factory=list)
    accepted: int = 0
    received: int = 0
    repeats: int = 0
    most_repeats: int = 0

    def count(self, rule: str) -> int:
        return sum(each.rule == rule for each in self.violations)


class Case:
    def __init__(self, history: History, final: Final) -> None:
        self.history = history
        self.final = final
        self.first_asked: dict[str, Asked] = {}
        self.first_taken: dict[str, Asked] = {}
        for asked in sorted(history.asked, key=lambda each: each.asked_at):
            self.first_asked.setdefault(asked.event_id, asked)
        for asked in sorted(history.asked, key=lambda each: each.answered_at or 0.0):
            if asked.said is Said.TAKEN:
                self.first_taken.setdefault(asked.event_id, asked)
        self.failures: dict[int, dict[int, FailureRow]] = defaultdict(dict)
        for failure in final.failures:
            self.failures[failure.delivery_seq][failure.number] = failure
        self.rows: dict[tuple[str, str, int], list[DeliveryRow]] = defaultdict(list)
        for row in final.deliveries:
            self.rows[row.endpoint, row.event_id, row.kind].append(row)
        self.by_endpoint: dict[str, list[Received]] = defaultdict(list)
        for received in sorted(history.received, key=lambda each: each.arrived_at):
            self.by_endpoint[received.endpoint].append(received)
        self.arrivals: dict[int, list[Received]] = defaultdict(list)  # by the delivery's number
        self.strangers: list[Received] = []
        self._assign()
        self._row_of = {id(each): row for row in final.deliveries for each in self.arrivals[row.seq]}
        # When each endpoint's next attempt may have become possible: after an end, a change, a start.
        self.moments: dict[str, list[float]] = {name: list(times) for name, times in history.moves.items()}
        starts = [*(crash.started_at for crash in history.crashes), *history.restarts]
        for name, row in final.endpoints.items():
            moments = self.moments.setdefault(name, [])
            moments += starts
            moments += (each.ended_at for each in self.by_endpoint[name] if each.ended_at is not None)
            moments += (each.ended_at for each in final.failures if each.endpoint == row.endpoint)
            moments += (each.answered_at for each in history.enabled if each.endpoint == row.endpoint)
            moments.sort()

    def _assign(self) -> None:
        """Find the delivery of each request; of several replays of an event the first that keeps the order."""
        for endpoint, arrivals in self.by_endpoint.items():
            reached = 0
            for each in arrivals:
                if each.delivery_seq is not None:
                    self.arrivals[each.delivery_seq].append(each)
                    continue
                kinds = (REPLAY,) if each.replay else (ORDINARY, BACKFILL)
                rows = [row for kind in kinds for row in self.rows.get((endpoint, each.event_id, kind), [])]
                row = next((row for row in rows if row.seq >= reached), rows[0] if rows else None)
                if row is not None:
                    reached = max(reached, row.seq)
                    self.arrivals[row.seq].append(each)
                elif each.event_id not in self.history.prunable:
                    self.strangers.append(each)

    def succeeded(self, seq: int, each: Received) -> bool:
        """Whether a receiver said 200 in time; an answer that the sender had given up waiting for doesn't count.

        Nor does one that came while the sender's machine stood still: it can't tell whether that was in time.
        """
        failure = self.failures[seq].get(each.attempt)
        return each.answer == 200 and not (failure is not None and failure.reason in UNREAD)

    def unread(self, seq: int, attempt: int) -> bool:
        """Whether an attempt ended before its receiver read it: too late for a starved machine, or its own fault."""
        failure = self.failures[seq].get(attempt)
        return failure is not None and failure.reason in UNREAD

    def row_of(self, each: Received) -> DeliveryRow | None:
        """The delivery of a request; None where it isn't known."""
        return self._row_of.get(id(each))

    def queued_at(self, row: DeliveryRow) -> float | None:
        if row.queued_at is not None:
            return row.queued_at
        taken = self.first_taken.get(row.event_id)
        return taken.answered_at if taken is not None and row.kind == ORDINARY else None


Rule = Callable[[Case], Iterator[Violation]]
