"""The page: what all of its parts share, from the session to the headers.

Everything goes out with a policy that lets no script, style or frame in but the page's own.  An `ApiError` becomes a
page with the API's status.  An address names its workspace (`?workspace=acme`) only where there is a choice.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any
from urllib.parse import parse_qsl, urlencode

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

import webhookd
from webhookd.admin.audit import DONE, TARGET_CHARACTERS
from webhookd.admin.sessions import Session, form_proof, from_own_page, proves
from webhookd.clock import rfc3339
from webhookd.config.branding import brand_of
from webhookd.errors import ApiError
from webhookd.models import DEFAULT_WORKSPACE, LANGUAGES, Workspace
from webhookd.rules.ids import delivery_id
from webhookd.web.server.caller_address import caller_address
from webhookd.web.server.question_limit import QUESTION_LIMIT
from webhookd.web.server.requests import media_type, read_body, services_of, unsupported_media_type
from webhookd.web.server.responses import internal_error
from webhookd.web.services import Services
from webhookd.web.ui import text
from webhookd.web.ui.files import static_url
from webhookd.web.ui.texts import Texts, choose, texts

SESSION_COOKIE = "webhookd_session"
VISITOR_COOKIE = "webhookd_visitor"
PORTAL = "/portal"  # where the portal's pages begin: they know the portal's sessions alone, and no other page does
LANGUAGE_COOKIE = "webhookd_language"
VISITOR_SECONDS = 12 * 3600
LANGUAGE_SECONDS = 365 * 86400
FORM_MAX_BYTES = 256 * 1024
PROOF_FIELD = "proof"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors "
)
# `same-origin` and not `no-referrer`: with the latter a browser sends `Origin: null` with our own forms.
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Translated(ApiError):
    """An error of the page itself, with a message in the reader's language; all other errors are in English."""


@dataclass(slots=True)
class Page:
    """One request for a page.  Without a session, `workspace` is the default one and is not shown."""

    request: web.Request
    services: Services
    text: Texts
    session: Session | None
    workspace: Workspace
    visitor: str = ""
    portal: bool = False  # one of the portal's pages, which a product may embed
    fields: list[tuple[str, str]] = field(default_factory=list)
    made: str = ""  # the address of what a change made, for the audit trail

    # What was sent

    def field(self, name: str) -> str:
        """The last value of a form's field, "" where it has none."""
        return next((value for key, value in reversed(self.fields) if key == name), "")

    def fields_named(self, name: str) -> list[str]:
        """All values of a form's field."""
        return [value for key, value in self.fields if key == name]

    def asked(self, name: str) -> str:
        """A parameter of the address, "" where it has none."""
        return str(self.request.rel_url.query.get(name, ""))

    @property
    def before_seq(self) -> int | None:
        """The number before which a page of rows begins, as its `cursor` says; None for the newest."""
        cursor = self.asked("cursor")
        return int(cursor) if cursor.isdecimal() and len(cursor) < 19 else None

    @property
    def said(self) -> str:
        """What the change before this page did, as its address says (`?said=enabled&n=12`); "" if nothing."""
        key, number = f"said.{self.asked('said')}", self.asked("n")
        if not key.replace(".", "_").isidentifier() or key.count(".") > 1:
            return ""
        if f"{key}.other" in self.text.texts:
            return self.text.count(key, int(number) if number.isdecimal() and len(number) < 10 else 0)
        return self.text.maybe(key, "")

    @property
    def said_tone(self) -> str:
        """How `said` looks."""
        return "bad" if self.asked("said") == "tested_failed" else "good"

    # Who may what, and where to

    @property
    def may_change(self) -> bool:
        """Whether the reader may change anything."""
        portal = self.session.view.portal if self.session else None
        return portal is None or not portal.read_only

    @property
    def path(self) -> str:
        """The address without what it begins with in the portal."""
        return self.request.path.removeprefix(PORTAL) if self.portal else self.request.path

    @property
    def home(self) -> str:
        """Where the name in the header leads."""
        return self.url("/webhooks") if self.session else PORTAL if self.portal else "/sign-in"

    @property
    def return_url(self) -> str:
        """Where the product that embeds the portal wants its reader back, "" if nowhere."""
        return self.session.view.portal.return_url if self.session and self.session.view.portal else ""

    @property
    def ancestors(self) -> tuple[str, ...]:
        """The origins whose pages may embed this one."""
        return self.services.settings().listen.frame_ancestors if self.portal else ()

    @property
    def settings_crumbs(self) -> list[tuple[str, str]]:
        """The way from the settings to the webhooks; the portal has none but these."""
        if self.portal:
            return []
        integrations = (self.text("integrations.title"), self.url("/settings/integrations"))
        return [(self.text("settings.title"), self.url("/settings")), integrations]

    @property
    def chooses(self) -> bool:
        """Whether the reader may look at every workspace."""
        return self.session is not None and self.session.token.workspace_seq is None

    @property
    def workspaces(self) -> list[Workspace]:
        """The workspaces to switch between."""
        return self.services.workspaces_everywhere() if self.chooses else []

    def url(self, path: str, **parameters: object) -> str:
        """The address of a page of this workspace; parameters that are None or "" are left out."""
        path = PORTAL + path if self.portal else path
        given = {name: value for name, value in parameters.items() if value not in (None, "")}
        if self.chooses and self.workspace.id != DEFAULT_WORKSPACE:
            given = {"workspace": self.workspace.id, **given}
        return f"{path}?{urlencode(given)}" if given else path

    @property
    def here(self) -> str:
        """The address of this page to come back to; what a form answered can't be come back to."""
        return self.request.rel_url.path_qs if self.request.method != "POST" else self.url("/webhooks")

    # Answers

    def show(self, template: str, status: int = 200, **values: Any) -> web.Response:
        """A page made from a template."""
        html = (
            _templates(self.text.language)
            .get_template(template)
            .render(page=self, t=self.text, url=self.url, brand=brand_of(self.services.settings().page), **values)
        )
        response = web.Response(text=html, status=status, content_type="text/html", charset="utf-8")
        self.give_proof(response)
        return response

    def go(self, path: str, **parameters: object) -> web.Response:
        """Send the browser to another page after a change."""
        return web.Response(status=303, headers={"Location": self.url(path, **parameters)})

    # Forms

    @property
    def proof(self) -> str:
        """What each form of this page has in its hidden field."""
        return form_proof(self.session.secret if self.session else self.visitor)

    def give_proof(self, response: web.StreamResponse) -> None:
        """Give a visitor who isn't signed in the cookie that the forms are made for."""
        if self.session is None and read_cookie(self.request, VISITOR_COOKIE) != self.visitor:
            self.set_cookie(response, VISITOR_COOKIE, self.visitor, VISITOR_SECONDS, samesite="Strict")

    def set_cookie(
        self, response: web.StreamResponse, name: str, value: str, max_age_seconds: int, *, samesite: str = "Lax"
    ) -> None:
        """Set a cookie that no script can read, for https alone where the page is reached by it.

        In a frame of another site a browser keeps only cookies that are partitioned: one jar for each embedding site.
        """
        embedded = bool(self.ancestors)
        parts = [f"{cookie_name(self.request, name)}={value}", f"Max-Age={max_age_seconds}", "Path=/", "HttpOnly"]
        parts += ["Secure"] if embedded or _is_secure(self.request) else []
        parts += ["SameSite=None", "Partitioned"] if embedded else [f"SameSite={samesite}"]
        response.headers.add("Set-Cookie", "; ".join(parts))  # aiohttp's own knows `Partitioned` from Python 3.14 on

    def drop_cookie(self, response: web.StreamResponse, name: str) -> None:
        """Let the browser forget a cookie."""
        self.set_cookie(response, name, "", 0)


def _is_secure(request: web.Request) -> bool:
    return services_of(request).settings().listen.public_url.startswith("https:")


def cookie_name(request: web.Request, name: str) -> str:
    """A cookie's name; over https with the prefix by which no other host of the domain can set it (RFC 6265bis).

    The portal has cookies of its own.
    """
    name = name.replace("webhookd_", "webhookd_portal_") if in_portal(request) else name
    return f"__Host-{name}" if _is_secure(request) else name


def in_portal(request: web.Request) -> bool:
    """Whether it is for one of the portal's pages."""
    return request.path == PORTAL or request.path.startswith(f"{PORTAL}/")


def read_cookie(request: web.Request, name: str) -> str:
    """A cookie's value, "" without it."""
    return request.cookies.get(cookie_name(request, name), "")


Handler = Callable[[Page], Awaitable[web.StreamResponse]]
Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


def page(handler: Handler, *, open_to_all: bool = False, endless: bool = False, changes: bool = False) -> Answering:
    """Make a handler of pages one of aiohttp: find the session, check the form, answer refusals, set the headers.

    An `endless` answer is no question of those of which a token has only so many at a time.  What `changes` something,
    or asks for it, is refused to those who may only read.
    """

    async def answer(request: web.Request) -> web.StreamResponse:
        made = await _begin(request)
        outcome = DONE
        try:
            async with AsyncExitStack() as asked:
                if made.session is not None and request.method != "POST" and not endless:
                    limit = request.app[QUESTION_LIMIT].one(made.session.token, made.workspace.seq)
                    await asked.enter_async_context(limit)
                response = await _answer(made, handler, open_to_all=open_to_all, changes=changes)
        except ApiError as error:
            outcome = error.code
            response = made.show("error.html", error.status, error=error)
            if error.retry_after_seconds is not None:
                response.headers["Retry-After"] = str(error.retry_after_seconds)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the reader gets a page and no traceback
            fault = internal_error(request.method, request.path, error)
            outcome = fault.code
            response = made.show("error.html", fault.status, error=fault)
        if not response.prepared:
            response.headers.update(_headers(made))
        if request.method == "POST" and made.session is not None:
            await made.services.audit.note(
                "page",
                (made.made or request.path)[:TARGET_CHARACTERS],
                outcome if response.status < 400 or outcome != DONE else "invalid_field",
                address=caller_address(request),
                token=made.session.token,
                session_id=made.session.id,
                workspace=made.workspace,
            )
        return response

    return answer


def _headers(made: Page) -> dict[str, str]:
    """The policy of a page: none may frame it, but for the portal's those that `listen.frame_ancestors` names."""
    if made.ancestors:
        return {**_HEADERS, "Content-Security-Policy": _POLICY + " ".join(made.ancestors)}
    return {**_HEADERS, "Content-Security-Policy": _POLICY + "'none'", "X-Frame-Options": "DENY"}


async def _begin(request: web.Request) -> Page:
    services, portal = services_of(request), in_portal(request)
    # Only a browser that goes somewhere is a person's doing; what a script of the page fetches is the page's own.
    by_itself = request.headers.get("Sec-Fetch-Mode", "navigate") != "navigate"
    session = await services.sessions.find(read_cookie(request, SESSION_COOKIE), by_itself=by_itself, portal=portal)
    given = session.view.portal.language if session and session.view.portal else ""
    accepted = given or request.headers.get("Accept-Language", "")
    language = choose(read_cookie(request, LANGUAGE_COOKIE), accepted)
    visitor = read_cookie(request, VISITOR_COOKIE) or secrets.token_urlsafe(16)
    bound = session.token.workspace_seq if session else None
    named = request.rel_url.query.get("workspace", DEFAULT_WORKSPACE) if services.cluster else DEFAULT_WORKSPACE
    default = services.registry.find_workspace(named) if bound is None and services.cluster else None
    if default is None:  # in a cluster the page may be that of another partition than `default`'s
        there = services.registry.workspaces() if bound is None and services.cluster else []
        default = there[0] if there else services.registry.workspace(named if bound is None else bound)
    return Page(request, services, texts(language), session, default, visitor, portal)


async def _answer(made: Page, handler: Handler, *, open_to_all: bool, changes: bool) -> web.StreamResponse:
    request = made.request
    if request.method == "POST":
        await _check_form(made)
    if made.session is None and not open_to_all:
        if made.portal:
            return made.go("")
        then = made.here if request.method != "POST" and request.path != "/" else None
        return made.go("/sign-in", then=then)
    if made.chooses:
        made.workspace = made.services.registry.workspace(made.asked("workspace") or DEFAULT_WORKSPACE)
    if changes and not made.may_change:
        raise Translated("forbidden", made.text("portal.read_only"))
    return await handler(made)


async def _check_form(made: Page) -> None:
    """Read the form of a change and make sure that it is one of ours; ApiError `forbidden` if not."""
    if not from_own_page(made.request, made.services.settings().listen.public_url):
        raise Translated("forbidden", made.text("form.foreign"))
    if media_type(made.request) != "application/x-www-form-urlencoded":
        raise unsupported_media_type(made.request, "application/x-www-form-urlencoded")
    body = await read_body(made.request, FORM_MAX_BYTES)
    try:
        made.fields = parse_qsl(body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=1000)
    except ValueError:
        raise Translated("invalid_request", made.text("form.unreadable")) from None
    if not proves(made.session.secret if made.session else made.visitor, made.field(PROOF_FIELD)):
        raise Translated("forbidden", made.text("form.stale"))


def in_words(error: ApiError, text: Texts) -> str:
    """What an error says, in the reader's language."""
    return error.message if isinstance(error, Translated) else text.refusal(error.message)


def _iso(at: int | str) -> str:
    return at if isinstance(at, str) else rfc3339(at)


def _utc(language: str, at: int | str, characters: int = 19) -> str:
    day, _, time = _iso(at)[:characters].partition("T")
    return f"{time} {'/'.join(reversed(day.split('-')))} UTC" if language == "vi" else f"{day} {time} UTC"


@cache
def _templates(language: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("webhookd.web.ui"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "visible": text.visible,
        "line": text.one_line,
        "pretty": text.pretty,
        "short_url": text.short_url,
        "is_cut": text.is_cut,
        "raw_text": lambda body: body.decode("utf-8", "replace"),
        "iso": _iso,
        "utc": partial(_utc, language),
        "utc_ms": lambda at: _utc(language, at, 23),
        "field_time": lambda at: "" if at is None else rfc3339(at)[:19],
        "delivery_id": delivery_id,
        "in_words": lambda error: in_words(error, texts(language)),
    }
    environment.tests["translated"] = lambda error: isinstance(error, Translated)
    environment.globals |= {
        "static": static_url,
        "version": webhookd.__version__,
        "languages": LANGUAGES,
        "proof_field": PROOF_FIELD,
    }
    return environment
