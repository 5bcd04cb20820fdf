"""Searches of the log: on a reader of their own, one at a time for each workspace."""

from __future__ import annotations

import asyncio
import threading

from webhookd.store.store import Db, Store


async def test_searches_keep_no_other_question_waiting_and_workspaces_take_turns(store: Store) -> None:
    """While a search hangs and fifty wait behind it, short questions are answered, and another workspace is next."""
    release = threading.Event()
    order: list[str] = []

    def long_search(db: Db) -> None:
        assert release.wait(10)
        order.append("noisy")

    noisy = [asyncio.create_task(store.search(1, long_search)) for _ in range(50)]
    await asyncio.sleep(0.01)
    quiet = asyncio.create_task(store.search(2, lambda db: order.append("quiet")))
    async with asyncio.timeout(5):
        assert [(1,)] == await store.read(lambda db: db.execute("SELECT 1").fetchall())
        assert [(1,)] == await store.read_for_delivery(lambda db: db.execute("SELECT 1").fetchall())
        assert not order
        noisy[7].cancel()
        release.set()
        await quiet
    await asyncio.wait(noisy)
    assert order.index("quiet") <= 1
    assert 49 == order.count("noisy")
