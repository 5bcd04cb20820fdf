"""The watchdog of the failure budget: sees every counted failure after its commit and warns before anybody is stopped.

What disables is decided with the failure and committed with it (`delivery.recorder`); the watchdog only watches, so
nothing is lost if it is killed at the wrong moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from webhookd import log
from webhookd.config import Config
from webhookd.rules.failure_budget import Verdict


class Watchdog:
    """A root task; `spent` tells it of a failure that counts, `wake_mail` starts the outbox."""

    def __init__(self, wake_mail: Callable[[], None], settings: Callable[[], Config]) -> None:
        self._wake_mail = wake_mail
        self._settings = settings
        self._news: asyncio.Queue[tuple[str, Verdict]] = asyncio.Queue()

    def spent(self, workspace_id: str, verdict: Verdict) -> None:
        """A failure of this workspace was counted and is committed."""
        if verdict.crossed or verdict.exceeded:
            self._news.put_nowait((workspace_id, verdict))

    async def run(self) -> None:
        """Warn once per upward crossing, for ever."""
        while True:
            workspace_id, verdict = await self._news.get()
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
