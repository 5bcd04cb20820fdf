"""Sessions of the page: signing in with a token, or with a link that carries a one-time code.

The table has the hash of a session's cookie and that of its token, so a session ends with its token and survives a
restart.  A code is kept in memory for ten minutes.  A change is accepted only from a form of the page itself: its
hidden field is derived from this browser's cookie, and the browser's `Origin` names the site that it was sent from.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import deque
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web

from webhookd.admin.tokens import Scope, Tokens, secret_digest
from webhookd.delivery.deps import Deps
from webhookd.models import Token
from webhookd.rules.ids import sortable_id
from webhookd.store import credentials

SESSION_MS = 12 * 3600 * 1000
CODE_SECONDS = 600.0
CODE_BYTES = 16
FIRST_ID = f"tok_{Scope.ADMIN}"  # of the token that every installation has
CODES_MAX = 1000
# After so many wrong secrets in a minute, an address is refused until the first of them is a minute old.
WRONG_MAX = 10
WRONG_SECONDS = 60.0
ADDRESSES_MAX = 10_000
SIGNED_OUT_MAX = 1000


@dataclass(frozen=True, slots=True)
class Session:
    """Who is signed in: `secret` is the cookie's, `token` what it was signed in with, both with an end."""

    id: str
    secret: str
    token: Token
    token_sha256: bytes
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class _Code:
    """A code that waits to be spent: for whom, and until when (monotonic seconds)."""

    token_sha256: bytes
    until: float


class Sessions:
    """Signs in and out, and makes links that sign in."""

    def __init__(self, deps: Deps, tokens: Tokens) -> None:
        self._store, self._clock = deps.store, deps.clock
        self._tokens = tokens
        self._codes: dict[bytes, _Code] = {}
        self._wrong: dict[str, deque[float]] = {}
        self._signed_out: dict[bytes, None] = {}  # in order; only streams that are still open ask for these

    def link(self, base_url: str, token_id: str = FIRST_ID) -> str | None:
        """A link to the page that signs in by itself, once, in the next 10 minutes; None if there is no such token."""
        token_sha256 = self._tokens.digest_of(token_id)
        if token_sha256 is None:
            return None
        now = self._clock.monotonic()
        self._codes = {digest: code for digest, code in self._codes.items() if code.until > now}
        while len(self._codes) >= CODES_MAX:
            self._codes.pop(next(iter(self._codes)))
        code = secrets.token_urlsafe(CODE_BYTES)
        self._codes[secret_digest(code)] = _Code(token_sha256, now + CODE_SECONDS)
        return f"{base_url}/sign-in#{code}"

    async def sign_in(self, secret: str, address: str = "") -> Session | None:
        """Sign in from `address` with an admin token or a one-time code; None if it is neither."""
        token_sha256 = self._spent(secret)
        token = self._tokens.holder(token_sha256)
        if token is None or token.scope != Scope.ADMIN:
            return None
        now_ms = self._clock.wall_ms()
        session_id = sortable_id("ses", now_ms, secrets.token_bytes(10))
        session = Session(session_id, secrets.token_urlsafe(32), token, token_sha256, now_ms + SESSION_MS)
        await self._store.write(
            lambda db: credentials.put_session(
                db,
                session_id=session_id,
                secret_sha256=secret_digest(session.secret),
                token_sha256=token_sha256,
                address=address,
                expires_at_ms=session.expires_at_ms,
                now_ms=now_ms,
            )
        )
        return session

    async def find(self, secret: str) -> Session | None:
        """The session with this cookie, if it has not ended, nor its token."""
        if not secret:
            return None
        digest, now_ms = secret_digest(secret), self._clock.wall_ms()
        found = await self._store.read_for_sign_in(lambda db: credentials.find_session(db, digest, now_ms))
        if found is None:
            return None
        session_id, token_sha256, expires_at_ms = found
        token = self._tokens.holder(token_sha256)
        return Session(session_id, secret, token, token_sha256, expires_at_ms) if token else None

    def lasts(self, session: Session) -> bool:
        """Whether a session that was found earlier, for a stream that is still open, has not ended since."""
        return (
            self._clock.wall_ms() < session.expires_at_ms
            and self._tokens.holder(session.token_sha256) is not None
            and secret_digest(session.secret) not in self._signed_out
        )

    async def sign_out(self, session: Session) -> None:
        """End a session."""
        digest = secret_digest(session.secret)
        self._signed_out[digest] = None
        if len(self._signed_out) > SIGNED_OUT_MAX:
            self._signed_out.pop(next(iter(self._signed_out)))
        await self._store.write(lambda db: credentials.delete_session(db, digest))

    # Wrong secrets

    def locked_seconds(self, address: str) -> float:
        """How long an address with too many wrong secrets has to wait; 0 for all others."""
        now = self._clock.monotonic()
        wrong = self._wrong.get(address)
        while wrong and wrong[0] <= now - WRONG_SECONDS:
            wrong.popleft()
        if not wrong:
            self._wrong.pop(address, None)
            return 0.0
        return wrong[0] + WRONG_SECONDS - now if len(wrong) >= WRONG_MAX else 0.0

    def count_wrong(self, address: str) -> None:
        """Count a wrong secret."""
        if address not in self._wrong and len(self._wrong) >= ADDRESSES_MAX:
            self._wrong.pop(next(iter(self._wrong)))
        self._wrong.setdefault(address, deque(maxlen=WRONG_MAX)).append(self._clock.monotonic())

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


def _site(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of a URL; None if it has none of them."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None
