"""Signing in and out, the language, confirming an address: what works without a session."""

from __future__ import annotations

import math

from aiohttp import web
from msgspec import Struct

from webhookd.admin.audit import DONE
from webhookd.errors import ApiError
from webhookd.models import LANGUAGES, Workspace
from webhookd.web.server.caller_address import caller_address
from webhookd.web.server.requests import Routes, caller, services_of
from webhookd.web.server.responses import json_response
from webhookd.web.ui.pages import (
    LANGUAGE_COOKIE,
    LANGUAGE_SECONDS,
    SESSION_COOKIE,
    VISITOR_COOKIE,
    Page,
    Translated,
)

SECRET_CHARACTERS = 1000

ROUTES = Routes()


class SignInLinkSchema(Struct):
    """A link that signs in to the page."""

    url: str


async def show_sign_in(page: Page) -> web.StreamResponse:
    """The form for a token or a code; a script posts a code that came in the fragment."""
    if page.session is not None and not page.asked("then"):
        # A fresh link in a browser that is signed in already: the form is shown all the same, and replaces the session.
        return page.show("sign_in.html", then="", fault="", signed_in=True)
    return page.show("sign_in.html", then=page.asked("then"), fault="", signed_in=False)


async def sign_in(page: Page) -> web.StreamResponse:
    """Spend a code or check a token."""
    sessions, address = page.services.sessions, caller_address(page.request)
    then = page.field("then")
    secret = page.field("secret").strip()
    # First, so that a correct secret is never locked out by the wrong ones of others behind the same address.
    session = await sessions.sign_in(secret, address) if 0 < len(secret) <= SECRET_CHARACTERS else None
    if session is None:
        wait_seconds = page.services.audit.wait_seconds(address)
        if wait_seconds > 0:
            return _refuse(page, 429, page.text.count("sign_in.too_often", math.ceil(wait_seconds)), then)
        await page.services.audit.refused(address, page.request.path)
        return _refuse(page, 403, _why_not(page, secret), then)
    await page.services.audit.note(
        "sign_in", page.request.path, DONE, address=address, token=session.token, session_id=session.id
    )
    if page.session is not None:
        await sessions.end([page.session.view])
    response = web.Response(status=303, headers={"Location": then if is_own_path(then) else "/webhooks"})
    seconds = (session.view.expires_at_ms - session.view.created_at_ms) // 1000
    page.set_cookie(response, SESSION_COOKIE, session.secret, seconds)
    page.drop_cookie(response, VISITOR_COOKIE)
    return response


def _why_not(page: Page, secret: str) -> str:
    try:
        page.services.tokens.check(secret)
    except ApiError as error:
        if "expired_at" in error.details:
            return page.text("sign_in.expired", at=error.details["expired_at"])
    return page.text("sign_in.wrong")


async def sign_out(page: Page) -> web.StreamResponse:
    """End the session."""
    if page.session is not None:
        await page.services.sessions.end([page.session.view])
    response = web.Response(status=303, headers={"Location": "/sign-in"})
    page.drop_cookie(response, SESSION_COOKIE)
    return response


async def set_language(page: Page) -> web.StreamResponse:
    """Remember the language in a cookie."""
    language, then = page.field("language"), page.field("then")
    if language not in LANGUAGES:
        raise ApiError("invalid_field", f"language is one of {', '.join(LANGUAGES)}.", details={"field": "language"})
    response = web.Response(
        status=303, headers={"Location": then if is_own_path(then) else page.home if page.portal else "/"}
    )
    page.set_cookie(response, LANGUAGE_COOKIE, language, LANGUAGE_SECONDS)
    return response


async def show_confirm(page: Page) -> web.StreamResponse:
    """Ask whoever opened the link in a mail; programs that look at mails open it too, so this changes nothing."""
    code = page.asked("code")
    workspace, address = await _to_confirm(page, code)
    return page.show("confirm_address.html", workspace=workspace, address=address, code=code)


async def confirm(page: Page) -> web.StreamResponse:
    """Add the address to the workspace's notices."""
    code = page.field("code")
    await _to_confirm(page, code)
    workspace, _ = await page.services.workspaces.confirm(code)
    await page.services.audit.note(
        "confirm_address", page.request.path, DONE, address=caller_address(page.request), workspace=workspace
    )
    return page.go("/confirm-address/done")


async def show_confirmed(page: Page) -> web.StreamResponse:
    """The address gets the notices now."""
    return page.show("confirm_address.html", address="")


async def _to_confirm(page: Page, code: str) -> tuple[Workspace, str]:
    try:
        return await page.services.workspaces.to_confirm(code[:SECRET_CHARACTERS])
    except ApiError as error:
        raise Translated(error.code, page.text("confirm.gone")) from None


@ROUTES("POST", "/v1/sign-in-links", {201: SignInLinkSchema})
async def make_link(request: web.Request) -> web.StreamResponse:
    """Make a link that signs in to the page.

    It works once, for 10 minutes, and signs in as the token that made it. Its code is in the fragment, so that no
    server's log sees it.
    """
    token = caller(request)
    assert token is not None
    link = services_of(request).sessions.link(page_url(request), token.id)
    if link is None:
        raise ApiError("unauthorized", "This token was revoked just now.")
    return json_response({"url": link}, 201)


def is_own_path(path: str) -> bool:
    """Whether `path` can only lead to a page of ours: one slash at its beginning, nothing that a browser bends."""
    return (
        path.startswith("/")
        and not path.startswith("//")
        and "\\" not in path
        and path.isascii()
        and path.isprintable()
    )


def page_url(request: web.Request) -> str:
    """The address of the page, without a slash at its end, as far as webhookd can tell."""
    listen = services_of(request).settings().listen
    if listen.public_url:
        return listen.public_url.rstrip("/")
    sockname = request.get_extra_info("sockname")
    if isinstance(sockname, tuple):
        return f"http://{request.host}"
    host = f"[{listen.host}]" if ":" in listen.host else listen.host  # it came over the unix socket
    return f"http://{host}:{listen.port}"


def _refuse(page: Page, status: int, fault: str, then: str) -> web.Response:
    return page.show("sign_in.html", status, then=then, fault=fault, signed_in=False)
