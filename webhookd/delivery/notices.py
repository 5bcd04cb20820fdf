"""Notices: what a mail will tell, queued in the transaction of its cause."""

from __future__ import annotations

import secrets

from webhookd.clock import rfc3339
from webhookd.config import Mail
from webhookd.models import Endpoint, Json
from webhookd.store import outbox
from webhookd.store.store import Db


def add_notice(db: Db, mail: Mail, workspace_seq: int, kind: str, payload: Json, now_ms: int) -> None:
    """Queue a notice of a kind that `mail.messages` knows; nothing without a mail server."""
    if not mail.host:
        return
    message_id = f"<{secrets.token_hex(16)}@{mail.from_.rpartition('@')[2].strip('>') or 'webhookd.localhost'}>"
    outbox.insert(db, workspace_seq=workspace_seq, kind=kind, message_id=message_id, payload=payload, now_ms=now_ms)


def endpoint_facts(endpoint: Endpoint, now_ms: int) -> Json:
    """Which endpoint a notice is about, and of when it is."""
    return {
        "workspace": endpoint.workspace,
        "endpoint": {"id": endpoint.id, "url": endpoint.url, "description": endpoint.description},
        "at": rfc3339(now_ms),
    }
