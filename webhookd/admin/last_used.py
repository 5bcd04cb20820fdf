"""When tokens and sessions were last used: noted in memory at each use, written once a minute."""

from __future__ import annotations

import asyncio

from webhookd.delivery.deps import Deps
from webhookd.errors import ApiError
from webhookd.store import credentials

WRITE_SECONDS = 60.0
DAY_MS = 86_400_000


class LastUsed:
    """By id, of tokens and sessions alike; `run` is a root task.  A crash loses a minute of it at most."""

    def __init__(self, deps: Deps) -> None:
        self._store, self._clock = deps.store, deps.clock
        self._at_ms: dict[str, int] = {}
        self._unwritten: set[str] = set()
        self._never = asyncio.Event()

    def note(self, used_id: str) -> None:
        """It is used now."""
        self._at_ms[used_id] = self._clock.wall_ms()
        self._unwritten.add(used_id)

    def at_ms(self, used_id: str, stored_ms: int | None) -> int | None:
        """When it was last used (ms since 1970), `stored_ms` by the table; None if never."""
        return max(filter(None, (self._at_ms.get(used_id), stored_ms)), default=None)

    async def run(self) -> None:
        """Write once a minute, if anything was used."""
        while True:
            await self._clock.wait(self._never, WRITE_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Write what is new.  A store that takes nothing (the disk is full) gets it the next time."""
        written = {used_id: self._at_ms[used_id] for used_id in self._unwritten}
        if not written:
            return
        self._unwritten.clear()
        try:
            await self._store.write(lambda db: credentials.put_last_used(db, written))
        except ApiError:
            self._unwritten |= written.keys()
            return
        since_ms = self._clock.wall_ms() - DAY_MS  # the table has what is older; a session doesn't idle for longer
        self._at_ms = {
            used_id: at for used_id, at in self._at_ms.items() if at > since_ms or used_id in self._unwritten
        }
