"""What becomes of an outcome: decided by the rules, recorded in one transaction, then told to whoever has to know.

A failure, the state that follows from it, the disabling that it causes and the mail about that are one transaction:
either all of it happened or none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import orjson

from webhookd import log
from webhookd.clock import Clock
from webhookd.config import Config
from webhookd.delivery.attempt_record import attempt_record
from webhookd.delivery.budgets import Budgets
from webhookd.delivery.live_feed import LiveFeed
from webhookd.delivery.notices import Notices
from webhookd.delivery.registry import Registry
from webhookd.metrics import Histogram
from webhookd.models import (
    DeliveryState,
    DeliveryView,
    Endpoint,
    EndpointState,
    Json,
    Outcome,
    QueuedDelivery,
    Reason,
    Request,
)
from webhookd.rules.failure_budget import Verdict
from webhookd.rules.ids import delivery_id
from webhookd.rules.retry import Decision, Delivered, Dropped, RetryIn, RetrySchedule, decide
from webhookd.store import attempts, deliveries, endpoints
from webhookd.store.store import Db, Store
from webhookd.text import duration_words

DURATION_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who hears of what was committed: the dispatcher of what no longer waits or runs, the watchdog of the budget."""

    settled: Callable[[QueuedDelivery], None]
    disabled: Callable[[list[Endpoint]], None]
    budget_spent: Callable[[str, Verdict], None]


@dataclass(frozen=True, slots=True)
class _Failed:
    """All that a failed attempt leads to, decided before its transaction."""

    decision: Decision
    verdict: Verdict | None
    next_attempt_at_ms: int | None
    message: str = ""
    disabling: tuple[tuple[Endpoint, Json], ...] = ()  # each endpoint with the facts of its notice
    warning: Json | None = None


class Recorder:
    """Records outcomes.  `listeners` is set once by whoever wires the house."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        budgets: Budgets,
        live_feed: LiveFeed,
        notices: Notices,
        clock: Clock,
        settings: Callable[[], Config],
    ) -> None:
        self._store = store
        self._directory = registry
        self._budgets = budgets
        self._happenings = live_feed
        self._notices = notices
        self._clock = clock
        self._settings = settings
        self.listeners: Listeners | None = None
        self.delivered_count = self.failed_count = self.dropped_count = 0
        self.failures_by_reason: Counter[str] = Counter()
        self.delivered_seconds = Histogram()
        self.failed_seconds = Histogram()
        self.durations_ms: dict[int, float] = {}  # per endpoint, the recent ones weighing most

    async def record(
        self, endpoint: Endpoint, delivery: QueuedDelivery, request: Request, outcome: Outcome
    ) -> Decision:
        """Record what came of an attempt that began with `endpoint` as it was; returns what follows from it."""
        now_ms = self._clock.wall_ms()
        if outcome.delivered:
            return await self._delivered(endpoint, delivery, request, outcome, now_ms)
        return await self._failed(endpoint, delivery, request, outcome, now_ms)

    async def _delivered(
        self, endpoint: Endpoint, delivery: QueuedDelivery, request: Request, outcome: Outcome, now_ms: int
    ) -> Decision:
        number = delivery.attempt_count + 1
        record = attempt_record(number, outcome, request, counted=False)
        success = deliveries.Success(delivery.seq, number, orjson.dumps(record), now_ms)

        def on_commit(waited: bool) -> None:  # noqa: FBT001 - the command's result
            self._tell(endpoint, delivery, record, outcome, DeliveryState.DELIVERED, waited=waited, now_ms=now_ms)

        await self._store.write(deliveries.RECORD_SUCCESS.of(success), on_commit=on_commit, retry_when_full=True)
        return Delivered()

    async def _failed(
        self, endpoint: Endpoint, delivery: QueuedDelivery, request: Request, outcome: Outcome, now_ms: int
    ) -> Decision:
        number = delivery.attempt_count + 1
        failed = self._judge(endpoint, delivery, outcome, now_ms)
        record = attempt_record(number, outcome, request, counted=failed.verdict is not None)
        blob = orjson.dumps(record)

        def command(db: Db) -> tuple[bool, list[Endpoint]]:
            attempts.insert(
                db,
                delivery_seq=delivery.seq,
                endpoint_seq=endpoint.seq,
                workspace_seq=endpoint.workspace_seq,
                ended_at_ms=now_ms,
                counted=failed.verdict is not None,
                record=blob,
            )
            uses_attempt = not isinstance(failed.decision, RetryIn) or failed.decision.uses_attempt
            waited = deliveries.failed(
                db,
                delivery.seq,
                attempt_count=number,
                tries=delivery.tries + uses_attempt,
                next_attempt_at_ms=failed.next_attempt_at_ms,
                now_ms=now_ms,
            )
            return waited, self._disable(db, endpoint, failed, now_ms)

        def on_commit(result: tuple[bool, list[Endpoint]]) -> None:
            waited, changed = result
            for each in changed:
                self._directory.put(each)
            state = self._state_after(endpoint, failed.decision, waited=waited)
            self._tell(endpoint, delivery, record, outcome, state, waited=waited, now_ms=now_ms, failed=failed)
            self._tell_of_budget(endpoint, delivery, failed, changed)

        await self._store.write(command, on_commit=on_commit, retry_when_full=True)
        return failed.decision

    def _judge(self, endpoint: Endpoint, delivery: QueuedDelivery, outcome: Outcome, now_ms: int) -> _Failed:
        settings = self._settings()
        decision = decide(outcome.reason, delivery.tries + 1, RetrySchedule(settings.delivery.retry_seconds))
        next_ms = now_ms + round(decision.seconds * 1000) if isinstance(decision, RetryIn) else None
        now = self._directory.get(endpoint.seq)
        # Enabled or deleted since the attempt began: the failure belongs to a time that is forgiven.
        forgiven = now is None or now.forgiven_upto != endpoint.forgiven_upto
        if forgiven or outcome.reason is Reason.LOCAL:
            return _Failed(decision, None, next_ms)
        verdict = self._budgets.fail(endpoint.workspace, endpoint.seq, self._clock.monotonic())
        warning = self._notices.of_warning(endpoint.workspace, verdict)
        if not verdict.exceeded:
            return _Failed(decision, verdict, next_ms, warning=warning)
        message = (
            f"{verdict.count} failed attempts in {duration_words(settings.budget.window_seconds)} in this workspace, "
            f"{settings.budget.limit} are allowed; the last one: {outcome.detail or outcome.reason}."
        )
        everyone = settings.budget.disables == "all"
        disabling = tuple(
            (each, self._notices.of_disabling(each, message))
            for each in self._directory.endpoints(endpoint.workspace)
            if each.active and (everyone or each.seq == endpoint.seq)
        )
        return _Failed(decision, verdict, next_ms, message, disabling, warning)

    def _disable(self, db: Db, endpoint: Endpoint, failed: _Failed, now_ms: int) -> list[Endpoint]:
        """The part of a failure's transaction that disables and tells people; returns who was disabled by it."""
        if failed.warning is not None:
            self._notices.add_warning(db, endpoint.workspace_seq, failed.warning, now_ms)
        changed = endpoints.disable(
            db,
            [each.seq for each, _ in failed.disabling],
            state=EndpointState.AUTO_DISABLED,
            reason="failure_budget",
            message=failed.message,
            now_ms=now_ms,
        )
        facts = {each.seq: facts for each, facts in failed.disabling}
        for each in changed:
            self._notices.add_disabling(db, each, facts[each.seq], now_ms)
        return changed

    def _state_after(self, endpoint: Endpoint, decision: Decision, *, waited: bool) -> DeliveryState:
        """What a delivery reads as after a failed attempt; `waited` is whether it still did when that was recorded."""
        if waited and isinstance(decision, Dropped):
            return DeliveryState.DROPPED
        now = self._directory.get(endpoint.seq)
        if now is None:
            return DeliveryState.CANCELLED
        if not waited:
            return DeliveryState.EXPIRED
        return DeliveryState.PENDING if self._directory.runs(now) else DeliveryState.HELD

    def _tell(
        self,
        endpoint: Endpoint,
        delivery: QueuedDelivery,
        record: Json,
        outcome: Outcome,
        state: DeliveryState,
        *,
        waited: bool,
        now_ms: int,
        failed: _Failed | None = None,
    ) -> None:
        assert self.listeners is not None
        finished = state in (DeliveryState.DELIVERED, DeliveryState.DROPPED)
        if finished and waited:
            self.listeners.settled(delivery)
        self._count(endpoint, outcome, state)
        fields = {
            "workspace": endpoint.workspace,
            "endpoint_id": endpoint.id,
            "event_id": delivery.event_id,
            "delivery_id": delivery_id(delivery.seq),
            "event_type": delivery.event_type,
            "attempt": record["number"],
            "status": outcome.status,
            "reason": outcome.reason,
        }
        log.emit(
            "delivery.attempted",
            **fields,
            duration_ms=record["duration_ms"],
            outcome=record["outcome"],
            counted=record["counted"],
            connection_retried=outcome.connection_retried,
            detail=outcome.detail or None,
        )
        if state is DeliveryState.DROPPED:
            log.emit("delivery.dropped", **fields, duration_ms=record["duration_ms"])
        if self._happenings.wanted:
            next_ms = failed.next_attempt_at_ms if failed else None
            happened = _view(endpoint, delivery, state, attempt_count=record["number"], last_attempt=record)
            happened = replace(happened, next_attempt_at_ms=next_ms, finished_at_ms=now_ms if finished else None)
            self._happenings.publish("delivery.attempted", happened)

    def accepted(self, endpoint: Endpoint, delivery: QueuedDelivery) -> None:
        """Tell whoever listens that a delivery was queued."""
        if self._happenings.wanted:
            state = DeliveryState.PENDING if self._directory.runs(endpoint) else DeliveryState.HELD
            self._happenings.publish("delivery.accepted", _view(endpoint, delivery, state))

    def forget(self, endpoint_seq: int) -> None:
        """An endpoint was deleted: nobody asks for its durations any more."""
        self.durations_ms.pop(endpoint_seq, None)

    def _count(self, endpoint: Endpoint, outcome: Outcome, state: DeliveryState) -> None:
        self.delivered_count += outcome.delivered
        self.failed_count += not outcome.delivered
        (self.delivered_seconds if outcome.delivered else self.failed_seconds).observe(outcome.duration_ms / 1000)
        if outcome.reason is not None:
            self.failures_by_reason[outcome.reason] += 1
        self.dropped_count += state is DeliveryState.DROPPED
        if self._directory.get(endpoint.seq) is None:
            return  # deleted while the attempt was under way
        before_ms = self.durations_ms.get(endpoint.seq, outcome.duration_ms)
        self.durations_ms[endpoint.seq] = before_ms + DURATION_WEIGHT * (outcome.duration_ms - before_ms)

    def _tell_of_budget(
        self, endpoint: Endpoint, delivery: QueuedDelivery, failed: _Failed, changed: list[Endpoint]
    ) -> None:
        assert self.listeners is not None
        if failed.verdict is not None:
            self.listeners.budget_spent(endpoint.workspace, failed.verdict)
        told = {each.seq: facts for each, facts in failed.disabling}
        for each in changed:
            facts = told[each.seq]
            log.emit(
                "endpoint.auto_disabled",
                workspace=each.workspace,
                endpoint_id=each.id,
                url=log.loggable_url(each.url),
                event_id=delivery.event_id,  # of the failure that did it, which another endpoint may have had
                delivery_id=delivery_id(delivery.seq),
                reason=each.disabled_reason,
                message=failed.message,
                failures=failed.verdict.count if failed.verdict else None,
                limit=facts["limit"],
                window_seconds=facts["window_seconds"],
                waiting=facts["waiting"],
            )
        if changed:
            self.listeners.disabled(changed)


def _view(
    endpoint: Endpoint,
    delivery: QueuedDelivery,
    state: DeliveryState,
    *,
    attempt_count: int = 0,
    last_attempt: Json | None = None,
) -> DeliveryView:
    return DeliveryView(
        seq=delivery.seq,
        workspace=endpoint.workspace,
        endpoint_seq=endpoint.seq,
        endpoint_id=endpoint.id,
        event_id=delivery.event_id,
        event_type=delivery.event_type,
        state=state,
        replay_of=delivery.replay_of,
        is_test=False,
        accepted_at_ms=delivery.accepted_at_ms,
        next_attempt_at_ms=None,
        finished_at_ms=None,
        attempt_count=attempt_count,
        last_attempt=last_attempt,
    )
