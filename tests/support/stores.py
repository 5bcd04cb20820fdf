"""A real store on a real file, with its writer at work, and rows to begin with."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.database import new_database
from webhookd.models import Endpoint, EndpointState, NewEvent, QueuedDelivery, Workspace
from webhookd.store import attempts, deliveries, endpoints, events, workspaces
from webhookd.store.deliveries import Success
from webhookd.store.events import Ingested
from webhookd.store.store import Db, Store


@asynccontextmanager
async def open_store(folder: Path, min_free_mb: float = 0) -> AsyncIterator[Store]:
    await new_database(folder / "webhookd.db")
    store = await Store.open(folder / "webhookd.db", min_free_mb)
    writing = asyncio.create_task(store.writer.run())
    try:
        yield store
    finally:
        await store.writer.flushed()
        writing.cancel()
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await writing
        finally:  # also when the writer failed: an unclosed connection's thread would hang the exit of the tests
            await store.close()


async def add_workspace(store: Store, workspace_id: str = "default", *, now_ms: int = 0) -> Workspace:
    return await store.write(
        lambda db: workspaces.insert(
            db, workspace_id=workspace_id, name=workspace_id, plan="advanced", notify=(), now_ms=now_ms
        )
    )


def new_endpoint(workspace_seq: int = 1, workspace: str = "default", now_ms: int = 0, **more: Any) -> Endpoint:
    """An active endpoint that wants everything, unless `more` says otherwise; not in any table."""
    endpoint = Endpoint(
        seq=0,
        id=f"ep_{secrets.token_hex(13)}",
        workspace_seq=workspace_seq,
        workspace=workspace,
        url="https://example.com/hook",
        event_types=("*",),
        description="",
        success="200",
        headers=(),
        signing_key="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        previous_keys=(),
        x_webhook_signature=True,
        x_webhook_signature_key=None,
        state=EndpointState.ACTIVE,
        disabled_reason=None,
        disabled_at_ms=None,
        disabled_message=None,
        skipped_upto=0,
        forgiven_upto=0,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        deleted_at_ms=None,
    )
    return replace(endpoint, **more)


async def add_endpoint(store: Store, workspace: Workspace, url: str = "https://example.com/hook") -> Endpoint:
    endpoint = new_endpoint(workspace.seq, workspace.id, workspace.created_at_ms, url=url)
    return await store.write(lambda db: endpoints.insert(db, endpoint))


async def accept(
    store: Store,
    workspace: Workspace,
    *ids: str,
    now_ms: int,
    body: bytes = b'{"event_type":"message.sent"}',
    event_type: str = "message.sent",
) -> list[QueuedDelivery]:
    """Accept an event per id, all with the same type and body; returns their deliveries."""
    new = [NewEvent(each, event_type, body) for each in ids]
    accepted = await store.write(lambda db: events.accept(db, Ingested(workspace.seq, new, True, now_ms)))
    return [delivery for each in accepted for delivery in each.queued]


async def deliver(
    store: Store, seq: int, *, number: int = 1, record: bytes = b'{"number":1}', now_ms: int = 20
) -> bool:
    return await store.write(lambda db: deliveries.delivered(db, Success(seq, number, record, now_ms)))


async def fail(
    store: Store,
    delivery: QueuedDelivery,
    *,
    number: int = 1,
    next_ms: int | None = None,
    counted: bool = True,
    record: bytes = b'{"number":1}',
    now_ms: int = 20,
) -> bool:
    """Record a failed attempt in the first workspace, the last one unless `next_ms`; whether the delivery waited."""

    def command(db: Db) -> bool:
        attempts.insert(
            db,
            delivery_seq=delivery.seq,
            endpoint_seq=delivery.endpoint_seq,
            workspace_seq=1,
            ended_at_ms=now_ms,
            counted=counted,
            record=record,
        )
        return deliveries.failed(
            db, delivery.seq, attempt_count=number, tries=number, next_attempt_at_ms=next_ms, now_ms=now_ms
        )

    return await store.write(command)


async def add_test(
    store: Store, endpoint: Endpoint, *, delivered: bool, record: bytes = b"{}", started_at_ms: int = 1, now_ms: int = 2
) -> int:
    """A test event `test_1` with its finished delivery, whose number is returned."""
    return await store.write(
        lambda db: events.insert_test(
            db,
            workspace_seq=endpoint.workspace_seq,
            endpoint_seq=endpoint.seq,
            event_id="test_1",
            event_type="message.sent",
            body=b"{}",
            delivered=delivered,
            record=record,
            started_at_ms=started_at_ms,
            now_ms=now_ms,
        )
    )
