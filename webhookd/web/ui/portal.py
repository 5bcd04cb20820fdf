"""The portal: a workspace's webhooks and log inside a product's own settings, entered by a link of the product.

Its pages are those of the webhooks and the log, below `/portal`, with cookies of their own: a session of the portal
opens none of the others, and theirs none of these.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from aiohttp import web
from msgspec import Meta, Struct

from webhookd.admin.audit import DONE
from webhookd.clock import rfc3339
from webhookd.web.server.caller_address import caller_address
from webhookd.web.server.requests import WRITE_ERRORS, Routes, caller, read_fields, services_of, workspace_of
from webhookd.web.server.responses import json_response
from webhookd.web.ui.pages import LANGUAGE_COOKIE, SESSION_COOKIE, VISITOR_COOKIE, Page
from webhookd.web.ui.sign_in import SECRET_CHARACTERS, page_url

WEEK_SECONDS = 604_800
# Of the pages for those who are signed in, the portal has these, and what is below them.
PAGES = ("/webhooks", "/log", "/event-types")
_CHANGING = ("/new", "/edit", "/enable", "/delete", "/backfill", "/replay")

ROUTES = Routes()


class NewPortalLink(Struct, frozen=True, kw_only=True):
    """What a link into the portal is to give."""

    expires_in_seconds: Annotated[
        int, Meta(ge=1, le=WEEK_SECONDS, description="How long the link works, up to a week; it works once")
    ] = 600
    return_url: Annotated[str | None, Meta(description="Where the page's link back to the product leads")] = None
    language: Annotated[Literal["en", "vi"] | None, Meta(description="Of the page; null: the browser's")] = None
    read_only: Annotated[bool, Meta(description="Whether nothing can be changed")] = False


class PortalLinkSchema(Struct):
    """A link into the portal; its code is in the fragment, so that no server's log sees it."""

    url: str
    expires_at: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


@ROUTES(
    "POST",
    "/portal-links",
    {201: PortalLinkSchema},
    body=NewPortalLink,
    errors=WRITE_ERRORS,
    workspaced=True,
)
async def make_portal_link(request: web.Request) -> web.Response:
    """Make a link into the portal of a workspace.

    It signs in once, to the page of this workspace's webhooks and log and to nothing else: no tokens, settings, plan,
    audit trail or other workspaces. The session ends as any other of the page, with the token that made the link, and
    with the workspace. Of the unused links of a workspace the newest 100 work.
    """
    fields = await read_fields(request, NewPortalLink)
    token = caller(request)
    assert token is not None
    url, expires_at_ms = await services_of(request).sessions.portal_link(
        page_url(request),
        token,
        workspace_of(request),
        expires_in_seconds=fields.expires_in_seconds,
        read_only=fields.read_only,
        language=fields.language or "",
        return_url=fields.return_url or "",
    )
    return json_response({"url": url, "expires_at": rfc3339(expires_at_ms)}, 201)


def in_portal(path: str) -> bool:
    """Whether the portal has this address of the page."""
    return any(path == each or path.startswith(f"{each}/") for each in PAGES)


def changes(method: str, path: str) -> bool:
    """Whether an address changes something, or asks what to change: nothing for those who may only read."""
    return method == "POST" or path.endswith(_CHANGING)


async def show_entrance(page: Page) -> web.StreamResponse:
    """Where a link leads: a script posts the code of its fragment.  Without a code it says how to come in."""
    return page.show("portal.html", fault="")


async def enter(page: Page) -> web.StreamResponse:
    """Use up the code of a link, and begin a session of the portal."""
    sessions, address = page.services.sessions, caller_address(page.request)
    code = page.field("secret").strip()
    session = await sessions.sign_in_to_portal(code, address) if 0 < len(code) <= SECRET_CHARACTERS else None
    if session is None:
        wait_seconds = page.services.audit.wait_seconds(address)
        if wait_seconds > 0:
            return page.show("portal.html", 429, fault=page.text.count("sign_in.too_often", math.ceil(wait_seconds)))
        await page.services.audit.refused(address, page.request.path)
        return page.show("portal.html", 403, fault=page.text("portal.gone"))
    workspace = page.services.registry.find_workspace(session.token.workspace_seq or 0)
    await page.services.audit.note(
        "sign_in_to_portal",
        page.request.path,
        DONE,
        address=address,
        token=session.token,
        session_id=session.id,
        workspace=workspace,
    )
    if page.session is not None:
        await sessions.end([page.session.view])
    response = page.go("/webhooks")
    page.set_cookie(
        response, SESSION_COOKIE, session.secret, (session.view.expires_at_ms - session.view.created_at_ms) // 1000
    )
    page.drop_cookie(response, VISITOR_COOKIE)
    if session.view.portal and session.view.portal.language:
        page.drop_cookie(
            response, LANGUAGE_COOKIE
        )  # the product knows its reader's language; the switch changes it again
    return response
