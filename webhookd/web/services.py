"""What the web is built on: the parts of the house that its handlers call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from webhookd.clock import Clock
from webhookd.config import Config
from webhookd.delivery.directory import Directory
from webhookd.delivery.dispatcher import Dispatcher
from webhookd.delivery.endpoints import Endpoints
from webhookd.delivery.happenings import Happenings
from webhookd.delivery.ingest import Ingest
from webhookd.delivery.recorder import Recorder
from webhookd.delivery.replays import Replays
from webhookd.delivery.tester import Tester
from webhookd.delivery.workspaces import Workspaces
from webhookd.model import Json
from webhookd.rules.catalogue import Catalogue
from webhookd.store.budgets import Budgets
from webhookd.store.store import Store
from webhookd.web.access import Access
from webhookd.web.sessions import Sessions


@dataclass(frozen=True, slots=True)
class Services:
    """Built by `daemon`, used by the handlers."""

    settings: Callable[[], Config]
    catalogue: Callable[[], Catalogue]
    clock: Clock
    store: Store
    directory: Directory
    dispatcher: Dispatcher
    ingest: Ingest
    endpoints: Endpoints
    workspaces: Workspaces
    replays: Replays
    tester: Tester
    recorder: Recorder
    budgets: Budgets
    happenings: Happenings
    access: Access
    sessions: Sessions
    status: Callable[[str | None], Awaitable[Json]]  # of one workspace alone, if it is named
    ready: Callable[[], Awaitable[str]]  # "" when ready, else what it waits for
    send_test_mail: Callable[[Sequence[str]], Awaitable[None]]
