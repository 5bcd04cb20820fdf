"""What the pages show of an endpoint: its state, its queue, its last answer, its share of the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from webhookd.delivery.dispatcher import QueueView
from webhookd.models import BudgetView, DeliveryState, Endpoint, Json, Workspace
from webhookd.rules.event_types import BUILT_IN
from webhookd.web.services import Services
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
class Shown:
    """An endpoint as a row or a page shows it.  `state` is its own, or `paused` where the plan stops it."""

    endpoint: Endpoint
    state: str
    queue: QueueView
    oldest_at_ms: int | None
    last: Json | None
    spent: int

    @property
    def unprotected(self) -> bool:
        """Whether its events travel in clear text."""
        return self.endpoint.url.lower().startswith("http:")


@dataclass(frozen=True, slots=True)
class Gauge:
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


async def show_endpoints(services: Services, workspace: Workspace, endpoints: Sequence[Endpoint]) -> list[Shown]:
    """Endpoints of one workspace, each with its status and its share of the budget."""
    spent = services.watchdog.view(workspace.id).by_endpoint
    return [
        Shown(
            endpoint=each.endpoint,
            state="paused" if each.paused and each.endpoint.active else each.endpoint.state.value,
            queue=each.queue,
            oldest_at_ms=each.oldest_at_ms,
            last=each.last_attempt,
            spent=spent.get(each.endpoint.id, 0),
        )
        for each in await services.dispatcher.statuses(endpoints)
    ]


def show_gauge(page: Page) -> Gauge:
    """The budget of the page's workspace."""
    services, workspace = page.services, page.workspace.id
    view = services.watchdog.view(workspace)
    by_id = {each.id: each for each in services.registry.endpoints(workspace)}
    expires = view.oldest_expires_in_seconds
    return Gauge(
        view=view,
        spent_until_ms=services.watchdog.spent_until_ms(workspace),
        oldest_expires_at_ms=None if expires is None else services.clock.wall_ms() + round(expires * 1000),
        spenders=tuple((by_id[id_], count) for id_, count in view.by_endpoint.items() if id_ in by_id),
    )


@dataclass(frozen=True, slots=True)
class ShownType:
    """An event type in the reader's language."""

    name: str
    label: str
    description: str


def show_type(page: Page, name: str) -> ShownType:
    """An event type by its name, also one that the catalogue no longer has.

    The built-in words are translated; what the configuration says in their place stays as it is.
    """
    known = page.services.event_types().get(name)
    if known is None:
        return ShownType(name, name, "")
    built_in = _BUILT_IN_WORDS.get(name) == (known.label, known.description)
    if not built_in:
        return ShownType(name, known.label or name, known.description)
    return ShownType(name, page.text(f"type.{name}"), page.text(f"type.{name}.when"))


def show_types(page: Page) -> list[ShownType]:
    """The whole catalogue."""
    return [show_type(page, name) for name in page.services.event_types().names]
