"""What the judge of a simulated run keeps in mind, in words of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from webhookd.models import Reason

PENDING, DELIVERED, DROPPED, EXPIRED, SKIPPED, CANCELLED = range(6)


class Broken(AssertionError):
    """A promise was broken; the message says which, where and when."""


@dataclass(slots=True)
class Hook:
    """An endpoint as the table has it.  `forgetting`: enabled or deleted, and whoever asked hasn't heard yet."""

    seq: int
    url: str
    workspace: int
    types: tuple[str, ...]
    state: str
    skipped_upto: int = 0
    deleted: bool = False
    forgetting: bool = False
    moved_at: float = 0.0
    waiting: list[int] = field(default_factory=list)
    newest_success: int = 0


@dataclass(slots=True)
class Delivery:
    """A delivery as the table has it; `ended_at` and `step_seconds` are those of its last failure in this schedule."""

    seq: int
    event: int
    hook: int
    is_replay: bool
    queued_at: float
    state: int = PENDING
    attempts: int = 0
    tries: int = 0
    ended_at: float | None = None
    step_seconds: float = 0.0


@dataclass(slots=True)
class Attempt:
    """A request under way, or ended and not yet recorded.  `exceeds` is None where either is right."""

    hook: int
    delivery: int
    number: int
    began_at: float
    arrived: bool = False
    will_arrive: bool = False
    will_succeed: bool = False
    reason: Reason | None = None
    ended_at: float | None = None
    counted: bool | None = False
    exceeds: bool | None = False

    @property
    def key(self) -> tuple[int, int]:
        """What makes it the same attempt."""
        return self.delivery, self.number


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure that counts; one read from the table is known to the millisecond only."""

    hook: int
    ended_at: float
    tolerance: float = 1e-6


@dataclass(slots=True)
class Sent:
    """What a producer knows of an event: when it was first sent, when it was first answered for."""

    first_sent_at: float
    body: bytes
    last_sent_at: float = 0.0
    answered_at: float | None = None
    place: int = 0
    batch: int = 0


@dataclass(slots=True)
class Commit:
    """What a transaction has done so far.  Who went past the budget in it has to be stopped by it."""

    now: float
    new_events: dict[int, set[int]] = field(default_factory=dict)  # each with the endpoints that it was queued for
    must_stop: set[int] = field(default_factory=set)
    may_stop: set[int] = field(default_factory=set)
    stopped: int = 0
    notices: int = 0


class Spending:
    """The failures of each workspace that count, in the plainest way: a list, gone through each time."""

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._failures: defaultdict[int, list[Failure]] = defaultdict(list)

    def add(self, workspace: int, failure: Failure) -> None:
        """An attempt failed, and counts."""
        self._failures[workspace].append(failure)

    def forget(self, workspace: int, hook: int) -> None:
        """An endpoint's failures count no more."""
        self._failures[workspace] = [each for each in self._failures[workspace] if each.hook != hook]

    def restore(self, failures: Mapping[int, list[Failure]]) -> None:
        """These are all that count."""
        self._failures = defaultdict(list, failures)

    def count(self, workspace: int, now: float, unsure: Collection[int]) -> tuple[int, int]:
        """How many count at `now`, at least and at most; those of the endpoints `unsure` may be forgotten already."""
        window = self._window_seconds
        kept = [each for each in self._failures[workspace] if now - each.ended_at < window + each.tolerance]
        self._failures[workspace] = kept
        surely = [each for each in kept if each.hook not in unsure and now - each.ended_at < window - each.tolerance]
        return len(surely), len(kept)
