"""Sees everything of a simulated run where it happens, and makes of it the history that the checker judges at the end.

The table reports each commit, the network each request, and who asked each answer.  What the checker can tell from the
history and the final table is left to it.  Here is checked, at once, only what no history shows afterwards:

- an answer comes after the commit, and the next request after the commit of the outcome before it;
- no request goes to an endpoint that the table has as disabled, deleted or without a plan at that moment;
- an event is queued for exactly those who are subscribed in the moment of its commit;
- what expires is the oldest that waits, at an endpoint that is stopped; nothing that waits is pruned or replayed;
- a transaction that disables an endpoint for the budget's sake also writes its notice, and so does one that drops the
  first event since its endpoint delivered one, unless that disables it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.crash import history
from tests.crash.history import (
    CANCELLED,
    DELIVERED,
    DROPPED,
    EXPIRED,
    PENDING,
    SKIPPED,
    Asked,
    Deleted,
    Enabled,
    Received,
)
from tests.crash.simulation.disk import Note
from webhookd.config import Config
from webhookd.models import Accepted, Reason
from webhookd.rules.plans import Plans


class Broken(AssertionError):
    """A promise was broken; the message says which, where and when."""


@dataclass(slots=True)
class Hook:
    """An endpoint as the table has it.  `open`: enabled or deleted (and since when), and not answered yet."""

    seq: int
    url: str
    workspace: int
    types: tuple[str, ...]
    state: str
    ordering: str
    era: int = 0  # how often it was given another key to order by
    lanes: int = 1
    most_lanes: int = 1
    key_path: str | None = None
    sequence: int = 0  # of the last delivery that was queued while it ordered by key
    skipped_upto: int = 0
    skips: bool = False
    deleted: bool = False
    moves: list[float] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    open: list[Enabled | Deleted] = field(default_factory=list)
    dropped: set[int] = field(default_factory=set)  # those that are still in the log, as
    delivered: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.order(self.ordering)
        self.era = 0

    def order(self, ordering: str) -> None:
        """Take its order from the table."""
        self.ordering = ordering
        found = json.loads(ordering) or {"key": None, "lanes": 1}
        self.era += found["key"] != self.key_path
        self.key_path, self.lanes = found["key"], found["lanes"]
        self.most_lanes = max(self.most_lanes, self.lanes)

    def key_of(self, body: bytes) -> str:
        """What an event keeps its order with: everything, or what has the same value at the path."""
        value: Any = json.loads(body) if self.key_path is not None else ""
        for name in (self.key_path or "").split(".") if self.key_path is not None else ():
            value = value.get(name) if isinstance(value, dict) else None
        return json.dumps(value)

    @property
    def head(self) -> int | None:
        return next((seq for seq in self.waiting if seq > self.skipped_upto), None)


@dataclass(slots=True)
class Delivery:
    seq: int
    event: int
    hook: int
    kind: int
    queued_at: float
    key: str
    era: int
    sequence: int | None
    state: int = PENDING
    attempts: int = 0


@dataclass(slots=True)
class Attempt:
    """A request under way, or ended and not yet recorded; `counted` is None where either is right."""

    hook: int
    delivery: int
    seen: Received
    reason: Reason | None = None
    counted: bool | None = False


@dataclass(slots=True)
class Commit:
    """What a transaction has done so far; `new_events`: each with the endpoints that it was queued for."""

    now: float
    new_events: dict[int, set[int]] = field(default_factory=dict)
    stopped: int = 0
    dropped: int = 0  # first drops since their endpoints delivered, as far as they want a notice
    drop: int | None = None  # the endpoint of one that is, unless the same command disables it
    notices: Counter[str] = field(default_factory=Counter)


class Observer:
    def __init__(self, config: Config, slowest_seconds: float) -> None:
        self.config = config
        # A request passes at most a dozen pauses of the disk on its way; a long queue's page a few more.
        self.slack_seconds = 0.2 + 20 * slowest_seconds
        self.history = history.History(
            history.Terms(
                config.delivery.retry_seconds,
                config.budget.limit,
                config.budget.window_seconds,
                hold_max_events=None,
                disables_all=config.budget.disables == "all",
                late_seconds=self.slack_seconds,
                edge_seconds=0.01 + slowest_seconds,
            )
        )
        self.hooks: dict[int, Hook] = {}
        self.by_url: dict[str, int] = {}
        self.deliveries: dict[int, Delivery] = {}
        self.event_seqs: dict[tuple[int, str], int] = {}
        self.changing_plan: Counter[int] = Counter()
        self._plans = Plans(config.plans.order, config.plans.webhooks_from)
        self._pruned_deliveries: list[Delivery] = []
        self._failures: list[history.FailureRow] = []
        self._events: dict[int, tuple[int, str, str]] = {}
        self._own_rows: Counter[int] = Counter()
        self._paused: dict[int, bool] = {}
        self._plan_settled_at: dict[int, float] = {}
        self._bodies: dict[str, bytes] = {}
        self._last_sent_at: dict[tuple[int, str], float] = {}
        self._in_flight: dict[int, Attempt] = {}
        self._ended: dict[int, Attempt] = {}
        self._requests = 0
        # Who takes which note, and how many values it has.
        self._takers: dict[str, tuple[Callable[..., None], int]] = {
            "event": (self._event, 4),
            "queued": (self._queued, 5),
            "changed": (self._changed, 3),
            "failed": (self._failed, 3),
            "endpoint": (self._endpoint, 6),
            "endpoint_changed": (self._endpoint_changed, 6),
            "plan": (self._plan, 2),
            "notice": (self._notice, 1),
            "pruned": (self._pruned, 2),
        }

    # Producers

    def sending(self, workspace: int, event_type: str, bodies: Mapping[str, bytes], now: float) -> list[Asked]:
        """A producer sends a batch, perhaps again; what it asked, to be handed to `answered`."""
        self._requests += 1
        asked = []
        for index, (event_id, body) in enumerate(bodies.items()):
            self._bodies[event_id] = body
            self._last_sent_at[workspace, event_id] = now
            place = (history.Said.UNKNOWN, self._requests, index)
            asked.append(Asked(event_id, event_type, str(workspace), body, now, None, *place))
        self.history.asked += asked
        return asked

    def answered(self, workspace: int, asked: list[Asked], results: list[Accepted], now: float) -> None:
        """The producer was answered that they are accepted: then they are durable, each with its deliveries."""
        for one, result in zip(asked, results, strict=True):
            seq = self.event_seqs.get((workspace, result.event_id))
            if seq is None:
                raise Broken(f"{result.event_id} was answered for before it was durable")
            if result.conflict:
                raise Broken(f"{result.event_id} conflicts with itself")
            if seq in self._events and result.deliveries != self._own_rows[seq]:
                rows = self._own_rows[seq]
                raise Broken(f"{result.event_id} has {rows} deliveries, the answer said {result.deliveries}")
            one.answered_at, one.said = now, history.Said.TAKEN

    # Commits

    def committed(self, notes: list[Note], now: float) -> None:
        """A transaction was committed; `notes` are what it did, in order."""
        commit = Commit(now)
        for kind, *values in notes:
            if kind not in ("event", "queued"):  # a command of its own: what follows holds for events after it
                self._check_subscribers(commit)
            take, width = self._takers[kind]
            take(commit, *values[:width])
        self._check_subscribers(commit)
        self._settle_drop(commit)
        due = {"auto_disabled": commit.stopped, "dropped": commit.dropped}
        if due != {kind: commit.notices[kind] for kind in due}:
            raise Broken(f"{due} were due as notices, there are {dict(commit.notices)}")

    def _event(self, commit: Commit, seq: int, workspace: int, event_id: str, kind: str) -> None:
        if event_id.startswith("test_"):
            return
        if (workspace, event_id) in self.event_seqs:  # its id was forgotten; it is a new event in its own right
            self.history.prunable.add(event_id)
        self._events[seq] = (workspace, event_id, kind)
        self.event_seqs[workspace, event_id] = seq
        commit.new_events[seq] = set()

    def _queued(self, commit: Commit, seq: int, event: int, hook: int, kind: int, replay_of: int | None) -> None:
        if kind == 2:
            return
        if kind == 0:
            commit.new_events[event].add(hook)
            self._own_rows[event] += 1
        elif replay_of is not None and self._waits(replay_of):
            raise Broken(f"delivery {replay_of} was replayed while it waited")
        to = self.hooks[hook]
        to.sequence += to.key_path is not None
        sequence = to.sequence if to.key_path is not None else None
        key = to.key_of(self._bodies[self._events[event][1]])
        self.deliveries[seq] = Delivery(seq, event, hook, kind, commit.now, key, to.era, sequence)
        to.waiting.append(seq)

    def _waits(self, seq: int) -> bool:
        delivery = self.deliveries.get(seq)
        if delivery is None or delivery.state != PENDING:
            return False
        hook = self.hooks[delivery.hook]
        return not hook.deleted and seq > hook.skipped_upto

    def _check_subscribers(self, commit: Commit) -> None:
        for event, hooks in commit.new_events.items():
            workspace, event_id, kind = self._events[event]
            wanted = {
                each.seq
                for each in self.hooks.values()
                if each.workspace == workspace and not each.deleted and (kind in each.types or "*" in each.types)
            }
            sent_at = self._last_sent_at[workspace, event_id]
            if self.changing_plan[workspace] or sent_at <= self._plan_settled_at.get(workspace, -1):
                allowed = [wanted, set()]  # the plan changed while it was under way: either is right
            else:
                allowed = [set() if self._paused.get(workspace) else wanted]
            if hooks not in allowed:
                raise Broken(f"{event_id} was queued for {sorted(hooks)}, subscribed are {sorted(allowed[0])}")
        commit.new_events.clear()

    def _changed(self, commit: Commit, seq: int, state: int, attempts: int) -> None:
        delivery = self.deliveries[seq]
        hook = self.hooks[delivery.hook]
        name = f"delivery {seq} of endpoint {hook.seq}"
        if state != delivery.state:
            if delivery.state == PENDING:
                if state == EXPIRED and self._runs(hook) and not self.changing_plan[hook.workspace]:
                    raise Broken(f"{name} expired although its endpoint is active")
                if state == EXPIRED and hook.head != seq:
                    raise Broken(f"{name} expired before older ones")
                hook.waiting.remove(seq)
            elif state != DELIVERED or delivery.state not in (EXPIRED, SKIPPED, CANCELLED):
                raise Broken(f"{name} went from {delivery.state} to {state}")
            hook.moves.append(commit.now)
            if state == DELIVERED:
                hook.delivered.add(seq)
            if state == DROPPED:
                newest = max(hook.delivered, default=0)
                commit.drop = None if any(each > newest for each in hook.dropped) else hook.seq
                hook.dropped.add(seq)
        if attempts != delivery.attempts:
            ended = self._ended.pop(seq, None)
            if ended is None or ended.seen.attempt != attempts:
                raise Broken(f"{name} has {attempts} attempts in the table after {delivery.attempts}")
        delivery.state, delivery.attempts = state, attempts

    def _failed(self, commit: Commit, seq: int, hook_seq: int, counted: int) -> None:
        self._settle_drop(commit)  # what follows is another command
        attempt, hook = self._ended.get(seq), self.hooks[hook_seq]
        if attempt is None or attempt.reason is None or attempt.seen.ended_at is None:
            raise Broken(f"a failure of delivery {seq} was recorded that didn't happen")
        if attempt.counted is not None and attempt.counted != bool(counted):
            raise Broken(f"the failure of delivery {seq} ({attempt.reason}) is recorded with counted={counted}")
        row = history.FailureRow(len(self._failures), seq, hook.url, str(hook.workspace), attempt.seen.ended_at,
                         attempt.seen.attempt, attempt.reason.value, bool(counted))  # fmt: skip
        self._failures.append(row)

    def _endpoint(
        self, commit: Commit, seq: int, url: str, workspace: int, types: str, state: str, ordering: str
    ) -> None:
        hook = self.hooks[seq] = Hook(seq, url, workspace, tuple(json.loads(types)), state, ordering)
        hook.moves.append(commit.now)
        self.by_url[url] = seq
        self.history.moves[url] = hook.moves

    def _endpoint_changed(
        self, commit: Commit, seq: int, state: str, skipped_upto: int, deleted_at: int | None, types: str, ordering: str
    ) -> None:
        hook = self.hooks[seq]
        hook.order(ordering)
        if state == "auto_disabled" != hook.state:
            commit.stopped += 1
            commit.drop = None if commit.drop == seq else commit.drop
        if state == "active" != hook.state:
            if self._under_way(seq):
                raise Broken(f"endpoint {seq} was enabled while an attempt was in flight")
            hook.open.append(Enabled(hook.url, commit.now, commit.now, auto=hook.state == "auto_disabled"))
        hook.skips |= skipped_upto > hook.skipped_upto
        if deleted_at is not None and not hook.deleted:
            hook.deleted = True
            hook.open.append(Deleted(hook.url, commit.now, commit.now))
        hook.state, hook.skipped_upto, hook.types = state, skipped_upto, tuple(json.loads(types))
        hook.moves.append(commit.now)

    def _plan(self, commit: Commit, workspace: int, plan: str) -> None:
        self._paused[workspace] = not self._plans.has_webhooks(plan)
        self.plan_settled(workspace, commit.now)

    def _notice(self, commit: Commit, kind: str) -> None:
        commit.notices[kind] += 1

    def _settle_drop(self, commit: Commit) -> None:
        commit.dropped += commit.drop is not None
        commit.drop = None

    def _pruned(self, commit: Commit, seq: int, state: int) -> None:
        delivery = self.deliveries.pop(seq, None)
        if delivery is None:
            return  # a test's
        self._pruned_deliveries.append(delivery)
        hook = self.hooks[delivery.hook]
        hook.dropped.discard(seq)
        hook.delivered.discard(seq)
        if state == PENDING and not hook.deleted:
            raise Broken(f"delivery {seq} was pruned while it waited")
        if seq in hook.waiting:
            hook.waiting.remove(seq)
            delivery.state = CANCELLED
        self._events.pop(delivery.event, None)

    # Requests

    def begins(self, url: str, headers: dict[str, str], body: bytes, now: float) -> Attempt:
        """A request goes out: to an endpoint that may get it now, of the delivery that is next?"""
        hook = self.hooks[self.by_url[url]]
        event_id, replay = headers["webhook-id"], "X-Webhook-Replay" in headers
        name = f"a request of {event_id} to endpoint {hook.seq}"
        if hook.deleted or hook.state != "active":
            # Where one failure stops all endpoints, the others hear of it when it is committed.
            reported_late = hook.state == "auto_disabled" and self.history.terms.disables_all
            if hook.deleted or not reported_late or now - hook.moves[-1] > self.slack_seconds:
                raise Broken(f"{name} began, which is {'deleted' if hook.deleted else hook.state}")
        if self._paused.get(hook.workspace) and not self.changing_plan[hook.workspace]:
            raise Broken(f"{name} began, whose plan has no webhooks")
        delivery = self._next(hook, event_id, replay=replay)
        if delivery is None:
            raise Broken(f"{name} began, which isn't the next in order: endpoint {hook.seq} waits for {hook.head}")
        before = [self.deliveries[each.delivery] for each in self._under_way(hook.seq)]
        if any((each.key, each.era) == (delivery.key, delivery.era) for each in before):
            raise Broken(f"{name} began before the outcome of the one before was committed")
        if len(before) >= (hook.lanes if now - hook.moves[-1] > self.slack_seconds else hook.most_lanes):
            raise Broken(f"{name} began beside {len(before)} others, it has {hook.lanes} lanes")
        if headers.get("webhook-sequence") != (None if delivery.sequence is None else str(delivery.sequence)):
            raise Broken(f"{name} has the sequence {headers.get('webhook-sequence')}, not {delivery.sequence}")
        number = int(headers["X-Webhook-Attempt"])
        if number != delivery.attempts + 1:
            raise Broken(f"{name} is numbered {number} after {delivery.attempts} attempts")
        seen = Received(url, event_id, body, number, replay, now, delivery_seq=delivery.seq)
        self.history.received.append(seen)
        self._in_flight[delivery.seq] = Attempt(hook.seq, delivery.seq, seen)
        return self._in_flight[delivery.seq]

    def _under_way(self, hook_seq: int) -> list[Attempt]:
        """The attempts of an endpoint whose outcomes aren't committed yet."""
        return [each for each in (*self._in_flight.values(), *self._ended.values()) if each.hook == hook_seq]

    def _next(self, hook: Hook, event_id: str, *, replay: bool) -> Delivery | None:
        """The delivery of a request: the next of its key, with everything from before another key was given done."""
        keys: set[str] = set()
        era = None
        for seq in hook.waiting:
            if seq <= hook.skipped_upto:
                continue
            delivery = self.deliveries[seq]
            era = delivery.era if era is None else era
            if delivery.era != era:
                return None
            if delivery.key not in keys:
                is_it = event_id == self._events[delivery.event][1] and replay == (delivery.kind == 1)
                if is_it and seq not in self._in_flight and seq not in self._ended:
                    return delivery
                keys.add(delivery.key)
        return None

    def ends(self, attempt: Attempt, reason: Reason | None, answer: int | None, now: float) -> None:
        self._ended[attempt.delivery] = self._in_flight.pop(attempt.delivery)
        attempt.reason, attempt.seen.ended_at, attempt.seen.answer = reason, now, answer
        deleted = self.hooks[attempt.hook].deleted
        attempt.counted = None if deleted else reason is not None and reason is not Reason.LOCAL

    # People, deaths, the end

    def plan_settled(self, workspace: int, now: float) -> None:
        """A plan was changed: its endpoints may get events again from now on, and read their waits from the table."""
        self._plan_settled_at[workspace] = now
        for hook in self.hooks.values():
            if hook.workspace == workspace:
                hook.moves.append(now)
                self.history.plans.setdefault(hook.url, []).append(now)

    def clock_set(self, offset_seconds: float, now: float) -> None:
        self.history.wall_steps.append((now, offset_seconds))

    def forgotten(self, hook_seq: int, now: float) -> None:
        """Who enabled or deleted an endpoint has heard that it is done: its failures no longer count."""
        hook = self.hooks[hook_seq]
        for each in hook.open:
            if isinstance(each, Deleted):
                self.history.deleted.append(Deleted(each.endpoint, each.asked_at, now))
            else:
                self.history.enabled.append(Enabled(each.endpoint, each.asked_at, now, hook.skips, each.auto))
        hook.open.clear()
        hook.skips = False

    def died(self, now: float) -> None:
        """kill -9: outcomes that weren't committed are unknown from now on."""
        self.history.crashes.append(history.Crash(now, 0.0))
        self._in_flight.clear()
        self._ended.clear()

    def started(self, now: float) -> None:
        crashes = self.history.crashes
        if crashes and not crashes[-1].ready_at:
            crashes[-1] = history.Crash(crashes[-1].at, now)
        else:
            self.history.restarts.append(now)
        self.changing_plan.clear()
        for hook in self.hooks:
            self.forgotten(hook, now)

    def _runs(self, hook: Hook) -> bool:
        return hook.state == "active" and not hook.deleted and not self._paused.get(hook.workspace, False)

    def unfinished(self) -> list[str]:
        """What is still to be done: deliveries that can go out, requests under way, rows that have yet to follow."""
        left = [f"delivery {seq}: an attempt is under way" for seq in (*self._in_flight, *self._ended)]
        for hook in self.hooks.values():
            if self._runs(hook) and hook.head is not None:
                left.append(f"endpoint {hook.seq}: delivery {hook.head} waits")
            if any(seq <= hook.skipped_upto or hook.deleted for seq in hook.waiting):
                left.append(f"endpoint {hook.seq}: rows have yet to follow a mark")
            if not self._runs(hook) and len(hook.waiting) > self.config.hold.max_events:
                left.append(f"endpoint {hook.seq}: {len(hook.waiting)} events are held")
        return left

    def waiting(self, hook_seq: int) -> int:
        hook = self.hooks[hook_seq]
        return sum(1 for seq in hook.waiting if seq > hook.skipped_upto)

    def final(self) -> history.Final:
        """The tables when everything came to rest, with what was pruned meanwhile."""
        every = sorted([*self.deliveries.values(), *self._pruned_deliveries], key=lambda each: each.seq)
        pruned = {each.seq for each in self._pruned_deliveries}
        ids = {seq: event_id for (_, event_id), seq in self.event_seqs.items()}
        return history.Final(
            {event_id: self._bodies[event_id] for _, event_id in self.event_seqs},
            [
                history.DeliveryRow(
                    each.seq, ids.get(each.event, "forgotten"), self.hooks[each.hook].url, each.state, each.kind,
                    each.attempts, each.attempts if each.state == DELIVERED else None, each.queued_at,
                    each.key, each.era,
                )
                for each in every
            ],
            [replace(each, pruned=each.delivery_seq in pruned) for each in self._failures],
            {hook.url: history.EndpointRow(hook.url, hook.state, hook.skipped_upto, hook.deleted, str(hook.workspace),
                                           hook.most_lanes)
             for hook in self.hooks.values()},
        )  # fmt: skip
