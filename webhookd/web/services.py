"""The parts of the app that the web's handlers call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from webhookd.admin.audit import Audit
from webhookd.admin.endpoints import Endpoints
from webhookd.admin.sessions import Sessions
from webhookd.admin.tokens import Tokens
from webhookd.admin.workspaces import Workspaces
from webhookd.clock import Clock
from webhookd.config import Config
from webhookd.delivery.dispatcher import Dispatcher
from webhookd.delivery.ingest import Ingest
from webhookd.delivery.live_feed import LiveFeed
from webhookd.delivery.recorder import Recorder
from webhookd.delivery.registry import Registry
from webhookd.delivery.replay import Replayer
from webhookd.delivery.test_event import TestEvents
from webhookd.delivery.watchdog import Watchdog
from webhookd.models import Json, Workspace
from webhookd.rules.event_types import EventTypes
from webhookd.store.store import Store


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What the handlers need of the cluster that this app has a partition of.

    `drain` hands over the partitions of a machine (True), or ends that; ApiError `not_found`, `unavailable`.
    """

    status: Callable[[], Awaitable[Json]]
    drain: Callable[[str, bool], Awaitable[None]]
    workspaces: Callable[[], list[Workspace]]  # of all partitions
    fenced: Callable[[], bool] = lambda: False  # whether nothing is delivered, as the lease could not be renewed


@dataclass(frozen=True, slots=True)
class Services:
    """Built by `app`, used by the handlers."""

    settings: Callable[[], Config]
    event_types: Callable[[], EventTypes]
    clock: Clock
    store: Store
    registry: Registry
    dispatcher: Dispatcher
    ingest: Ingest
    endpoints: Endpoints
    workspaces: Workspaces
    replayer: Replayer
    test_events: TestEvents
    recorder: Recorder
    watchdog: Watchdog
    live_feed: LiveFeed
    tokens: Tokens
    audit: Audit
    sessions: Sessions
    status: Callable[[int | None], Awaitable[Json]]  # of one workspace alone, if its number is given
    ready: Callable[[], Awaitable[str]]  # "" when ready, else what it waits for
    send_test_mail: Callable[[Sequence[str]], Awaitable[None]]
    cluster: ClusterView | None = None

    @property
    def fenced(self) -> bool:
        """Whether nothing is delivered just now, because the partition's lease could not be renewed."""
        return self.cluster is not None and self.cluster.fenced()

    def workspaces_everywhere(self) -> list[Workspace]:
        """All workspaces, in a cluster those of all machines."""
        return self.registry.workspaces() if self.cluster is None else self.cluster.workspaces()
