"""What was seen of webhookd from outside, and its final tables: what the checker judges.

All times are seconds of one clock: of the wall where processes are killed, of the simulation or of the test elsewhere.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field
from enum import StrEnum


class Said(StrEnum):
    """What a producer heard of an event: 202 (new or known), an error, or nothing."""

    TAKEN = "taken"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Asked:
    """One event in one request.  `duplicate` is what the answer said of it, where it tells (single events)."""

    event_id: str
    event_type: str
    workspace: str
    body: bytes
    asked_at: float
    answered_at: float | None
    said: Said
    request: int
    index: int = 0
    duplicate: bool | None = None


@dataclass(slots=True)
class Received:
    """One request that a receiver read whole.  `ended_at`: it answered, or the connection was lost; `answer` if any.

    `delivery_seq` is its row in the table, where the observer knows it.
    """

    endpoint: str
    event_id: str
    body: bytes
    attempt: int
    replay: bool
    arrived_at: float
    ended_at: float | None = None
    answer: int | None = None
    delivery_seq: int | None = None
    sender: str = ""  # which machine of a cluster sent it


@dataclass(frozen=True, slots=True)
class Crash:
    """`at`: the process was surely dead; `ready_at`: the next one answered, 0 if it was killed before that."""

    at: float
    ready_at: float

    @property
    def started_at(self) -> float:
        return max(self.at, self.ready_at)


@dataclass(frozen=True, slots=True)
class Takeover:
    """In a cluster an endpoint's partition got another owner, `machine`, or the same one started anew.

    `unsaved_since`: what finished after that may not have been saved for the new owner; infinite if it was handed over.
    """

    at: float
    machine: str
    unsaved_since: float


@dataclass(frozen=True, slots=True)
class Enabled:
    """A disabled endpoint was enabled at a moment between the two times; `auto`: the failure budget had disabled it."""

    endpoint: str
    asked_at: float
    answered_at: float
    skip_held: bool = False
    auto: bool = True


@dataclass(frozen=True, slots=True)
class Deleted:
    endpoint: str
    asked_at: float
    answered_at: float


@dataclass(frozen=True, slots=True)
class Subscriber:
    """An endpoint that was there before the first event: its name (the path of its URL) and what it wants."""

    endpoint: str
    workspace: str
    event_types: tuple[str, ...]

    def wants(self, asked: Asked) -> bool:
        return asked.workspace == self.workspace and (asked.event_type in self.event_types or "*" in self.event_types)


@dataclass(frozen=True, slots=True)
class Terms:
    """The settings that the judgement rests on, and how exact the observer's clock is.

    `late_seconds`: how late an attempt may come, on a machine that has other things to do.  `edge_seconds`: how near to
    the window's edge a failure may count or not.  Without `hold_max_events` nothing is said of what has expired.
    In a cluster, `repeat_seconds`: what was delivered in that time before a takeover may come again; `pause_seconds`:
    the longest that an endpoint waits for its next event while a machine is lost; `outage_seconds`: the same where what
    keeps its events was lost for a moment.
    """

    retry_seconds: tuple[float, ...] = (30.0, 60.0, 90.0)
    limit: int = 30
    window_seconds: float = 1800.0
    hold_max_events: int | None = 100_000
    disables_all: bool = False
    local_seconds: float = 30.0
    late_seconds: float = 10.0
    edge_seconds: float = 0.25
    repeat_seconds: float = 0.0
    pause_seconds: float = math.inf
    outage_seconds: float = 0.0


@dataclass(slots=True)
class History:
    """Everything that was seen.

    `prunable`: ids of events so old that retention may have removed them.  `restarts`: when a daemon that had been
    stopped in order was ready again.  `moves`: when something happened at an endpoint that may have delayed it.
    `plans`: when a plan that concerns an endpoint may have been changed.
    `wall_steps`: when the wall clock was set, and how far it has been set in all since then.
    `takeovers`: of each endpoint's partition, in a cluster, the first being who owned it at the beginning.
    `outages`: when what keeps a cluster's events lost a server, so that for a moment nothing could be accepted.
    """

    terms: Terms
    subscribers: list[Subscriber] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    crashes: list[Crash] = field(default_factory=list)
    enabled: list[Enabled] = field(default_factory=list)
    deleted: list[Deleted] = field(default_factory=list)
    restarts: list[float] = field(default_factory=list)
    moves: dict[str, list[float]] = field(default_factory=dict)
    plans: dict[str, list[float]] = field(default_factory=dict)
    wall_steps: list[tuple[float, float]] = field(default_factory=list)
    prunable: set[str] = field(default_factory=set)
    takeovers: dict[str, list[Takeover]] = field(default_factory=dict)
    outages: list[float] = field(default_factory=list)

    def takeover_between(self, endpoint: str, begin: float, end: float) -> Takeover | None:
        """The first takeover of an endpoint's partition in that time, or None."""
        return next((each for each in self.takeovers.get(endpoint, ()) if begin <= each.at < end), None)

    def interrupted_between(self, endpoint: str, begin: float, end: float) -> bool:
        """Whether a crash or a takeover in that time may have left an outcome unknown."""
        crash = self.crash_between(begin, end) is not None
        return crash or self.takeover_between(endpoint, begin, end) is not None

    def crash_between(self, begin: float, end: float) -> int | None:
        """The number of the last crash in that time, or None."""
        last = bisect.bisect_left(self.crashes, end, key=lambda crash: crash.at) - 1
        return last if last >= 0 and self.crashes[last].at >= begin else None

    def first_crash_between(self, begin: float, end: float) -> int | None:
        """The number of the first crash in that time, or None: the one that left unknown what was under way then."""
        first = bisect.bisect_left(self.crashes, begin, key=lambda crash: crash.at)
        return first if first < len(self.crashes) and self.crashes[first].at < end else None

    def started_between(self, begin: float, end: float) -> float | None:
        starts = [*(crash.started_at for crash in self.crashes), *self.restarts]
        return max((at for at in starts if begin < at <= end), default=None)

    def restored_between(self, endpoint: str, begin: float, end: float) -> float | None:
        """When in that time a wait of the endpoint was last read from the table: at a start, or as its plan changed."""
        plans = (at for at in self.plans.get(endpoint, ()) if begin < at <= end)
        return max((each for each in (self.started_between(begin, end), *plans) if each is not None), default=None)

    def is_starting(self, at: float) -> bool:
        """Whether a daemon was starting at that moment: it may send before anybody sees that it is ready."""
        return any(crash.at <= at <= crash.started_at for crash in self.crashes)

    def set_by(self, at: float) -> float:
        """How far the wall clock has been set by then, in seconds."""
        return next((seconds for since, seconds in reversed(self.wall_steps) if since < at), 0.0)

    def enabled_between(self, endpoint: str, begin: float, end: float) -> bool:
        """Whether the endpoint was, or may have been, enabled in that time."""
        return any(
            each.endpoint == endpoint and each.asked_at <= end and each.answered_at >= begin for each in self.enabled
        )


# The final database, as the checker needs it

PENDING, DELIVERED, DROPPED, EXPIRED, SKIPPED, CANCELLED = range(6)
ORDINARY, REPLAY, BACKFILL = 0, 1, 3


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A delivery in the table; `final_number` is the number of the attempt that delivered it, `queued_at` if known.

    `key`: it keeps its order with the deliveries to its endpoint that have the same one.  `era`: what has a lower one
    is finished before; it counts how often its endpoint was given another key to order by.
    """

    seq: int
    event_id: str
    endpoint: str
    state: int = DELIVERED
    kind: int = ORDINARY
    attempt_count: int = 1
    final_number: int | None = 1
    queued_at: float | None = None
    key: str = ""
    era: int = 0


@dataclass(frozen=True, slots=True)
class FailureRow:
    seq: int
    delivery_seq: int
    endpoint: str
    workspace: str
    ended_at: float
    number: int
    reason: str = "status"
    counted: bool = True
    pruned: bool = False


@dataclass(frozen=True, slots=True)
class EndpointRow:
    endpoint: str
    state: str = "active"
    skipped_upto: int = 0
    deleted: bool = False
    workspace: str = "default"
    lanes: int = 1  # the most that it had


@dataclass(slots=True)
class Final:
    """The tables when everything came to rest.  `bodies` by event id; None once only the id is remembered."""

    bodies: dict[str, bytes | None] = field(default_factory=dict)
    deliveries: list[DeliveryRow] = field(default_factory=list)
    failures: list[FailureRow] = field(default_factory=list)
    endpoints: dict[str, EndpointRow] = field(default_factory=dict)
