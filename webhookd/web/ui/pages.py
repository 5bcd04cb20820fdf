"""The page: what all of its parts share, from the session to the headers.

Everything goes out with a policy that lets no script, style or frame in but the page's own.  An `ApiError` becomes a
page with the API's status.  An address names its workspace (`?workspace=acme`) only where there is a choice.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlencode

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

import webhookd
from webhookd.admin.audit import DONE, TARGET_CHARACTERS
from webhookd.admin.sessions import Session, form_proof, from_own_page, proves
from webhookd.clock import rfc3339
from webhookd.errors import ApiError
from webhookd.models import DEFAULT_WORKSPACE, Workspace
from webhookd.rules.ids import delivery_id
from webhookd.web.server.caller_address import caller_address
from webhookd.web.server.question_limit import QUESTION_LIMIT
from webhookd.web.server.requests import media_type, read_body, services_of, unsupported_media_type
from webhookd.web.server.responses import internal_error
from webhookd.web.services import Services
from webhookd.web.ui import text
from webhookd.web.ui.texts import LANGUAGES, Texts, choose, texts

SESSION_COOKIE = "webhookd_session"
VISITOR_COOKIE = "webhookd_visitor"
LANGUAGE_COOKIE = "webhookd_language"
VISITOR_SECONDS = 12 * 3600
LANGUAGE_SECONDS = 365 * 86400
FORM_MAX_BYTES = 256 * 1024
PROOF_FIELD = "proof"

# `same-origin` and not `no-referrer`: with the latter a browser sends `Origin: null` with our own forms.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_STATIC_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


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

    # Where to

    @property
    def chooses(self) -> bool:
        """Whether the reader may look at every workspace."""
        return self.session is not None and self.session.token.workspace_seq is None

    @property
    def workspaces(self) -> list[Workspace]:
        """The workspaces to switch between."""
        return self.services.registry.workspaces() if self.chooses else []

    def url(self, path: str, **parameters: object) -> str:
        """The address of a page of this workspace; parameters that are None or "" are left out."""
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
        html = _templates().get_template(template).render(page=self, t=self.text, url=self.url, **values)
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
        """Set a cookie that no script can read, for https alone where the page is reached by it."""
        response.set_cookie(
            cookie_name(self.request, name),
            value,
            max_age=max_age_seconds,
            path="/",
            httponly=True,
            secure=_is_secure(self.request),
            samesite=samesite,
        )

    def drop_cookie(self, response: web.StreamResponse, name: str) -> None:
        """Let the browser forget a cookie."""
        response.del_cookie(cookie_name(self.request, name), path="/", secure=_is_secure(self.request))


def _is_secure(request: web.Request) -> bool:
    return services_of(request).settings().listen.public_url.startswith("https:")


def cookie_name(request: web.Request, name: str) -> str:
    """A cookie's name; over https with the prefix by which no other host of the domain can set it (RFC 6265bis)."""
    return f"__Host-{name}" if _is_secure(request) else name


def read_cookie(request: web.Request, name: str) -> str:
    """A cookie's value, "" without it."""
    return request.cookies.get(cookie_name(request, name), "")


Handler = Callable[[Page], Awaitable[web.StreamResponse]]
Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


def page(handler: Handler, *, open_to_all: bool = False, endless: bool = False) -> Answering:
    """Make a handler of pages one of aiohttp: find the session, check the form, answer refusals, set the headers.

    An `endless` answer is no question of those of which a token has only so many at a time.
    """

    async def answer(request: web.Request) -> web.StreamResponse:
        made = await _begin(request)
        outcome = DONE
        try:
            async with AsyncExitStack() as asked:
                if made.session is not None and request.method != "POST" and not endless:
                    limit = request.app[QUESTION_LIMIT].one(made.session.token, made.workspace.seq)
                    await asked.enter_async_context(limit)
                response = await _answer(made, handler, open_to_all=open_to_all)
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
            response.headers.update(_HEADERS)
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


async def _begin(request: web.Request) -> Page:
    services = services_of(request)
    language = choose(read_cookie(request, LANGUAGE_COOKIE), request.headers.get("Accept-Language", ""))
    # Only a browser that goes somewhere is a person's doing; what a script of the page fetches is the page's own.
    by_itself = request.headers.get("Sec-Fetch-Mode", "navigate") != "navigate"
    session = await services.sessions.find(read_cookie(request, SESSION_COOKIE), by_itself=by_itself)
    visitor = read_cookie(request, VISITOR_COOKIE) or secrets.token_urlsafe(16)
    bound = session.token.workspace_seq if session else None
    default = services.registry.workspace(DEFAULT_WORKSPACE if bound is None else bound)
    return Page(request, services, texts(language), session, default, visitor)


async def _answer(made: Page, handler: Handler, *, open_to_all: bool) -> web.StreamResponse:
    request = made.request
    if request.method == "POST":
        await _check_form(made)
    if made.session is None and not open_to_all:
        then = made.here if request.method != "POST" and request.path != "/" else None
        return made.go("/sign-in", then=then)
    if made.chooses:
        made.workspace = made.services.registry.workspace(made.asked("workspace") or DEFAULT_WORKSPACE)
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


async def static(request: web.Request) -> web.Response:
    """A file of the page's own; its address carries its version, so it may be kept."""
    found = static_files().get(request.match_info["name"])
    if found is None:
        raise ApiError("not_found", f"There is no file {request.path[:200]!r}.")
    body, media = found
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    return web.Response(body=body, content_type=media, charset="utf-8", headers=headers)


@cache
def static_files() -> dict[str, tuple[bytes, str]]:
    """The page's own files by name, each with its media type."""
    folder = importlib.resources.files("webhookd.web.ui") / "static"
    types = {file.name: _STATIC_TYPES.get(file.name.rpartition(".")[2]) for file in folder.iterdir()}
    return {name: ((folder / name).read_bytes(), media) for name, media in types.items() if media}


@cache
def _static_url(name: str) -> str:
    digest = hashlib.sha256(static_files()[name][0]).hexdigest()[:12]
    return f"/static/{name}?v={digest}"


def _iso(at: int | str) -> str:
    return at if isinstance(at, str) else rfc3339(at)


def _utc(at: int | str, characters: int = 19) -> str:
    return _iso(at)[:characters].replace("T", " ") + " UTC"


@cache
def _templates() -> Environment:
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
        "is_cut": text.is_cut,
        "iso": _iso,
        "utc": _utc,
        "utc_ms": lambda at: _utc(at, 23),
        "field_time": lambda at: "" if at is None else rfc3339(at)[:19],
        "delivery_id": delivery_id,
    }
    environment.tests["translated"] = lambda error: isinstance(error, Translated)
    environment.globals |= {
        "static": _static_url,
        "version": webhookd.__version__,
        "languages": LANGUAGES,
        "proof_field": PROOF_FIELD,
    }
    return environment
