"""Workspaces: create, change, delete.  A workspace's plan decides whether anything is delivered.

Who has rights in one workspace alone adds no address for its notices by itself: webhookd would mail to anybody, in
somebody else's name.  The address gets a link first, and is added by its button.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

from webhookd import log
from webhookd.admin.tokens import secret_digest
from webhookd.delivery.deps import Deps
from webhookd.delivery.dispatcher import Dispatcher
from webhookd.errors import ApiError, field_error
from webhookd.models import DEFAULT_WORKSPACE, LANGUAGES, PendingAddress, Workspace, WorkspaceKey
from webhookd.store import endpoints, workspaces
from webhookd.store.store import Db
from webhookd.text import is_mail_address

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
NAME_CHARACTERS = 200
NOTIFY_ADDRESSES = 20
CONFIRM_MS = 48 * 3_600_000
CODE_BYTES = 24
# Mails a link to an address: the address, the workspace, the link, until when it works (ms since 1970).
SendConfirmation = Callable[[str, Workspace, str, int], Awaitable[None]]


class Workspaces:
    """Everything a person or program can do to workspaces."""

    def __init__(self, deps: Deps, dispatcher: Dispatcher, send_confirmation: SendConfirmation) -> None:
        self._store, self._registry, self._clock, self._plans = deps.store, deps.registry, deps.clock, deps.plans
        self._settings = deps.settings
        self._dispatcher = dispatcher
        self._send_confirmation = send_confirmation
        self._lock = asyncio.Lock()  # a change reads, decides and writes: one at a time

    async def ensure_default(self) -> None:
        """Make the workspace `default` at the first start, for those who need no other."""
        if not any(workspace.id == DEFAULT_WORKSPACE for workspace in self._registry.workspaces()):
            await self.create(DEFAULT_WORKSPACE, name="Default")

    async def create(
        self,
        workspace_id: str,
        *,
        name: str | None = None,
        plan: str | None = None,
        notify: tuple[str, ...] = (),
        language: str = LANGUAGES[0],
    ) -> Workspace:
        """Create a workspace; without a plan it is on the default one (`Plans.default`).

        Raises ApiError: `invalid_field`, `workspace_exists`.
        """
        if not _SLUG.fullmatch(workspace_id):
            raise field_error("id", "A workspace's id is 1 to 63 of a-z, 0-9 and -, with no - at either end.")
        plans = self._plans()
        name = _checked_name(workspace_id if name is None else name)
        plan = plans.default if plan is None else plans.check(plan)
        notify, language = _checked_notify(notify), _checked_language(language)
        now_ms = self._clock.wall_ms()

        def command(db: Db) -> Workspace:
            if any(each.id == workspace_id for each in workspaces.load(db)):
                raise ApiError("workspace_exists", f"There is a workspace {workspace_id!r} already.")
            return workspaces.insert(
                db, workspace_id=workspace_id, name=name, plan=plan, notify=notify, language=language, now_ms=now_ms
            )

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
        language: str | None = None,
        confirm: bool = False,
        keep_pending: Collection[str] = (),
    ) -> Workspace:
        """Change what is given.  A plan without webhooks stops delivery, one with them starts it again.

        With `confirm` new addresses of `notify` are asked to confirm by mail, and are added once they have.  The
        links of those that `notify` leaves out are withdrawn, but for `keep_pending`.
        Raises ApiError: `not_found`, `invalid_field`; with `confirm`, and nothing was changed: `mail_disabled`,
        `mail_failed`, `rate_limited`.
        """
        name = None if name is None else _checked_name(name)
        notify = None if notify is None else _checked_notify(notify)
        language = None if language is None else _checked_language(language)
        if notify is not None and confirm:
            await self._ask_to_confirm(key, notify)
        async with self._lock:
            workspace = self._registry.workspace(key)
            withdrawn: set[str] = set()
            workspace = replace(workspace, name=name or workspace.name, language=language or workspace.language)
            if notify is not None:
                added = tuple(each for each in notify if each in workspace.notify or not confirm)
                withdrawn = {each.address for each in workspace.pending} - ({*notify, *keep_pending} - set(added))
                workspace = replace(workspace, notify=added)
            if plan is not None and plan != workspace.plan:
                workspace = self._with_plan(workspace, plan)

            def on_commit(changed: Workspace) -> None:
                self._registry.put_workspace(changed)
                self._dispatcher.review(self._registry.endpoints(changed.seq))

            workspace = await self._store.write(
                lambda db: workspaces.update(db, workspaces.withdraw(db, workspace, withdrawn)), on_commit=on_commit
            )
        given = {"name": name, "notify": notify, "plan": plan, "language": language}
        fields = [field for field, value in given.items() if value is not None]
        log.emit("workspace.changed", workspace=workspace.id, plan=workspace.plan, fields=fields)
        return workspace

    def _with_plan(self, workspace: Workspace, plan: str) -> Workspace:
        plans, paused_before = self._plans(), self._registry.paused(workspace.seq)
        workspace = replace(workspace, plan=plans.check(plan))
        # Between two plans without webhooks, what is held goes on ageing.
        if plans.has_webhooks(plan) is paused_before:
            workspace = replace(workspace, plan_changed_at_ms=self._clock.wall_ms())
        return workspace

    async def _ask_to_confirm(self, key: WorkspaceKey, addresses: tuple[str, ...]) -> None:
        """Send a link to each of the addresses that the workspace doesn't have and that wasn't asked already."""
        settings, now_ms = self._settings(), self._clock.wall_ms()
        async with self._lock:
            workspace = self._registry.workspace(key)
            known = {*workspace.notify, *(each.address for each in workspace.pending_at(now_ms))}
            new = [each for each in dict.fromkeys(addresses) if each not in known]
            if not new:
                return
            if not settings.mail.host or not settings.listen.public_url:
                key_missing = "listen.public_url" if settings.mail.host else "mail.host"
                raise ApiError(
                    "mail_disabled",
                    "A new address for the notices has to confirm it by a link in a mail, and webhookd can't send one: "
                    f"set {key_missing}. An admin of the whole of webhookd adds addresses without it.",
                )
            until_ms = now_ms + CONFIRM_MS
            codes = {secrets.token_urlsafe(CODE_BYTES): PendingAddress(address, until_ms) for address in new}
            hashed = {secret_digest(code): pending for code, pending in codes.items()}
            await self._store.write(
                lambda db: workspaces.ask_to_confirm(
                    db, workspace, hashed, most=settings.mail.max_per_hour, now_ms=now_ms
                ),
                on_commit=self._registry.put_workspace,
            )
        try:
            for code, pending in codes.items():
                link = f"{settings.listen.public_url.rstrip('/')}/confirm-address?code={code}"
                await self._send_confirmation(pending.address, workspace, link, until_ms)
        except ApiError:
            async with self._lock:
                now = self._registry.workspace(workspace.seq)
                await self._store.write(
                    lambda db: workspaces.withdraw(db, now, new), on_commit=self._registry.put_workspace
                )
            raise

    async def to_confirm(self, code: str) -> tuple[Workspace, str]:
        """The workspace and the address that the code of a link is for.  ApiError `not_found` if it doesn't work."""
        digest, now_ms = secret_digest(code), self._clock.wall_ms()
        found = await self._store.read_for_sign_in(lambda db: workspaces.to_confirm(db, digest, now_ms))
        workspace = None if found is None else self._registry.find_workspace(found[0])
        if found is None or workspace is None:
            raise ApiError("not_found", "This link was used, has expired (after 48 hours), or was withdrawn.")
        return workspace, found[1]

    async def confirm(self, code: str) -> tuple[Workspace, str]:
        """Add the address that the code of a link is for to its workspace's notices; the code is used up by it.

        Raises ApiError: `not_found`, `invalid_field` (the workspace has as many addresses as it can).
        """
        async with self._lock:
            workspace, address = await self.to_confirm(code)
            added = replace(workspace, notify=_checked_notify(tuple(dict.fromkeys((*workspace.notify, address)))))
            added = await self._store.write(
                lambda db: workspaces.update(db, workspaces.withdraw(db, added, [address])),
                on_commit=self._registry.put_workspace,
            )
        log.emit("workspace.changed", workspace=added.id, plan=added.plan, fields=["notify"])
        return added, address

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


def _checked_language(language: str) -> str:
    if language not in LANGUAGES:
        raise field_error("language", f"language is one of {', '.join(LANGUAGES)}.")
    return language


def _checked_notify(addresses: tuple[str, ...]) -> tuple[str, ...]:
    if len(addresses) > NOTIFY_ADDRESSES:
        raise field_error("notify", f"At most {NOTIFY_ADDRESSES} addresses get notices.")
    for address in addresses:
        if not is_mail_address(address):
            raise field_error("notify", f"{address!r} is not a mail address like ops@example.com.")
    return addresses
