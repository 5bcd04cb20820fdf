"""From a single daemon's database to a new cluster, and back, while no daemon runs.

A cluster is made of what the streams and buckets have, so `import_database` writes these: every event that still waits
or whose id is to be remembered, the configuration, and a progress that says from where on each endpoint waits.
`export_database` reads them into one database, as a machine with an empty disk does that takes over a partition.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from webhookd.app import App
from webhookd.clock import SystemClock
from webhookd.cluster import names, setup
from webhookd.cluster.jetstream import JetStream, Unreachable
from webhookd.cluster.lease import decode as decode_lease
from webhookd.cluster.mirror import opened, sealed
from webhookd.cluster.names import CLUSTER_BUCKET, CONFIG_BUCKET, PROGRESS_BUCKET, config_key, partition_of
from webhookd.cluster.progress import ProgressValue, behind_key, decode, encode
from webhookd.cluster.publisher import BATCH_EVENTS, ENTRY_BYTES, PAYLOAD_SHARE, Publisher
from webhookd.cluster.stream import Stream
from webhookd.cluster.waited import Before, before, waited_item, waited_of
from webhookd.config import Cluster, Config
from webhookd.delivery.deps import Clustered
from webhookd.errors import ConfigError, TemporaryFailure
from webhookd.rules.encryption import Cipher
from webhookd.store import endpoints, workspaces
from webhookd.store.cluster import config as config_table
from webhookd.store.cluster import stream as table
from webhookd.store.cluster.config import Item, encoded
from webhookd.store.cluster.stream import POSITIONS, Stored
from webhookd.store.connection import StateLock
from webhookd.store.store import Db, Store

NODE = "import"
HOUR_MS = 3_600_000
PAGE_EVENTS = 5000
WITHIN_SECONDS = 30.0
LOOK_SECONDS = 0.05
_OF_THE_FILES = ("tok_admin", "tok_ingest")

Say = Callable[[str], None]


class Counts(msgspec.Struct):
    """What was moved."""

    workspaces: int = 0
    endpoints: int = 0
    events: int = 0
    left_out: int = 0


class Positions:
    """Where each partition's stream ends, and where the events stand that are asked for."""

    def __init__(self, wanted: set[int]) -> None:
        self._wanted = wanted
        self.of: dict[int, int] = {}
        self.last: dict[int, int] = {}

    def note(self, partition: int, sequence: int, events: Sequence[Stored]) -> None:
        """A message with these events has that sequence."""
        self.last[partition] = max(sequence, self.last.get(partition, sequence))
        for place, event in enumerate(events):
            if event.seq in self._wanted:
                self.of[event.seq] = sequence * POSITIONS + place


async def import_database(config: Config, database: Path, cipher: Cipher, say: Say) -> Counts:
    """Fill an empty cluster from a database whose daemon has ended.

    Raises ConfigError if the cluster isn't empty or the daemon runs, TemporaryFailure if NATS doesn't answer.
    """
    lock = StateLock(database.parent)
    await lock.acquire()
    jetstream = JetStream(config.cluster, NODE)
    try:
        await jetstream.open()
        store = await Store.open(database, 0, cipher)
        try:
            await setup.prepare(jetstream, config)
            await _must_be_empty(jetstream, config.cluster)
            return await _import(config, store, jetstream, cipher, say)
        except Unreachable as error:
            raise TemporaryFailure(f"{error}: nothing is in use yet, run it again") from error
        finally:
            await store.close()
    finally:
        await jetstream.close()
        lock.release()


async def _must_be_empty(jetstream: JetStream, cluster: Cluster) -> None:
    if await jetstream.all(CONFIG_BUCKET):
        raise ConfigError(
            "this cluster has workspaces already: a database is imported into a new one, before a machine starts"
        )
    for partition in range(cluster.partitions):  # what an import that was cut off left behind
        await jetstream.connection.jetstream().purge_stream(names.stream_name(partition))


async def _import(config: Config, store: Store, jetstream: JetStream, cipher: Cipher, say: Say) -> Counts:
    partitions = config.cluster.partitions
    since_ms = SystemClock().wall_ms() - int(config.retention.idempotency_hours * HOUR_MS)
    waiting = await store.read(table.waiting_events)
    positions = Positions({seq for _, _, seq in waiting})
    counts = Counts(left_out=await store.read(table.waiting_replays))
    after = 0
    while page := await store.read(lambda db, after=after: table.stored(db, after, since_ms, PAGE_EVENTS)):  # type: ignore[misc]
        await _publish(jetstream, partitions, page, positions)
        after = page[-1].seq
        counts.events += len(page)
        say(f"{counts.events} events")
    homes = {each.id: each for each in await store.read(endpoints.load)}
    behind: dict[int, dict[str, int]] = defaultdict(dict)
    waited: defaultdict[str, list[tuple[int, int | None]]] = defaultdict(list)
    for endpoint_id, lane_hash, event_seq in waiting:
        if event_seq in positions.of:
            home = partition_of(homes[endpoint_id].workspace, partitions)
            behind[home].setdefault(behind_key(endpoint_id, lane_hash), positions.of[event_seq])
            waited[endpoint_id].append((positions.of[event_seq], lane_hash))
    for endpoint_id, found in waited.items():  # whatever it asks for now, and whether its workspace's plan stops it
        home = partition_of(homes[endpoint_id].workspace, partitions)
        upto = (positions.last[home] + 1) * POSITIONS - 1
        value = encoded(waited_item(endpoint_id, upto, found))
        await _ask(jetstream, CONFIG_BUCKET, config_key(home, "waited", endpoint_id), value)
    for partition, last in positions.last.items():
        value = encode(ProgressValue(NODE, last, behind[partition]))
        await _ask(jetstream, PROGRESS_BUCKET, names.progress_key(partition), value)
    items = await store.read(lambda db: list(_config_items(db, partitions)))
    for key, item in items:
        await _ask(jetstream, CONFIG_BUCKET, key, encoded(sealed(item, cipher)))
        counts.workspaces += ".workspace." in key
        counts.endpoints += ".endpoint." in key
    return counts


async def _ask(jetstream: JetStream, bucket: str, key: str, value: bytes) -> None:
    await jetstream.ask(f"write {key}", lambda: jetstream.put(bucket, key, value), within_seconds=WITHIN_SECONDS)


def _config_items(db: Db, partitions: int) -> Iterator[tuple[str, Item]]:
    """Each key of the configuration's bucket with its value; the two tokens of the state directory stay behind."""
    for workspace in workspaces.load(db):
        home = partition_of(workspace.id, partitions)
        yield config_key(home, "workspace", workspace.id), config_table.workspace_item(workspace)
    for endpoint in endpoints.load(db):
        home = partition_of(endpoint.workspace, partitions)
        yield config_key(home, "endpoint", endpoint.id), config_table.endpoint_item(endpoint) | {"from_sequence": 0}
    for token_id, token in config_table.token_items(db).items():
        if token_id not in _OF_THE_FILES:
            named = token["workspace"]
            yield config_key(None if named is None else partition_of(named, partitions), "token", token_id), token
    for kind, found in (("link", config_table.link_items(db)), ("confirmation", config_table.confirmation_items(db))):
        for digest, item in found.items():
            yield config_key(partition_of(item["workspace"], partitions), kind, digest), item


async def _publish(jetstream: JetStream, partitions: int, page: Sequence[Stored], positions: Positions) -> None:
    """Publish events: those of a partition in order, all partitions at once."""
    by_partition: dict[int, list[Stored]] = defaultdict(list)
    for event in page:
        by_partition[partition_of(event.workspace, partitions)].append(event)

    async def publish_all(partition: int, events: list[Stored]) -> None:
        subject, stream = names.subject_of(partition, names.MANY), names.stream_name(partition)
        for chunk in _chunks(events, int(jetstream.max_payload_bytes * PAYLOAD_SHARE)):
            # Not a producer's: no schema is looked at once more.
            headers = {names.MSG_ID_HEADER: uuid.uuid4().hex, names.BATCH_HEADER: "1", names.REQUEST_HEADER: NODE}
            body = msgspec.msgpack.encode([(event.workspace, event.body, event.trace, event.id) for event in chunk])
            published = await jetstream.ask(
                f"publish to {stream}",
                lambda body=body, headers=headers: jetstream.publish(subject, body, headers, stream),  # type: ignore[misc]
                within_seconds=WITHIN_SECONDS,
            )
            positions.note(partition, published.sequence, chunk)

    async with asyncio.TaskGroup() as group:
        for partition, events in by_partition.items():
            group.create_task(publish_all(partition, events))


def _chunks(events: Sequence[Stored], most_bytes: int) -> Iterator[list[Stored]]:
    """Events for one message each: not too many, not too large."""
    chunk: list[Stored] = []
    size = 0
    for event in events:
        if chunk and (len(chunk) == BATCH_EVENTS or size + len(event.body) + ENTRY_BYTES > most_bytes):
            yield chunk
            chunk, size = [], 0
        chunk.append(event)
        size += len(event.body) + ENTRY_BYTES
    if chunk:
        yield chunk


async def export_database(config: Config, directory: Path, cipher: Cipher, say: Say) -> Counts:
    """Make a single daemon's database in `directory` from a cluster whose machines have all ended in peace.

    Raises ConfigError if one of them still has a partition, or there is a database; TemporaryFailure.
    """
    if (directory / config.store.path).exists():
        raise ConfigError(f"{directory / config.store.path} is there already")
    lock = StateLock(directory)
    await lock.acquire()
    jetstream = JetStream(config.cluster, NODE)
    try:
        await jetstream.open()
        for partition in range(config.cluster.partitions):
            entry = await jetstream.get(CLUSTER_BUCKET, names.lease_key(partition))
            if entry is not None and (node := decode_lease(entry.value).node):
                raise ConfigError(f"the machine {node} has partition {partition}: stop webhookd on every machine first")
        return await _export(config, directory, jetstream, cipher, say)
    except Unreachable as error:
        raise TemporaryFailure(str(error)) from error
    finally:
        await jetstream.close()
        lock.release()


async def _export(config: Config, directory: Path, jetstream: JetStream, cipher: Cipher, say: Say) -> Counts:
    entries = await jetstream.all(CONFIG_BUCKET)
    found = {key: opened(each, cipher) for key, each in entries.items() if key.count(".") > 1}
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for key, item in found.items():
        kinds[key.split(".")[1]].append(item)

    async def restore() -> None:
        def command(db: Db) -> None:
            seqs = config_table.put_workspaces(db, kinds["workspace"], SystemClock().wall_ms())
            config_table.put_endpoints(db, kinds["endpoint"], seqs, SystemClock().wall_ms())
            config_table.put_tokens(db, kinds["token"], seqs)
            config_table.put_links(db, kinds["link"])
            config_table.put_confirmations(db, kinds["confirmation"])

        await app.store.write(command)

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("nothing is published while a cluster is exported")

    clustered = Clustered(lambda: False, lambda *_: None, refuse, lambda *_: None, restore, has_default=False)
    app = await App.open(config, directory, clock=SystemClock(), cipher=cipher, clustered=clustered)
    try:
        await app.start({})
        counts = Counts(len(kinds["workspace"]), len(kinds["endpoint"]))
        from_sequence = {item["id"]: item["from_sequence"] for item in kinds["endpoint"]}
        waited = {item["id"]: waited_of(item) for item in kinds["waited"]}
        paused = {item["id"]: item["paused"] for item in kinds["workspace"] if "paused" in item}
        for partition in range(config.cluster.partitions):
            entry = await jetstream.get(PROGRESS_BUCKET, names.progress_key(partition))
            value = decode(entry.value) if entry is not None else ProgressValue()
            await _read_partition(app, jetstream, partition, before(value, from_sequence, waited, paused))
            say(f"partition {partition}")
        counts.events = await app.store.write(table.forget)
    finally:
        await app.stop()
    return counts


async def _read_partition(app: App, jetstream: JetStream, partition: int, left: Before) -> None:
    """Apply a partition's whole stream, without what the machines have finished."""
    first, last = await jetstream.last_sequence(names.stream_name(partition))
    stream = Stream(jetstream, partition, Publisher(jetstream, partition))
    stream.begin(max(0, first - 1), left, last)
    reading = asyncio.create_task(stream.run(app))
    try:
        while stream.applied < last:
            await asyncio.wait([reading], timeout=LOOK_SECONDS)
            if reading.done():
                await reading
    finally:
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
