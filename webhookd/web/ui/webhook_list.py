"""The table of webhooks: searched, filtered, sorted, in pages; and its rows that changed, for a script that keeps up.

What is searched and sorted by is in memory; only the rows of a page are asked of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from webhookd.delivery.queue_view import EndpointStatus
from webhookd.models import Endpoint
from webhookd.store import attempts
from webhookd.web.ui.charts import DAY_MS, HOUR_MS, Sparkline, sparkline
from webhookd.web.ui.pages import Page
from webhookd.web.ui.view_models import TONES, BudgetGauge, budget_gauge, event_type_views

PAGE_ROWS = 50
# After so long a page shows the sparklines that it has.
TALLY_SECONDS = 0.04
_FEW = 8  # with no more than these, search and sorting are in the way
_NAMED = 3  # of the stopped webhooks, so many by name

_Order = Callable[[Endpoint], Any]


@dataclass(frozen=True, slots=True)
class _Selection:
    """What the page's address asks for; what it can't mean reads as if it weren't there."""

    search: str
    state: str
    sort: str
    number: int

    def url(self, page: Page, number: int) -> str:
        """The address of one of the pages, the first by default."""
        return page.url("/webhooks", q=self.search, state=self.state, sort=self.sort, page=number if number > 1 else "")


@dataclass(frozen=True, slots=True)
class _Stopped:
    """The webhooks to which nothing goes out until somebody enables them; `tone` as that of a note."""

    count: int
    held: int
    named: tuple[Endpoint, ...]
    tone: str


STATES = ("stopped", "auto_disabled", "disabled", "active", "failing")
SORTS = ("name", "waiting", "failures", "newest")


async def show_webhooks(page: Page) -> web.StreamResponse:
    """The table of webhooks, or the first steps while there is none; with `only`, the rows that it names."""
    endpoints = page.services.registry.endpoints(page.workspace.seq)
    gauge = budget_gauge(page)
    if "only" in page.request.rel_url.query:
        named = set(page.asked("only").split(","))
        return await _show(page, "webhooks_changed.html", gauge, [each for each in endpoints if each.id in named])
    wanted = _selection(page)
    found = sorted(_found(wanted, endpoints, gauge), key=_order(page, wanted, gauge))
    pages = max(1, -(-len(found) // PAGE_ROWS))
    number = min(wanted.number, pages)
    begin = (number - 1) * PAGE_ROWS
    return await _show(
        page,
        "webhooks.html",
        gauge,
        found[begin : begin + PAGE_ROWS],
        wanted=wanted,
        total=len(endpoints),
        found=len(found),
        first=begin + 1,
        previous=wanted.url(page, number - 1) if number > 1 else "",
        next=wanted.url(page, number + 1) if number < pages else "",
        states=STATES,
        sorts=SORTS,
        searchable=len(endpoints) > _FEW or bool(wanted.search or wanted.state or wanted.sort),
        limit=page.services.settings().limits.endpoints,
        stream=page.url("/log/stream", after=page.services.live_feed.now_id),
    )


async def _show(
    page: Page, template: str, gauge: BudgetGauge, shown: Sequence[Endpoint], **values: Any
) -> web.Response:
    services = page.services
    statuses: list[EndpointStatus] = await services.dispatcher.statuses(shown)
    return page.show(
        template,
        statuses=statuses,
        sparklines=await _sparklines(page, shown),
        stopped=_stopped(page),
        gauge=gauge,
        tones=TONES,
        kinds={kind.name: kind for kind in event_type_views(page)},
        paused=services.registry.paused(page.workspace.seq),
        **values,
    )


def _selection(page: Page) -> _Selection:
    number, state, sort = page.asked("page"), page.asked("state"), page.asked("sort")
    return _Selection(
        search=page.asked("q").strip()[:200],
        state=state if state in STATES else "",
        sort=sort if sort in SORTS else "",
        number=max(1, int(number)) if number.isdecimal() and len(number) < 7 else 1,
    )


def _found(wanted: _Selection, endpoints: Sequence[Endpoint], gauge: BudgetGauge) -> list[Endpoint]:
    words = wanted.search.casefold().split()

    def in_state(each: Endpoint) -> bool:
        if wanted.state == "stopped":
            return each.state != "active"
        if wanted.state == "failing":
            return each.id in gauge.view.by_endpoint
        return wanted.state in ("", each.state)

    def matches(each: Endpoint) -> bool:
        text = f"{each.description} {each.url}".casefold()
        return in_state(each) and all(word in text or each.id.startswith(word) for word in words)

    return [each for each in endpoints if matches(each)]


def _order(page: Page, wanted: _Selection, gauge: BudgetGauge) -> _Order:
    def waiting(each: Endpoint) -> int:
        return page.services.dispatcher.view(each.seq).waiting

    def failures(each: Endpoint) -> int:
        return gauge.view.by_endpoint.get(each.id, 0)

    orders: Mapping[str, _Order] = {
        "name": lambda each: (each.description or each.url.partition("://")[2]).casefold(),
        "waiting": lambda each: (-waiting(each), each.seq),
        "failures": lambda each: (-failures(each), each.seq),
        "newest": lambda each: -each.seq,
    }
    urgent = {"auto_disabled": 0, "disabled": 1}

    def stopped_first(each: Endpoint) -> tuple[int, int, int]:
        return urgent.get(each.state, 2), -failures(each), each.seq

    return orders.get(wanted.sort, stopped_first)


def _stopped(page: Page) -> _Stopped | None:
    """The stopped webhooks of the workspace, those with the most held events first."""
    held = {
        each: page.services.dispatcher.view(each.seq).held
        for each in page.services.registry.endpoints(page.workspace.seq)
        if each.state != "active"
    }
    if not held:
        return None
    most = sorted(held, key=lambda each: (each.state != "auto_disabled", -held[each], each.seq))
    return _Stopped(
        count=len(held),
        held=sum(held.values()),
        named=tuple(most[:_NAMED]),
        tone="bad" if most[0].state == "auto_disabled" else "",
    )


async def _sparklines(page: Page, shown: Sequence[Endpoint]) -> dict[int, Sparkline]:
    """The last day of each webhook: one question for all of them, which ends with what it has when it is late."""
    if not shown:
        return {}
    now_ms = page.services.clock.wall_ms()
    last_ms = now_ms // HOUR_MS * HOUR_MS
    bounds_ms = [last_ms - DAY_MS + hour * HOUR_MS for hour in range(1, 25)] + [now_ms]
    seqs = [each.seq for each in shown]
    tallies = await page.services.store.search(
        page.workspace.seq, lambda db, late: attempts.tallies(db, seqs, bounds_ms, late), seconds=TALLY_SECONDS
    )
    return {seq: sparkline(tally) for seq, tally in tallies.items()}
