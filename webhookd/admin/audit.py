"""The audit trail: every change that a person or program made, and every secret that was refused."""

from __future__ import annotations

from contextlib import suppress

from webhookd import log
from webhookd.delivery.deps import Deps
from webhookd.errors import ApiError
from webhookd.models import AuditEntry, AuditFilter, Token, Workspace
from webhookd.store import credentials

DONE = "done"
TARGET_CHARACTERS = 200  # so much of a path is kept
# Of refused secrets: one row per address a minute, whatever is tried.
REFUSED_SECONDS = 60.0
ADDRESSES_MAX = 1000


class Audit:
    """Writes and reads the table; `refused_count` counts every refused secret since the start."""

    def __init__(self, deps: Deps) -> None:
        self._store, self._clock = deps.store, deps.clock
        self._refused_at: dict[str, float] = {}
        self.refused_count = 0

    async def note(
        self,
        action: str,
        target: str,
        outcome: str,
        *,
        address: str,
        token: Token | None = None,
        session_id: str | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        """Write an entry.  A store that takes nothing (the disk is full) costs the entry, not the answer."""
        entry = AuditEntry(
            seq=0,
            at_ms=self._clock.wall_ms(),
            workspace_seq=workspace.seq if workspace else token.workspace_seq if token else None,
            workspace=workspace.id if workspace else token.workspace if token else None,
            token_id=token.id if token else None,
            session_id=session_id,
            address=address,
            action=action,
            target=target,
            outcome=outcome,
        )
        with suppress(ApiError):
            await self._store.write(lambda db: credentials.insert_audit(db, entry))

    async def refused(
        self, address: str, target: str, outcome: str = "unauthorized", token: Token | None = None
    ) -> None:
        """A secret was refused, or (`token`) reached for more than it may: write an entry, one a minute for each.

        One that webhookd doesn't know is counted and logged too.
        """
        if token is None:
            self.refused_count += 1
            log.throttled("auth.failed", key=address, address=address, path=target)
        who = address if token is None else token.id
        now = self._clock.monotonic()
        self._refused_at = {each: at for each, at in self._refused_at.items() if now - at < REFUSED_SECONDS}
        if who not in self._refused_at and len(self._refused_at) < ADDRESSES_MAX:
            self._refused_at[who] = now
            await self.note("authenticate", target, outcome, address=address, token=token)

    async def page(
        self, wanted: AuditFilter, before_seq: int | None, limit: int
    ) -> tuple[list[AuditEntry], int | None]:
        """The newest entries of a filter, and the number before which the next page begins (None: there is none)."""
        return await self._store.search(
            wanted.workspace_seq,
            lambda db, _: credentials.audit_page(db, wanted, before_seq=before_seq, limit=limit),
        )
