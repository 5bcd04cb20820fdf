"""API tokens: listed without their secrets, made, revoked.  For admins of the whole daemon alone."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from webhookd.admin.tokens import NOTE_CHARACTERS, Scope
from webhookd.clock import rfc3339
from webhookd.models import Json, Token
from webhookd.web.api.schemas import PageSchema, Time
from webhookd.web.server.paging import Moment, Paging
from webhookd.web.server.requests import Routes, read_fields, read_query, services_of
from webhookd.web.server.responses import json_response, list_response, no_content, one_page

ROUTES = Routes()


class NewToken(Struct, frozen=True, kw_only=True):
    """What a token is to be good for."""

    scope: Annotated[
        str, Meta(description="admin, ingest or observe", extra_json_schema={"enum": [str(each) for each in Scope]})
    ]
    workspace: Annotated[str, Meta(description="The one workspace that it is good for")] | None = None
    note: Annotated[str, Meta(max_length=NOTE_CHARACTERS, description="Who has it")] = ""
    expires_at: Annotated[Moment | None, Meta(description="When it ends by itself; null: never")] = None


class TokenSchema(Struct):
    """A token, without its secret."""

    id: str
    scope: Scope
    workspace: str | None
    note: str
    created_at: Time
    expires_at: Time | None
    last_used_at: Annotated[Time | None, Meta(description="Kept once a minute: a crash loses so much at most")]


class CreatedTokenSchema(TokenSchema):
    """A token that was just created; only this answer has `secret`."""

    secret: str


class TokenListSchema(PageSchema[TokenSchema]):
    """A page of tokens."""


@ROUTES("GET", "/v1/tokens", {200: TokenListSchema}, query=Paging, unbound=True)
async def list_tokens(request: web.Request) -> web.Response:
    """List the tokens, without their secrets."""
    query = read_query(request, Paging)
    found = await services_of(request).tokens.list()
    after = [token for token in found if query.cursor is None or token.id > query.cursor]
    page, last = one_page(after, query.limit, key="id")
    return list_response([_shown(token) for token in page], last)


@ROUTES("POST", "/v1/tokens", {201: CreatedTokenSchema}, body=NewToken, errors=("not_found",), unbound=True)
async def make_token(request: web.Request) -> web.Response:
    """Create a token.

    Only this answer has the secret; webhookd keeps its hash.
    """
    fields = await read_fields(request, NewToken)
    token, secret = await services_of(request).tokens.add(
        fields.scope, fields.workspace, fields.note, fields.expires_at
    )
    return json_response({**_shown(token), "secret": secret}, 201)


@ROUTES("DELETE", "/v1/tokens/{token}", {204: None}, errors=("not_found",), unbound=True)
async def revoke_token(request: web.Request) -> web.Response:
    """Revoke a token."""
    await services_of(request).tokens.revoke(request.match_info["token"])
    return no_content()


def _shown(token: Token) -> Json:
    return {
        "id": token.id,
        "scope": token.scope,
        "workspace": token.workspace,
        "note": token.note,
        "created_at": rfc3339(token.created_at_ms),
        "expires_at": None if token.expires_at_ms is None else rfc3339(token.expires_at_ms),
        "last_used_at": None if token.last_used_at_ms is None else rfc3339(token.last_used_at_ms),
    }
