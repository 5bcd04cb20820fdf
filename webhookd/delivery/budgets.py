"""The failure budgets of all workspaces, in memory as they stand in the table.

A failure is entered here in the moment its record is submitted to the writer, so the order of the decisions is the
order of the commits.  After a start the windows are rebuilt from the recorded attempts.
"""

from __future__ import annotations

from collections.abc import Callable

from webhookd.clock import Clock
from webhookd.models import BudgetView, Failure
from webhookd.rules.failure_budget import FailureBudget, Ledger, Verdict
from webhookd.store import attempts
from webhookd.store.store import Db, Store


class Budgets:
    """A ledger per workspace that has failures; `budget` is the rule that they follow."""

    def __init__(self, budget: FailureBudget, clock: Clock) -> None:
        self.budget = budget
        self._clock = clock
        self._ledgers: dict[str, Ledger] = {}

    async def restore(self, store: Store) -> None:
        """Rebuild every window from the recorded attempts; stamps of the future count as expired (behaviour.md)."""
        now, now_ms = self._clock.monotonic(), self._clock.wall_ms()
        since_ms = now_ms - round(self.budget.window_seconds * 1000)

        def counted(db: Db) -> list[attempts.RecordedFailure]:
            return attempts.counted_since(db, since_ms, now_ms)

        failures: dict[str, list[Failure]] = {}
        for recorded in await store.read_for_delivery(counted):
            failure = Failure(recorded.endpoint_seq, now - (now_ms - recorded.ended_at_ms) / 1000)
            failures.setdefault(recorded.workspace, []).append(failure)
        self._ledgers.clear()
        for workspace, of_workspace in failures.items():
            self._ledger(workspace).restore(of_workspace)

    def replace(self, budget: FailureBudget) -> None:
        """Take other settings while running; what was counted stays counted."""
        self.budget = budget
        for ledger in self._ledgers.values():
            ledger.budget = budget

    def fail(self, workspace: str, endpoint_seq: int, ended_at: float) -> Verdict:
        """Enter a failure that ended at `ended_at` (monotonic seconds) and judge it."""
        return self._ledger(workspace).fail(endpoint_seq, ended_at)

    def forget(self, workspace: str, endpoint_seq: int) -> None:
        """The endpoint was enabled or deleted: its failures no longer count."""
        self._ledger(workspace).forget(endpoint_seq)

    def view(self, workspace: str, endpoint_id: Callable[[int], str]) -> BudgetView:
        """How much is spent now, and by whom; `endpoint_id` names an endpoint by its number."""
        return self._ledger(workspace).view(self._clock.monotonic(), endpoint_id)

    def spent_until_ms(self, workspace: str) -> int | None:
        """Until when one more failure would disable its endpoint (wall clock), or None if it wouldn't."""
        now = self._clock.monotonic()
        until = self._ledger(workspace).spent_until(now)
        return None if until is None else self._clock.wall_ms() + round((until - now) * 1000)

    def _ledger(self, workspace: str) -> Ledger:
        ledger = self._ledgers.get(workspace)
        if ledger is None:
            ledger = self._ledgers[workspace] = Ledger(self.budget)
        return ledger
