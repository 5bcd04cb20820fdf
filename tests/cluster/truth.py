"""What NATS says of a cluster: who owned which partition when, and every event in the order of its stream."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.js.api import RawStreamMsg

from tests.crash.history import DELIVERED, PENDING, DeliveryRow, EndpointRow, Final, History, Received, Takeover
from webhookd.cluster import names

# Often enough to see a lease before its owner renews it (each second): then its time is when it was taken.
LOOK_SECONDS = 0.25
READ_AT_ONCE = 50
TRIES = 10


@dataclass(frozen=True, slots=True)
class Lease:
    """An entry of a partition's lease: since when who has it; `machine` "" after a peaceful release."""

    at: float
    machine: str
    boot: str


@dataclass(slots=True)
class Leases:
    """Follows the leases of all partitions, by the servers' own times.

    By asking, because a watch of a server that is killed hears nothing for seconds, and then only of the last renewal.
    """

    client: Client
    names_by_url: dict[str, str]
    partitions: int
    of: dict[int, list[Lease]] = field(default_factory=dict)
    _revisions: dict[int, int] = field(default_factory=dict)

    async def follow(self) -> None:
        """Until cancelled."""
        await asyncio.gather(*(self._follow(each) for each in range(self.partitions)))

    async def _follow(self, partition: int) -> None:
        jet_stream = self.client.jetstream(timeout=1.0)
        subject = f"$KV.{names.CLUSTER_BUCKET}.{names.lease_key(partition)}"
        while True:
            # No answer: there is no lease yet, or no leader just now.
            with suppress(nats.errors.Error, TimeoutError):
                self._note(partition, await jet_stream.get_last_msg(f"KV_{names.CLUSTER_BUCKET}", subject))
            await asyncio.sleep(LOOK_SECONDS)

    def _note(self, partition: int, found: RawStreamMsg) -> None:
        assert found.seq is not None and found.time is not None and found.data is not None
        if found.seq <= self._revisions.get(partition, 0):
            return
        self._revisions[partition] = found.seq
        said = json.loads(found.data)
        machine = self.names_by_url[said["advertise"].rstrip("/")] if said["node"] else ""
        lease = Lease(found.time.timestamp(), machine, said.get("boot", ""))
        known = self.of.setdefault(partition, [])
        if not known or (known[-1].machine, known[-1].boot) != (lease.machine, lease.boot):
            known.append(lease)

    def owner(self, partition: int) -> str:
        known = self.of.get(partition)
        return known[-1].machine if known else ""

    def owners(self) -> set[str]:
        """Who has any partition; "" among them where one has no owner."""
        return {self.owner(each) for each in range(self.partitions)}

    def takeovers(
        self, partition: int, faults: Sequence[float], outages: Sequence[float], outage_seconds: float
    ) -> list[Takeover]:
        """Each change of the owner; one that wasn't a release was caused by the last fault before it.

        Where a NATS server was lost less than `outage_seconds` before that fault, nothing may have been saved since.
        """
        found, before = [], Lease(0.0, "", "")
        for lease in self.of.get(partition, []):
            if lease.machine:
                since = max((at for at in faults if before.at <= at <= lease.at), default=lease.at)
                since = min([since, *(at for at in outages if since - outage_seconds < at < since)])
                found.append(Takeover(lease.at, lease.machine, since if before.machine else math.inf))
            before = lease
        return found


@dataclass(frozen=True, slots=True)
class Accepted:
    """An event as it stands in its partition's stream, where it came first, and when that was."""

    partition: int
    sequence: int
    workspace: str
    event_id: str
    body: bytes
    at: float


async def read_stream(client: Client, partition: int) -> list[Accepted]:
    """Every event of a partition in order, each once: every message is asked for by its number, so none is missed."""
    jet_stream = client.jetstream()
    name = names.stream_name(partition)
    last = (await jet_stream.stream_info(name)).state.last_seq
    found: dict[tuple[str, str], Accepted] = {}
    for begin in range(1, last + 1, READ_AT_ONCE):
        numbers = range(begin, min(begin + READ_AT_ONCE, last + 1))
        for message in await asyncio.gather(*(_message(jet_stream, name, each) for each in numbers)):
            for workspace, event_id, body in _events(message):
                event = Accepted(partition, message.seq or 0, workspace, event_id, body, message.time.timestamp())
                found.setdefault((workspace, event_id), event)
    return list(found.values())


async def _message(jet_stream: Any, stream: str, number: int) -> RawStreamMsg:
    for _ in range(TRIES):
        with suppress(TimeoutError, nats.errors.TimeoutError):
            message: RawStreamMsg = await jet_stream.get_msg(stream, number)
            assert message.seq == number and message.time is not None
            return message
    raise AssertionError(f"{stream} doesn't give message {number}")


def _events(message: RawStreamMsg) -> list[tuple[str, str, bytes]]:
    assert message.subject is not None and message.data is not None
    if (message.headers or {}).get(names.BATCH_HEADER):
        items = msgspec.msgpack.decode(message.data)
        return [(workspace, json.loads(body)["event_id"], bytes(body)) for workspace, body, *_ in items]
    return [(message.subject.rpartition(".")[2], json.loads(message.data)["event_id"], message.data)]


def final(accepted: Sequence[Accepted], history: History) -> Final:
    """The tables that the judge reads, from the streams (what was accepted, in order) and the receivers (what came)."""
    answered: dict[tuple[str, str], Received] = {}
    for each in history.received:
        if each.answer == 200:
            answered.setdefault((each.endpoint, each.event_id), each)
    types = {asked.event_id: asked for asked in history.asked}
    endpoints = {each.endpoint: EndpointRow(each.endpoint, workspace=each.workspace) for each in history.subscribers}
    made = Final(endpoints=endpoints)
    for event in accepted:
        made.bodies[event.event_id] = event.body
        for subscriber in history.subscribers:
            wanted = event.event_id in types and subscriber.wants(types[event.event_id])
            if subscriber.workspace == event.workspace and wanted:
                came = answered.get((subscriber.endpoint, event.event_id))
                state, number = (DELIVERED, came.attempt) if came else (PENDING, None)
                made.deliveries.append(
                    DeliveryRow(
                        len(made.deliveries) + 1, event.event_id, subscriber.endpoint, state,
                        attempt_count=number or 0, final_number=number, queued_at=event.at,
                    )
                )  # fmt: skip
    return made
