"""What NATS says of a cluster: who owned which partition when, and every event in the order of its stream."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.js.errors import BucketNotFoundError, NotFoundError

from tests.crash.history import DELIVERED, PENDING, DeliveryRow, EndpointRow, Final, History, Received, Takeover
from webhookd.cluster import names


@dataclass(frozen=True, slots=True)
class Lease:
    """An entry of a partition's lease: since when who has it; `machine` "" after a peaceful release."""

    at: float
    machine: str
    boot: str


@dataclass(slots=True)
class Leases:
    """Follows the leases of all partitions, by the servers' own times."""

    client: Client
    names_by_url: dict[str, str]
    of: dict[int, list[Lease]] = field(default_factory=dict)

    async def follow(self) -> None:
        """Until cancelled; begins again where a server that is killed ends a watch."""
        while True:
            try:
                bucket = await self.client.jetstream().key_value(names.CLUSTER_BUCKET)
                watcher = await bucket.watch("lease.*")
                async for entry in watcher:
                    if entry is not None and entry.value:
                        self._note(entry)
            except (BucketNotFoundError, NotFoundError, nats.errors.Error, TimeoutError):
                await asyncio.sleep(0.1)

    def _note(self, entry: Any) -> None:
        partition = int(entry.key.partition(".")[2])
        said = json.loads(entry.value)
        machine = self.names_by_url[said["advertise"].rstrip("/")] if said["node"] else ""
        lease = Lease(entry.created.timestamp(), machine, said.get("boot", ""))
        known = self.of.setdefault(partition, [])
        if not known or (known[-1].machine, known[-1].boot) != (lease.machine, lease.boot):
            known.append(lease)

    def owner(self, partition: int) -> str:
        known = self.of.get(partition)
        return known[-1].machine if known else ""

    def takeovers(self, partition: int, faults: list[float]) -> list[Takeover]:
        """Each change of the owner; one that wasn't a release was caused by the last fault before it."""
        found, before = [], Lease(0.0, "", "")
        for lease in self.of.get(partition, []):
            if lease.machine:
                fault = max((at for at in faults if before.at <= at <= lease.at), default=lease.at)
                since = lease.at if not before.machine else fault
                found.append(Takeover(lease.at, lease.machine, since))
            before = lease
        return found


async def read_stream(client: Client, partition: int) -> list[tuple[str, str, bytes]]:
    """Every event of a partition in order, each once: workspace, event id, body."""
    jet_stream = client.jetstream()
    name = names.stream_name(partition)
    state = (await jet_stream.stream_info(name)).state
    found: dict[tuple[str, str], bytes] = {}
    if state.messages:
        subscription = await jet_stream.subscribe(names.stream_subjects(partition), stream=name, ordered_consumer=True)
        sequence = 0
        while sequence < state.last_seq:
            message = await subscription.next_msg(timeout=20)
            sequence = message.metadata.sequence.stream
            for workspace, event_id, body in _events(message):
                found.setdefault((workspace, event_id), body)
        await subscription.unsubscribe()
    return [(workspace, event_id, body) for (workspace, event_id), body in found.items()]


def _events(message: Any) -> list[tuple[str, str, bytes]]:
    if (message.headers or {}).get(names.BATCH_HEADER):
        items = msgspec.msgpack.decode(message.data)
        return [(workspace, json.loads(body)["event_id"], bytes(body)) for workspace, body, *_ in items]
    return [(message.subject.rpartition(".")[2], json.loads(message.data)["event_id"], message.data)]


async def final(client: Client, history: History, partitions: int) -> Final:
    """The tables that the judge reads, from the streams (what was accepted, in order) and the receivers (what came)."""
    answered: dict[tuple[str, str], Received] = {}
    for each in history.received:
        if each.answer == 200:
            answered.setdefault((each.endpoint, each.event_id), each)
    types = {asked.event_id: asked for asked in history.asked}
    endpoints = {each.endpoint: EndpointRow(each.endpoint, workspace=each.workspace) for each in history.subscribers}
    made = Final(endpoints=endpoints)
    for partition in range(partitions):
        for workspace, event_id, body in await read_stream(client, partition):
            made.bodies[event_id] = body
            for subscriber in history.subscribers:
                if subscriber.workspace == workspace and event_id in types and subscriber.wants(types[event_id]):
                    came = answered.get((subscriber.endpoint, event_id))
                    state, number = (DELIVERED, came.attempt) if came else (PENDING, None)
                    made.deliveries.append(
                        DeliveryRow(
                            len(made.deliveries) + 1, event_id, subscriber.endpoint, state,
                            attempt_count=number or 0, final_number=number,
                        )
                    )  # fmt: skip
    return made
