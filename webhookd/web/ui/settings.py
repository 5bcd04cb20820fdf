"""The settings of a workspace: its name, who gets its mails and in which language, its plan and failure budget."""

from __future__ import annotations

import re

from aiohttp import web

from webhookd.admin.workspaces import NAME_CHARACTERS
from webhookd.errors import ApiError
from webhookd.models import LANGUAGES
from webhookd.web.ui.pages import Page
from webhookd.web.ui.view_models import budget_gauge


async def show_settings(page: Page) -> web.StreamResponse:
    """The form, with what the workspace has."""
    workspace = page.workspace
    fields = {"name": workspace.name, "plan": workspace.plan, "language": workspace.language}
    return _show(page, fields | {"notify": "\n".join(workspace.notify)})


async def change(page: Page) -> web.StreamResponse:
    """Change the workspace: a reader with rights in it alone changes no plan, and new addresses confirm themselves."""
    fields = {name: page.field(name).strip() for name in ("name", "notify", "plan", "language")}
    asked = {each.address for each in page.workspace.pending_at(page.services.clock.wall_ms())}
    try:
        changed = await page.services.workspaces.change(
            page.workspace.seq,
            name=fields["name"],
            plan=fields["plan"] if page.chooses else None,
            notify=tuple(dict.fromkeys(re.findall(r"[^\s,;]+", fields["notify"]))),
            language=fields["language"],
            confirm=not page.chooses,
            keep_pending=page.fields_named("pending"),
        )
    except ApiError as error:
        if error.code not in ("invalid_field", "mail_disabled", "mail_failed", "rate_limited"):
            raise
        return _show(page, fields, error)
    new = {each.address for each in changed.pending_at(page.services.clock.wall_ms())} - asked
    return page.go("/settings", said="settings_asked" if new else "settings_saved")


def _show(page: Page, fields: dict[str, str], fault: ApiError | None = None) -> web.Response:
    services, workspace = page.services, page.services.registry.workspace(page.workspace.seq)
    settings = services.settings()
    in_words = {"mail_disabled": "notify", "mail_failed": "notify", "rate_limited": "notify"}
    return page.show(
        "settings.html",
        fault.status if fault else 200,
        fault=fault,
        fault_field="" if fault is None else in_words.get(fault.code) or str(fault.details.get("field", "")),
        fields=fields,
        workspace=workspace,
        pending=workspace.pending_at(services.clock.wall_ms()),
        default_notify=settings.mail.notify,
        mails=bool(settings.mail.host),
        plans=settings.plans.order,
        webhooks_from=settings.plans.webhooks_from,
        paused=services.registry.paused(workspace.seq),
        gauge=budget_gauge(page),
        name_characters=NAME_CHARACTERS,
        mail_languages=LANGUAGES,
        plan_name=lambda plan: page.text.maybe(f"plan.{plan}", plan),
    )
