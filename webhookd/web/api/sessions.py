"""Sessions of the page: who is signed in, and ending it."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from msgspec import Meta

from webhookd.clock import rfc3339
from webhookd.errors import ApiError
from webhookd.models import Json, SessionView
from webhookd.web.api.schemas import PageSchema, Schema, Time
from webhookd.web.server.paging import Paging
from webhookd.web.server.requests import Routes, caller, read_query, services_of
from webhookd.web.server.responses import list_response, no_content, one_page

ROUTES = Routes()


class SessionSchema(Schema):
    """Somebody who is signed in to the page."""

    id: str
    token_id: Annotated[str, Meta(description="What it was signed in with")]
    workspace: str | None
    portal: Annotated[bool, Meta(description="Whether it came by a link into the portal: one workspace alone")]
    read_only: Annotated[bool, Meta(description="Whether it may change nothing")]
    address: Annotated[str, Meta(description="Where it was signed in from")]
    created_at: Time
    last_used_at: Annotated[Time, Meta(description="Kept once a minute: a crash loses so much at most")]
    expires_at: Annotated[
        Time, Meta(description="At the latest; earlier if it is not used for `sessions.idle_minutes`")
    ]


class SessionListSchema(PageSchema[SessionSchema]):
    """A page of sessions."""


@ROUTES("GET", "/v1/sessions", {200: SessionListSchema}, query=Paging)
async def list_sessions(request: web.Request) -> web.Response:
    """List who is signed in to the page.

    A token bound to a workspace sees those in its workspace alone: of its tokens, and of its portal.
    """
    query = read_query(request, Paging)
    after = [each for each in await _own(request) if query.cursor is None or each.id > query.cursor]
    page, last = one_page(after, query.limit, key="id")
    return list_response([_shown(each) for each in page], last)


@ROUTES("DELETE", "/v1/sessions/{session}", {204: None}, errors=("not_found",))
async def end_session(request: web.Request) -> web.Response:
    """End a session: its browser is signed out."""
    named = request.match_info["session"]
    ended = [each for each in await _own(request) if each.id == named]
    if not ended:
        raise ApiError("not_found", f"There is no session {named[:100]!r}. `webhookd session list` shows them.")
    await services_of(request).sessions.end(ended)
    return no_content()


async def _own(request: web.Request) -> list[SessionView]:
    who = caller(request)
    return await services_of(request).sessions.list(workspace_seq=None if who is None else who.workspace_seq)


def _shown(session: SessionView) -> Json:
    return {
        "id": session.id,
        "token_id": session.token_id,
        "workspace": session.workspace,
        "portal": session.portal is not None,
        "read_only": session.portal is not None and session.portal.read_only,
        "address": session.address,
        "created_at": rfc3339(session.created_at_ms),
        "last_used_at": rfc3339(session.last_used_at_ms),
        "expires_at": rfc3339(session.expires_at_ms),
    }
