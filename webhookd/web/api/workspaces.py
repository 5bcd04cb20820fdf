"""Workspaces and their failure budgets."""

from __future__ import annotations

from typing import Annotated, Literal

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from webhookd.admin.workspaces import NAME_CHARACTERS
from webhookd.errors import ApiError
from webhookd.web.api.schemas import BudgetSchema, PageSchema, WorkspaceSchema, budget_json, workspace_json
from webhookd.web.server.paging import Paging
from webhookd.web.server.requests import (
    WRITE_ERRORS,
    Routes,
    caller,
    read_fields,
    read_query,
    services_of,
    workspace_of,
)
from webhookd.web.server.responses import json_response, list_response, no_content, one_page

Name = Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": NAME_CHARACTERS})]
Addresses = Annotated[list[str], Meta(description="Who gets the notices; none: mail.notify of the configuration")]

Language = Annotated[Literal["en", "vi"], Meta(description="Of its mails")]

ROUTES = Routes()


class NewWorkspace(Struct, frozen=True, kw_only=True):
    """A workspace to be made."""

    id: Annotated[
        str,
        Meta(
            description="1 to 63 of a-z, 0-9 and -",
            extra_json_schema={"pattern": "^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"},
        ),
    ]
    name: Annotated[Name | None, Meta(description="Else the id")] = None
    plan: Annotated[str | None, Meta(description="Else `advanced`, or the lowest with webhooks")] = None
    notify: Addresses = []
    language: Language = "en"


class WorkspaceChanges(Struct, frozen=True, kw_only=True):
    """What is to change of a workspace; what is left out stays."""

    name: Name | UnsetType = UNSET
    plan: str | UnsetType = UNSET
    notify: Addresses | UnsetType = UNSET
    language: Language | UnsetType = UNSET


class WorkspaceListSchema(PageSchema[WorkspaceSchema]):
    """A page of workspaces."""


@ROUTES("GET", "/v1/workspaces", {200: WorkspaceListSchema}, query=Paging)
async def list_workspaces(request: web.Request) -> web.Response:
    """List the workspaces, oldest first.

    A token bound to a workspace sees that one alone.
    """
    query = read_query(request, Paging)
    services, who = services_of(request), caller(request)
    own = None if who is None else who.workspace_seq
    found = [each for each in services.registry.workspaces() if own is None or each.seq == own]
    after_seq = query.seq or 0
    page, after = one_page([each for each in found if each.seq > after_seq], query.limit)
    return list_response([workspace_json(services, each) for each in page], after)


@ROUTES(
    "POST",
    "/v1/workspaces",
    {201: WorkspaceSchema},
    body=NewWorkspace,
    errors=("workspace_exists", *WRITE_ERRORS),
    unbound=True,
)
async def make_workspace(request: web.Request) -> web.Response:
    """Create a workspace."""
    fields = await read_fields(request, NewWorkspace)
    services = services_of(request)
    made = await services.workspaces.create(
        fields.id, name=fields.name, plan=fields.plan, notify=tuple(fields.notify), language=fields.language
    )
    return json_response(workspace_json(services, made), 201)


@ROUTES("GET", "/v1/workspaces/{workspace}", {200: WorkspaceSchema})
async def get_workspace(request: web.Request) -> web.Response:
    """Get a workspace."""
    services = services_of(request)
    return json_response(workspace_json(services, workspace_of(request)))


@ROUTES(
    "PATCH",
    "/v1/workspaces/{workspace}",
    {200: WorkspaceSchema},
    body=WorkspaceChanges,
    errors=("mail_disabled", "mail_failed", "rate_limited", *WRITE_ERRORS),
)
async def change_workspace(request: web.Request) -> web.Response:
    """Change a workspace.

    A plan without webhooks holds everything, one with them starts delivery again. A token bound to the workspace
    can't change the plan, and an address that it adds to `notify` gets a link to confirm it first, which works once and
    for 48 hours; until then it is in `pending_notify`. Leaving it out withdraws the link.
    """
    fields = await read_fields(request, WorkspaceChanges)
    services = services_of(request)
    changed, who = workspace_of(request), caller(request)
    bound = who is not None and who.workspace_seq is not None
    if bound and fields.plan not in (UNSET, services.registry.workspace(changed.seq).plan):
        raise ApiError("forbidden", "Only an admin of the whole of webhookd changes a workspace's plan.")
    if fields != WorkspaceChanges():
        changed = await services.workspaces.change(
            changed.seq,
            name=None if fields.name is UNSET else fields.name,
            plan=None if fields.plan is UNSET else fields.plan,
            notify=None if fields.notify is UNSET else tuple(fields.notify),
            language=None if fields.language is UNSET else fields.language,
            confirm=bound,
        )
    return json_response(workspace_json(services, changed))


@ROUTES("DELETE", "/v1/workspaces/{workspace}", {204: None}, errors=("workspace_in_use", *WRITE_ERRORS), unbound=True)
async def delete_workspace(request: web.Request) -> web.Response:
    """Delete a workspace that has no endpoints, with its tokens."""
    services = services_of(request)
    await services.workspaces.delete(workspace_of(request).seq)
    await services.tokens.reload()
    return no_content()


@ROUTES("GET", "/budget", {200: BudgetSchema}, workspaced=True)
async def get_budget(request: web.Request) -> web.Response:
    """Get the failure budget: the failures that count, by endpoint."""
    services = services_of(request)
    return json_response(budget_json(services, workspace_of(request).seq))
