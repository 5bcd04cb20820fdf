"""Who is there, who has which partition, and who is to have it: looked at every second, the same from every machine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from webhookd.cluster import lease
from webhookd.cluster.jetstream import Entry, JetStream
from webhookd.cluster.lease import LeaseValue
from webhookd.cluster.names import CLUSTER_BUCKET, drain_key, lease_key, node_key

# A machine is gone before its leases are, so that these are taken at once when they end.
NODE_SHARE = 0.6
# How long the machine that a released partition is meant for may take before any other does.
MEANT_SECONDS = 3.0
# How long after its lease's end a partition is left to the machine that is to have it.  One that has just joined counts
# the lease from its own first look.
OVERDUE_SECONDS = 1.0


class NodeValue(msgspec.Struct, frozen=True):
    """A machine's sign of life: see `names`."""

    node: str
    advertise: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A key as it was first seen at its present revision, by the monotonic clock."""

    entry: Entry
    since: float


@dataclass(frozen=True, slots=True)
class View:
    """The cluster as this machine sees it: machines alive and not drained, all signs of life, leases by partition."""

    alive: tuple[str, ...]
    draining: frozenset[str]
    nodes: Mapping[str, NodeValue]
    leases: Mapping[int, LeaseValue]
    revisions: Mapping[int, int]
    unchanged_seconds: Mapping[int, float]

    def owners(self) -> dict[int, str]:
        """Who has each partition, as its lease says."""
        return {partition: each.node for partition, each in self.leases.items() if each.node}


class Membership:
    """Looks at the bucket and remembers since when each key has been as it is."""

    def __init__(self, jetstream: JetStream, partitions: int, lease_seconds: float) -> None:
        self._jetstream = jetstream
        self._partitions = partitions
        self._lease_seconds = lease_seconds
        self._seen: dict[str, Seen] = {}

    async def look(self) -> View:
        """The cluster now.  Raises Unreachable."""
        found = await self._jetstream.all(CLUSTER_BUCKET)
        now = time.monotonic()
        before, self._seen = self._seen, {}
        for key, entry in found.items():
            known = before.get(key)
            self._seen[key] = known if known and known.entry.revision == entry.revision else Seen(entry, now)
        nodes = {
            value.node: value
            for key, seen in self._seen.items()
            if key.startswith(node_key("")) and (value := _node(seen.entry.value))
        }
        draining = frozenset(key.removeprefix(drain_key("")) for key in self._seen if key.startswith(drain_key("")))
        fresh = [node for node in nodes if now - self._seen[node_key(node)].since < NODE_SHARE * self._lease_seconds]
        leases = {each: seen for each in range(self._partitions) if (seen := self._seen.get(lease_key(each)))}
        return View(
            alive=tuple(sorted(node for node in fresh if node not in draining)),
            draining=draining,
            nodes=nodes,
            leases={each: lease.decode(seen.entry.value) for each, seen in leases.items()},
            revisions={each: seen.entry.revision for each, seen in leases.items()},
            unchanged_seconds={each: now - seen.since for each, seen in leases.items()},
        )


def _node(value: bytes) -> NodeValue | None:
    try:
        return msgspec.json.decode(value, type=NodeValue)
    except msgspec.DecodeError:
        return None


def assign(partitions: int, owners: Mapping[int, str], nodes: Collection[str]) -> dict[int, str]:
    """Who is to have each partition: all as many, or one more, and nothing moves that needn't.

    The same on every machine that sees the same.
    """
    if not nodes:
        return {}
    kept = Counter(node for node in owners.values() if node in nodes)
    ranked = sorted(nodes, key=lambda node: (-kept[node], node))
    least, more = divmod(partitions, len(ranked))
    room = {node: least + (place < more) for place, node in enumerate(ranked)}
    assigned: dict[int, str] = {}
    for partition in range(partitions):
        owner = owners.get(partition, "")
        if room.get(owner, 0) > 0:
            assigned[partition] = owner
            room[owner] -= 1
    free = [node for node in ranked for _ in range(room[node])]
    left = [partition for partition in range(partitions) if partition not in assigned]
    return assigned | dict(zip(left, free, strict=True))


def free(view: View, node: str, assigned: Mapping[int, str], lease_seconds: float) -> list[int]:
    """The partitions that `node` may take: those that it is to have, and those that nobody has taken in time."""
    if node not in view.alive:
        return []
    return [
        each for each, target in assigned.items() if _is_free(view, each, node, lease_seconds, is_own=target == node)
    ]


def _is_free(view: View, partition: int, node: str, lease_seconds: float, *, is_own: bool) -> bool:
    """Whether nobody has it, or its owner is surely past its last attempt."""
    value = view.leases.get(partition)
    if value is None or value.node == node:  # of an earlier process of this machine, which has ended
        return is_own
    unchanged_seconds = view.unchanged_seconds[partition]
    if not value.node:
        is_meant = value.to in ("", node) or value.to not in view.alive or unchanged_seconds > MEANT_SECONDS
        return is_own and is_meant
    return unchanged_seconds > lease_seconds + (0 if is_own else OVERDUE_SECONDS)
