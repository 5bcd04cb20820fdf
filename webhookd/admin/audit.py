"""The audit trail: every change that a person or program made, and every secret that was refused."""

from __future__ import annotations

from contextlib import suppress

from webhookd import log
from webhookd.delivery.deps import Deps
from webhookd.errors import ApiError
from webhookd.models import AuditEntry, Token, Workspace
from webhookd.store import credentials

DONE = "done"
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

    async def refused(self, address: str, target: str) -> None:
        """A secret was refused: count it, log it, and write an entry, both of them throttled."""
        self.refused_count += 1
        log.throttled("auth.failed", key=address, address=address, path=target)
        now = self._clock.monotonic()
        self._refused_at = {each: at for each, at in self._refused_at.items() if now - at < REFUSED_SECONDS}
        if address not in self._refused_at and len(self._refused_at) < ADDRESSES_MAX:
            self._refused_at[address] = now
            await self.note("authenticate", target, "unauthorized", address=address)

    async def page(self, workspace_seq: int | None, before_seq: int | None, limit: int) -> list[AuditEntry]:
        """The newest entries, of one workspace alone if its number is given."""
        return await self._store.read(
            lambda db: credentials.audit_page(db, workspace_seq, before_seq=before_seq, limit=limit)
        )
