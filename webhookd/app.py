"""The composed daemon: every part is built once, started in order and stopped in reverse.

`daemon` puts the process around it (sockets, signals, the lock); tests give it a clock and a network of their own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from webhookd import log
from webhookd.admin.audit import Audit
from webhookd.admin.endpoints import Endpoints
from webhookd.admin.last_used import LastUsed
from webhookd.admin.sessions import Sessions
from webhookd.admin.tokens import Tokens
from webhookd.admin.workspaces import Workspaces
from webhookd.clock import Clock
from webhookd.config import Config
from webhookd.config.warnings import warnings
from webhookd.delivery.deps import Clustered, Deps
from webhookd.delivery.dispatcher import Dispatcher
from webhookd.delivery.held_events import HeldEvents
from webhookd.delivery.ingest import Ingest
from webhookd.delivery.live_feed import LiveFeed
from webhookd.delivery.recorder import Recorder
from webhookd.delivery.registry import Registry
from webhookd.delivery.replay import Replayer
from webhookd.delivery.test_event import TestEvents
from webhookd.delivery.watchdog import Watchdog
from webhookd.errors import ApiError, TemporaryFailure
from webhookd.mail.mailer import Mailer
from webhookd.models import LANGUAGES, QueuedDelivery
from webhookd.retention import Retention
from webhookd.rules.encryption import PLAIN, Cipher
from webhookd.rules.event_types import EventTypes
from webhookd.rules.ip_policy import OwnAddress
from webhookd.rules.plans import Plans
from webhookd.sender.client import Client, Transport
from webhookd.store import endpoints, workspaces
from webhookd.store.store import Store
from webhookd.systemd import Heartbeat
from webhookd.tasks import TaskOwner
from webhookd.web.api.status import Status
from webhookd.web.router import make_app
from webhookd.web.server.http_server import Runner
from webhookd.web.services import ClusterView, Services

STOP_SECONDS = 5.0
# For requests under way when the daemon stops: live streams end at once, the rest is short.
SHUTDOWN_SECONDS = 3.0
ANSWER_SECONDS = 2.0


class App:
    """All parts of one daemon but its process.  Made by `open`, inside the running loop."""

    def __init__(
        self,
        config: Config,
        state_dir: Path,
        store: Store,
        clock: Clock,
        transport: Transport | None,
        clustered: Clustered | None,
        cluster: ClusterView | None,
    ) -> None:
        self._state_dir = state_dir
        self._writing: asyncio.Task[None] | None = None
        self._take_settings(config)
        self.tasks = TaskOwner()
        self.store = store
        self.registry = Registry(lambda: self._plans, clustered.changed if clustered else None)
        self.deps = Deps(
            store, self.registry, clock, self.settings, lambda: self._plans, lambda: self._event_types, clustered
        )
        self.live_feed = LiveFeed(clock)
        self.client = Client(config, clock, clustered.gate if clustered else None)
        self.transport: Transport = transport or self.client
        self.mailer = Mailer(store, clock, self.settings, self._recipients_of, self._language_of)
        # Watchdog and recorder come before the dispatcher, which is built on them.  What they have to call of it they
        # get as callbacks, which look it up when they are called.
        self.watchdog = Watchdog(
            self.deps,
            waiting=lambda endpoint_seq: self.dispatcher.view(endpoint_seq).waiting,
            block=lambda endpoint_seq: self.dispatcher.block(endpoint_seq),
            unblock=lambda endpoint_seq: self.dispatcher.unblock(endpoint_seq),
            wake_mail=self.mailer.wake,
        )
        self.recorder = Recorder(self.deps, self.watchdog, self.live_feed, self._on_finished)
        self.dispatcher = Dispatcher(self.deps, self.recorder, self.transport)
        self.held_events = HeldEvents(self.deps, self.dispatcher, self.mailer.wake)
        self.last_used = LastUsed(self.deps)
        self.retention = Retention(store, clock, self.settings)
        self.services = self._services(cluster)

    @classmethod
    async def open(
        cls,
        config: Config,
        state_dir: Path,
        *,
        clock: Clock,
        transport: Transport | None = None,
        cipher: Cipher = PLAIN,
        clustered: Clustered | None = None,
        cluster: ClusterView | None = None,
    ) -> App:
        """Open the store in `state_dir` and build everything on it; StoreUnusable when it is not fit to be used."""
        store = await Store.open(state_dir / config.store.path, config.store.min_free_mb, cipher)
        return cls(config, state_dir, store, clock, transport, clustered, cluster)

    def settings(self) -> Config:
        """The configuration as it is now."""
        return self._config

    async def start(self, environ: Mapping[str, str]) -> None:
        """Load what the database has and start every task: after this, events are accepted and delivered.

        Raises StoreFailed or StoreUnusable when the store fails meanwhile, TemporaryFailure when it has no room.
        """
        self._writing = self.tasks.start("writer", self.store.writer.run)
        try:
            await self._load(environ)
        except ApiError as error:
            raise self.store.writer.failed or TemporaryFailure(f"webhookd can't start: {error.message}") from error
        self.tasks.start("dispatcher", self.dispatcher.run)
        self.tasks.start("held_events", self.held_events.run)
        self.tasks.start("watchdog", self.watchdog.run)
        self.tasks.start("mailer", self.mailer.run)
        self.tasks.start("retention", self.retention.run)
        self.tasks.start("last_used", self.last_used.run)
        self.tasks.start("disk_space", self.store.watch_disk_space)
        # In a cluster it is the node's to notify systemd.
        self.tasks.start("heartbeat", lambda: self.heartbeat.run({} if self.deps.clustered else os.environ))

    async def _load(self, environ: Mapping[str, str]) -> None:
        if self.deps.clustered is not None:
            await self.deps.clustered.restore()
        self.registry.load(await self.store.read(workspaces.load), await self.store.read(endpoints.load))
        if self.deps.clustered is None or self.deps.clustered.has_default:
            await self.services.workspaces.ensure_default()
        await self.services.endpoints.quarantine()
        await self.services.tokens.start(self._state_dir, self._config.listen.ingest_token_file, environ)
        await self.watchdog.restore()
        await self.dispatcher.start()

    def runner(self) -> Runner:
        """What serves the API and the page; to be set up and given sockets."""
        return Runner(make_app(self.services), shutdown_seconds=SHUTDOWN_SECONDS)

    def listening(self, own: Sequence[OwnAddress], url: str) -> None:
        """The API is served on `own`, where nothing is sent.  `url` is how other machines of a cluster reach it."""
        self.client.set_own(own)

    def waiting(self) -> int:
        """How many deliveries wait."""
        return sum(self.dispatcher.view(endpoint.seq).waiting for endpoint in self.registry.endpoints())

    def sign_in_link(self, page: str) -> str | None:
        """A link that signs in to the page at that address, once."""
        return self.services.sessions.link(page)

    def end_streams(self) -> None:
        """End live streams, which have no end of their own."""
        self.live_feed.end()

    def stop_delivering(self) -> None:
        """Start no further attempt; events are still accepted, for the next start."""
        self.dispatcher.halt()

    def stop_accepting(self) -> None:
        """Accept no further event and end the live feed; attempts in flight go on."""
        self.services.ingest.close()
        self.live_feed.end()

    async def stop(self) -> None:
        """Let attempts in flight end and be recorded, write what waits, close the store."""
        self.stop_accepting()
        try:
            async with asyncio.timeout(self._config.delivery.timeout_seconds + STOP_SECONDS):
                await self.dispatcher.stop()
                await self.mailer.stop()
                await self.last_used.write()
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
        self.watchdog.reload()
        self.client.configure(config)
        self.dispatcher.review(self.registry.endpoints())
        self.dispatcher.reschedule()
        self.mailer.wake()
        self.retention.reload()

    async def trouble(self) -> str:
        """What keeps the daemon from its work, a full disk apart: "" when database and consumers answer."""
        if self._writing is None or self._writing.done():
            return "the writer does not run"
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                # The delivery's own reader: on the other one a search of the log may take long.
                await self.store.read_for_delivery(lambda db: db.execute("SELECT 1").fetchall())
                await self.store.writer.answer()
        except TimeoutError:
            return f"the database did not answer within {ANSWER_SECONDS:g} s"
        except ApiError as error:
            return error.message
        return "" if self.store.writer.full else self.dispatcher.stuck()

    def _on_finished(self, delivery: QueuedDelivery) -> None:
        self.dispatcher.settle(delivery.endpoint_seq, [(delivery.size, delivery.lane_hash)])

    def _recipients_of(self, workspace_seq: int) -> tuple[str, ...]:
        for workspace in self.registry.workspaces():
            if workspace.seq == workspace_seq and workspace.notify:
                return workspace.notify
        return self._config.mail.notify

    def _language_of(self, workspace_seq: int) -> str:
        workspace = self.registry.find_workspace(workspace_seq)
        return workspace.language if workspace else LANGUAGES[0]

    def _take_settings(self, config: Config) -> None:
        self._config = config
        for key, message in warnings(config):
            log.emit("config.warned", key=key, message=message)
        self._plans = Plans(config.plans.order, config.plans.webhooks_from)
        self._event_types = EventTypes(config.events)

    def _services(self, cluster: ClusterView | None) -> Services:
        deps, store, dispatcher, watchdog = self.deps, self.store, self.dispatcher, self.watchdog
        ingest = Ingest(deps, dispatcher, self.retention)
        status = Status(deps, dispatcher, ingest, self.recorder, self.held_events, watchdog, self.mailer)
        self.heartbeat = Heartbeat(self.trouble, status.beat)
        tokens = Tokens(deps, self.last_used)
        replayer = Replayer(deps, dispatcher, self.retention)
        return Services(
            settings=self.settings,
            event_types=deps.event_types,
            clock=deps.clock,
            store=store,
            registry=self.registry,
            dispatcher=dispatcher,
            ingest=ingest,
            endpoints=Endpoints(deps, dispatcher, watchdog, replayer, self.client.check_url),
            workspaces=Workspaces(deps, dispatcher, self.mailer.send_confirmation),
            replayer=replayer,
            test_events=TestEvents(deps, self.transport, self.live_feed, ingest.check_capacity),
            recorder=self.recorder,
            watchdog=watchdog,
            live_feed=self.live_feed,
            tokens=tokens,
            audit=Audit(deps),
            sessions=Sessions(deps, tokens, self.last_used),
            status=status.show,
            ready=self.trouble,
            send_test_mail=self.mailer.send_test,
            cluster=cluster,
        )
