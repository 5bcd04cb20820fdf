"""A partition's configuration in the cluster: every change is written there before its caller gets the answer.

The bucket is the truth: whoever takes the partition over makes its own database so (`restore`).  A change is committed
to the database first, which checks it; a caller whose change didn't reach the bucket gets 503.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from webhookd import log
from webhookd.cluster.jetstream import Conflict, Entry, JetStream, Unreachable
from webhookd.cluster.names import CONFIG_BUCKET, config_key
from webhookd.cluster.progress import ProgressValue
from webhookd.cluster.shared import Shared
from webhookd.cluster.waited import Before, Choices, Positions, Waited, before, waited_item, waited_of
from webhookd.errors import ApiError, ConfigError
from webhookd.models import Endpoint, Workspace
from webhookd.rules.encryption import Cipher
from webhookd.store.cluster import config
from webhookd.store.cluster.config import Item, encoded
from webhookd.store.store import Db, Store

FLUSH_SECONDS = 5.0
RESTORE_SECONDS = 10.0
RETRY_SECONDS = 0.3
LOOK_SECONDS = 0.02
_SECRETS = ("headers", "signing_key", "previous_keys", "x_webhook_signature_key")


@dataclass(frozen=True, slots=True)
class Local:
    """What the partition knows: up to which sequence events are applied, and read; whether its lease lets it write.

    `waiting` tells what waits for endpoints once everything is applied up to a sequence; None: not yet.
    """

    applied: Callable[[], int]
    read_upto: Callable[[], int]
    may_write: Callable[[], bool]
    is_paused: Callable[[Workspace], bool]
    waiting: Callable[[Collection[str], int], Awaitable[tuple[int, Mapping[str, Positions]] | None]]


class Mirror:
    """Writes one partition's configuration to the bucket, and reads it from there."""

    def __init__(
        self,
        jetstream: JetStream,
        partition: int,
        node: str,
        cipher: Cipher,
        shared: Shared,
        local: Local,
    ) -> None:
        self._jetstream = jetstream
        self._partition = partition
        self._node = node
        self._cipher = cipher
        self._shared = shared
        self._local = local
        self._choices = Choices(local.is_paused)
        self._waited: dict[str, Waited] = {}  # by endpoint, as the machine before left it
        self._to_keep: set[str] = set()  # the endpoints of which is to be written what waits for them
        self._keep_upto = 0  # once so much is applied
        self._links: list[Item] = []
        self._kept: dict[str, bytes] = {}  # what the bucket has, its secrets plain
        self._revisions: dict[str, int] = {}  # of the partition's own keys: who has lost it overwrites nothing later
        self._unwritten: dict[str, Item | None] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.from_sequence: dict[str, int] = {}  # by endpoint: it gets the events after that

    # Towards the bucket

    def changed(self, what: Workspace | Endpoint, is_there: bool) -> None:  # noqa: FBT001 - as `registry.Changed`
        """A workspace or an endpoint was committed, or deleted."""
        if isinstance(what, Workspace):
            self._workspace_changed(what, is_there)
        else:
            self._endpoint_changed(what, is_there)

    def _workspace_changed(self, workspace: Workspace, is_there: bool) -> None:  # noqa: FBT001
        if is_there:
            self._keep(self._choices.put_workspace(workspace))
        else:
            self._choices.remove_workspace(workspace)
        item = config.workspace_item(workspace) | {"paused": self._choices.paused.get(workspace.id, False)}
        self._note(config_key(self._partition, "workspace", workspace.id), item, is_there)

    def _endpoint_changed(self, endpoint: Endpoint, is_there: bool) -> None:  # noqa: FBT001
        if is_there:
            self._keep(self._choices.put_endpoint(endpoint))
        else:
            self._choices.remove_endpoint(endpoint)
            self._note(config_key(self._partition, "waited", endpoint.id), {}, False)
        since = self.from_sequence.setdefault(endpoint.id, self._local.applied())
        item = config.endpoint_item(endpoint) | {"from_sequence": since}
        self._note(config_key(self._partition, "endpoint", endpoint.id), item, is_there)

    def _keep(self, endpoint_ids: Collection[str]) -> None:
        """Before any other change: write what waits for endpoints that ask for something else from now on."""
        if endpoint_ids:
            self._to_keep.update(endpoint_ids)
            self._keep_upto = self._local.read_upto()
            self._start_writing()

    async def _note_waiting(self) -> bool:
        endpoint_ids, self._to_keep = self._to_keep, set()
        found = await self._local.waiting(endpoint_ids, self._keep_upto)
        if found is None:
            self._to_keep |= endpoint_ids
            return False
        upto, positions = found
        later, self._unwritten = self._unwritten, {}
        for endpoint_id in endpoint_ids:
            waiting = positions[endpoint_id]
            key = config_key(self._partition, "waited", endpoint_id)
            self._note(key, waited_item(endpoint_id, upto, waiting) if waiting else {}, bool(waiting))
        self._unwritten |= {key: item for key, item in later.items() if key not in self._unwritten}
        return True

    async def credentials_changed(self, store: Store) -> None:
        """Tokens, sessions and links that were sent or shown may have changed: look, and note what did."""
        tokens = await store.read_for_sign_in(config.token_items)
        sessions = await store.read_for_sign_in(config.session_items)
        own = {
            "token": {each: item for each, item in tokens.items() if item["workspace"] is not None},
            "link": await store.read_for_sign_in(config.link_items),
            "confirmation": await store.read_for_sign_in(config.confirmation_items),
        }
        for kind, items in own.items():
            there = {config_key(self._partition, kind, each): item for each, item in items.items()}
            for key, item in there.items():
                self._note(key, item, True)
            prefix = config_key(self._partition, kind, "")
            for key in [key for key in self._kept if key.startswith(prefix) and key not in there]:
                self._note(key, {}, False)
        unbound = {each: item for each, item in tokens.items() if item["workspace"] is None}
        for key, shared in self._shared.differences(self._partition, unbound, sessions):
            self._unwritten[key] = shared
            self._start_writing()

    def _note(self, key: str, item: Item, is_there: bool) -> None:  # noqa: FBT001
        if is_there and self._unwritten.get(key, item) == item and self._kept.get(key) == encoded(item):
            return
        if not is_there and key not in self._kept and key not in self._unwritten:
            return
        self._unwritten[key] = item if is_there else None
        self._start_writing()

    def _start_writing(self) -> None:
        self._idle.clear()
        self._wake.set()

    async def flushed(self) -> None:
        """Return once the bucket has every change until now; ApiError `unavailable` if that takes too long."""
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._idle.wait()
        except TimeoutError:
            raise ApiError(
                "unavailable",
                "The cluster has no majority just now: the change may get lost. Look again in a moment.",
                retry_after_seconds=2,
            ) from None

    async def run(self) -> None:
        """A root task: write what has changed, until it is written."""
        self._keep(self._waited)  # as it is now, which is mostly nothing
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._unwritten or self._to_keep:
                if self._to_keep:
                    if not await self._note_waiting():
                        await asyncio.sleep(LOOK_SECONDS)
                elif not await self._write(next(iter(self._unwritten))):
                    await asyncio.sleep(RETRY_SECONDS)
            self._idle.set()

    async def _write(self, key: str) -> bool:
        item = self._unwritten[key]
        if not self._local.may_write():
            return False
        is_own = key.startswith(f"p{self._partition}.")
        revision = self._revisions.get(key, 0) if is_own else None
        try:
            if item is None:
                revision = await self._jetstream.delete(CONFIG_BUCKET, key, revision)
            else:
                revision = await self._jetstream.put(CONFIG_BUCKET, key, encoded(sealed(item, self._cipher)), revision)
        except (Unreachable, Conflict) as error:
            log.throttled("cluster.nats_failed", key="mirror", what=f"write {key.split('.')[1]}", error=str(error))
            if isinstance(error, Conflict):
                await self._look(key)
            return False
        if is_own:
            self._revisions[key] = revision
        if item is None:
            self._kept.pop(key, None)
        else:
            self._kept[key] = encoded(item)
        if self._unwritten.get(key) is item:
            del self._unwritten[key]
        return True

    async def _look(self, key: str) -> None:
        """Somebody wrote: this process itself, by a write that wasn't answered, or the next owner, who is right."""
        with contextlib.suppress(Unreachable):
            self._revisions[key] = await self._jetstream.revision(CONFIG_BUCKET, key)

    # From the bucket

    async def restore(self, store: Store, now_ms: int) -> None:
        """Make the database's configuration the bucket's.  Raises Unreachable, ConfigError (a key is missing)."""
        found = await self._jetstream.ask(
            f"read the configuration of partition {self._partition}", self._read, within_seconds=RESTORE_SECONDS
        )
        items = {key: opened(entry, self._cipher) for key, entry in found.items() if key.count(".") > 1}
        self._revisions = {key: entry.revision for key, entry in found.items()}
        self._kept = {key: encoded(item) for key, item in items.items()}
        kinds: defaultdict[str, list[Item]] = defaultdict(list)
        for key, item in items.items():
            kinds[key.split(".")[1]].append(item)
        self.from_sequence = {item["id"]: item["from_sequence"] for item in kinds["endpoint"]}
        self._choices.restore(kinds["workspace"], kinds["endpoint"])
        self._waited = {item["id"]: waited_of(item) for item in kinds["waited"]}
        self._links = kinds["link"]

        async def put(shared_tokens: list[Item], sessions: list[Item]) -> tuple[set[str], set[str]]:
            def command(db: Db) -> tuple[set[str], set[str]]:
                seqs = config.put_workspaces(db, kinds["workspace"], now_ms)
                config.put_endpoints(db, kinds["endpoint"], seqs, now_ms)
                config.put_tokens(db, [*kinds["token"], *shared_tokens], seqs)
                config.put_sessions(db, sessions)
                config.put_confirmations(db, kinds["confirmation"])
                return config.shared_there(db)

            return await store.write(command, retry_when_full=True)

        await self._shared.begin(self._partition, put)

    async def restore_links(self, store: Store) -> None:
        """Links into the portal, once all tokens are there that they were made with."""
        await store.write(lambda db: config.put_links(db, self._links), retry_when_full=True)

    def before(self, value: ProgressValue) -> Before:
        """What the machine before left, with its progress."""
        return before(value, self.from_sequence, self._waited, self._choices.paused)

    async def _read(self) -> Mapping[str, Entry]:
        # What the leader has after this write has everything that was answered before.
        revision = await self._jetstream.put(CONFIG_BUCKET, f"p{self._partition}.owner", self._node.encode())
        return await self._jetstream.all(CONFIG_BUCKET, f"p{self._partition}", at_least=revision)


def sealed(item: Item, cipher: Cipher) -> Item:
    """An endpoint with its secrets encrypted, where there is a database key."""
    if "signing_key" not in item or not cipher.name:
        return item
    secrets = encoded({name: item[name] for name in _SECRETS}).decode()
    rest = {name: value for name, value in item.items() if name not in _SECRETS}
    return rest | {"sealed": cipher.encrypt(secrets, f"cluster {item['id']}")}


def opened(entry: Entry, cipher: Cipher) -> dict[str, Any]:
    """An item as `sealed` got it.  Raises ConfigError without the key."""
    item: dict[str, Any] = msgspec.json.decode(entry.value)
    found = item.pop("sealed", None)
    if found is None:
        return item
    plain = cipher.decrypt(found, f"cluster {item['id']}")
    if not plain:
        raise ConfigError(
            "the cluster's configuration is encrypted by a database key that this machine doesn't have: give it "
            "the same as the others (the credential database-key, or store.key_file)"
        )
    secrets: dict[str, Any] = msgspec.json.decode(plain)
    return item | secrets
