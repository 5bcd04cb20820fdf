"""The pages of the delivery log: the filtered list, one delivery with its attempts, replay and backfill."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

from aiohttp import web

from webhookd.delivery.replay import Replayed
from webhookd.errors import ApiError
from webhookd.models import DeliveryState, DeliveryView, Endpoint, EventView, Json, Reason
from webhookd.rules.ids import delivery_id
from webhookd.store import delivery_log, endpoints, events
from webhookd.store.connection import Late
from webhookd.store.delivery_log.log_filter import WAITING, LogFilter
from webhookd.store.store import Db
from webhookd.web.live_stream import live_stream
from webhookd.web.log_search import STATUS_PATTERN, TEXT_CHARACTERS, DeliveryFilter, find_delivery, log_filter
from webhookd.web.server.paging import Moment
from webhookd.web.ui.charts import DAY_MS, HOUR_MS
from webhookd.web.ui.log_views import LogChart, as_curl, log_chart, timeline
from webhookd.web.ui.pages import Page, Translated
from webhookd.web.ui.text import is_cut, one_line
from webhookd.web.ui.view_models import TONES, event_type_view, event_type_views

PAGE_ROWS = 50
# After so long a search shows the rows that it has found, with a link to continue.
SEARCH_SECONDS = 0.03
DELETED_SHOWN = 100
NAME_CHARACTERS = 60
RETRYING = "retrying"  # in the form one of the states
# The spans of time that have a name of their own in an address.
SPANS = ("hour", "today")
# The form's fields that say when, and so don't concern what happens from now on.
_TIMES = ("since", "until", "span")
# What a replay of a filter doesn't know: it goes by what an index has.
_NOT_REPLAYED = ("status", "text")
_MAX_MS = 2**63 - 1  # SQLite's largest integer


@dataclass(frozen=True, slots=True)
class LogForm:
    """The filter: its form's fields as they were sent, and as the store takes it."""

    fields: Mapping[str, str]
    filter: LogFilter


async def show_log(page: Page) -> web.StreamResponse:
    """A page of the log, newest first."""
    try:
        form = await _form(page)
    except ApiError as error:
        everything = await log_filter(page.services, page.workspace, DeliveryFilter())
        return await _list(page, LogForm({}, everything), None, error)
    return await _list(page, form, page.before_seq, None)


async def _list(page: Page, form: LogForm, before_seq: int | None, fault: ApiError | None) -> web.Response:
    now_ms = page.services.clock.wall_ms()

    def question(db: Db, late: Late) -> tuple[list[DeliveryView], int | None, list[Endpoint], LogChart | None]:
        found, stopped_at = delivery_log.search(db, form.filter, before_seq=before_seq, limit=PAGE_ROWS + 1, late=late)
        chart = None if form.filter.event_id else log_chart(db, form.filter, now_ms)
        return found, stopped_at, endpoints.deleted(db, page.workspace.seq, DELETED_SHOWN), chart

    rows, stopped_at, deleted, chart = await page.services.store.search(
        page.workspace.seq, question, seconds=SEARCH_SECONDS
    )
    cursor = stopped_at if len(rows) <= PAGE_ROWS else rows[PAGE_ROWS - 1].seq
    rows = rows[:PAGE_ROWS]
    there = page.services.registry.endpoints(page.workspace.seq)
    return page.show(
        "log.html",
        422 if fault else 200,
        rows=rows,
        form=form,
        fault=fault,
        older=page.url("/log", **form.fields, cursor=cursor) if cursor else "",
        stopped=stopped_at is not None,
        newest=before_seq is None,
        stream=page.url("/log/stream", **_streamed(form)),
        endpoints={each.seq: each for each in there},
        names=_names(there),
        deleted={each.seq: each for each in deleted},
        deleted_names=_names(deleted),
        kinds=event_type_views(page),
        kind=cache(partial(event_type_view, page)),
        states=[*DeliveryState, RETRYING],
        tones=TONES,
        chart=chart,
        presets=_presets(form),
        histogram_fields={name: value for name, value in form.fields.items() if name not in _TIMES},
        set_count=len(form.fields),
        replayable=form.filter.state not in WAITING and not any(form.fields.get(name) for name in _NOT_REPLAYED),
    )


def _names(shown: Sequence[Endpoint]) -> list[tuple[str, str]]:
    """The id and the name of each webhook for a list to choose from, which may be of thousands."""
    found = [(each.id, one_line(each.description or each.url)) for each in shown]
    return [(id_, name if len(name) <= NAME_CHARACTERS else f"{name[: NAME_CHARACTERS - 1]}…") for id_, name in found]


def _presets(form: LogForm) -> list[tuple[str, dict[str, str], bool]]:
    """The filters of one click: name, the fields that it leads to, and whether it is set; then it is taken back."""
    found = []
    for name, field, value in (
        *((span, "span", span) for span in SPANS),
        *(("failed", "state", "dropped"), (RETRYING, "state", RETRYING), ("held", "state", "held")),
    ):
        is_set = form.fields.get(field) == value
        kept = {
            key: each for key, each in form.fields.items() if key not in (_TIMES if field == "span" else ("state",))
        }
        found.append((name, kept if is_set else kept | {field: value}, is_set))
    return found


def _streamed(form: LogForm) -> dict[str, str]:
    """The part of the filter that the live stream needs: what a delivery keeps for its life.

    Not times, since it tells what happens now; nor state and status, else no row would hear that it left the filter.
    """
    return {name: value for name, value in form.fields.items() if name not in (*_TIMES, "state", "status")}


async def show_delivery(page: Page) -> web.StreamResponse:
    """One delivery: each attempt, its event's body, whether it can be replayed."""
    services = page.services
    delivery, made = await _delivery(page)
    of_webhook = LogFilter(page.workspace.seq, paused=False, endpoint_seq=delivery.endpoint_seq)

    def question(db: Db, _: Late) -> tuple[EventView | None, tuple[int | None, int | None]]:
        event = events.get(db, page.workspace.seq, delivery.event_id)
        return event, delivery_log.neighbours(db, of_webhook, delivery.seq)

    event, (older, newer) = await services.store.search(page.workspace.seq, question)
    body = event.body if event else None
    endpoint = services.registry.get(delivery.endpoint_seq)
    return page.show(
        "delivery.html",
        delivery=delivery,
        attempts=made[::-1],
        body=body,
        older=older,
        newer=newer,
        marks=timeline(made, delivery, services.settings().delivery.retry_seconds),
        curl=as_curl(made[-1], body) if made and body is not None and not is_cut(body) else "",
        endpoint=endpoint,
        kind=event_type_view(page, delivery.event_type),
        tones=TONES,
        delivery_settings=services.settings().delivery,
        not_replayable=await services.replayer.why_not(delivery),
        explained=lambda attempt: explain(page, attempt, endpoint),
    )


def explain(page: Page, attempt: Json, endpoint: Endpoint | None) -> str:
    """The outcome of an attempt, in words."""
    if attempt["outcome"] == "delivered":
        return page.text("reason.delivered", status=attempt["status"])
    reason = str(attempt["reason"])
    values: dict[str, Any] = {}
    if reason == Reason.STATUS:
        wants = "2xx" if endpoint is not None and endpoint.success == "2xx" else "200"
        values = {"status": attempt["status"], "wants": wants}
    elif reason == Reason.TIMEOUT:
        values = {"seconds": page.text.decimal(f"{page.services.settings().delivery.timeout_seconds:g}")}
    return page.text(f"reason.{reason}", **values)


async def stream(page: Page) -> web.StreamResponse:
    """Follow the log live, for as long as the reader's session lasts; the page's script loads itself again."""
    session, sessions = page.session, page.services.sessions
    assert session is not None
    form = await _form(page)
    return await live_stream(
        page.request,
        form.filter,
        allowed=lambda: sessions.lasts(session),
        data=lambda view: {"event_id": view.event_id, "endpoint_id": view.endpoint_id},
        after=page.asked("after"),
    )


# Replaying


async def replay_one(page: Page) -> web.StreamResponse:
    """Replay a delivery, and redirect to the new one."""
    seq = await page.services.replayer.one((await _delivery(page))[0])
    page.made = f"/log/{delivery_id(seq)}"
    return page.go(f"/log/{delivery_id(seq)}", said="replayed_one")


async def show_replay(page: Page) -> web.StreamResponse:
    """Ask for confirmation, with the number of deliveries that the filter would replay."""
    form = await _replay_form(page)
    fault: ApiError | None = None
    would = Replayed(0, {})
    try:
        would = await page.services.replayer.many(form.filter, dry_run=True)
    except ApiError as error:
        fault = error
    return page.show(
        "replay.html",
        409 if fault else 200,
        form=form,
        count=would.count,
        left_out=would.left_out,
        fault=fault,
        endpoint=page.services.registry.get(form.filter.endpoint_seq or 0),
        kind=lambda name: event_type_view(page, name),
    )


async def replay(page: Page) -> web.StreamResponse:
    """Replay all deliveries of the filter."""
    form = await _replay_form(page)
    page.made = page.url("/log/replay", **form.fields)
    count = (await page.services.replayer.many(form.filter, dry_run=False)).count
    return page.go("/log", endpoint=form.fields.get("endpoint"), said="replayed", n=count)


async def _replay_form(page: Page) -> LogForm:
    """The filter of a replay: dropped deliveries unless it names a state, and never the whole log."""
    form = await _form(page, state=DeliveryState.DROPPED)
    if form.filter.endpoint_seq is None and form.filter.since_ms is None and form.filter.event_id is None:
        raise Translated("invalid_field", page.text("replay.too_wide"), details={"field": "endpoint"})
    if any(form.fields.get(name) for name in _NOT_REPLAYED):
        raise Translated("invalid_field", page.text("replay.not_by_text"), details={"field": "text"})
    if form.filter.state in WAITING:
        raise Translated("delivery_not_finished", page.text("replay.of_waiting"))
    return form


# Backfill


async def show_backfill(page: Page) -> web.StreamResponse:
    """Ask since when, then for confirmation, with the number of events that the webhook would get."""
    endpoint = page.services.registry.endpoint(page.workspace.seq, page.request.match_info["endpoint"])
    form: LogForm | None = None
    would: Replayed | None = None
    fault: ApiError | None = None
    try:
        form = await _form(page)
        if form.filter.since_ms is not None:
            would = await _backfill(page, endpoint, form, dry_run=True)
    except ApiError as error:
        fault = error
    return page.show(
        "backfill.html",
        fault.status if fault else 200,
        endpoint=endpoint,
        form=form or LogForm({}, LogFilter(page.workspace.seq, paused=False)),
        would=would,
        fault=fault,
        kinds=event_type_views(page, endpoint),
    )


async def backfill(page: Page) -> web.StreamResponse:
    """Queue the past events that the form names."""
    endpoint = page.services.registry.endpoint(page.workspace.seq, page.request.match_info["endpoint"])
    done = await _backfill(page, endpoint, await _form(page), dry_run=False)
    return page.go(f"/webhooks/{endpoint.id}", said="backfilled", n=done.count)


async def _backfill(page: Page, endpoint: Endpoint, form: LogForm, *, dry_run: bool) -> Replayed:
    if form.filter.since_ms is None:
        raise Translated("invalid_field", page.text("log.bad_time"), details={"field": "since"})
    return await page.services.replayer.backfill(
        endpoint,
        event_type=form.filter.event_type,
        since_ms=form.filter.since_ms,
        until_ms=form.filter.until_ms,
        dry_run=dry_run,
    )


# The filter


async def _form(page: Page, *, state: DeliveryState | None = None) -> LogForm:
    """The filter in the page's address; `state` if it names none.

    Raises ApiError: `invalid_field`, `not_found` (the webhook).
    """
    names = ("endpoint", "event_type", "state", "status", "text", "event_id", *_TIMES)
    fields = {name: value[:TEXT_CHARACTERS] for name in names if (value := page.asked(name).strip())}
    if state is not None:
        fields.setdefault("state", state)
    retrying = fields.get("state") == RETRYING
    asked = DeliveryFilter(
        endpoint=fields.get("endpoint"),
        event_type=fields.get("event_type"),
        state=DeliveryState.PENDING if retrying else _state(page, fields.get("state")),
        retrying=retrying,
        status=_status(page, fields.get("status")),
        event_id=fields.get("event_id"),
        since=_begin_of(page, fields.get("span")) or moment(page, fields, "since"),
        until=moment(page, fields, "until"),
    )
    try:
        return LogForm(fields, await log_filter(page.services, page.workspace, asked, text=fields.get("text")))
    except ApiError as error:
        if error.code != "not_found":
            raise
        raise Translated("not_found", page.text("log.no_webhook", id=fields["endpoint"][:40])) from None


def _state(page: Page, name: str | None) -> DeliveryState | None:
    try:
        return DeliveryState(name) if name else None
    except ValueError:
        raise Translated("invalid_field", page.text("log.bad_state"), details={"field": "state"}) from None


def _status(page: Page, status: str | None) -> str | None:
    if status and not re.fullmatch(STATUS_PATTERN, status):
        raise Translated("invalid_field", page.text("log.bad_status"), details={"field": "status"})
    return status


def _begin_of(page: Page, span: str | None) -> Moment | None:
    """When a named span of time began; a day does at midnight in UTC, unless the page's script knows better."""
    now_ms = page.services.clock.wall_ms()
    begins_ms = {"hour": now_ms - HOUR_MS, "today": now_ms // DAY_MS * DAY_MS}
    return Moment(begins_ms[span]) if span in begins_ms else None


def moment(page: Page, fields: Mapping[str, str], name: str) -> Moment | None:
    """A time as the form's field gives it (no zone: UTC), or RFC 3339."""
    text = fields.get(name)
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        ms = round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise Translated("invalid_field", page.text("log.bad_time"), details={"field": name}) from None
    return Moment(min(ms, _MAX_MS))


async def _delivery(page: Page) -> tuple[DeliveryView, list[Json]]:
    named = page.request.match_info["delivery"]
    found = await find_delivery(page.services, page.workspace, named)
    if found is None:
        raise Translated("not_found", page.text("log.no_delivery", id=named[:40]))
    return found
