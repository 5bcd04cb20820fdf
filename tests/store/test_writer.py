"""The writer's checkpoint: apart from every transaction, in its turn; and how long transactions took."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

from tests.support.stores import accept, add_workspace, open_store
from webhookd.store import retention

BODY = b'{"event_type":"message.sent","x":"' + b"x" * 20_000 + b'"}'


async def test_a_checkpoint_brings_everything_into_the_file(tmp_path: Path) -> None:
    """Before it, what was committed stands in the log alone; after it, in the file."""
    async with open_store(tmp_path) as store:
        workspace = await add_workspace(store)
        await accept(store, workspace, *(f"e{number}" for number in range(50)), now_ms=0, body=BODY)
        expected = (await store.read(retention.file_size)).bytes
        assert store.size_bytes() < expected
        assert await store.writer.checkpoint() > 0
        assert expected == store.size_bytes()


async def test_a_checkpoint_has_its_turn_to_itself(tmp_path: Path) -> None:
    """What was submitted before it is committed before it, what comes after has a transaction of its own."""
    async with open_store(tmp_path) as store:
        began, counted = store.writer.commits, store.writer.commit_seconds.buckets()[-1][1]
        in_transaction: list[tuple[str, bool]] = []

        def noting(name: str) -> Callable[[sqlite3.Connection], None]:
            return lambda db: in_transaction.append((name, db.in_transaction))

        async def checkpoint() -> None:
            await store.writer.checkpoint()
            in_transaction.append(("checkpoint", False))

        first = [store.submit(noting(name)) for name in ("a", "b")]
        between = asyncio.create_task(checkpoint())
        await asyncio.sleep(0)  # it is in the queue now
        last = store.submit(noting("c"))
        await asyncio.gather(*first, between, last)
        assert [("a", True), ("b", True)] == in_transaction[:2]
        assert {("c", True), ("checkpoint", False)} == set(in_transaction[2:])
        assert 2 == store.writer.commits - began
        assert 2 == store.writer.commit_seconds.buckets()[-1][1] - counted
