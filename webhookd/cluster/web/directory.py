"""The workspaces of all partitions, for the page to choose between: followed from the bucket of the configuration."""

from __future__ import annotations

import msgspec

from webhookd.cluster.feed import Feed
from webhookd.cluster.jetstream import JetStream
from webhookd.cluster.names import CONFIG_BUCKET
from webhookd.models import Workspace
from webhookd.store.cluster.config import workspace_of

BATCH_MESSAGES = 1000
BATCH_BYTES = 1024 * 1024


class Directory:
    """All workspaces by their ids; their numbers are 0, as they differ from machine to machine."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        self._workspaces: dict[str, Workspace] = {}

    def workspaces(self) -> list[Workspace]:
        """All of them, oldest first."""
        return sorted(self._workspaces.values(), key=lambda each: each.created_at_ms)

    async def run(self) -> None:
        """A root task: follow the bucket."""
        feed = Feed(self._jetstream, f"KV_{CONFIG_BUCKET}", subject=f"$KV.{CONFIG_BUCKET}.*.workspace.*")
        try:
            while True:
                for message in await feed.next(BATCH_MESSAGES, BATCH_BYTES):
                    workspace_id = message.subject.rpartition(".")[2]
                    if message.headers.get("KV-Operation"):
                        self._workspaces.pop(workspace_id, None)
                    else:
                        self._workspaces[workspace_id] = workspace_of(msgspec.json.decode(message.body))
        finally:
            await feed.close()
