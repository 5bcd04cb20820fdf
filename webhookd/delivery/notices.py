"""Notices to people, written into the outbox by the transaction that causes them; `upkeep.mail` sends them.

A notice is made in two steps, because its facts come from two places: what only the event loop knows (how many events
wait, until when the budget is spent) is gathered before the transaction, what the table knows is added inside it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from webhookd.clock import Clock, rfc3339
from webhookd.config import Config
from webhookd.delivery.budgets import Budgets
from webhookd.delivery.registry import Registry
from webhookd.models import Endpoint, Json
from webhookd.rules.failure_budget import Verdict
from webhookd.store import attempts, outbox
from webhookd.store.store import Db

LAST_FAILURES = 5


class Notices:
    """Writes notices, if mail is configured."""

    def __init__(
        self,
        registry: Registry,
        budgets: Budgets,
        waiting: Callable[[int], int],
        clock: Clock,
        settings: Callable[[], Config],
    ) -> None:
        self._directory = registry
        self._budgets = budgets
        self._waiting = waiting
        self._clock = clock
        self._settings = settings

    def of_disabling(self, endpoint: Endpoint, message: str) -> Json:
        """The facts of a disabling that the event loop knows."""
        budget = self._settings().budget
        spent_until_ms = self._budgets.spent_until_ms(endpoint.workspace)
        return {
            "workspace": endpoint.workspace,
            "endpoint": {"id": endpoint.id, "url": endpoint.url, "description": endpoint.description},
            "at": rfc3339(self._clock.wall_ms()),
            "message": message,
            "waiting": self._waiting(endpoint.seq),
            "spent_until": None if spent_until_ms is None else rfc3339(spent_until_ms),
            "limit": budget.limit,
            "window_seconds": budget.window_seconds,
        }

    def of_warning(self, workspace: str, verdict: Verdict) -> Json | None:
        """The facts of a warning, if this failure crossed a threshold and warnings go by mail."""
        budget = self._settings().budget
        if not verdict.crossed or not budget.warn_by_mail:
            return None
        view = self._budgets.view(workspace, str)
        spenders = [(self._directory.get(int(seq)), count) for seq, count in view.by_endpoint.items()]
        return {
            "workspace": workspace,
            "at": rfc3339(self._clock.wall_ms()),
            "fraction": verdict.crossed[-1],
            "failures": verdict.count,
            "limit": budget.limit,
            "window_seconds": budget.window_seconds,
            "by_endpoint": [{"id": e.id, "url": e.url, "failures": count} for e, count in spenders if e is not None],
        }

    def add_disabling(self, db: Db, endpoint: Endpoint, facts: Json, now_ms: int) -> None:
        """Queue the notice of a disabling, with the last failures, in the transaction that disables."""
        failures = [
            {name: value for name, value in failure.items() if name not in ("request", "response")}
            for failure in attempts.recent_failures(db, endpoint.seq, LAST_FAILURES)
        ]
        self._add(db, endpoint.workspace_seq, "auto_disabled", {**facts, "failures": failures}, now_ms)

    def add_warning(self, db: Db, workspace_seq: int, facts: Json, now_ms: int) -> None:
        """Queue the notice of a warning, in the transaction of the failure that crossed the threshold."""
        self._add(db, workspace_seq, "budget_warned", facts, now_ms)

    def _add(self, db: Db, workspace_seq: int, kind: str, payload: Json, now_ms: int) -> None:
        mail = self._settings().mail
        if not mail.host:
            return
        domain = mail.from_.rpartition("@")[2].strip(">") or "webhookd.localhost"
        message_id = f"<{secrets.token_hex(16)}@{domain}>"
        outbox.insert(db, workspace_seq=workspace_seq, kind=kind, message_id=message_id, payload=payload, now_ms=now_ms)
