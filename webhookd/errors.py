"""Errors: what the API answers with, in one table, and what ends the daemon.

A `FatalError` ends the daemon with an exit code that systemd acts on (sysexits.h): 78 (`EX_CONFIG`) is never restarted,
75 (`EX_TEMPFAIL`) is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

EXIT_CONFIG = 78
EXIT_TEMPORARY = 75


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One row of the table: the HTTP status of a code, and what the code means."""

    status: int
    meaning: str


ERRORS: dict[str, ErrorKind] = {
    "invalid_json": ErrorKind(400, "The body is not valid JSON (RFC 8259) or not UTF-8."),
    "invalid_request": ErrorKind(400, "The request is malformed: its framing, encoding or cursor."),
    "unauthorized": ErrorKind(401, "No token, an unknown one, or one that has ended."),
    "forbidden": ErrorKind(403, "The token is valid, but its scope or workspace doesn't allow this."),
    "plan_required": ErrorKind(403, "The workspace's plan doesn't include webhooks."),
    "not_found": ErrorKind(404, "No such path, workspace, endpoint, event, delivery, token or session."),
    "method_not_allowed": ErrorKind(405, "The path exists, but not with this method."),
    "request_timeout": ErrorKind(408, "The request took too long to arrive."),
    "endpoint_exists": ErrorKind(409, "The workspace has an endpoint with this URL; `details.id` names it."),
    "endpoint_changed": ErrorKind(409, "The endpoint was changed since the page's form was opened; nothing was saved."),
    "endpoint_malformed": ErrorKind(
        409, "Fields of the endpoint can't be read in the database; `details.fields` has them."
    ),
    "too_many_endpoints": ErrorKind(409, "The workspace has as many endpoints as `limits.endpoints` allows."),
    "too_many_keys": ErrorKind(409, "As many replaced signing keys of the endpoint still sign as can."),
    "event_id_conflict": ErrorKind(409, "This `event_id` was accepted before, with another body."),
    "endpoint_not_active": ErrorKind(409, "The endpoint is not active: enable it first."),
    "endpoint_gone": ErrorKind(409, "The endpoint was deleted since."),
    "replay_running": ErrorKind(409, "Another replay or backfill to the same endpoint is running."),
    "delivery_not_finished": ErrorKind(409, "The delivery still waits; only a finished one can be replayed."),
    "delivered_since": ErrorKind(409, "The endpoint got this event since; replay its newest delivery instead."),
    "workspace_exists": ErrorKind(409, "A workspace with this id exists."),
    "mail_disabled": ErrorKind(
        409,
        "No mail can be sent: set `mail.host` and `mail.notify`; for a link in it also `listen.public_url`.",
    ),
    "workspace_in_use": ErrorKind(409, "The workspace has endpoints, or is `default`: it can't be deleted."),
    "payload_too_large": ErrorKind(413, "The event or the request is larger than allowed."),
    "unsupported_media_type": ErrorKind(415, "This path doesn't accept the body's media type or encoding."),
    "wrong_host": ErrorKind(421, "The Host header has none of webhookd's names."),
    "invalid_event": ErrorKind(422, "The event is JSON, but not one flat object with unique names."),
    "missing_event_type": ErrorKind(422, "The event has no `event_type`."),
    "unknown_event_type": ErrorKind(422, "The catalogue doesn't have this event type."),
    "invalid_event_id": ErrorKind(422, "`event_id` is not 1 to 64 of `A-Z a-z 0-9 _ -`."),
    "schema_mismatch": ErrorKind(
        422, "The event doesn't fit its type's schema (`events.validate`); `details.problems` has paths and reasons."
    ),
    "unknown_field": ErrorKind(422, "The request has fields that this path doesn't know; `details.fields` names them."),
    "invalid_field": ErrorKind(422, "A field or a parameter has a wrong type or value; `details.field` names it."),
    "invalid_url": ErrorKind(422, "The URL can't be used for an endpoint; the message says why."),
    "blocked_address": ErrorKind(422, "The URL leads to an address that webhookd doesn't send to."),
    "rate_limited": ErrorKind(
        429,
        "The workspace sends more than `limits.events_per_second`, or asks for more mails than `mail.max_per_hour`.",
    ),
    "too_many_questions": ErrorKind(
        429, "As many questions of this token are under way as `limits.questions_per_token` allows; retry."
    ),
    "internal_error": ErrorKind(500, "An internal error; the log has it under `details.incident`."),
    "mail_failed": ErrorKind(
        502, "The mail server didn't accept a test mail or a confirmation's; the message quotes its answer."
    ),
    "too_far_behind": ErrorKind(503, "The workspace has too much waiting; `Retry-After` says when to try again."),
    "unavailable": ErrorKind(503, "webhookd is starting, stopping or out of a resource; retry."),
    "storage_full": ErrorKind(507, "The disk is nearly full; nothing was accepted."),
    "workspace_full": ErrorKind(507, "The workspace's log is as large as `limits.log_mb_per_workspace` allows."),
}


class ApiError(Exception):
    """A request that is refused: `code` is a key of `ERRORS`, `details` are JSON values for programs."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.kind = ERRORS[code]
        self.message = message
        self.details = details or {}
        self.retry_after_seconds = retry_after_seconds

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return self.kind.status

    def body(self) -> dict[str, Any]:
        """The one form of an error (manual/api.md): `{"error": {"code", "message", "details"}}`."""
        return {"error": {"code": self.code, "message": self.message, "details": self.details}}


def field_error(field: str, message: str) -> ApiError:
    """The error of a field with a wrong type or value."""
    return ApiError("invalid_field", message, details={"field": field})


class FatalError(Exception):
    """The daemon can't start, or can't go on; `exit_code` is what it exits with."""

    exit_code = 1


class ConfigError(FatalError):
    """A setting is wrong: the message names the key, the line and the right form.  A restart would not help."""

    exit_code = EXIT_CONFIG


class StoreUnusable(FatalError):
    """The database is corrupt, foreign or newer than this program; it was left as it is."""

    exit_code = EXIT_CONFIG


class AlreadyRunning(FatalError):
    """Another daemon holds the state directory's lock."""

    exit_code = EXIT_TEMPORARY


class TemporaryFailure(FatalError):
    """Something isn't available yet, such as the address to listen on: a restart may help."""

    exit_code = EXIT_TEMPORARY


class StoreFailed(FatalError):
    """The disk under the database failed (SQLITE_IOERR); only a fresh start can tell what is durable."""

    exit_code = 1


def did_you_mean(word: str, candidates: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The candidate nearest to `word`, whatever its case, or "" where none is as near as `cutoff` (1.0: the same)."""
    return _nearest(word[:100].casefold(), tuple(candidates), cutoff)


@lru_cache(maxsize=256)  # a pipe with a wrong name repeats it in every line, and a comparison takes 0.2 ms
def _nearest(word: str, candidates: tuple[str, ...], cutoff: float) -> str:
    by_folded = {candidate.casefold(): candidate for candidate in candidates}
    near = get_close_matches(word, by_folded, n=1, cutoff=cutoff)
    return by_folded[near[0]] if near else ""
