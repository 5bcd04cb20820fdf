"""One cluster of three nats-servers for all tests of this folder, empty at the beginning of each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.cluster.nats_servers import HOW_TO_GET_ONE, Server, Servers, configured, find_server, running, used

PARTITIONS = 4


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    if find_server() is None:
        pytest.skip(HOW_TO_GET_ONE)
    with running(configured(tmp_path_factory.mktemp("nats"), partitions=PARTITIONS)) as servers:
        yield servers


@pytest.fixture
async def servers(started: list[Server]) -> AsyncIterator[Servers]:
    async with used(started) as made:
        await made.empty()
        yield made
