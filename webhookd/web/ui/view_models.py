"""What several pages show: the failure budget as a gauge, event types in the reader's language, a state's colour."""

from __future__ import annotations

from dataclasses import dataclass

from webhookd.models import EVERY_TYPE, BudgetView, DeliveryState, Endpoint
from webhookd.rules.event_types import BUILT_IN
from webhookd.web.ui.pages import Page

_BUILT_IN_WORDS = {kind.name: (kind.label, kind.description) for kind in BUILT_IN}

# How a state looks: good, bad, worth a look, or neither.
TONES = {
    "active": "good",
    "disabled": "calm",
    "auto_disabled": "bad",
    "paused": "calm",
    DeliveryState.PENDING: "look",
    DeliveryState.HELD: "look",
    DeliveryState.DELIVERED: "good",
    DeliveryState.DROPPED: "bad",
    DeliveryState.EXPIRED: "bad",
    DeliveryState.SKIPPED: "calm",
    DeliveryState.CANCELLED: "calm",
}


@dataclass(frozen=True, slots=True)
class BudgetGauge:
    """The failure budget of a workspace, as a bar of `limit` parts."""

    view: BudgetView
    spent_until_ms: int | None
    oldest_expires_at_ms: int | None
    spenders: tuple[tuple[Endpoint, int], ...]

    @property
    def percent(self) -> float:
        """How much of the bar is filled."""
        return min(100.0, 100.0 * self.view.failures / self.view.limit)

    @property
    def tone(self) -> str:
        """How it looks: from half of it on worth a look, from four fifths on bad."""
        return "bad" if self.percent >= 80 else "look" if self.percent >= 50 else "good"


def budget_gauge(page: Page) -> BudgetGauge:
    """The budget of the page's workspace."""
    services, workspace = page.services, page.workspace.seq
    view = services.watchdog.view(workspace)
    by_id = {each.id: each for each in services.registry.endpoints(workspace)}
    expires = view.oldest_expires_in_seconds
    return BudgetGauge(
        view=view,
        spent_until_ms=services.watchdog.spent_until_ms(workspace),
        oldest_expires_at_ms=None if expires is None else services.clock.wall_ms() + round(expires * 1000),
        spenders=tuple((by_id[id_], count) for id_, count in view.by_endpoint.items() if id_ in by_id),
    )


@dataclass(frozen=True, slots=True)
class EventTypeView:
    """An event type in the reader's language."""

    name: str
    label: str
    description: str
    lost: bool = False  # the configuration no longer has it


def event_type_view(page: Page, name: str) -> EventTypeView:
    """An event type by its name, also one that the catalogue no longer has; the built-in words are translated."""
    known = page.services.event_types().get(name)
    if known is None:
        return EventTypeView(name, name, page.text("type.lost"), lost=True)
    built_in = _BUILT_IN_WORDS.get(name) == (known.label, known.description)
    if not built_in:
        return EventTypeView(name, known.label or name, known.description)
    return EventTypeView(name, page.text(f"type.{name}"), page.text(f"type.{name}.when"))


def event_type_views(page: Page, endpoint: Endpoint | None = None) -> list[EventTypeView]:
    """All event types, and those of `endpoint` that the configuration lost."""
    names = page.services.event_types().names
    kept = () if endpoint is None or endpoint.event_types == (EVERY_TYPE,) else endpoint.event_types
    return [event_type_view(page, name) for name in dict.fromkeys((*names, *kept))]
