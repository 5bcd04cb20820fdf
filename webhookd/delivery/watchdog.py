"""The watchdog of the shared failure budget: all of the budget but its pure rule (`rules.failure_budget`).

`delivery.recorder` calls `judge` before a failure's transaction (in the order of the commits), `disable` inside it, so
that failure, disabling and notices are durable together, and `committed` after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from webhookd import log
from webhookd.clock import rfc3339
from webhookd.delivery.deps import Deps
from webhookd.delivery.notices import add_notice, endpoint_facts
from webhookd.models import (
    BudgetView,
    Endpoint,
    EndpointState,
    Failure,
    Json,
    Outcome,
    QueuedDelivery,
    Reason,
    WorkspaceKey,
)
from webhookd.rules.failure_budget import FailureBudget, FailureWindow, Verdict
from webhookd.rules.ids import delivery_id
from webhookd.store import attempts, deliveries, endpoints
from webhookd.store.store import Db
from webhookd.text import duration_words

LAST_FAILURES = 5


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a failure means for the budget.  `verdict` is None for one that doesn't count."""

    verdict: Verdict | None = None
    message: str = ""
    disabling: tuple[tuple[Endpoint, Json], ...] = ()  # each endpoint with the facts of its notice
    warning: Json | None = None


class Watchdog:
    """Tracks the budgets of all workspaces; `run` is a root task.

    `waiting` says how many events wait for an endpoint (by its number), `block` lets no further attempt of one start
    until `unblock`, `wake_mail` starts the outbox.
    """

    def __init__(
        self,
        deps: Deps,
        *,
        waiting: Callable[[int], int],
        block: Callable[[int], None],
        unblock: Callable[[int], None],
        wake_mail: Callable[[], None],
    ) -> None:
        self._store, self._registry, self._clock, self._settings = deps.store, deps.registry, deps.clock, deps.settings
        self._waiting = waiting
        self._block, self._unblock = block, unblock
        self._wake_mail = wake_mail
        self._windows: dict[int, FailureWindow] = {}  # by the number of the workspace
        self._verdicts: asyncio.Queue[tuple[str, Verdict]] = asyncio.Queue()

    async def run(self) -> None:
        """Log a warning once per upward crossing of a threshold, and wake the mail, for ever."""
        while True:
            workspace_id, verdict = await self._verdicts.get()
            budget = self._settings().budget
            for share in verdict.crossed:
                log.emit(
                    "budget.warned",
                    workspace=workspace_id,
                    failures=verdict.count,
                    limit=budget.limit,
                    share=share,
                    window_seconds=budget.window_seconds,
                )
            self._wake_mail()

    # The windows

    async def restore(self) -> None:
        """Rebuild every window from the recorded attempts.  Stamps of the future count as expired."""
        now, now_ms = self._clock.monotonic(), self._clock.wall_ms()
        since_ms = now_ms - round(self._settings().budget.window_seconds * 1000)
        failures: dict[int, list[Failure]] = {}
        for recorded in await self._store.read_for_delivery(lambda db: attempts.counted_since(db, since_ms, now_ms)):
            failure = Failure(recorded.endpoint_seq, now - (now_ms - recorded.ended_at_ms) / 1000)
            failures.setdefault(recorded.workspace_seq, []).append(failure)
        self._windows.clear()
        for workspace_seq, of_workspace in failures.items():
            self._window(workspace_seq).restore(of_workspace)

    def reload(self) -> None:
        """The settings changed.  What was counted stays counted."""
        budget = self._budget()
        for window in self._windows.values():
            window.budget = budget

    def forget(self, workspace_seq: int, endpoint_seq: int) -> None:
        """The endpoint was enabled or deleted: its failures no longer count."""
        self._window(workspace_seq).forget(endpoint_seq)

    def view(self, workspace: WorkspaceKey) -> BudgetView:
        """How much of a workspace's budget is spent now, and by which endpoints (by id)."""
        seq = workspace if isinstance(workspace, int) else self._registry.workspace(workspace).seq
        return self._window(seq).view(self._clock.monotonic(), self._registry.endpoint_id)

    def spent_until_ms(self, workspace_seq: int) -> int | None:
        """Until when one more failure would disable its endpoint (wall clock), or None if it wouldn't."""
        now = self._clock.monotonic()
        until = self._window(workspace_seq).spent_until(now)
        return None if until is None else self._clock.wall_ms() + round((until - now) * 1000)

    def _budget(self) -> FailureBudget:
        budget = self._settings().budget
        return FailureBudget(budget.limit, budget.window_seconds, tuple(budget.warn_at))

    def _window(self, workspace_seq: int) -> FailureWindow:
        window = self._windows.get(workspace_seq)
        if window is None:
            window = self._windows[workspace_seq] = FailureWindow(self._budget())
        return window

    # A failure, step by step

    def judge(self, endpoint: Endpoint, outcome: Outcome) -> Judgement:
        """Enter a failed attempt that began with `endpoint` as it was then, if it counts, and decide what follows."""
        now = self._registry.get(endpoint.seq)
        forgiven = now is None or now.forgiven_upto != endpoint.forgiven_upto
        if forgiven or outcome.reason is Reason.LOCAL:
            return Judgement()
        verdict = self._window(endpoint.workspace_seq).fail(endpoint.seq, self._clock.monotonic())
        warning = self._warning(endpoint, verdict)
        if not verdict.exceeded:
            return Judgement(verdict, warning=warning)
        budget = self._settings().budget
        message = (
            f"{verdict.count} failed attempts in {duration_words(budget.window_seconds)} in this workspace, "
            f"{budget.limit} are allowed; the last one: {outcome.detail or outcome.reason}."
        )
        disabling = tuple(
            (each, self._facts(each, message))
            for each in self._registry.endpoints(endpoint.workspace_seq)
            if each.active and (budget.disables == "all" or each.seq == endpoint.seq)
        )
        return Judgement(verdict, message, disabling, warning)

    @contextmanager
    def stopping(self, judgement: Judgement) -> Iterator[None]:
        """While this lasts, no attempt starts to an endpoint that the failure disables: other lanes of it may run."""
        for each, _ in judgement.disabling:
            self._block(each.seq)
        try:
            yield
        finally:
            for each, _ in judgement.disabling:
                self._unblock(each.seq)

    def disable(self, db: Db, endpoint: Endpoint, judgement: Judgement, now_ms: int) -> list[Endpoint]:
        """The budget's part of the failure's transaction; returns the endpoints that it disabled."""
        mail = self._settings().mail
        if judgement.warning is not None:
            add_notice(db, mail, endpoint.workspace_seq, "budget_warned", judgement.warning, now_ms)
        disabled = endpoints.disable(
            db,
            [each.seq for each, _ in judgement.disabling],
            state=EndpointState.AUTO_DISABLED,
            reason="failure_budget",
            message=judgement.message,
            now_ms=now_ms,
        )
        facts = {each.seq: facts for each, facts in judgement.disabling}
        for each in disabled:
            payload = {**facts[each.seq], "failures": _last_failures(db, each.seq)}
            add_notice(db, mail, each.workspace_seq, "auto_disabled", payload, now_ms)
        return disabled

    def notify_of_drop(
        self, db: Db, endpoint: Endpoint, delivery: QueuedDelivery, disabled: list[Endpoint], now_ms: int
    ) -> bool:
        """The drop's part of the failure's transaction: a notice, if it is the first since the endpoint delivered.

        None where it disabled the endpoint as well: the notice of that is enough.  Returns whether there is one.
        """
        mail = self._settings().mail
        if endpoint.seq in {each.seq for each in disabled} or not mail.host or not mail.on_drop:
            return False
        if not deliveries.first_drop(db, endpoint.seq, delivery.seq):
            return False
        payload = {
            **endpoint_facts(endpoint, now_ms),
            "event_id": delivery.event_id,
            "event_type": delivery.event_type,
            "delivery_id": delivery_id(delivery.seq),
            "failures": _last_failures(db, endpoint.seq),
        }
        add_notice(db, mail, endpoint.workspace_seq, "dropped", payload, now_ms)
        return True

    def committed(
        self,
        endpoint: Endpoint,
        delivery: QueuedDelivery,
        judgement: Judgement,
        disabled: list[Endpoint],
        *,
        notified: bool,
    ) -> None:
        """The failure of `delivery` is committed, and the registry knows the endpoints that it disabled.

        `notified`: with a notice of the drop.
        """
        if notified:
            self._wake_mail()
        verdict = judgement.verdict
        if verdict is None:
            return
        facts = {each.seq: facts for each, facts in judgement.disabling}
        for each in disabled:
            log.emit(
                "endpoint.auto_disabled",
                workspace=each.workspace,
                endpoint_id=each.id,
                url=log.loggable_url(each.url),
                event_id=delivery.event_id,  # of the failure that did it, which another endpoint may have had
                delivery_id=delivery_id(delivery.seq),
                reason=each.disabled_reason,
                message=judgement.message,
                failures=verdict.count,
                limit=facts[each.seq]["limit"],
                window_seconds=facts[each.seq]["window_seconds"],
                waiting=facts[each.seq]["waiting"],
            )
        if verdict.crossed or verdict.exceeded:
            self._verdicts.put_nowait((endpoint.workspace, verdict))

    # Notices

    def _facts(self, endpoint: Endpoint, message: str) -> Json:
        """What the event loop knows of a disabling; `disable` adds what the table knows."""
        budget = self._settings().budget
        spent_until_ms = self.spent_until_ms(endpoint.workspace_seq)
        return {
            **endpoint_facts(endpoint, self._clock.wall_ms()),
            "message": message,
            "waiting": self._waiting(endpoint.seq),
            "spent_until": None if spent_until_ms is None else rfc3339(spent_until_ms),
            "limit": budget.limit,
            "window_seconds": budget.window_seconds,
        }

    def _warning(self, endpoint: Endpoint, verdict: Verdict) -> Json | None:
        """The facts of a warning, if this failure crossed a threshold and warnings go by mail."""
        budget = self._settings().budget
        if not verdict.crossed or not budget.warn_by_mail:
            return None
        urls = {each.id: each.url for each in self._registry.endpoints(endpoint.workspace_seq)}
        spent = self.view(endpoint.workspace_seq).by_endpoint
        return {
            "workspace": endpoint.workspace,
            "at": rfc3339(self._clock.wall_ms()),
            "fraction": verdict.crossed[-1],
            "failures": verdict.count,
            "limit": budget.limit,
            "window_seconds": budget.window_seconds,
            "by_endpoint": [{"id": id_, "url": urls[id_], "failures": spent[id_]} for id_ in spent if id_ in urls],
        }


def _last_failures(db: Db, endpoint_seq: int) -> list[Json]:
    """The newest failed attempts of an endpoint, as a mail shows them."""
    return [
        {name: value for name, value in failure.items() if name not in ("request", "response")}
        for failure in attempts.recent_failures(db, endpoint_seq, LAST_FAILURES)
    ]
