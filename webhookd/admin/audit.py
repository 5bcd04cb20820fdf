"""The audit trail: every change that a person or program made, and every secret that was refused."""

from __future__ import annotations

from contextlib import suppress

from webhookd import log
from webhookd.admin.throttle import Throttle, network_of
from webhookd.delivery.deps import Deps
from webhookd.errors import ApiError
from webhookd.models import AuditEntry, AuditFilter, Token, Workspace
from webhookd.store import credentials

DONE = "done"
TARGET_CHARACTERS = 200  # so much of a path is kept


class Audit:
    """Writes and reads the table; `refused_count` counts every refused secret since the start."""

    def __init__(self, deps: Deps) -> None:
        self._store, self._clock = deps.store, deps.clock
        self._refused = Throttle(deps.clock)
        self._overreached = Throttle(deps.clock)  # by token, so that a flood of unknown secrets hides none of them
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
            network = network_of(address)
            log.throttled("auth.failed", key=network, address=address, path=target)
            noted = self._refused.count(network)
        else:
            noted = self._overreached.count(token.id)
        if noted:
            await self.note("authenticate", target, outcome, address=address, token=token)

    def wait_seconds(self, address: str) -> float:
        """How long an address with too many refused secrets has to wait with the next guess; 0 for all others."""
        return self._refused.wait_seconds(network_of(address))

    async def page(
        self, wanted: AuditFilter, before_seq: int | None, limit: int
    ) -> tuple[list[AuditEntry], int | None]:
        """The newest entries of a filter, and the number before which the next page begins (None: there is none)."""
        return await self._store.search(
            wanted.workspace_seq,
            lambda db, _: credentials.audit_page(db, wanted, before_seq=before_seq, limit=limit),
        )
