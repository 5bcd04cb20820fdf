"""Workspaces: create, change, delete.  A workspace's plan decides whether anything is delivered."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

from webhookd import log
from webhookd.config import is_mail_address
from webhookd.delivery.deps import Deps
from webhookd.delivery.dispatcher import Dispatcher
from webhookd.errors import ApiError, field_error
from webhookd.models import DEFAULT_WORKSPACE, Workspace, WorkspaceKey
from webhookd.store import endpoints, workspaces
from webhookd.store.store import Db

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
NAME_CHARACTERS = 200
NOTIFY_ADDRESSES = 20


class Workspaces:
    """Everything a person or program can do to workspaces."""

    def __init__(self, deps: Deps, dispatcher: Dispatcher) -> None:
        self._store, self._registry, self._clock, self._plans = deps.store, deps.registry, deps.clock, deps.plans
        self._dispatcher = dispatcher
        self._lock = asyncio.Lock()  # a change reads, decides and writes: one at a time

    async def ensure_default(self) -> None:
        """Make the workspace `default` at the first start, for those who need no other."""
        if not any(workspace.id == DEFAULT_WORKSPACE for workspace in self._registry.workspaces()):
            await self.create(DEFAULT_WORKSPACE, name="Default")

    async def create(
        self, workspace_id: str, *, name: str | None = None, plan: str | None = None, notify: tuple[str, ...] = ()
    ) -> Workspace:
        """Create a workspace; without a plan it is on the default one (`Plans.default`).

        Raises ApiError: `invalid_field`, `workspace_exists`.
        """
        if not _SLUG.fullmatch(workspace_id):
            raise field_error("id", "A workspace's id is 1 to 63 of a-z, 0-9 and -, with no - at either end.")
        plans = self._plans()
        name = _checked_name(workspace_id if name is None else name)
        plan = plans.default if plan is None else plans.check(plan)
        notify = _checked_notify(notify)
        now_ms = self._clock.wall_ms()

        def command(db: Db) -> Workspace:
            if any(each.id == workspace_id for each in workspaces.load(db)):
                raise ApiError("workspace_exists", f"There is a workspace {workspace_id!r} already.")
            return workspaces.insert(db, workspace_id=workspace_id, name=name, plan=plan, notify=notify, now_ms=now_ms)

        workspace = await self._store.write(command, on_commit=self._registry.put_workspace)
        log.emit("workspace.created", workspace=workspace_id, plan=workspace.plan)
        return workspace

    async def change(
        self,
        key: WorkspaceKey,
        *,
        name: str | None = None,
        plan: str | None = None,
        notify: tuple[str, ...] | None = None,
    ) -> Workspace:
        """Change what is given.  A plan without webhooks stops delivery, one with them starts it again."""
        async with self._lock:
            workspace = self._registry.workspace(key)
            if name is not None:
                workspace = replace(workspace, name=_checked_name(name))
            if notify is not None:
                workspace = replace(workspace, notify=_checked_notify(notify))
            if plan is not None and plan != workspace.plan:
                plans, paused_before = self._plans(), self._registry.paused(workspace.seq)
                workspace = replace(workspace, plan=plans.check(plan))
                # Between two plans without webhooks, what is held goes on ageing.
                if plans.has_webhooks(plan) is paused_before:
                    workspace = replace(workspace, plan_changed_at_ms=self._clock.wall_ms())

            def on_commit(changed: Workspace) -> None:
                self._registry.put_workspace(changed)
                self._dispatcher.review(self._registry.endpoints(changed.seq))

            workspace = await self._store.write(lambda db: workspaces.update(db, workspace), on_commit=on_commit)
        fields = [field for field, value in (("name", name), ("notify", notify), ("plan", plan)) if value is not None]
        log.emit("workspace.changed", workspace=workspace.id, plan=workspace.plan, fields=fields)
        return workspace

    async def delete(self, key: WorkspaceKey) -> None:
        """Delete a workspace without endpoints; `default` can't be.  ApiError `workspace_in_use` otherwise."""
        workspace = self._registry.workspace(key)
        if workspace.id == DEFAULT_WORKSPACE:
            raise ApiError("workspace_in_use", "The workspace `default` can't be deleted.")
        now_ms = self._clock.wall_ms()

        def command(db: Db) -> None:
            if endpoints.count(db, workspace.seq):
                raise ApiError("workspace_in_use", f"Workspace {workspace.id!r} has endpoints: delete them first.")
            workspaces.delete(db, workspace.seq, now_ms)

        await self._store.write(command, on_commit=lambda _: self._registry.remove_workspace(workspace))
        log.emit("workspace.deleted", workspace=workspace.id)


def _checked_name(name: str) -> str:
    if not name.strip() or len(name) > NAME_CHARACTERS:
        raise field_error("name", f"A workspace's name has 1 to {NAME_CHARACTERS} characters.")
    return name


def _checked_notify(addresses: tuple[str, ...]) -> tuple[str, ...]:
    if len(addresses) > NOTIFY_ADDRESSES:
        raise field_error("notify", f"At most {NOTIFY_ADDRESSES} addresses get notices.")
    for address in addresses:
        if not is_mail_address(address):
            raise field_error("notify", f"{address!r} is not a mail address like ops@example.com.")
    return addresses
