"""The judge of a simulated run: knows what was promised, and hears of everything where it really happens.

It is told of each commit by the table itself, of each request by the network and of each answer by who asked.  From
that it keeps books of its own, in plain dictionaries, and says at once what is wrong: it asks webhookd nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping

from tests.crash.simulation.disk import Note
from tests.crash.simulation.ledger import (
    CANCELLED,
    DELIVERED,
    DROPPED,
    EXPIRED,
    PENDING,
    SKIPPED,
    Attempt,
    Broken,
    Commit,
    Delivery,
    Failure,
    Hook,
    Sent,
    Spending,
)
from webhookd.config import Config
from webhookd.models import Accepted, Reason
from webhookd.rules.plans import Plans

LOCAL_WAIT_SECONDS = 30.0
# What the table keeps is in milliseconds.
ROUNDING_SECONDS = 0.003


class Judge:
    """Raises Broken; `now` is told with everything."""

    def __init__(self, config: Config, slack_seconds: float) -> None:
        self.config = config
        self.waits = config.delivery.retry_seconds
        self.slack_seconds = slack_seconds
        self.plans = Plans(config.plans.order, config.plans.webhooks_from)
        self.hooks: dict[int, Hook] = {}
        self.by_url: dict[str, int] = {}
        self.deliveries: dict[int, Delivery] = {}
        self.events: dict[int, tuple[int, str, str]] = {}
        self.event_seqs: dict[tuple[int, str], int] = {}
        self.own_rows: Counter[int] = Counter()
        self.paused: dict[int, bool] = {}
        self.changing_plan: Counter[int] = Counter()
        self.plan_settled_at: dict[int, float] = {}
        self.sent: dict[tuple[int, str], Sent] = {}
        self.in_flight: dict[int, Attempt] = {}
        self.ended: dict[int, Attempt] = {}
        self.spending = Spending(config.budget.window_seconds)
        self.begun: set[tuple[int, int]] = set()
        self.unknown: dict[int, tuple[int, int]] = {}
        self.repeats: Counter[tuple[int, int]] = Counter()
        self.deaths = 0
        self.attempts = 0
        self.started_at = 0.0
        self.stepped_at = -1.0  # when the wall clock was last set
        self.batches = 0
        # Who takes which note, and how many values it has.
        self._takers: dict[str, tuple[Callable[..., None], int]] = {
            "event": (self._event, 4),
            "queued": (self._queued, 5),
            "changed": (self._changed, 5),
            "failed": (self._failed, 3),
            "endpoint": (self._endpoint, 5),
            "endpoint_changed": (self._endpoint_changed, 5),
            "plan": (self._plan, 2),
            "notice": (self._notice, 1),
            "pruned": (self._pruned, 2),
        }

    # Producers

    def sending(self, workspace: int, bodies: Mapping[str, bytes], now: float) -> None:
        """A producer sends a batch, perhaps again."""
        self.batches += 1
        for place, (event_id, body) in enumerate(bodies.items()):
            sent = self.sent.setdefault((workspace, event_id), Sent(now, body, place=place, batch=self.batches))
            sent.last_sent_at = now

    def answered(self, workspace: int, results: list[Accepted], now: float) -> None:
        """It was told that they are accepted: then they are durable, each with its deliveries."""
        for result in results:
            key = (workspace, result.event_id)
            seq = self.event_seqs.get(key)
            if seq is None:
                raise Broken(f"{result.event_id} was answered for before it was durable")
            if result.conflict:
                raise Broken(f"{result.event_id} conflicts with itself")
            if seq in self.events and result.deliveries != self.own_rows[seq]:
                raise Broken(
                    f"{result.event_id} has {self.own_rows[seq]} deliveries, the answer said {result.deliveries}"
                )
            sent = self.sent[key]
            if sent.answered_at is None:
                sent.answered_at = now

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
        for hook in commit.must_stop:
            if self.hooks[hook].state == "active" and not self.hooks[hook].deleted:
                raise Broken(f"endpoint {hook} went past the budget and is still active after that commit")
        if commit.stopped != commit.notices:
            raise Broken(f"{commit.stopped} endpoints were disabled by the budget with {commit.notices} notices")

    def _event(self, commit: Commit, seq: int, workspace: int, event_id: str, kind: str) -> None:
        if event_id.startswith("test_"):
            return
        if (workspace, event_id) in self.event_seqs:  # its id was forgotten; it is a new event in its own right
            sent = self.sent[workspace, event_id]
            sent.first_sent_at, sent.answered_at, sent.batch = 0.0, None, -seq
        self.events[seq] = (workspace, event_id, kind)
        self.event_seqs[workspace, event_id] = seq
        commit.new_events[seq] = set()

    def _queued(self, commit: Commit, seq: int, event: int, hook: int, kind: int, replay_of: int | None) -> None:
        if kind == 2:
            return
        if kind == 0:
            commit.new_events[event].add(hook)
            self.own_rows[event] += 1
        elif replay_of is not None and self._waits(replay_of):
            raise Broken(f"delivery {replay_of} was replayed while it waited")
        self.deliveries[seq] = Delivery(seq, event, hook, kind == 1, commit.now)
        self.hooks[hook].waiting.append(seq)

    def _waits(self, seq: int) -> bool:
        """Whether a delivery waits, marks taken into account."""
        delivery = self.deliveries.get(seq)
        if delivery is None or delivery.state != PENDING:
            return False
        hook = self.hooks[delivery.hook]
        return not hook.deleted and seq > hook.skipped_upto

    def _check_subscribers(self, commit: Commit) -> None:
        """Each new event is queued for those who are subscribed to it now, all of them and nobody else."""
        for event, hooks in commit.new_events.items():
            workspace, event_id, kind = self.events[event]
            wanted = {
                each.seq
                for each in self.hooks.values()
                if each.workspace == workspace and not each.deleted and (kind in each.types or "*" in each.types)
            }
            sent_at = self.sent[workspace, event_id].last_sent_at
            if self.changing_plan[workspace] or sent_at <= self.plan_settled_at.get(workspace, -1):
                allowed = [wanted, set()]  # the plan changed while it was under way: either is right
            else:
                allowed = [set() if self.paused.get(workspace) else wanted]
            if hooks not in allowed:
                raise Broken(f"{event_id} was queued for {sorted(hooks)}, subscribed are {sorted(allowed[0])}")
        commit.new_events.clear()

    def _changed(self, commit: Commit, seq: int, state: int, attempts: int, tries: int, next_at: int | None) -> None:
        delivery = self.deliveries[seq]
        hook = self.hooks[delivery.hook]
        attempt = self.ended.get(delivery.hook)
        mine = attempt is not None and attempt.delivery == seq
        if state != delivery.state:
            self._check_end(delivery, hook, state, attempt if mine else None, tries)
            if delivery.state == PENDING:
                hook.waiting.remove(seq)
            if state == DELIVERED:
                del self.ended[delivery.hook]
            hook.moved_at = commit.now
        if attempts != delivery.attempts:
            if attempts != delivery.attempts + 1 or attempt is None or not mine or attempt.number != attempts:
                raise Broken(f"delivery {seq} has {attempts} attempts in the table after {delivery.attempts}")
            if state != DELIVERED:
                del self.ended[delivery.hook]
                delivery.ended_at = attempt.ended_at
                local = attempt.reason is Reason.LOCAL
                delivery.step_seconds = LOCAL_WAIT_SECONDS if local else self._step_after(tries)
        elif tries == 0 and next_at is None:
            delivery.ended_at = None  # enabled: its schedule starts anew
        delivery.state, delivery.attempts, delivery.tries = state, attempts, tries

    def _step_after(self, tries: int) -> float:
        return self.waits[tries - 1] if 0 < tries <= len(self.waits) else 0.0

    def _check_end(self, delivery: Delivery, hook: Hook, state: int, attempt: Attempt | None, tries: int) -> None:
        """Whether a delivery may end so, now."""
        name = f"delivery {delivery.seq} of endpoint {hook.seq}"
        failed = attempt is not None and attempt.reason not in (None, Reason.LOCAL)
        succeeded = attempt is not None and attempt.reason is None
        active = self._runs(hook) and not self.changing_plan[hook.workspace]
        mended = state == DELIVERED and delivery.state in (EXPIRED, SKIPPED, CANCELLED)
        wrongs = {
            f"went from {delivery.state} to {state}": delivery.state != PENDING and not mended,
            "is delivered without a success": state == DELIVERED and not succeeded,
            "was dropped without a failure": state == DROPPED and not failed,
            f"was dropped after {tries} attempts": state == DROPPED and tries != len(self.waits) + 1,
            "expired although its endpoint is active": state == EXPIRED and active,
            "expired before older ones": state == EXPIRED and self._head(hook) != delivery.seq,
            "was skipped, but nobody said so": state == SKIPPED and delivery.seq > hook.skipped_upto,
            "was cancelled, but its endpoint lives": state == CANCELLED and not hook.deleted,
        }
        for wrong, holds in wrongs.items():
            if holds:
                raise Broken(f"{name} {wrong}")

    def _failed(self, commit: Commit, seq: int, hook_seq: int, counted: int) -> None:
        attempt, hook = self.ended.get(hook_seq), self.hooks[hook_seq]
        if attempt is None or attempt.delivery != seq or attempt.reason is None:
            raise Broken(f"a failure of delivery {seq} was recorded that didn't happen")
        if attempt.counted is not None and attempt.counted != bool(counted):
            raise Broken(f"the failure of delivery {seq} ({attempt.reason}) is recorded with counted={counted}")
        if attempt.exceeds is not False and counted:
            everyone = self.config.budget.disables == "all"
            commit.may_stop.update(
                each.seq for each in self.hooks.values() if everyone and each.workspace == hook.workspace
            )
            commit.may_stop.add(hook_seq)
        if attempt.exceeds and counted:
            commit.must_stop.add(hook_seq)

    def _endpoint(self, commit: Commit, seq: int, url: str, workspace: int, types: str, state: str) -> None:
        self.hooks[seq] = Hook(seq, url, workspace, tuple(json.loads(types)), state, moved_at=commit.now)
        self.by_url[url] = seq

    def _endpoint_changed(
        self, commit: Commit, seq: int, state: str, skipped_upto: int, deleted_at: int | None, types: str
    ) -> None:
        hook = self.hooks[seq]
        if state == "auto_disabled" != hook.state:
            if seq not in commit.may_stop:
                raise Broken(f"endpoint {seq} was disabled by the budget, which isn't spent")
            commit.stopped += 1
        if state == "active" != hook.state:
            if seq in self.in_flight or seq in self.ended:
                raise Broken(f"endpoint {seq} was enabled while an attempt was in flight")
            hook.forgetting = True
        if deleted_at is not None and not hook.deleted:
            hook.deleted = hook.forgetting = True
        hook.state, hook.skipped_upto, hook.types = state, skipped_upto, tuple(json.loads(types))
        hook.moved_at = commit.now

    def _plan(self, commit: Commit, workspace: int, plan: str) -> None:
        self.paused[workspace] = not self.plans.has_webhooks(plan)
        for hook in self.hooks.values():
            if hook.workspace == workspace:
                hook.moved_at = commit.now

    def _notice(self, commit: Commit, kind: str) -> None:
        commit.notices += kind == "auto_disabled"

    def _pruned(self, commit: Commit, seq: int, state: int) -> None:
        delivery = self.deliveries.pop(seq, None)
        if delivery is None:
            return  # a test's
        if state == PENDING and not self.hooks[delivery.hook].deleted:
            raise Broken(f"delivery {seq} was pruned while it waited")
        if delivery.seq in self.hooks[delivery.hook].waiting:
            self.hooks[delivery.hook].waiting.remove(seq)
        self.events.pop(delivery.event, None)

    # Requests

    def begins(self, url: str, headers: dict[str, str], body: bytes, now: float) -> Attempt:
        """A request goes out: is it the one that is due, to an endpoint that may get it?"""
        hook = self.hooks[self.by_url[url]]
        name = f"a request of {headers['webhook-id']} to endpoint {hook.seq}"
        if hook.deleted or hook.state != "active":
            # Where one failure stops all endpoints, the others hear of it when it is committed.
            told_late = hook.state == "auto_disabled" and self.config.budget.disables == "all"
            if hook.deleted or not told_late or now - hook.moved_at > self.slack_seconds:
                raise Broken(f"{name} began, which is {'deleted' if hook.deleted else hook.state}")
        if self.paused.get(hook.workspace) and not self.changing_plan[hook.workspace]:
            raise Broken(f"{name} began, whose plan has no webhooks")
        if hook.seq in self.in_flight:
            raise Broken(f"{name} began while another was in flight")
        if hook.seq in self.ended:
            raise Broken(f"{name} began before the outcome before it was committed")
        head = self._head(hook)
        if head is None:
            raise Broken(f"{name} began, for which nothing waits")
        delivery = self.deliveries[head]
        self._check_request(name, delivery, headers, body)
        self._check_time(name, hook, delivery, now)
        attempt = Attempt(hook.seq, head, delivery.attempts + 1, now)
        self._check_repeat(name, attempt)
        self.in_flight[hook.seq] = attempt
        self.attempts += 1
        return attempt

    def _check_request(self, name: str, delivery: Delivery, headers: dict[str, str], body: bytes) -> None:
        workspace, event_id, _ = self.events[delivery.event]
        if event_id != headers["webhook-id"] or delivery.is_replay != ("X-Webhook-Replay" in headers):
            raise Broken(f"{name} began, but delivery {delivery.seq} ({event_id}) is the next in order")
        if delivery.attempts + 1 != int(headers["X-Webhook-Attempt"]):
            raise Broken(f"{name} is numbered {headers['X-Webhook-Attempt']} after {delivery.attempts} attempts")
        if body != self.sent[workspace, event_id].body:
            raise Broken(f"{name} has another body than the event")

    def _check_time(self, name: str, hook: Hook, delivery: Delivery, now: float) -> None:
        """Whether it comes when the schedule says: not earlier, and not later than its endpoint could."""
        since = max(hook.moved_at, delivery.queued_at, self.started_at)
        if delivery.ended_at is None:
            due_at = latest_at = since
        else:
            due_at = delivery.ended_at + delivery.step_seconds
            latest_at = max(since, due_at)
            if since > delivery.ended_at and self.stepped_at > delivery.ended_at:
                # Restored by a wall clock that was set meanwhile: never longer than its own step, perhaps shorter.
                due_at, latest_at = delivery.ended_at, since + delivery.step_seconds
            if now < due_at - ROUNDING_SECONDS:
                raise Broken(f"{name} began {due_at - now:.3f} s before its time")
        if now > latest_at + self.slack_seconds:
            raise Broken(f"{name} began {now - latest_at:.3f} s after its time")

    def _check_repeat(self, name: str, attempt: Attempt) -> None:
        if attempt.key not in self.begun:
            self.begun.add(attempt.key)
        elif self.unknown.pop(attempt.hook, None) == attempt.key:
            self.repeats[attempt.hook, self.deaths] += 1
        else:
            raise Broken(f"{name} is attempt {attempt.number} again, whose outcome was known")

    def arrives(self, attempt: Attempt) -> None:
        """The receiver got it."""
        attempt.arrived = True
        hook, delivery = self.hooks[attempt.hook], self.deliveries.get(attempt.delivery)
        if not attempt.will_succeed or delivery is None or delivery.is_replay:
            return
        if attempt.delivery < hook.newest_success:
            raise Broken(f"delivery {attempt.delivery} succeeded first after {hook.newest_success} had")
        hook.newest_success = attempt.delivery

    def ends(self, attempt: Attempt, reason: Reason | None, now: float) -> None:
        """The attempt is over; what must come of it is settled now."""
        del self.in_flight[attempt.hook]
        attempt.reason, attempt.ended_at = reason, now
        self.ended[attempt.hook] = attempt
        hook = self.hooks[attempt.hook]
        if reason is None or reason is Reason.LOCAL:
            return
        if hook.deleted and not hook.forgetting:
            return
        attempt.counted = None if hook.deleted else True
        self.spending.add(hook.workspace, Failure(hook.seq, now))
        least, most = self.spent(hook.workspace, now)
        limit = self.config.budget.limit
        attempt.exceeds = True if least > limit else None if most > limit else False

    # People, deaths, the end

    def forgotten(self, hook_seq: int) -> None:
        """Whoever enabled or deleted an endpoint has heard that it is done: its failures no longer count."""
        hook = self.hooks[hook_seq]
        if hook.forgetting:
            hook.forgetting = False
            self.spending.forget(hook.workspace, hook_seq)

    def died(self) -> list[Attempt]:
        """kill -9: outcomes that weren't committed are unknown now.  Returns the requests that were under way."""
        self.deaths += 1
        under_way = list(self.in_flight.values())
        self.unknown |= {each.hook: each.key for each in (*under_way, *self.ended.values())}
        self.in_flight.clear()
        self.ended.clear()
        return under_way

    def started(self, failures: Mapping[int, list[Failure]], now: float) -> None:
        """A daemon is up; `failures` are those that the table still holds against each workspace."""
        self.started_at = now
        self.spending.restore(failures)
        self.changing_plan.clear()
        for hook in self.hooks.values():
            hook.forgetting = False

    def _runs(self, hook: Hook) -> bool:
        return hook.state == "active" and not hook.deleted and not self.paused.get(hook.workspace, False)

    def _head(self, hook: Hook) -> int | None:
        return next((seq for seq in hook.waiting if seq > hook.skipped_upto), None)

    def unfinished(self) -> list[str]:
        """What is still to be done: deliveries that can go out, requests under way, rows that have yet to follow."""
        left = [f"endpoint {hook}: an attempt is under way" for hook in (*self.in_flight, *self.ended)]
        for hook in self.hooks.values():
            if self._runs(hook) and self._head(hook) is not None:
                left.append(f"endpoint {hook.seq}: delivery {self._head(hook)} waits")
            if any(seq <= hook.skipped_upto or hook.deleted for seq in hook.waiting):
                left.append(f"endpoint {hook.seq}: rows have yet to follow a mark")
            if not self._runs(hook) and len(hook.waiting) > self.config.hold.max_events:
                left.append(f"endpoint {hook.seq}: {len(hook.waiting)} events are held")
        return left

    def waiting(self, hook_seq: int) -> int:
        """How many deliveries wait for an endpoint."""
        hook = self.hooks[hook_seq]
        return sum(1 for seq in hook.waiting if seq > hook.skipped_upto)

    def spent(self, workspace: int, now: float) -> tuple[int, int]:
        """How many failures count against a workspace now: at least, at most."""
        unsure = {each.seq for each in self.hooks.values() if each.forgetting}
        return self.spending.count(workspace, now, unsure)

    def check_order_of_acceptance(self) -> None:
        """Who was answered before another was sent comes first in the table; within a batch its order holds."""
        latest_sent: dict[int, tuple[float, str]] = {}
        places: dict[tuple[int, int], int] = {}
        for (workspace, event_id), seq in sorted(self.event_seqs.items(), key=lambda item: item[1]):
            sent = self.sent[workspace, event_id]
            sent_at, other = latest_sent.get(workspace, (0.0, ""))
            if sent.answered_at is not None and sent.answered_at < sent_at:
                raise Broken(f"{event_id} ({seq}) was answered for before {other} was sent, and comes after it")
            latest_sent[workspace] = max((sent_at, other), (sent.first_sent_at, event_id))
            if places.get((workspace, sent.batch), -1) > sent.place:
                raise Broken(f"{event_id} comes before those that precede it in its batch")
            places[workspace, sent.batch] = sent.place
