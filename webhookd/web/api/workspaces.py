"""Workspaces and their failure budgets."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from webhookd.admin.tokens import Scope
from webhookd.admin.workspaces import NAME_CHARACTERS
from webhookd.web.api.schemas import BudgetSchema, Schema, WorkspaceSchema, budget_json, workspace_json
from webhookd.web.server.requests import Paging, Route, caller, read_fields, read_query, services_of, workspace_id
from webhookd.web.server.responses import json_response, list_response, no_content

Name = Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": NAME_CHARACTERS})]
Addresses = Annotated[list[str], Meta(description="Who gets the notices; none: mail.notify of the configuration")]


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


class WorkspaceChanges(Struct, frozen=True, kw_only=True):
    """What is to change of a workspace; what is left out stays."""

    name: Name | UnsetType = UNSET
    plan: str | UnsetType = UNSET
    notify: Addresses | UnsetType = UNSET


class WorkspaceListSchema(Schema):
    """A page of workspaces."""

    data: list[WorkspaceSchema]
    next: str | None


async def list_workspaces(request: web.Request) -> web.Response:
    """All workspaces that the caller may see, oldest first."""
    query = read_query(request, Paging)
    services, who = services_of(request), caller(request)
    own = None if who is None else who.workspace
    after_seq = 0 if query.cursor is None else query.cursor.seq
    found = [
        each for each in services.registry.workspaces() if each.seq > after_seq and (own is None or each.id == own)
    ]
    page = found[: query.limit]
    shown = [workspace_json(services, each) for each in page]
    return list_response(shown, page[-1].seq if len(found) > len(page) else None)


async def make_workspace(request: web.Request) -> web.Response:
    """Make a workspace."""
    fields = await read_fields(request, NewWorkspace)
    services = services_of(request)
    made = await services.workspaces.create(fields.id, name=fields.name, plan=fields.plan, notify=tuple(fields.notify))
    return json_response(workspace_json(services, made), 201)


async def get_workspace(request: web.Request) -> web.Response:
    """One workspace."""
    services = services_of(request)
    return json_response(workspace_json(services, services.registry.workspace(workspace_id(request))))


async def change_workspace(request: web.Request) -> web.Response:
    """Change what is given; a plan without webhooks stops delivery, one with them starts it again."""
    fields = await read_fields(request, WorkspaceChanges)
    services = services_of(request)
    changed = services.registry.workspace(workspace_id(request))
    if (fields.name, fields.plan, fields.notify) != (UNSET, UNSET, UNSET):
        changed = await services.workspaces.change(
            changed.id,
            name=None if fields.name is UNSET else fields.name,
            plan=None if fields.plan is UNSET else fields.plan,
            notify=None if fields.notify is UNSET else tuple(fields.notify),
        )
    return json_response(workspace_json(services, changed))


async def delete_workspace(request: web.Request) -> web.Response:
    """Delete a workspace that has no endpoints, and its tokens with it."""
    services = services_of(request)
    await services.workspaces.delete(workspace_id(request))
    await services.tokens.reload()
    return no_content()


async def get_budget(request: web.Request) -> web.Response:
    """How much of the failure budget is spent, and by whom."""
    services = services_of(request)
    return json_response(budget_json(services, services.registry.workspace(workspace_id(request)).id))


ROUTES = [
    Route(
        "GET",
        "/v1/workspaces",
        list_workspaces,
        Scope.ADMIN,
        "List the workspaces, oldest first",
        answers={200: WorkspaceListSchema},
        query=Paging,
        description="A token bound to a workspace sees that one alone.",
    ),
    Route(
        "POST",
        "/v1/workspaces",
        make_workspace,
        Scope.ADMIN,
        "Create a workspace",
        answers={201: WorkspaceSchema},
        body=NewWorkspace,
        errors=("workspace_exists", "storage_full", "unavailable"),
        unbound=True,
    ),
    Route(
        "GET",
        "/v1/workspaces/{workspace}",
        get_workspace,
        Scope.ADMIN,
        "Get a workspace",
        answers={200: WorkspaceSchema},
    ),
    Route(
        "PATCH",
        "/v1/workspaces/{workspace}",
        change_workspace,
        Scope.ADMIN,
        "Change a workspace",
        answers={200: WorkspaceSchema},
        body=WorkspaceChanges,
        errors=("storage_full", "unavailable"),
        description="A plan without webhooks holds everything, one with them starts delivery again.",
    ),
    Route(
        "DELETE",
        "/v1/workspaces/{workspace}",
        delete_workspace,
        Scope.ADMIN,
        "Delete a workspace that has no endpoints, with its tokens",
        answers={204: None},
        errors=("workspace_in_use", "storage_full", "unavailable"),
        unbound=True,
    ),
    Route(
        "GET",
        "/budget",
        get_budget,
        Scope.ADMIN,
        "Get the failure budget: the failures that count, by endpoint",
        answers={200: BudgetSchema},
        workspaced=True,
    ),
]
