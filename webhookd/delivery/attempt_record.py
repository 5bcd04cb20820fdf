"""The record of an attempt, in the one form in which it is kept, shown and streamed (manual/api.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from webhookd.clock import rfc3339
from webhookd.models import Outcome, Request
from webhookd.rules.urls import MASK
from webhookd.sender.answer_text import answer_text


def attempt_record(number: int, outcome: Outcome, request: Request, *, counted: bool) -> dict[str, Any]:
    """An attempt as the API shows it.  The values of an endpoint's own headers are masked: they may be secrets."""
    return {
        "number": number,
        "started_at": rfc3339(outcome.started_at_ms),
        "duration_ms": round(outcome.duration_ms, 1),
        "outcome": "delivered" if outcome.delivered else "failed",
        "reason": outcome.reason,
        "status": outcome.status,
        "detail": outcome.detail,
        "counted": counted,
        "connection_retried": outcome.connection_retried,
        "request": {
            "url": request.url,
            "headers": {name: MASK if name in request.secret_headers else value for name, value in request.headers},
        },
        "response": _response(outcome),
    }


def _response(outcome: Outcome) -> dict[str, Any] | None:
    if outcome.status is None:
        return None
    text, truncated = answer_text(outcome.response_headers, outcome.response_body, truncated=outcome.truncated)
    return {
        "headers": _joined(outcome.response_headers),
        "body": text,
        "truncated": truncated,
    }


def _joined(headers: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    joined: dict[str, str] = {}
    for name, value in headers:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined
