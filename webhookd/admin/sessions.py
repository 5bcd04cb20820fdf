"""Sessions of the page: signing in with a token, or with a link that carries a one-time code.

A link into the portal is another one: its session has one workspace alone, whatever the token that made it has, and
works for the portal's addresses only.  It is in the table, so that it may work for days.

The table has the hash of a session's cookie and that of its token, so a session ends with its token and survives a
restart.  A code is kept in memory for ten minutes.  A change is accepted only from a form of the page itself: its
hidden field is derived from this browser's cookie, and the browser's `Origin` names the site that it was sent from.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from webhookd.admin.last_used import LastUsed
from webhookd.admin.tokens import Scope, Tokens, secret_digest
from webhookd.delivery.deps import Deps
from webhookd.errors import ApiError, field_error
from webhookd.models import Portal, SessionView, Token, Workspace
from webhookd.rules.ids import sortable_id
from webhookd.store import credentials
from webhookd.store.store import Db

CODE_SECONDS = 600.0
CODE_BYTES = 16
FIRST_ID = f"tok_{Scope.ADMIN}"  # of the token that every installation has
CODES_PER_TOKEN = 20
ENDED_MAX = 1000
URL_CHARACTERS = 2048


@dataclass(frozen=True, slots=True)
class Session:
    """Who is signed in: `secret` is the cookie's, `token` what it was signed in with, `view` the rest as found."""

    secret: str
    token: Token
    token_sha256: bytes
    view: SessionView

    @property
    def id(self) -> str:
        """What it is listed and ended by."""
        return self.view.id


@dataclass(frozen=True, slots=True)
class _Code:
    """A code that waits to be spent: for whom, and until when (monotonic seconds)."""

    token_sha256: bytes
    until: float


class Sessions:
    """Signs in and out, and makes links that sign in."""

    def __init__(self, deps: Deps, tokens: Tokens, last_used: LastUsed) -> None:
        self._store, self._clock, self._settings = deps.store, deps.clock, deps.settings
        self._registry = deps.registry
        self._tokens, self._last_used = tokens, last_used
        self._codes: dict[bytes, _Code] = {}
        self._ended: dict[str, None] = {}  # in order; only streams that are still open ask for these

    def link(self, base_url: str, token_id: str = FIRST_ID) -> str | None:
        """A link to the page that signs in by itself, once, in the next 10 minutes; None if there is no such token."""
        token_sha256 = self._tokens.digest_of(token_id)
        if token_sha256 is None:
            return None
        now = self._clock.monotonic()
        self._codes = {digest: code for digest, code in self._codes.items() if code.until > now}
        own = [digest for digest, code in self._codes.items() if code.token_sha256 == token_sha256]
        for digest in own[: 1 - CODES_PER_TOKEN]:
            del self._codes[digest]
        code = secrets.token_urlsafe(CODE_BYTES)
        self._codes[secret_digest(code)] = _Code(token_sha256, now + CODE_SECONDS)
        return f"{base_url}/sign-in#{code}"

    async def sign_in(self, secret: str, address: str = "") -> Session | None:
        """Sign in from `address` with an admin token or a one-time code; None if it is neither."""
        token_sha256 = self._spent(secret)
        token = self._tokens.holder(token_sha256)
        if token is None or token.scope != Scope.ADMIN:
            return None
        session = self._begun(token, token_sha256, address)
        await self._store.write(lambda db: self._put(db, session), on_commit=self._note_ended)
        return session

    async def portal_link(
        self,
        base_url: str,
        token: Token,
        workspace: Workspace,
        *,
        expires_in_seconds: int,
        read_only: bool = False,
        language: str = "",
        return_url: str = "",
    ) -> tuple[str, int]:
        """A link into the portal of a workspace, which signs in once, and until when it does (ms since 1970).

        Raises ApiError: `invalid_field`, `not_found` (the workspace), `unauthorized` (the token was revoked).
        """
        if return_url and not _leads_back(return_url):
            raise field_error("return_url", "return_url is an http or https URL without user and password.")
        portal = Portal(workspace.seq, read_only, language, return_url)
        code, now_ms = secrets.token_urlsafe(CODE_BYTES), self._clock.wall_ms()
        expires_at_ms = now_ms + expires_in_seconds * 1000

        def command(db: Db) -> bool:
            return credentials.put_portal_link(
                db, portal, code_sha256=secret_digest(code), token=token, now_ms=now_ms, expires_at_ms=expires_at_ms
            )

        if not await self._store.write(command):
            raise ApiError("unauthorized", "This token was revoked just now.")
        return f"{base_url}/portal#{code}", expires_at_ms

    async def sign_in_to_portal(self, code: str, address: str = "") -> Session | None:
        """Sign in from `address` with the code of a link into the portal, used up by it; None if it doesn't work."""
        digest, now_ms = secret_digest(code), self._clock.wall_ms()
        found = await self._store.read_for_sign_in(lambda db: credentials.find_portal_link(db, digest, now_ms))
        if found is None:
            return None
        portal, token_sha256 = found
        token = self._narrowed(self._tokens.holder(token_sha256), portal)
        if token is None:
            return None
        session = self._begun(token, token_sha256, address, portal)

        def command(db: Db) -> list[str] | None:
            return self._put(db, session) if credentials.use_portal_link(db, digest) else None

        ended = await self._store.write(command)
        if ended is None:
            return None
        self._note_ended(ended)
        return session

    def _begun(self, token: Token, token_sha256: bytes, address: str, portal: Portal | None = None) -> Session:
        now_ms = self._clock.wall_ms()
        view = SessionView(
            id=sortable_id("ses", now_ms, secrets.token_bytes(10)),
            token_id=token.id,
            workspace=token.workspace,
            address=address,
            created_at_ms=now_ms,
            last_used_at_ms=now_ms,
            expires_at_ms=now_ms + round(self._settings().sessions.max_hours * 3_600_000),
            portal=portal,
        )
        self._last_used.note(token.id)
        return Session(secrets.token_urlsafe(32), token, token_sha256, view)

    @staticmethod
    def _put(db: Db, session: Session) -> list[str]:
        digest = secret_digest(session.secret)
        return credentials.put_session(db, session.view, secret_sha256=digest, token_sha256=session.token_sha256)

    def _narrowed(self, token: Token | None, portal: Portal | None) -> Token | None:
        """The token with the rights that its session has: in the portal, those in one workspace; None if it is gone."""
        if token is None or portal is None:
            return token
        workspace = self._registry.find_workspace(portal.workspace_seq)
        if workspace is None or token.workspace_seq not in (None, workspace.seq):
            return None
        return replace(token, workspace=workspace.id, workspace_seq=workspace.seq)

    async def find(self, secret: str, *, by_itself: bool = False, portal: bool = False) -> Session | None:
        """The session with this cookie, of the portal or not; None if it has ended.

        It counts as used, unless its page asks `by_itself`.
        """
        if not secret:
            return None
        digest = secret_digest(secret)
        found = await self._find(secret_sha256=digest)
        if not found:
            return None
        ((view, token_sha256, token),) = found
        if (view.portal is not None) is not portal:
            return None
        if not by_itself:
            self._last_used.note(view.id)
            self._last_used.note(token.id)
        return Session(secret, token, token_sha256, view)

    def lasts(self, session: Session) -> bool:
        """Whether a session that was found earlier, for a stream that is still open, has not ended since."""
        token = self._narrowed(self._tokens.holder(session.token_sha256), session.view.portal)
        return session.id not in self._ended and token is not None and self._goes_on(session.view)

    async def list(self, *, workspace_seq: int | None = None, token_id: str | None = None) -> list[SessionView]:
        """The sessions that go on, oldest first: all, those in one workspace alone, or one token's but the portal's."""
        found = await self._find(workspace_seq=workspace_seq, token_id=token_id)
        return [replace(view, last_used_at_ms=self._used_at_ms(view)) for view, *_ in found]

    async def end(self, views: Sequence[SessionView]) -> None:
        """End sessions, at once."""
        ids = [each.id for each in views]
        await self._store.write(lambda db: credentials.delete_sessions(db, ids))
        self._note_ended(ids)

    def _note_ended(self, ids: Sequence[str]) -> None:
        self._ended |= dict.fromkeys(ids)
        while len(self._ended) > ENDED_MAX:
            self._ended.pop(next(iter(self._ended)))

    async def _find(self, **which: Any) -> Sequence[tuple[SessionView, bytes, Token]]:
        """The sessions that go on, with their tokens: one whose secret was replaced since has none."""
        found = await self._store.read_for_sign_in(lambda db: credentials.find_sessions(db, **which))
        tokens = [self._narrowed(self._tokens.holder(token_sha256), view.portal) for view, token_sha256 in found]
        return [
            (view, token_sha256, token)
            for (view, token_sha256), token in zip(found, tokens, strict=True)
            if token is not None and self._goes_on(view)
        ]

    def _goes_on(self, view: SessionView) -> bool:
        now_ms, limits = self._clock.wall_ms(), self._settings().sessions
        return (
            now_ms < view.expires_at_ms
            and now_ms < view.created_at_ms + limits.max_hours * 3_600_000
            and now_ms < self._used_at_ms(view) + limits.idle_minutes * 60_000
        )

    def _used_at_ms(self, view: SessionView) -> int:
        return self._last_used.at_ms(view.id, view.last_used_at_ms) or 0

    def _spent(self, secret: str) -> bytes:
        """The hash of the token that `secret` is, or stands for as a code, which is used up by this."""
        digest = secret_digest(secret)
        code = self._codes.pop(digest, None)
        return code.token_sha256 if code and code.until > self._clock.monotonic() else digest


def form_proof(cookie_secret: str) -> str:
    """The hidden field of a form of the page, for the browser with this cookie."""
    return hmac.new(cookie_secret.encode("utf-8", "surrogatepass"), b"webhookd form", hashlib.sha256).hexdigest()


def proves(cookie_secret: str, proof: str) -> bool:
    """Whether a form's hidden field was made for this cookie."""
    return hmac.compare_digest(form_proof(cookie_secret).encode(), proof.encode("utf-8", "surrogatepass"))


def from_own_page(request: web.Request, public_url: str) -> bool:
    """Whether the browser says, by `Origin` or `Sec-Fetch-Site`, that this request was sent by a page of ours."""
    origin = request.headers.get("Origin")
    if origin is None:
        return request.headers.get("Sec-Fetch-Site") == "same-origin"
    public = _site(public_url)
    if public is not None and _site(f"{public[0]}://{request.host}") == public:
        return _site(origin) == public
    # webhookd itself speaks http alone; a proxy before it says if it was reached by https, which no form can.
    scheme = request.headers.get("X-Forwarded-Proto", "http").partition(",")[0].strip().lower()
    return _site(origin) is not None and _site(origin) in (public, _site(f"{scheme}://{request.host}"))


def _leads_back(url: str) -> bool:
    return (
        len(url) <= URL_CHARACTERS
        and url.isprintable()
        and " " not in url
        and "\\" not in url
        and _site(url) is not None
        and "@" not in urlsplit(url).netloc
    )


def _site(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of a URL; None if it has none of them."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None
