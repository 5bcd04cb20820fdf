"""The house, wired: every part built once, started in order, stopped in the opposite one.

`daemon` puts a process around it (sockets, signals, the lock); tests put a clock and a network of their own into it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from webhookd import log
from webhookd.admin.endpoints import Endpoints, Rules
from webhookd.admin.sessions import Sessions
from webhookd.admin.tokens import Access
from webhookd.admin.workspaces import Workspaces
from webhookd.clock import Clock
from webhookd.config import Config
from webhookd.delivery.budgets import Budgets
from webhookd.delivery.consumer import Surroundings
from webhookd.delivery.dispatcher import Dispatcher
from webhookd.delivery.held_events import HeldEvents
from webhookd.delivery.ingest import Ingest
from webhookd.delivery.live_feed import LiveFeed
from webhookd.delivery.notices import Notices
from webhookd.delivery.recorder import Listeners, Recorder
from webhookd.delivery.registry import Registry
from webhookd.delivery.replay import Replays
from webhookd.delivery.test_event import TestEvents
from webhookd.delivery.watchdog import Watchdog
from webhookd.errors import ApiError, TemporaryFailure
from webhookd.mail.mailer import Mailer
from webhookd.models import Endpoint
from webhookd.retention import Retention
from webhookd.rules.event_types import Catalogue
from webhookd.rules.failure_budget import FailureBudget
from webhookd.rules.plans import Plans
from webhookd.sender.client import Client, Transport
from webhookd.store import endpoints, workspaces
from webhookd.store.store import Store
from webhookd.systemd import Heartbeat
from webhookd.tasks import TaskOwner
from webhookd.web.api.status import Parts, Status
from webhookd.web.services import Services

STOP_SECONDS = 5.0
ANSWER_SECONDS = 2.0


class App:
    """All parts of one daemon but its process.  Made by `open`, inside the running loop."""

    def __init__(
        self, config: Config, state_dir: Path, store: Store, clock: Clock, transport: Transport | None
    ) -> None:
        self._state_dir = state_dir
        self._clock = clock
        self._writing: asyncio.Task[None] | None = None
        self.tasks = TaskOwner()
        self._take_settings(config)
        self.store = store
        self.registry = Registry(lambda: self._plans)
        self.budgets = Budgets(_budget_of(config), clock)
        self.live_feed = LiveFeed(clock)
        self.client = Client(config, clock)
        self.transport: Transport = transport or self.client
        notices = Notices(self.registry, self.budgets, self._waiting_of, clock, self.settings)
        self.recorder = Recorder(store, self.registry, self.budgets, self.live_feed, notices, clock, self.settings)
        self.dispatcher = Dispatcher(
            Surroundings(store, self.registry, self.recorder, self.transport, clock, self.settings)
        )
        self.mailer = Mailer(store, clock, self.settings, self._recipients_of)
        self.watchdog = Watchdog(self.mailer.wake, self.settings)
        self.recorder.listeners = Listeners(self.dispatcher.settled, self._on_disabled, self.watchdog.spent)
        self.held_events = HeldEvents(store, self.registry, self.dispatcher, clock, self.settings)
        self.retention = Retention(store, clock, self.settings)
        self.services = self._services()

    @classmethod
    async def open(cls, config: Config, state_dir: Path, *, clock: Clock, transport: Transport | None = None) -> App:
        """Open the store in `state_dir` and build everything on it; StoreUnusable when it is not fit to be used."""
        store = await Store.open(state_dir / config.store.path, config.store.min_free_mb)
        return cls(config, state_dir, store, clock, transport)

    def settings(self) -> Config:
        """The configuration as it is now."""
        return self._config

    async def start(self, environ: Mapping[str, str]) -> None:
        """Take up everything where it was: after this, events are accepted and delivered.

        Raises StoreFailed or StoreUnusable when the store fails meanwhile, NotYet when it has no room.
        """
        self._writing = self.tasks.start("writer", self.store.writer.run)
        try:
            await self._take_up(environ)
        except ApiError as refusal:
            raise self.store.writer.failed or TemporaryFailure(f"webhookd can't start: {refusal.message}") from refusal
        self.tasks.start("dispatcher", self.dispatcher.run)
        self.tasks.start("held_events", self.held_events.run)
        self.tasks.start("watchdog", self.watchdog.run)
        self.tasks.start("mailer", self.mailer.run)
        self.tasks.start("retention", self.retention.run)
        self.tasks.start("disk_space", self.store.watch_disk_space)
        self.tasks.start("heartbeat", self.heartbeat.run)

    async def _take_up(self, environ: Mapping[str, str]) -> None:
        self.registry.load(await self.store.read(workspaces.load), await self.store.read(endpoints.load))
        await self.services.workspaces.ensure_default()
        await self.services.access.start(self._state_dir, self._config.listen.ingest_token_file, environ)
        await self.budgets.restore(self.store)
        await self.dispatcher.start()

    def wind_down(self) -> None:
        """Start no further attempt; events are still accepted, for the next start."""
        self.dispatcher.halt()

    def close_doors(self) -> None:
        """Accept nothing any more and tell whoever listens; what is in flight goes on."""
        self.services.ingest.close()
        self.live_feed.end()

    async def stop(self) -> None:
        """Let attempts in flight end and be recorded, write what waits, close the store."""
        self.close_doors()
        try:
            async with asyncio.timeout(self._config.delivery.timeout_seconds + STOP_SECONDS):
                await self.dispatcher.stop()
                await self.mailer.stop()
                await self.store.writer.flushed()
        except TimeoutError:
            log.emit("task.ended", task="dispatcher", error="attempts in flight did not end in time")
        await self.tasks.cancel_all()
        await self.transport.close()
        if self.transport is not self.client:
            await self.client.close()
        await self.store.close()

    def reload(self, config: Config) -> None:
        """Take another configuration while running; the caller knows which keys may change."""
        self._take_settings(config)
        self.budgets.replace(_budget_of(config))
        self.client.configure(config)
        self.dispatcher.review(self.registry.endpoints())
        self.mailer.wake()

    async def trouble(self) -> str:
        """What keeps the house from doing its work: "" when the database answers and the consumers move.

        A full disk is none: it is told elsewhere, no restart mends it, and outcomes that can't be recorded keep their
        consumers where they are.
        """
        if self._writing is None or self._writing.done():
            return "the writer does not run"
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                # The delivery's own reader: on the other one somebody's question may take its time.
                await self.store.read_for_delivery(lambda db: db.execute("SELECT 1").fetchall())
                await self.store.writer.answer()
        except TimeoutError:
            return f"the database did not answer within {ANSWER_SECONDS:g} s"
        except ApiError as refusal:
            return refusal.message
        return "" if self.store.writer.full else self.dispatcher.stuck()

    def _waiting_of(self, endpoint_seq: int) -> int:
        return self.dispatcher.view(endpoint_seq).waiting

    def _on_disabled(self, changed: list[Endpoint]) -> None:
        for each in changed:
            self.dispatcher.stop_consumer(each.seq)
        self.mailer.wake()

    def _recipients_of(self, workspace_seq: int) -> tuple[str, ...]:
        """The notice addresses of a workspace, else those of the configuration."""
        for workspace in self.registry.workspaces():
            if workspace.seq == workspace_seq and workspace.notify:
                return workspace.notify
        return self._config.mail.notify

    def _take_settings(self, config: Config) -> None:
        self._config = config
        self._plans = Plans(config.plans.order, config.plans.webhooks_from)
        self._catalogue = Catalogue({name: (extra.label, extra.description) for name, extra in config.events.items()})

    def _services(self) -> Services:
        rules = Rules(lambda: self._catalogue, lambda: self._plans, self.client.check_url)
        store, registry, dispatcher, clock = self.store, self.registry, self.dispatcher, self._clock
        ingest = Ingest(store, registry, dispatcher, clock, self.settings)
        parts = Parts(store, registry, dispatcher, ingest, self.recorder, self.held_events, self.budgets, self.mailer)
        status = Status(parts, clock)
        self.heartbeat = status.heartbeat = Heartbeat(self.trouble, status.beat)
        access = Access(store, registry, clock)
        return Services(
            settings=self.settings,
            catalogue=rules.catalogue,
            clock=clock,
            store=store,
            registry=registry,
            dispatcher=dispatcher,
            ingest=ingest,
            endpoints=Endpoints(store, registry, dispatcher, self.budgets, rules, clock, self.settings),
            workspaces=Workspaces(store, registry, dispatcher, clock, rules.plans),
            replays=Replays(store, registry, dispatcher, clock),
            test_events=TestEvents(
                store, registry, self.transport, rules.catalogue, rules.plans, clock, self.live_feed
            ),
            recorder=self.recorder,
            budgets=self.budgets,
            live_feed=self.live_feed,
            access=access,
            sessions=Sessions(store, access, clock),
            status=status.show,
            ready=self.trouble,
            send_test_mail=self.mailer.send_test,
        )


def _budget_of(config: Config) -> FailureBudget:
    budget = config.budget
    return FailureBudget(budget.limit, budget.window_seconds, tuple(budget.warn_at))
