"""Tokens, their scopes and workspaces.  Secrets are stored hashed and compared by their hash."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from webhookd import log
from webhookd.admin.last_used import LastUsed
from webhookd.clock import rfc3339
from webhookd.config.secret_files import credential, secret_file, why
from webhookd.delivery.deps import Deps
from webhookd.errors import ApiError, ConfigError, field_error
from webhookd.models import Token
from webhookd.rules.ids import TOKEN_CHARACTERS_MIN, is_token, sortable_id
from webhookd.store import credentials
from webhookd.store.store import Db

NOTE_CHARACTERS = 200
LATEST_MS = 253_402_300_799_999  # the end of the year 9999: RFC 3339 has no later one


class Scope(StrEnum):
    """What a token is good for: everything, posting events, or looking at figures."""

    ADMIN = "admin"
    INGEST = "ingest"
    OBSERVE = "observe"


# They exist from the first start, each in a file of the state directory that the CLI reads.
_FIRST = ((Scope.ADMIN, "admin-token"), (Scope.INGEST, "ingest-token"))


class Tokens:
    """All tokens, hashed, in memory as in the table."""

    def __init__(self, deps: Deps, last_used: LastUsed) -> None:
        self._store, self._registry, self._clock = deps.store, deps.registry, deps.clock
        self._last_used = last_used
        self._by_hash: dict[bytes, Token] = {}

    async def start(self, state_dir: Path, ingest_token_file: str, environ: Mapping[str, str]) -> None:
        """Load the first two tokens from credentials or files, created where missing, the others from the table."""
        await self.reload()
        found: dict[Scope, str] = {}
        for scope, name in _FIRST:
            secret, where = credential(name, environ), f"the credential {name}"
            if secret is None and scope is Scope.INGEST and ingest_token_file:
                secret, where = (
                    secret_file(Path(ingest_token_file), "listen.ingest_token_file"),
                    f"listen.ingest_token_file: {ingest_token_file}",
                )
            if secret is None:
                secret, where = _from_file(state_dir / name, scope), str(state_dir / name)
            known = self._by_hash.get(secret_digest(secret))
            _check_form(secret, where)
            if secret in found.values() or (known is not None and known.id != f"tok_{scope}"):
                other = f"that of {known.id}" if known is not None else "the admin token"
                raise ConfigError(f"{where}: the same token as {other}; each needs a secret of its own")
            found[scope] = secret
        for scope, secret in found.items():
            if self._by_hash.get(secret_digest(secret)) is None:  # else nothing is written: a start on a full disk
                await self._put(f"tok_{scope}", scope, None, secret, "made at the first start")
        await self.reload()

    def check(self, secret: str) -> Token:
        """The token with this secret, which is used by this; ApiError `unauthorized` if there is none, or no longer."""
        # A lookup by hash: its time reveals nothing about a secret.
        digest = secret_digest(secret)
        token = self.holder(digest)
        if token is not None:
            self._last_used.note(token.id)
            return token
        known = self._by_hash.get(digest)
        if known is not None and known.expires_at_ms is not None and known.expires_at_ms <= self._clock.wall_ms():
            at = rfc3339(known.expires_at_ms)
            raise ApiError("unauthorized", f"This token expired at {at}.", details={"expired_at": at})
        raise ApiError(
            "unauthorized", "webhookd doesn't know this token. `webhookd token list` shows those that there are."
        )

    def holder(self, secret_sha256: bytes) -> Token | None:
        """The token whose secret has this hash, or None: what a session of the page remembers of its token."""
        token = self._by_hash.get(secret_sha256)
        if token is None or (token.expires_at_ms is not None and token.expires_at_ms <= self._clock.wall_ms()):
            return None
        if token.workspace_seq is None or self._registry.find_workspace(token.workspace_seq):
            return token
        return None  # its workspace was deleted in this moment, and its row with it

    def lasts(self, token: Token) -> bool:
        """Whether a token that was checked earlier, for a stream that is still open, still holds."""
        digest = self.digest_of(token.id)
        return digest is not None and self.holder(digest) is not None

    def digest_of(self, token_id: str) -> bytes | None:
        """The hash of the secret of the token with this id, or None."""
        return next((digest for digest, token in self._by_hash.items() if token.id == token_id), None)

    async def list(self) -> list[Token]:
        """All tokens, by their ids, without their secrets; those that expired are there until they are revoked."""
        found = (await self._store.read_for_sign_in(credentials.tokens_by_secret)).values()
        used = [replace(each, last_used_at_ms=self._last_used.at_ms(each.id, each.last_used_at_ms)) for each in found]
        return sorted(used, key=lambda token: token.id)

    async def add(
        self, scope: str, workspace_id: str | None, note: str = "", expires_at_ms: int | None = None
    ) -> tuple[Token, str]:
        """Create a token; returns it with its secret, which is shown this once.

        Raises ApiError: `invalid_field`, `not_found` (the workspace).
        """
        if scope not in set(Scope):
            raise field_error("scope", f"scope is one of {', '.join(Scope)}.")
        if len(note) > NOTE_CHARACTERS:
            raise field_error("note", f"A note has at most {NOTE_CHARACTERS} characters.")
        if expires_at_ms is not None and not self._clock.wall_ms() < expires_at_ms <= LATEST_MS:
            raise field_error("expires_at", "expires_at is a time to come, before the year 10000.")
        workspace_seq = None if workspace_id is None else self._registry.workspace(workspace_id).seq
        secret = _new_secret(Scope(scope))
        token_id = sortable_id("tok", self._clock.wall_ms(), secrets.token_bytes(10))
        await self._put(token_id, scope, workspace_seq, secret, note, expires_at_ms)
        await self.reload()
        token = self.holder(secret_digest(secret))
        if token is None:
            raise ApiError("not_found", "The workspace was deleted just now, and the token with it.")
        log.emit("token.created", token_id=token_id, scope=scope, workspace=workspace_id)
        return token, secret

    async def revoke(self, token_id: str) -> None:
        """Revoke a token at once.  ApiError `not_found`, or `forbidden` for the two of the first start."""
        if token_id in {f"tok_{scope}" for scope, _ in _FIRST}:
            raise ApiError(
                "forbidden", "This token lives in a file: replace the file and restart webhookd to change it."
            )
        if not await self._store.write(lambda db: credentials.delete_token(db, token_id)):
            raise ApiError("not_found", f"There is no token {token_id!r}. `webhookd token list` shows them.")
        await self.reload()
        log.emit("token.revoked", token_id=token_id)

    async def reload(self) -> None:
        """Load all tokens again: a workspace was deleted, and its tokens with it."""
        self._by_hash = await self._store.read_for_sign_in(credentials.tokens_by_secret)

    async def _put(
        self,
        token_id: str,
        scope: str,
        workspace_seq: int | None,
        secret: str,
        note: str,
        expires_at_ms: int | None = None,
    ) -> None:
        now_ms = self._clock.wall_ms()

        def command(db: Db) -> None:
            credentials.put_token(
                db,
                token_id=token_id,
                scope=scope,
                workspace_seq=workspace_seq,
                secret_sha256=secret_digest(secret),
                note=note,
                now_ms=now_ms,
                expires_at_ms=expires_at_ms,
            )

        await self._store.write(command)


def _new_secret(scope: Scope) -> str:
    return f"whk_{scope}_{secrets.token_urlsafe(32)}"


def secret_digest(secret: str) -> bytes:
    """What is stored of a secret: SHA-256."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _check_form(secret: str, where: str) -> None:
    """ConfigError, which doesn't repeat the secret, if it can't be a token."""
    if not is_token(secret):
        raise ConfigError(
            f"{where}: not a token, expected {TOKEN_CHARACTERS_MIN} to 500 printable ASCII characters in one line, "
            "without spaces"
        )


def _from_file(path: Path, scope: Scope) -> str:
    try:
        secret = path.read_text("utf-8").strip()
        if secret:
            return secret
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the token can't be read ({why(error)})") from error
    secret = _new_secret(scope)
    # Whole or not at all, and never readable by others: written aside, then renamed.
    aside = path.with_name(path.name + ".new")
    aside.unlink(missing_ok=True)
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    return secret
