"""The cluster, where webhookd runs on several machines: who is there, who has which partition; draining a machine."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from webhookd.admin.tokens import Scope
from webhookd.errors import ApiError
from webhookd.web.server.requests import NoFields, Routes, read_fields, services_of
from webhookd.web.server.responses import json_response, no_content
from webhookd.web.services import ClusterView

ROUTES = Routes()


class ClusterNodeSchema(Struct):
    """A machine of the cluster."""

    node: str
    advertise: Annotated[str, Meta(description="Where its API is")]
    version: str
    state: Annotated[str, Meta(description="`alive`, `draining` or `gone`")]
    partitions: int


class ClusterPartitionSchema(Struct):
    """A partition, and who has it."""

    partition: int
    node: Annotated[str, Meta(description="Its owner, empty if it has none just now")]
    unchanged_seconds: Annotated[float, Meta(description="Since when its lease is as it is, by this machine")]
    last_sequence: Annotated[int | None, Meta(description="The last message of its stream; null: NATS doesn't answer")]
    applied: Annotated[int | None, Meta(description="Up to which it is applied, as its owner wrote last")]
    lag: Annotated[int | None, Meta(description="How many messages are not applied yet")]
    behind: Annotated[int | None, Meta(description="For how many endpoints something waits")]


class ClusterSchema(Struct):
    """The cluster as the machine that answers sees it."""

    node: Annotated[str, Meta(description="The machine that answers")]
    connected: Annotated[bool, Meta(description="Whether it is connected to NATS")]
    warnings: list[str]
    nodes: list[ClusterNodeSchema]
    partitions: list[ClusterPartitionSchema]


@ROUTES("GET", "/v1/cluster", {200: ClusterSchema}, scope=Scope.OBSERVE, errors=("not_found",), unbound=True)
async def show_cluster(request: web.Request) -> web.Response:
    """Get the state of the cluster: its machines and who has which partition."""
    return json_response(await _cluster(request).status())


@ROUTES(
    "POST",
    "/v1/cluster/nodes/{node}/drain",
    {204: None},
    body=NoFields,
    errors=("not_found", "unavailable"),
    unbound=True,
)
async def drain_node(request: web.Request) -> web.Response:
    """Hand over every partition of a machine, and give it none until that is ended."""
    await read_fields(request, NoFields)
    await _cluster(request).drain(request.match_info["node"], True)
    return no_content()


@ROUTES("DELETE", "/v1/cluster/nodes/{node}/drain", {204: None}, errors=("not_found", "unavailable"), unbound=True)
async def end_drain(request: web.Request) -> web.Response:
    """Let a drained machine have partitions again."""
    await _cluster(request).drain(request.match_info["node"], False)
    return no_content()


def _cluster(request: web.Request) -> ClusterView:
    cluster = services_of(request).cluster
    if cluster is None:
        raise ApiError("not_found", "webhookd runs alone here: [cluster] is not configured.")
    return cluster
