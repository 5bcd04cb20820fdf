"""What the parts of delivery and administration are built on, declared once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from webhookd.clock import Clock
from webhookd.config import Config
from webhookd.delivery.registry import Changed, Registry
from webhookd.models import Accepted, NewEvent, Workspace
from webhookd.rules.event_types import EventTypes
from webhookd.rules.plans import Plans
from webhookd.sender.http1 import Gate
from webhookd.store.store import Store

# Publishes events of a workspace, of one trace, and returns what became of each once they are applied; ApiError.
Publish = Callable[[Workspace, Sequence[NewEvent], str | None], Awaitable[list[Accepted]]]


@dataclass(frozen=True, slots=True)
class Clustered:
    """What the parts of an app call where it has one partition of a cluster; made by `webhookd.cluster`.

    What the web's handlers need of the whole cluster is `web.services.ClusterView`.
    `may_attempt` is asked before each attempt, and its request is sent by `gate`.  `changed` is called with each
    workspace and endpoint whose change is committed.  `restore` is called before anything is loaded.
    `has_default`: the workspace `default` belongs here.
    """

    may_attempt: Callable[[], bool]
    gate: Gate
    publish: Publish
    changed: Changed
    restore: Callable[[], Awaitable[None]]
    has_default: bool


@dataclass(frozen=True, slots=True)
class Deps:
    """Built by `webhookd.app`.  Settings and what follows from them are callables: a reload replaces the values."""

    store: Store
    registry: Registry
    clock: Clock
    settings: Callable[[], Config]
    plans: Callable[[], Plans]
    event_types: Callable[[], EventTypes]
    clustered: Clustered | None = None
