"""What every partition on every machine has: unbound tokens, and the sessions of the page.

They are made in one partition, written to the bucket by its mirror, and come to all others by a feed of the bucket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import msgspec

from webhookd import log
from webhookd.cluster.feed import Feed
from webhookd.cluster.jetstream import JetStream
from webhookd.cluster.names import CONFIG_BUCKET, config_key
from webhookd.store.cluster.config import Item

BATCH_MESSAGES = 1000
BATCH_BYTES = 1024 * 1024
_TOKEN, _SESSION = config_key(None, "token", ""), config_key(None, "session", "")
# Puts tokens and sessions into one partition's database; returns the ids of those that are there then.
Put = Callable[[list[Item], list[Item]], Awaitable[tuple[set[str], set[str]]]]


class Shared:
    """The tokens and sessions of the whole cluster, by their keys in the bucket."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        self._items: dict[str, dict[str, Any]] = {}
        self._workspaces: dict[str, str] = {}
        self._puts: dict[int, Put] = {}  # by partition that is served here
        self._known: dict[int, set[str]] = {}  # which keys each of these had when it was last looked at

    async def load(self) -> None:
        """Read all of it.  Raises Unreachable."""
        found = await self._jetstream.all(CONFIG_BUCKET, "all")
        self._items = {key: msgspec.json.decode(entry.value) for key, entry in found.items()}
        self._index()

    async def run(self) -> None:
        """A root task: follow what changes, and put it into the partitions that are served here."""
        feed = Feed(self._jetstream, f"KV_{CONFIG_BUCKET}", subject=f"$KV.{CONFIG_BUCKET}.all.>")
        try:
            while True:
                for message in await feed.next(BATCH_MESSAGES, BATCH_BYTES):
                    key = message.subject.removeprefix(f"$KV.{CONFIG_BUCKET}.")
                    if message.headers.get("KV-Operation"):
                        self._items.pop(key, None)
                    else:
                        self._items[key] = msgspec.json.decode(message.body)
                self._index()
                await self._put_all()
        finally:
            await feed.close()

    def workspace_of(self, secret_sha256: str) -> str:
        """The workspace that a session of the page is for, by the hash of its cookie; "" if for all, or unknown."""
        return self._workspaces.get(secret_sha256, "")

    def _index(self) -> None:
        self._workspaces = {
            item["secret_sha256"]: item["workspace"] or item["token_workspace"] or "" for item in self._of(_SESSION)
        }

    async def begin(self, partition: int, put: Put) -> None:
        """Put everything into a partition that is being restored."""
        self._note(partition, *await put(self._of(_TOKEN), self._of(_SESSION)))

    def follow(self, partition: int, put: Put) -> None:
        """From now on, put what changes into a partition."""
        self._puts[partition] = put

    def end(self, partition: int) -> None:
        """The partition is no longer served here."""
        self._puts.pop(partition, None)
        self._known.pop(partition, None)

    def differences(
        self, partition: int, tokens: Mapping[str, Item], sessions: Mapping[str, Item]
    ) -> Iterator[tuple[str, Item | None]]:
        """What a partition's own tables have and the cluster hasn't, by its key; None for what was deleted there."""
        known = self._known.setdefault(partition, set())
        there = {_TOKEN + each: item for each, item in tokens.items() if not _is_local(each)}
        there |= {_SESSION + each: item for each, item in sessions.items()}
        for key, item in there.items():
            if key not in known:
                known.add(key)
                yield key, item
        for key in [key for key in known if key not in there]:
            known.remove(key)
            yield key, None

    async def _put_all(self) -> None:
        tokens, sessions = self._of(_TOKEN), self._of(_SESSION)
        for partition, put in list(self._puts.items()):
            try:
                self._note(partition, *await put(tokens, sessions))
            except Exception as error:  # noqa: BLE001 - the partition may be ending, and gets it when it starts again
                log.throttled("cluster.nats_failed", key="shared", what="share tokens", error=f"{error}")
                await asyncio.sleep(0)

    def _note(self, partition: int, token_ids: set[str], session_ids: set[str]) -> None:
        known = {_TOKEN + each for each in token_ids if not _is_local(each)}
        self._known[partition] = known | {_SESSION + each for each in session_ids}

    def _of(self, prefix: str) -> list[Item]:
        return [item for key, item in self._items.items() if key.startswith(prefix)]


def _is_local(token_id: str) -> bool:
    """The two tokens of the first start are in every machine's files."""
    return token_id in ("tok_admin", "tok_ingest")
