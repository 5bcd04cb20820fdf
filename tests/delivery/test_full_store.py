"""A store that says it is full, whatever the disk says: nobody ends by it, and nothing is told a false reason."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import engine
from webhookd.store import deliveries, writer


def full(*_: Any, **__: Any) -> None:
    """What SQLite raises on a full disk."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorname = "SQLITE_FULL"
    raise error


async def test_rows_behind_a_mark_follow_when_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper of a full store goes on a second later, instead of ending the daemon."""
    async with engine(tmp_path) as e:
        endpoint = await e.endpoint("https://example.com/hook")
        await e.app.services.endpoints.disable("default", endpoint.id)
        await e.send("a", "b")
        await e.app.services.endpoints.delete("default", endpoint.id)
        with monkeypatch.context() as patched:
            patched.setattr(deliveries, "finish_some", full)
            await e.advance(3)
            states = await e.app.store.read(lambda db: db.execute("SELECT state FROM deliveries").fetchall())
            assert [(deliveries.PENDING,)] * 2 == states
        await e.advance(3)
        states = await e.app.store.read(lambda db: db.execute("SELECT state FROM deliveries").fetchall())
        assert [(deliveries.CANCELLED,)] * 2 == states


async def test_an_outcome_waits_for_room_and_with_it_its_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is kept in memory, recorded once there is room, and only then the next event goes."""
    async with engine(tmp_path) as e:
        url = "https://example.com/hook"
        gate = e.network.gates[url] = asyncio.Event()
        await e.endpoint(url)
        await e.send("a", "b", "c")
        await e.quiet()
        with monkeypatch.context() as patched:
            patched.setattr(writer, "_timed", full)
            patched.setattr(writer, "FULL_RETRY_SECONDS", 0.01)
            gate.set()
            async with asyncio.timeout(10):
                while not e.app.store.writer.full:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert ["a"] == e.network.ids(url)
        await e.quiet()
        assert ["a", "b", "c"] == e.network.ids(url)
