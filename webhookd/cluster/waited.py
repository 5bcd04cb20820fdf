"""What waited for an endpoint when it began to ask for other events, or when its workspace's plan stopped or returned.

Whoever takes a partition over with an empty disk applies past events by what endpoints ask for *now*.  For those that
came before a change, the bucket of the configuration has which of them waited: written before the change is answered,
and only where something waited.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import msgspec
from msgspec import Struct

from webhookd.cluster.progress import ProgressValue, behind_key
from webhookd.models import Endpoint, Workspace
from webhookd.store.cluster.config import Item
from webhookd.store.cluster.stream import POSITIONS

# What fits into one entry of the bucket.  Of more, the oldest are kept.
MOST_BYTES = 700_000

Positions = Sequence[tuple[int, int | None]]  # with the hash of the key, in order


class Waited(Struct, frozen=True):
    """The events up to the position `upto` that waited for an endpoint, each with the hash of its key."""

    upto: int
    positions: dict[int, int | None]


def waited_item(endpoint_id: str, upto: int, positions: Positions) -> dict[str, Any]:
    """The entry of the bucket."""
    packed = _packed(positions)
    while len(packed) > MOST_BYTES:
        positions = positions[: len(positions) // 2]
        upto, packed = positions[-1][0], _packed(positions)
    return {"id": endpoint_id, "upto": upto, "waited": b64encode(packed).decode()}


def _packed(positions: Positions) -> bytes:
    places = [0, *(position for position, _ in positions)]
    hashes = [lane_hash for _, lane_hash in positions]
    steps = [after - before for before, after in pairwise(places)]
    return zlib.compress(msgspec.msgpack.encode([steps, hashes if any(each is not None for each in hashes) else []]))


def waited_of(item: Item) -> Waited:
    """What `waited_item` made."""
    steps, hashes = msgspec.msgpack.decode(
        zlib.decompress(b64decode(item["waited"])), type=tuple[list[int], list[int | None]]
    )
    places = list(accumulate(steps))
    return Waited(item["upto"], dict(zip(places, hashes or [None] * len(places), strict=True)))


class Choices:
    """What each endpoint asks for, and whether each workspace's plan stops it, as the bucket has it or is to."""

    def __init__(self, is_paused: Callable[[Workspace], bool]) -> None:
        self._is_paused = is_paused
        self._of: dict[str, tuple[str, object]] = {}  # by endpoint: its workspace, and what it asks for
        self.paused: dict[str, bool] = {}  # by workspace

    def restore(self, workspaces: Iterable[Item], endpoints: Iterable[Item]) -> None:
        """Take what the bucket has."""
        self.paused = {each["id"]: each["paused"] for each in workspaces if "paused" in each}
        self._of = {
            each["id"]: (
                each["workspace"],
                (tuple(each["event_types"]), each.get("filters", ""), (each.get("ordering") or {}).get("key")),
            )
            for each in endpoints
        }

    def put_workspace(self, workspace: Workspace) -> Collection[str]:
        """Take a workspace; the endpoints for which it is to be kept what waits."""
        before, paused = self.paused.get(workspace.id), self._is_paused(workspace)
        self.paused[workspace.id] = paused
        if before is None or before is paused:
            return ()
        return [endpoint_id for endpoint_id, (home, _) in self._of.items() if home == workspace.id]

    def put_endpoint(self, endpoint: Endpoint) -> Collection[str]:
        """Take an endpoint; itself if it is to be kept what waits for it."""
        chosen = (endpoint.event_types, endpoint.filters, endpoint.ordering.key)
        before = self._of.get(endpoint.id)
        self._of[endpoint.id] = (endpoint.workspace, chosen)
        return () if before is None or before[1] == chosen else (endpoint.id,)

    def remove_workspace(self, workspace: Workspace) -> None:
        """A workspace was deleted."""
        self.paused.pop(workspace.id, None)

    def remove_endpoint(self, endpoint: Endpoint) -> None:
        """An endpoint was deleted."""
        self._of.pop(endpoint.id, None)


class Before(Struct, frozen=True):
    """What the machine before left: how far it was, and what waited for whom.

    `paused`: whether a workspace's plan stopped it then; `from_sequence`: an endpoint gets the events after that.
    """

    value: ProgressValue
    from_sequence: Mapping[str, int]
    waited: Mapping[str, Waited]
    paused: Mapping[str, bool]
    endpoints_at: Mapping[int, Sequence[str]]  # whom an event waited for, by its position
    counts_at: Mapping[int, Mapping[str, int]]

    @property
    def finished_upto(self) -> int:
        """The sequence up to which everything is finished."""
        return self.value.lowest

    @property
    def asked_upto(self) -> int:
        """The sequence up to which any of this matters."""
        uptos = [each.upto // POSITIONS for each in self.waited.values()]
        return max([self.value.applied, *self.from_sequence.values(), *uptos])

    def waited_at(self, position: int) -> Sequence[str]:
        """The endpoints that an event waited for before they asked for something else."""
        return self.endpoints_at.get(position, ())

    def numbers_at(self, position: int) -> Mapping[str, int]:
        """The number of an event's delivery, for endpoints that order by key and for which it waited first."""
        return self.counts_at.get(position, {})

    def finished(self, endpoint_id: str | None, lane_hash: int | None, position: int) -> bool:
        """Whether a delivery is finished, or never was to be."""
        sequence = position // POSITIONS
        if endpoint_id is None or sequence <= self.from_sequence.get(endpoint_id, 0):
            return True
        hashes, kept = {lane_hash}, self.waited.get(endpoint_id)
        if kept is not None and position <= kept.upto:
            if position not in kept.positions:
                return True
            hashes.add(kept.positions[position])
        if sequence > self.value.applied:
            return False
        firsts = [self.value.behind.get(behind_key(endpoint_id, each)) for each in hashes]
        return all(first is None or position < first for first in firsts)


def before(
    value: ProgressValue, from_sequence: Mapping[str, int], waited: Mapping[str, Waited], paused: Mapping[str, bool]
) -> Before:
    """Made of what the buckets have."""
    at: defaultdict[int, list[str]] = defaultdict(list)
    for endpoint_id, kept in waited.items():
        for position in kept.positions:
            at[position].append(endpoint_id)
    counts: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for endpoint_id, (_, position, number) in value.numbers.items():
        counts[position][endpoint_id] = number
    return Before(value, dict(from_sequence), waited, dict(paused), at, counts)
