"""The page of tokens and sessions: who may call the API, and who is signed in."""

from __future__ import annotations

from aiohttp import web

from webhookd.admin.sessions import Session
from webhookd.admin.tokens import NOTE_CHARACTERS, Scope, secret_digest
from webhookd.errors import ApiError
from webhookd.web.ui.log import moment
from webhookd.web.ui.pages import Page, Translated, read_cookie

# A new token's secret reaches the page after the redirect in a cookie that shows it once: it is stored nowhere else.
SHOWN_COOKIE = "webhookd_shown"
SHOWN_SECONDS = 60


async def show_access(page: Page) -> web.StreamResponse:
    """The tokens, for who may look at every workspace, and the sessions of the reader's own token."""
    return await _show(page)


async def make_token(page: Page) -> web.StreamResponse:
    """Make a token, and redirect to its secret."""
    _check_unbound(page)
    fields = {"expires": page.field("expires").strip()}
    workspace = page.field("workspace") or None
    try:
        expires_at_ms = moment(page, fields, "expires")
        token, secret = await page.services.tokens.add(
            page.field("scope"), workspace, page.field("note").strip(), expires_at_ms
        )
    except ApiError as error:
        return await _show(page, error)
    page.made = f"/access/tokens/{token.id}"
    response = page.go("/access", said="token_made")
    page.set_cookie(response, SHOWN_COOKIE, secret, SHOWN_SECONDS, samesite="Strict")
    return response


async def revoke_token(page: Page) -> web.StreamResponse:
    """Revoke a token, and with it end its sessions."""
    _check_unbound(page)
    await page.services.tokens.revoke(page.request.match_info["token"])
    return page.go("/access", said="token_revoked")


async def end_session(page: Page) -> web.StreamResponse:
    """End a session of the reader's own token, or with `others` all but the reader's own."""
    session, sessions = _session(page), page.services.sessions
    named = page.request.match_info["session"]
    found = await sessions.list(token_id=session.token.id)
    ended = [each for each in found if (each.id != session.id if named == "others" else each.id == named)]
    if not ended and named != "others":
        raise Translated("not_found", page.text("access.no_session"))
    await sessions.end(ended)
    return page.go("/access", said="sessions_ended", n=len(ended))


async def _show(page: Page, fault: ApiError | None = None) -> web.Response:
    services, session = page.services, _session(page)
    secret = read_cookie(page.request, SHOWN_COOKIE)
    response = page.show(
        "access.html",
        fault.status if fault else 200,
        fault=fault,
        tokens=await services.tokens.list() if page.chooses else [],
        secret=secret if page.chooses and services.tokens.holder(secret_digest(secret)) else "",
        now_ms=services.clock.wall_ms(),
        scopes=(Scope.INGEST, Scope.OBSERVE, Scope.ADMIN),  # what is chosen by mistake may do the least
        note_characters=NOTE_CHARACTERS,
        sessions=await services.sessions.list(token_id=session.token.id),
        limits=services.settings().sessions,
    )
    if secret:
        page.drop_cookie(response, SHOWN_COOKIE)
    return response


def _check_unbound(page: Page) -> None:
    if not page.chooses:
        raise Translated("forbidden", page.text("access.unbound"))


def _session(page: Page) -> Session:
    assert page.session is not None
    return page.session
