"""The audit trail: who changed what, and whose secret was refused."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from msgspec import Meta

from webhookd.clock import rfc3339
from webhookd.models import AuditEntry, Json
from webhookd.web.api.schemas import PageSchema, Schema, Time
from webhookd.web.server.requests import Paging, Routes, caller, read_query, services_of
from webhookd.web.server.responses import list_response, one_page

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


@ROUTES("GET", "/v1/audit", {200: AuditListSchema}, query=Paging)
async def list_audit(request: web.Request) -> web.Response:
    """List the changes and the refused secrets, newest first.

    A token bound to a workspace sees those of its workspace alone.
    """
    query, who = read_query(request, Paging), caller(request)
    own = None if who is None else who.workspace_seq
    found = await services_of(request).audit.page(own, query.seq, query.limit + 1)
    page, after = one_page(found, query.limit)
    return list_response([_shown(entry) for entry in page], after)


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
