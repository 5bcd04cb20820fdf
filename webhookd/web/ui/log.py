"""The pages of the event log: the filtered list, one delivery with its attempts, and replaying."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from webhookd.errors import ApiError
from webhookd.models import DeliveryState, DeliveryView, Endpoint, Json, Reason
from webhookd.rules.ids import delivery_id, delivery_seq
from webhookd.store import attempts, delivery_log, endpoints, events
from webhookd.store.delivery_log import LogFilter
from webhookd.store.store import Db
from webhookd.web.api import live
from webhookd.web.ui.pages import Page, Translated
from webhookd.web.ui.view_models import TONES, show_type, show_types

PAGE_ROWS = 50
# How long a search may look for a page's rows before the page shows what it has, with a way to search on.
PATIENCE_SECONDS = 0.04
DELETED_SHOWN = 100
_MAX_SEQ = 2**63 - 1
_WAITING = (DeliveryState.PENDING, DeliveryState.HELD)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The filter as it stands in its form, and as the table is asked."""

    fields: Mapping[str, str]
    filter: LogFilter

    @property
    def any(self) -> bool:
        """Whether anything is filtered at all."""
        return bool(self.fields)


async def show_log(page: Page) -> web.StreamResponse:
    """A page of the log, newest first."""
    try:
        wanted = await _wanted(page)
    except ApiError as refusal:
        everything = Wanted({}, LogFilter(page.workspace.seq, _paused(page)))
        return await _list(page, everything, None, refusal)
    cursor = page.asked("cursor")
    before_seq = int(cursor) if cursor.isdecimal() and len(cursor) < 19 else None
    return await _list(page, wanted, before_seq, None)


async def _list(page: Page, wanted: Wanted, before_seq: int | None, fault: ApiError | None) -> web.Response:
    def question(db: Db) -> tuple[list[DeliveryView], int | None, list[Endpoint]]:
        found, stopped_at = delivery_log.search(
            db, wanted.filter, before_seq=before_seq, limit=PAGE_ROWS + 1, timeout_seconds=PATIENCE_SECONDS
        )
        return found, stopped_at, endpoints.deleted(db, page.workspace.seq, DELETED_SHOWN)

    rows, stopped_at, deleted = await page.services.store.read(question)
    cursor = stopped_at if len(rows) <= PAGE_ROWS else rows[PAGE_ROWS - 1].seq
    rows = rows[:PAGE_ROWS]
    return page.show(
        "log.html",
        422 if fault else 200,
        rows=rows,
        wanted=wanted,
        fault=fault,
        older=page.url("/log", **wanted.fields, cursor=cursor) if cursor else "",
        stopped=stopped_at is not None,
        newest=before_seq is None,
        stream=page.url("/log/stream", **_streamed(wanted)),
        endpoints=_by_seq(page),
        deleted={each.seq: each for each in deleted},
        kinds=show_types(page),
        kind=lambda name: show_type(page, name),
        states=list(DeliveryState),
        tones=TONES,
    )


def _streamed(wanted: Wanted) -> dict[str, str]:
    """The part of the filter that the live stream takes: of what happens now, times say nothing."""
    return {name: value for name, value in wanted.fields.items() if name not in ("since", "until")}


async def show_delivery(page: Page) -> web.StreamResponse:
    """One delivery with every attempt, its event's body and what can be done."""
    services, delivery = page.services, await _delivery(page)

    def question(db: Db) -> tuple[list[Json], bytes | None]:
        event = events.get(db, page.workspace.seq, delivery.event_id)
        return attempts.of_delivery(db, delivery.seq), event.body if event else None

    found, body = await services.store.read(question)
    endpoint = services.registry.get(delivery.endpoint_seq)
    return page.show(
        "delivery.html",
        delivery=delivery,
        attempts=found[::-1],
        body=body,
        endpoint=endpoint,
        kind=show_type(page, delivery.event_type),
        tones=TONES,
        delivery_settings=services.settings().delivery,
        replayable=_replayable(page, delivery, endpoint, body),
        explained=lambda attempt: explain(page, attempt, endpoint),
    )


def _replayable(page: Page, delivery: DeliveryView, endpoint: Endpoint | None, body: bytes | None) -> str:
    """ "" if it can be replayed, else why not: the last part of a text's key."""
    if delivery.is_test:
        return "test"
    if delivery.state in _WAITING:
        return "waiting"
    if endpoint is None:
        return "gone"
    if not page.services.registry.runs(endpoint):
        return "not_active"
    return "" if body is not None else "pruned"


def explain(page: Page, attempt: Json, endpoint: Endpoint | None) -> str:
    """What came of an attempt, in plain words."""
    if attempt["outcome"] == "delivered":
        return page.text("reason.delivered", status=attempt["status"])
    reason = str(attempt["reason"])
    values: dict[str, Any] = {}
    if reason == Reason.STATUS:
        wants = "2xx" if endpoint is not None and endpoint.success == "2xx" else "200"
        values = {"status": attempt["status"], "wants": wants}
    elif reason == Reason.TIMEOUT:
        values = {"seconds": f"{page.services.settings().delivery.timeout_seconds:g}"}
    return page.text(f"reason.{reason}", **values)


async def stream(page: Page) -> web.StreamResponse:
    """What happens in the log, as it happens, for as long as the reader's session lasts."""
    session, sessions = page.session, page.services.sessions
    assert session is not None
    wanted = await _wanted(page)
    return await live.stream(
        page.request, page.services, page.workspace.id, wanted.filter, lambda: sessions.lasts(session)
    )


# Replaying


async def replay_one(page: Page) -> web.StreamResponse:
    """Send a past delivery again; the answer leads to the new one."""
    seq = await page.services.replayer.one(page.workspace.id, await _delivery(page))
    return page.go(f"/log/{delivery_id(seq)}", said="replayed_one")


async def show_replay(page: Page) -> web.StreamResponse:
    """How many a replay of the filter would send again, before anything is sent."""
    wanted = await _replayed(page)
    fault: ApiError | None = None
    count = 0
    try:
        count = await page.services.replayer.many(wanted.filter, page.workspace.id, dry_run=True)
    except ApiError as refusal:
        fault = refusal
    return page.show(
        "replay.html",
        409 if fault else 200,
        wanted=wanted,
        count=count,
        fault=fault,
        endpoint=page.services.registry.get(wanted.filter.endpoint_seq or 0),
        kind=lambda name: show_type(page, name),
    )


async def replay(page: Page) -> web.StreamResponse:
    """Replay all of the filter."""
    wanted = await _replayed(page)
    count = await page.services.replayer.many(wanted.filter, page.workspace.id, dry_run=False)
    return page.go("/log", endpoint=wanted.fields.get("endpoint"), said="replayed", n=count)


async def _replayed(page: Page) -> Wanted:
    """The filter of a replay: by default of what was dropped; never of everything there is."""
    wanted = await _wanted(page, state=DeliveryState.DROPPED)
    if wanted.filter.endpoint_seq is None and wanted.filter.since_ms is None and wanted.filter.event_id is None:
        raise Translated("invalid_field", page.text("replay.too_wide"), details={"field": "endpoint"})
    if wanted.filter.state in _WAITING:
        raise Translated("delivery_not_finished", page.text("replay.of_waiting"))
    return wanted


# The filter


async def _wanted(page: Page, *, state: DeliveryState | None = None) -> Wanted:
    """The filter that the address asks for; `state` where it names none.

    Raises ApiError: `invalid_field`, `not_found` (the webhook).
    """
    names = ("endpoint", "event_type", "state", "event_id", "since", "until")
    fields = {name: value for name in names if (value := page.asked(name).strip())}
    if state is not None:
        fields.setdefault("state", state)
    endpoint = fields.get("endpoint")
    return Wanted(
        fields,
        LogFilter(
            workspace_seq=page.workspace.seq,
            paused=_paused(page),
            endpoint_seq=await _endpoint_seq(page, endpoint) if endpoint else None,
            event_type=fields.get("event_type"),
            state=_state(page, fields.get("state")),
            event_id=fields.get("event_id"),
            since_ms=_moment(page, fields, "since"),
            until_ms=_moment(page, fields, "until"),
        ),
    )


async def _endpoint_seq(page: Page, endpoint_id: str) -> int:
    """The number of a webhook, deleted or not: the log outlives it."""
    seq = await page.services.store.read(lambda db: endpoints.seq_of_id(db, page.workspace.seq, endpoint_id))
    if seq is None:
        raise Translated("not_found", page.text("log.no_webhook", id=endpoint_id[:40]))
    return seq


def _state(page: Page, name: str | None) -> DeliveryState | None:
    try:
        return DeliveryState(name) if name else None
    except ValueError:
        raise Translated("invalid_field", page.text("log.bad_state"), details={"field": "state"}) from None


def _moment(page: Page, fields: Mapping[str, str], name: str) -> int | None:
    """A time as the form's field gives it (no zone: UTC), or RFC 3339."""
    text = fields.get(name)
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        ms = round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise Translated("invalid_field", page.text("log.bad_time"), details={"field": name}) from None
    return min(ms, _MAX_SEQ)


def _paused(page: Page) -> bool:
    return page.services.registry.paused(page.workspace.id)


def _by_seq(page: Page) -> dict[int, Endpoint]:
    return {each.seq: each for each in page.services.registry.endpoints(page.workspace.id)}


async def _delivery(page: Page) -> DeliveryView:
    id_ = page.request.match_info["delivery"]
    seq = delivery_seq(id_)
    found = None
    if seq is not None:
        found = await page.services.store.read(
            lambda db: delivery_log.get(db, page.workspace.seq, seq, paused=_paused(page))
        )
    if found is None:
        raise Translated("not_found", page.text("log.no_delivery", id=id_[:40]))
    return found
