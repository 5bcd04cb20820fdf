"""This machine in the cluster: takes partitions, keeps them, hands them over, and serves all of them as one daemon."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path

import msgspec
from aiohttp import hdrs, web

from webhookd import log
from webhookd._version import __version__
from webhookd.app import SHUTDOWN_SECONDS
from webhookd.cluster import setup
from webhookd.cluster.jetstream import Conflict, JetStream, Unreachable
from webhookd.cluster.lease import Lease, LeaseValue, Lost
from webhookd.cluster.membership import Membership, NodeValue, View, assign, free
from webhookd.cluster.names import CLUSTER_BUCKET, drain_key, node_key, partition_of
from webhookd.cluster.partition import Partition, Place
from webhookd.cluster.report import Report
from webhookd.cluster.shared import Shared
from webhookd.cluster.web.directory import Directory
from webhookd.cluster.web.forward import Forwarder
from webhookd.cluster.web.front import Front, Places
from webhookd.cluster.web.passed_events import EventCollector
from webhookd.config import Config
from webhookd.errors import ApiError, FatalError, TemporaryFailure
from webhookd.models import DEFAULT_WORKSPACE
from webhookd.rules.encryption import Cipher
from webhookd.rules.ip_policy import OwnAddress
from webhookd.store.store import Store
from webhookd.systemd import Heartbeat
from webhookd.tasks import KeyedLocks, TaskOwner
from webhookd.web.server.caller_address import address_behind
from webhookd.web.server.guard import is_local_program
from webhookd.web.server.http_server import Runner
from webhookd.web.server.memory_limit import MemoryLimit
from webhookd.web.server.requests import Handler
from webhookd.web.services import ClusterView

LOOK_SECONDS = 0.5
# A share that is the same so many times in a row is acted on: machines that start together don't hand over to and fro.
STEADY_LOOKS = 6
STARTING_AT_ONCE = 4
STOP_SECONDS = 20.0
# After the first partitions were taken.
PREPARE_SECONDS = 5.0


class Node:
    """Made by `open`, inside the running loop; see `daemon.Served` for the rest."""

    def __init__(self, config: Config, state_dir: Path, token: str, cipher: Cipher, unsafe: list[str]) -> None:
        self._config = config
        self._state_dir = state_dir
        self._cipher = cipher
        self._unsafe = unsafe
        self.tasks = TaskOwner()
        self.node = setup.node_of(state_dir)
        self._boot = secrets.token_hex(6)
        self._token = token
        self._forwarder = Forwarder(token)
        self._collector = EventCollector(token)
        self._partitions: dict[int, Partition] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._changing: dict[int, asyncio.Task[None]] = {}  # being taken or handed over
        self._view: View | None = None
        self._steady: tuple[dict[int, str], int] = ({}, 0)
        self._advertise = config.cluster.advertise
        self._listening = asyncio.Event()
        self._stopping = False
        self._leaving: asyncio.Future[None] | None = None
        self._preparing: asyncio.Future[None] | None = None
        self._files = KeyedLocks()  # by partition: one opens its database at a time
        self._starting = asyncio.Semaphore(STARTING_AT_ONCE)
        self._reading = asyncio.Semaphore(1)
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._memory_limit = MemoryLimit()
        self._own: Sequence[OwnAddress] = ()
        self._environ: Mapping[str, str] = {}

    @classmethod
    async def open(cls, config: Config, state_dir: Path, environ: Mapping[str, str], cipher: Cipher) -> Node:
        """Connect to NATS and make or check what is there.  Raises ConfigError, TemporaryFailure."""
        token = setup.shared_secret(config.cluster, environ)
        setup.make_first_tokens(state_dir, token)
        jetstream = JetStream(config.cluster, setup.node_of(state_dir))
        await jetstream.open()
        try:
            unsafe = await setup.prepare(jetstream, config)
            node = cls(config, state_dir, token, cipher, unsafe)
            await node._join(jetstream)
        except BaseException:
            await jetstream.close()
            raise
        return node

    async def _join(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        cluster = self._config.cluster
        self._membership = Membership(jetstream, cluster.partitions, cluster.lease_seconds)
        self._shared = Shared(jetstream)
        self._directory = Directory(jetstream)
        self._report = Report(jetstream, cluster.partitions, self.node, self._unsafe, self._owned)
        try:
            await jetstream.ask("read the tokens", self._shared.load, within_seconds=10)
        except Unreachable as error:
            raise TemporaryFailure(str(error)) from error

    def settings(self) -> Config:
        """The configuration as it is now."""
        return self._config

    async def start(self, environ: Mapping[str, str]) -> None:
        """Start every task; partitions are taken once the API is served."""
        self._environ = environ
        self.tasks.start("shared", self._shared.run)
        self.tasks.start("directory", self._directory.run)
        self.tasks.start("membership", self._look_on)
        self.tasks.start("partitions", self._watch)
        self.tasks.start("heartbeat", Heartbeat(self._stuck, lambda late_seconds: None).run)

    def runner(self) -> Runner:
        """What serves the API and the page of all partitions."""
        cluster = self._config.cluster
        places = Places(
            cluster.partitions,
            self._local,
            self._owner,
            self._trouble,
            self._metrics,
            self._shared.workspace_of,
            self._trusted,
        )
        address_of = address_behind(self._config.listen.trusted_proxies)
        front = Front(places, self._forwarder, self._collector, self._token, address_of)
        return Runner(web.Application(), shutdown_seconds=SHUTDOWN_SECONDS, front=front.answer)

    def listening(self, own: Sequence[OwnAddress], url: str) -> None:
        """The API is served: from now on partitions are taken."""
        self._own = own
        self._advertise = self._advertise or url
        self._listening.set()
        self._preparing = asyncio.ensure_future(self._prepare_databases())

    def waiting(self) -> int:
        """How many deliveries wait, of the partitions that are here."""
        return sum(each.app.waiting() for each in self._partitions.values() if each.app is not None)

    def sign_in_link(self, page: str) -> str | None:
        """A link that signs in to the page, if the home partition is here."""
        home = self._partitions.get(partition_of(DEFAULT_WORKSPACE, self._config.cluster.partitions))
        return home.app.sign_in_link(page) if home is not None and home.app is not None else None

    def reload(self, config: Config) -> None:
        """Take another configuration while running."""
        self._config = config
        for each in self._partitions.values():
            each.reload(config)

    def stop_delivering(self) -> None:
        """Hand over every partition, now: requests that still come are passed on to their new owners."""
        if self._leaving is None:
            self._stopping = True
            self._leaving = asyncio.ensure_future(self._leave())

    def end_streams(self) -> None:
        """End live streams."""
        for each in self._partitions.values():
            if each.app is not None:
                each.app.end_streams()

    async def stop(self) -> None:
        """Leave, when every partition is handed over."""
        self.stop_delivering()
        if self._leaving is not None:
            await self._leaving
        for task in (*self._running.values(), *self._changing.values(), self._preparing):
            if task is not None:
                task.cancel()
        await self.tasks.cancel_all()
        await self._forwarder.close()
        await self._collector.close()
        await self._jetstream.close()

    async def _leave(self) -> None:
        others = [node for node in self._view.alive if node != self.node] if self._view else []
        owners = self._view.owners() if self._view else {}
        targets = assign(self._config.cluster.partitions, owners, others)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                gives = [self._give(each, targets.get(each, "")) for each in self._partitions]
                await asyncio.gather(*gives, *self._changing.values())  # what is being taken is given back by itself
                await self._jetstream.delete(CLUSTER_BUCKET, node_key(self.node))
        except (TimeoutError, Unreachable) as error:
            log.emit("task.ended", task="membership", error=str(error) or "the partitions were not released in time")

    # Looking

    async def _look_on(self) -> None:
        """A root task: twice a second, a sign of life, a look, and what follows from it."""
        await self._listening.wait()
        while True:
            try:
                await self._look()
            except (Unreachable, Conflict) as error:
                log.throttled("cluster.nats_failed", key="look", what="look at the cluster", error=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        if not self._stopping:
            value = NodeValue(self.node, self._advertise, __version__)
            await self._jetstream.put(CLUSTER_BUCKET, node_key(self.node), msgspec.json.encode(value))
        view = self._view = await self._membership.look()
        if self._stopping:
            return
        assigned = assign(self._config.cluster.partitions, view.owners(), view.alive)
        before, times = self._steady
        self._steady = (assigned, times + 1 if assigned == before else 1)
        for partition in free(view, self.node, assigned, self._config.cluster.lease_seconds):
            if partition not in self._partitions:
                self._change(partition, self._take(partition, view.revisions.get(partition, 0)))
        self._hand_over(assigned)

    def _hand_over(self, assigned: Mapping[int, str]) -> None:
        """Give one partition to a machine that has fewer, where that has been so for a moment."""
        if self._steady[1] < STEADY_LOOKS or self._changing:
            return
        for partition in self._partitions:
            target = assigned.get(partition, self.node)
            if target != self.node:
                self._change(partition, self._give(partition, target))
                return

    def _change(self, partition: int, change: Coroutine[object, object, None]) -> None:
        if partition in self._changing:
            change.close()
            return
        task = self._changing[partition] = asyncio.ensure_future(change)
        task.add_done_callback(lambda _: self._changing.pop(partition, None))

    # Partitions

    async def _take(self, number: int, revision: int) -> None:
        cluster = self._config.cluster
        lease = Lease(
            self._jetstream,
            number,
            LeaseValue(self.node, self._advertise, self._boot),
            lease_seconds=cluster.lease_seconds,
            attempt_seconds=lambda: self._config.delivery.timeout_seconds,
        )
        async with self._starting, self._files.of(str(number)):
            try:
                await lease.take(revision)
            except (Lost, Unreachable):
                return  # the next look shows who has it
            if self._stopping:
                with contextlib.suppress(Lost, Unreachable):
                    await lease.release("")
                return
            view = ClusterView(self._status, self._drain, self._directory.workspaces)
            place = Place(
                self.node, self._state_dir, self._environ, self._cipher, self._jetstream, self._shared, self._own,
                self._memory_limit, view, self._reading,
            )  # fmt: skip
            partition = self._partitions[number] = Partition(number, self._config, place, lease)
            self._running[number] = asyncio.ensure_future(self._run(partition))
            await partition.started()

    async def _run(self, partition: Partition) -> None:
        """Serve a partition until it is lost; whatever else ends it ends the daemon."""
        try:
            await partition.run()
        except (Unreachable, ApiError) as error:
            log.emit("cluster.partition_lost", partition=partition.number, reason=f"it could not be started: {error}")
        except Exception as error:  # noqa: BLE001 - any error ends the daemon (`_watch`)
            if not self._failed.done():
                self._failed.set_exception(error)
        try:
            await partition.stop(release_to=None)
        except Exception as error:  # noqa: BLE001 - as above
            if not self._failed.done():
                self._failed.set_exception(error)
        if self._partitions.get(partition.number) is partition:
            del self._partitions[partition.number]
        self._running.pop(partition.number, None)

    async def _prepare_databases(self) -> None:
        """Make the database of each partition that has none: on a busy disk a takeover would wait seconds for it."""
        await asyncio.sleep(PREPARE_SECONDS)
        for number in range(self._config.cluster.partitions):
            path = self._state_dir / setup.settings_of(self._config, number).store.path
            async with self._files.of(str(number)):
                if number in self._partitions or path.exists() or self._stopping:
                    continue
                with contextlib.suppress(FatalError, OSError):  # it is said when the partition is taken
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    await (await Store.open(path, 0, self._cipher)).close()

    async def _give(self, number: int, target: str) -> None:
        partition = self._partitions.get(number)
        if partition is None:
            return
        await partition.stop(release_to=target)
        if self._partitions.get(number) is partition:
            del self._partitions[number]

    async def _watch(self) -> None:
        """A root task: raises what a partition failed with."""
        await self._failed

    # For the front and the API

    def _local(self, number: int) -> Handler | None:
        partition = self._partitions.get(number)
        return partition.answer if partition is not None and partition.serves else None

    def _trusted(self, request: web.Request) -> dict[str, str]:
        listen = self._config.listen
        if (
            not listen.trust_local_ingest
            or hdrs.AUTHORIZATION in request.headers
            or not request.path.endswith("/events")
            or not is_local_program(request, loopback=not listen.public_url)
        ):
            return {}
        return {hdrs.AUTHORIZATION: f"Bearer {(self._state_dir / 'ingest-token').read_text('ascii').strip()}"}

    def _owner(self, number: int) -> str:
        value = self._view.leases.get(number) if self._view else None
        return value.advertise if value is not None and value.node not in ("", self.node) else ""

    def _owned(self) -> list[Partition]:
        return [each for each in self._partitions.values() if each.serves]

    async def _trouble(self) -> str:
        if not self._jetstream.connected:
            return "there is no connection to NATS"
        if self._view is None:
            return "it has not seen the cluster yet"
        return await self._stuck()

    async def _stuck(self) -> str:
        """What is wrong with this machine itself, so that a restart helps."""
        for each in self._owned():
            if each.app is not None and (trouble := await each.app.trouble()):
                return f"partition {each.number}: {trouble}"
        return ""

    async def _metrics(self) -> str:
        return await self._report.metrics(self._view)

    async def _status(self) -> dict[str, object]:
        return await self._report.status(self._view)

    async def _drain(self, node: str, is_on: bool) -> None:  # noqa: FBT001 - as ClusterView.drain
        if self._view is None or node not in self._view.nodes:
            raise ApiError("not_found", f"There is no machine {node!r}. `webhookd cluster status` shows them.")
        try:
            if is_on:
                await self._jetstream.put(CLUSTER_BUCKET, drain_key(node), b"{}")
            else:
                await self._jetstream.delete(CLUSTER_BUCKET, drain_key(node))
        except Unreachable as error:
            raise ApiError("unavailable", f"The cluster doesn't answer: {error}", retry_after_seconds=2) from error
