"""Questions: each kind on a reader of its own, workspaces by turns, none without an end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from webhookd.errors import ApiError
from webhookd.store import store as store_module
from webhookd.store.connection import Late
from webhookd.store.store import Db, Store

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def one(db: Db) -> object:
    return db.execute("SELECT 1").fetchall()


def in_one_statement(db: Db, late: Late) -> None:
    db.execute("SAVEPOINT snapshot")
    try:
        db.execute(ENDLESS).fetchall()
    finally:
        db.execute("RELEASE snapshot")


def in_many_statements(db: Db, late: Late) -> None:
    while True:
        one(db)


async def test_searches_keep_no_other_question_waiting_and_workspaces_take_turns(store: Store) -> None:
    """While a search hangs and fifty wait behind it, other kinds are answered, and another workspace is next."""
    release = threading.Event()
    order: list[str] = []

    def long_search(db: Db, late: Late) -> None:
        assert release.wait(10)
        order.append("noisy")

    noisy = [asyncio.create_task(store.search(1, long_search)) for _ in range(50)]
    await asyncio.sleep(0.01)
    quiet = asyncio.create_task(store.search(2, lambda db, late: order.append("quiet")))
    async with asyncio.timeout(5):
        for read in (store.read, store.read_for_delivery, store.read_for_sign_in, store.read_status):
            assert [(1,)] == await read(one)
        assert not order
        noisy[7].cancel()
        release.set()
        await quiet
    await asyncio.wait(noisy)
    assert order.index("quiet") <= 1
    assert 49 == order.count("noisy")


@pytest.mark.parametrize("kind", ["read_for_sign_in", "read_status", "read", "read_for_delivery"])
async def test_no_kind_of_question_waits_for_another_kind(store: Store, kind: str) -> None:
    """While one kind hangs, all others are answered."""
    release = threading.Event()
    hanging = asyncio.create_task(getattr(store, kind)(lambda db: release.wait(10)))
    try:
        async with asyncio.timeout(5):
            for other in {"read_for_sign_in", "read_status", "read", "read_for_delivery"} - {kind}:
                assert [(1,)] == await getattr(store, other)(one)
            assert [(1,)] == await store.search(1, lambda db, late: one(db))
    finally:
        release.set()
    await hanging


@pytest.mark.parametrize("endless", [in_one_statement, in_many_statements])
async def test_a_question_that_takes_too_long_is_stopped(
    store: Store, monkeypatch: pytest.MonkeyPatch, endless: Callable[[Db, Late], None]
) -> None:
    """503 with advice; the reader is free again, and has no transaction open."""
    monkeypatch.setattr(store_module, "LONGEST_SECONDS", 0.05)
    with pytest.raises(ApiError, match="was stopped") as stopped:
        await store.search(1, endless)
    assert ("unavailable", 1) == (stopped.value.code, stopped.value.retry_after_seconds)
    with pytest.raises(ApiError, match="was stopped"):
        await store.read_status(lambda db: endless(db, lambda: False))
    assert not await store.search(1, lambda db, late: db.in_transaction)


@pytest.mark.parametrize("endless", [in_one_statement, in_many_statements])
async def test_a_caller_that_leaves_ends_its_question(store: Store, endless: Callable[[Db, Late], None]) -> None:
    """The next question of its workspace is answered at once, not after the limit."""
    began = time.monotonic()
    asking = asyncio.create_task(store.search(1, endless))
    await asyncio.sleep(0.02)
    asking.cancel()
    assert [(1,)] == await store.search(1, lambda db, late: one(db))
    assert time.monotonic() - began < store_module.LONGEST_SECONDS / 2
    assert asking.cancelled()


async def test_a_search_is_late_sooner_while_another_workspace_waits(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone it has its whole time."""
    monkeypatch.setattr(store_module, "SHARED_SEARCH_SECONDS", 0.0)
    began = threading.Event()

    def until_late(db: Db, late: Late) -> float:
        began.set()
        started = time.monotonic()
        while not late():
            time.sleep(0.001)
        return time.monotonic() - started

    assert await store.search(1, until_late, seconds=0.1) >= 0.099
    began.clear()
    asking = asyncio.create_task(store.search(1, until_late, seconds=60.0))
    await asyncio.to_thread(began.wait, 5)
    await store.search(2, lambda db, late: None)
    assert await asking < store_module.LONGEST_SECONDS
