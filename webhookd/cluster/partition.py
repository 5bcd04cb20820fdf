"""One partition while this machine has it: an app of its own, its stream, its configuration, its lease."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from webhookd import log
from webhookd.app import App
from webhookd.clock import SystemClock
from webhookd.cluster.jetstream import Conflict, JetStream, Unreachable
from webhookd.cluster.known_ids import KnownIds
from webhookd.cluster.lease import Lease, Lost
from webhookd.cluster.mirror import Local, Mirror
from webhookd.cluster.names import PASSED_EVENTS_PATH, partition_of, stream_name
from webhookd.cluster.progress import Progress, ProgressValue
from webhookd.cluster.publisher import Publisher
from webhookd.cluster.setup import settings_of
from webhookd.cluster.shared import Shared
from webhookd.cluster.stream import Stream
from webhookd.cluster.waited import Positions
from webhookd.cluster.web import passed_events
from webhookd.cluster.web.forward import FORWARDED_FROM
from webhookd.config import Config
from webhookd.delivery.deps import Clustered
from webhookd.errors import ApiError, ConfigError
from webhookd.models import DEFAULT_WORKSPACE, Accepted, Json, NewEvent, Workspace
from webhookd.rules.encryption import Cipher
from webhookd.rules.ip_policy import OwnAddress
from webhookd.store.cluster import config as config_table
from webhookd.store.cluster import stream as table
from webhookd.store.cluster.config import Item
from webhookd.store.store import Db
from webhookd.tasks import TaskEnded, TaskOwner
from webhookd.web.router import make_app
from webhookd.web.server.caller_address import ADDRESS_OF
from webhookd.web.server.http_server import Runner, handler_of
from webhookd.web.server.memory_limit import MEMORY_LIMIT, MemoryLimit
from webhookd.web.server.requests import Handler
from webhookd.web.server.responses import error_response
from webhookd.web.services import ClusterView

RENEW_SECONDS = 1.0
# For the last progress before a partition is given up: without it deliveries come again elsewhere.  Longer than NATS
# needs to elect a leader after it lost a server, and with an attempt's end within `node.STOP_SECONDS`.
FLUSH_SECONDS = 12.0
STREAM_SECONDS = 10.0
# A database of this machine that is further behind than this is not brought up to date first: it lacks history then.
CATCH_UP_MESSAGES = 50_000
# A machine without a database reads so many messages that are finished before it serves, to know their events when they
# are sent again; the rest of them later (`known_ids`).
KNOWN_MESSAGES = 10_000
ONLY_READ = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Place:
    """Where partitions live on this machine, the same for all of them."""

    node: str
    state_dir: Path
    environ: Mapping[str, str]
    cipher: Cipher
    jetstream: JetStream
    shared: Shared
    own: Sequence[OwnAddress]
    memory_limit: MemoryLimit
    cluster: ClusterView
    reading: asyncio.Semaphore  # of past messages, for their events' ids: one partition at a time


class Partition:
    """Made with a lease that was just taken; `run` keeps it, and returns when the partition is lost."""

    def __init__(self, number: int, config: Config, place: Place, lease: Lease) -> None:
        self.number = number
        self.lease = lease
        self._config = config
        self._place = place
        self._jetstream = place.jetstream
        self._publisher = Publisher(place.jetstream, number)
        self._stream = Stream(place.jetstream, number, self._publisher)
        self._progress = Progress(
            place.jetstream, number, place.node, applied=lambda: self._stream.applied, may_write=lease.holds
        )
        self._mirror = Mirror(
            place.jetstream,
            number,
            place.node,
            place.cipher,
            place.shared,
            Local(
                applied=lambda: self._stream.applied,
                read_upto=lambda: self._stream.read_upto,
                may_write=lease.holds,
                is_paused=lambda workspace: self.app is None or self.app.registry.paused(workspace.seq),
                waiting=self._waiting,
            ),
        )
        self._known_ids = KnownIds(place.jetstream, number, place.reading)
        self._before = ProgressValue()
        self._tasks = TaskOwner()
        self._runner: Runner | None = None
        self._handler: Handler | None = None
        self._fenced = False
        self._stopping = self._released = False
        self._has_started = asyncio.Event()
        self._starting: asyncio.Future[None] | None = None
        self._stop: asyncio.Future[None] | None = None
        self.app: App | None = None

    # Starting

    async def _start(self) -> None:
        """Take over where the machine before stopped.  Raises Unreachable, FatalError."""
        began = time.monotonic()
        place = self._place
        self._before = await self._progress.take_over()
        config = settings_of(self._config, self.number)
        (place.state_dir / config.store.path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        clustered = Clustered(
            may_attempt=self.lease.holds,
            gate=self.lease.send,
            publish=self._publish,
            changed=self._mirror.changed,
            restore=self._restore,
            has_default=partition_of(DEFAULT_WORKSPACE, config.cluster.partitions) == self.number,
        )
        app = await App.open(
            config,
            place.state_dir,
            clock=SystemClock(),
            cipher=place.cipher,
            clustered=clustered,
            cluster=replace(place.cluster, fenced=lambda: not self.lease.holds()),
        )
        self.app = app
        app.client.set_own(place.own)
        await app.start(place.environ)
        await self._mirror.restore_links(app.store)
        await place.shared.begin(self.number, self._put_shared)  # again: now the tokens of the files are there
        self._tasks.start("mirror", self._mirror.run)
        self._tasks.start("stream", lambda: self._stream.run(app))
        self._tasks.start("publisher", self._publisher.run)
        self._tasks.start("progress", lambda: self._progress.run(app))
        self._tasks.start("known_ids", lambda: self._known_ids.run(app, self._stream))
        place.shared.follow(self.number, self._put_shared)
        application = make_app(app.services)
        application[MEMORY_LIMIT] = self._place.memory_limit
        own_address = application[ADDRESS_OF]
        application[ADDRESS_OF] = lambda request: request.get(FORWARDED_FROM) or own_address(request)
        self._runner = Runner(application, shutdown_seconds=0)
        await self._runner.setup()
        self._handler = handler_of(application)
        log.emit(
            "cluster.partition_taken",
            partition=self.number,
            sequence=self._stream.applied,
            duration_ms=round((time.monotonic() - began) * 1000, 1),
        )

    async def _restore(self) -> None:
        """Before anything is loaded: the configuration as it stands, and nothing that is finished elsewhere."""
        assert self.app is not None
        store, value = self.app.store, self._before
        await self._mirror.restore(store, SystemClock().wall_ms())
        applied = await store.read(table.applied)
        first, last = await self._ends_of_stream(applied)
        is_others = bool(value.node) and value.node != self._place.node
        before = self._mirror.before(value)
        removed = await store.write(lambda db: table.drop_finished(db, before, others=is_others), retry_when_full=True)
        begin = applied
        if not applied or applied < value.lowest - CATCH_UP_MESSAGES:
            begin = max(applied, value.lowest - KNOWN_MESSAGES, first - 1, 0)
        known_upto = max(applied, first - 1)
        await store.write(lambda db: table.put_lane_numbers(db, value.numbers), retry_when_full=True)
        if begin > known_upto:
            await store.write(lambda db: table.begin_after(db, known_upto, begin), retry_when_full=True)
        if min(begin, value.lowest) + 1 < first and last:
            log.emit("cluster.gap", partition=self.number, sequence=min(begin, value.lowest), first=first)
        log.emit("cluster.restored", partition=self.number, sequence=begin, count=removed)
        self._stream.begin(begin, before, last)

    async def _ends_of_stream(self, applied: int) -> tuple[int, int]:
        """The stream's first and last sequence; FatalError if it has lost what is applied here."""
        ends = (0, 0)

        async def look() -> tuple[int, int]:
            nonlocal ends
            ends = await self._jetstream.last_sequence(stream_name(self.number))
            if ends[1] < applied:  # a new leader may still be reading its own log
                raise Unreachable("the stream's leader lags behind")
            return ends

        try:
            return await self._jetstream.ask("look at the stream", look, within_seconds=STREAM_SECONDS)
        except Unreachable:
            if not 0 < ends[1] < applied:
                raise
            raise ConfigError(
                f"the database of partition {self.number} has events up to {applied}, and its stream ends at "
                f"{ends[1]}: the NATS servers lost them. See webhookd help scaling-out."
            ) from None

    async def _waiting(
        self, endpoint_ids: Collection[str], read_upto: int
    ) -> tuple[int, Mapping[str, Positions]] | None:
        if self.app is None or not self._stream.caught_up.is_set() or self._stream.applied < read_upto:
            return None
        return await self.app.store.read_for_delivery(lambda db: table.waiting(db, endpoint_ids))

    async def _put_shared(self, tokens: list[Item], sessions: list[Item]) -> tuple[set[str], set[str]]:
        assert self.app is not None

        def command(db: Db) -> tuple[set[str], set[str]]:
            config_table.put_tokens(db, tokens, {}, unbound_only=True)
            config_table.put_sessions(db, sessions)
            return config_table.shared_there(db)

        there = await self.app.store.write(command)
        await self.app.services.tokens.reload()
        return there

    async def _publish(self, workspace: Workspace, new: Sequence[NewEvent], trace: str | None) -> list[Accepted]:
        return await self._publisher.publish(workspace, new, trace)

    def reload(self, config: Config) -> None:
        """Take another configuration while running."""
        self._config = config
        if self.app is not None:
            self.app.reload(settings_of(config, self.number))
            for workspace in self.app.registry.workspaces():  # its plan may have other rights now
                self._mirror.changed(workspace, True)

    # Serving

    @property
    def serves(self) -> bool:
        """Whether it answers requests."""
        return self._handler is not None and not self._stopping

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request; one that changes something only once the cluster has the change."""
        assert self._handler is not None and self._runner is not None
        if request.path == PASSED_EVENTS_PATH and FORWARDED_FROM in request:
            return await passed_events.accept(request, self._runner.app)
        response = await self._handler(request)
        if request.method in ONLY_READ or request.path.endswith("/events"):
            return response
        try:
            await self._written()
        except ApiError as error:
            return error_response(error)
        return response

    async def _written(self) -> None:
        assert self.app is not None
        await self._mirror.credentials_changed(self.app.store)
        with contextlib.suppress(Unreachable, Conflict):  # it is written again in a second
            await self._progress.write(self.app)
        await self._mirror.flushed()

    def status(self) -> Json:
        """What `cluster status` shows of it."""
        assert self.app is not None
        return {
            "partition": self.number,
            "applied": self._stream.applied,
            "progress": self._progress.written.applied,
            "behind": len(self._progress.written.behind),
            "waiting": self.app.waiting(),
            "renewed_seconds": round(self.lease.age_seconds(), 1),
            "fenced": self._fenced,
            "dead_letters": self._stream.dead_count,
        }

    # Keeping and ending

    async def started(self) -> None:
        """Return once it serves, or has failed to."""
        await self._has_started.wait()

    async def run(self) -> None:
        """Take it over, serve it and renew its lease; returns when that is lost or given up.

        Raises Unreachable and ApiError if it can't be started now, and what ended a task of it.
        """
        keeping = asyncio.ensure_future(self._keep())
        starting = self._starting = asyncio.ensure_future(self._start())
        watching: list[asyncio.Future[TaskEnded | None]] = []
        try:
            await asyncio.wait([keeping, starting], return_when=asyncio.FIRST_COMPLETED)
            if not starting.done() or starting.cancelled():
                return
            starting.result()
            self._has_started.set()
            watching = [asyncio.ensure_future(each.run_until_stopped(asyncio.Event())) for each in self._owners()]
            ends: list[asyncio.Future[Any]] = [keeping, *watching]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for each in watching:
                if each.done() and not self._stopping and (ended := each.result()) is not None:
                    raise ended
            await keeping
        finally:
            self._has_started.set()
            tasks: list[asyncio.Future[Any]] = [keeping, starting, *watching]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _owners(self) -> list[TaskOwner]:
        assert self.app is not None
        return [self._tasks, self.app.tasks]

    async def _keep(self) -> None:
        while not self._released:  # also while it ends in peace, which takes as long as an attempt
            began = time.monotonic()
            try:
                await self.lease.renew()
            except Lost:
                if self._stop is None:
                    log.emit("cluster.partition_lost", partition=self.number, reason="another machine has it")
                return
            except Unreachable as error:
                log.throttled("cluster.not_renewed", key=str(self.number), partition=self.number, error=str(error))
            self._note_fence()
            if self.lease.over():
                log.emit("cluster.partition_lost", partition=self.number, reason="its lease could not be renewed")
                return
            await asyncio.sleep(max(0.05, RENEW_SECONDS - (time.monotonic() - began)))

    def _note_fence(self) -> None:
        """Start no attempt while it isn't sure that nobody else does; go on as soon as it is."""
        fenced = not self.lease.holds()
        if fenced != self._fenced:
            self._fenced = fenced
            seconds = round(self.lease.age_seconds(), 1)
            log.emit("cluster.fenced" if fenced else "cluster.unfenced", partition=self.number, seconds=seconds)
        if not fenced and self.app is not None:
            self.app.dispatcher.review(self.app.dispatcher.waiting_endpoints())

    async def stop(self, *, release_to: str | None) -> None:
        """End it: in peace, for another machine (`release_to`, "" for any), or None where it is lost.

        Called again, it waits for the first call's end.
        """
        self._stopping = True
        if self._stop is None:
            self._stop = asyncio.ensure_future(self._end(release_to))
        await asyncio.shield(self._stop)

    async def _end(self, release_to: str | None) -> None:
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait([self._starting])
        self._place.shared.end(self.number)
        app = self.app
        if app is None:
            await self._release(release_to)
            return
        app.stop_delivering()
        app.stop_accepting()
        if release_to is not None:
            await app.dispatcher.stop()
            await self._publisher.drained()
        self._publisher.close()
        if release_to is not None:
            await self._last_writes(app)
        await self._tasks.cancel_all()
        await self._release(release_to)  # before the database is closed: another machine goes on meanwhile
        if self._runner is not None:
            await self._runner.cleanup()
        await app.stop()

    async def _release(self, to: str | None) -> None:
        if to is not None:
            self._released = True
            with contextlib.suppress(Lost, Unreachable):
                await self.lease.release(to)
            log.emit("cluster.partition_released", partition=self.number, to=to or None)

    async def _last_writes(self, app: App) -> None:
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await app.store.writer.flushed()
                await self._progress.write_last(app, within_seconds=FLUSH_SECONDS)
                await self._mirror.flushed()
        except (Unreachable, Conflict, ApiError, TimeoutError) as error:
            log.throttled("cluster.nats_failed", key="release", what="write the progress", error=f"{error}")
