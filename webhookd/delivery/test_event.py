"""*Send test*: one request beside the queue, whatever the endpoint's state; logged as a test, never counted."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

import orjson

from webhookd import log
from webhookd.delivery.attempt_record import attempt_record
from webhookd.delivery.deps import Deps
from webhookd.delivery.live_feed import LiveFeed, delivery_view
from webhookd.models import EVERY_TYPE, DeliveryState, Endpoint, Json, Outcome, QueuedDelivery, Workspace, WorkspaceKey
from webhookd.rules.ids import delivery_id, uuid7
from webhookd.sender import request_builder
from webhookd.sender.client import Transport
from webhookd.sender.request_builder import RequestBuilder
from webhookd.store import events
from webhookd.store.store import Db
from webhookd.tasks import KeyedLocks


class TestEvents:
    """Sends tests, one at a time per endpoint."""

    def __init__(
        self,
        deps: Deps,
        transport: Transport,
        live_feed: LiveFeed,
        check_capacity: Callable[[Workspace], Awaitable[None]],
    ) -> None:
        self._store, self._registry, self._clock = deps.store, deps.registry, deps.clock
        self._plans, self._event_types = deps.plans, deps.event_types
        self._transport = transport
        self._live_feed = live_feed
        self._check_capacity = check_capacity
        self._locks = KeyedLocks()

    async def send(self, workspace: WorkspaceKey, endpoint_id: str, event_type: str | None = None) -> Json:
        """Send the sample of `event_type` (or of the first type the endpoint wants); returns the attempt.

        Raises ApiError: `not_found`, `unknown_event_type`, `plan_required`; those of `Ingest.check_capacity`.
        """
        endpoint = self._registry.readable(workspace, endpoint_id)
        of = self._registry.workspace(workspace)
        self._plans().require(of.plan, "Sending a test")
        event_types = self._event_types()
        kind = event_types.require(event_type or self._first_type(endpoint), kept=endpoint.event_types)
        async with self._locks.of(endpoint_id):
            await self._check_capacity(of)
            now_ms = self._clock.wall_ms()
            event_id = f"test_{uuid7(now_ms, secrets.token_bytes(10))}"
            body = orjson.dumps({**kind.sample, "event_type": kind.name, "event_id": event_id})
            request = RequestBuilder(endpoint, now_ms).build(
                event_id, body, number=1, now_ms=now_ms, marks=request_builder.TEST
            )
            outcome = await self._transport.post(request)
            record = attempt_record(1, outcome, request, counted=False)
            await self._record(endpoint, event_id, kind.name, body, outcome, record)
        return record

    async def _record(
        self, endpoint: Endpoint, event_id: str, event_type: str, body: bytes, outcome: Outcome, record: Json
    ) -> None:
        now_ms = self._clock.wall_ms()

        def command(db: Db) -> int:
            return events.insert_test(
                db,
                workspace_seq=endpoint.workspace_seq,
                endpoint_seq=endpoint.seq,
                event_id=event_id,
                event_type=event_type,
                body=body,
                delivered=outcome.delivered,
                record=orjson.dumps(record),
                started_at_ms=outcome.started_at_ms,
                now_ms=now_ms,
            )

        seq = await self._store.add(outcome.started_at_ms, command, workspace_seq=endpoint.workspace_seq)
        if self._live_feed.wanted:
            sent = QueuedDelivery(seq, endpoint.seq, event_id, event_type, None, len(body), outcome.started_at_ms)
            state = DeliveryState.DELIVERED if outcome.delivered else DeliveryState.DROPPED
            view = delivery_view(endpoint, sent, state, record, finished_at_ms=now_ms, is_test=True)
            self._live_feed.publish("delivery.attempted", view)
        log.emit(
            "endpoint.tested",
            workspace=endpoint.workspace,
            endpoint_id=endpoint.id,
            event_id=event_id,
            delivery_id=delivery_id(seq),
            status=outcome.status,
            reason=outcome.reason,
            duration_ms=record["duration_ms"],
        )

    def _first_type(self, endpoint: Endpoint) -> str:
        first = endpoint.event_types[0]
        return next(iter(self._event_types().names)) if first == EVERY_TYPE else first
