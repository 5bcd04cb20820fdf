"""The audit trail: who changed what, and whose secret was refused."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from msgspec import Meta

from webhookd.clock import rfc3339
from webhookd.models import AuditEntry, AuditFilter, Json
from webhookd.web.api.schemas import PageSchema, Schema, Time
from webhookd.web.server.paging import Moment, Paging
from webhookd.web.server.requests import Routes, caller, read_query, services_of
from webhookd.web.server.responses import list_response

ROUTES = Routes()


class AuditEntrySchema(Schema):
    """One change, or one refused secret."""

    at: Time
    workspace: str | None
    token_id: str | None
    session_id: Annotated[str | None, Meta(description="Where it was done on the page")]
    address: Annotated[str, Meta(description="The caller's; `local` over the unix socket")]
    action: Annotated[str, Meta(description="The operation's id in this document, or `page`, or `authenticate`")]
    target: Annotated[str, Meta(description="The path, with the id of what was made")]
    outcome: Annotated[str, Meta(description="`done`, or the code of the error")]


class AuditListSchema(PageSchema[AuditEntrySchema]):
    """A page of the audit trail."""


class AuditQuery(Paging, frozen=True, kw_only=True):
    """Which entries are asked for; what is left out means any."""

    who: Annotated[str, Meta(max_length=100, description="A token's or session's id, or an address")] | None = None
    what: Annotated[str, Meta(max_length=200, description="An action, an outcome, or a part of the path")] | None = None
    since: Annotated[Moment | None, Meta(description="Then or later")] = None
    until: Annotated[Moment | None, Meta(description="Before then")] = None


@ROUTES("GET", "/v1/audit", {200: AuditListSchema}, query=AuditQuery)
async def list_audit(request: web.Request) -> web.Response:
    """List the changes and the refused secrets, newest first.

    A token bound to a workspace sees those of its workspace alone. A page of a rare match may be short, or empty:
    `next` says where to go on.
    """
    query, who = read_query(request, AuditQuery), caller(request)
    own = None if who is None else who.workspace_seq
    wanted = AuditFilter(own, query.who, query.what, query.since, query.until)
    found, after = await services_of(request).audit.page(wanted, query.seq, query.limit)
    return list_response([_shown(entry) for entry in found], after)


def _shown(entry: AuditEntry) -> Json:
    return {
        "at": rfc3339(entry.at_ms),
        "workspace": entry.workspace,
        "token_id": entry.token_id,
        "session_id": entry.session_id,
        "address": entry.address,
        "action": entry.action,
        "target": entry.target,
        "outcome": entry.outcome,
    }
