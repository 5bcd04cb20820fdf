"""The daemon as a process: started, stopped, killed, started again; one per state directory; a bad database."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from tests.support import process
from tests.support.process import Daemon, daemon
from tests.support.receiver import receiver
from webhookd.errors import AlreadyRunning
from webhookd.store.connection import StateLock

LOOPBACK = '[egress]\nallow = ["127.0.0.0/8"]\n'


async def send(d: Daemon, *ids: str) -> None:
    events = [{"event_type": "message.received", "event_id": each} for each in ids]
    await d.call("POST", "/v1/events", events, expect=202)


async def test_sigterm_lets_the_attempt_in_flight_end_and_the_rest_resumes(tmp_path: Path) -> None:
    """What is under way is recorded, nothing is repeated, and what waited goes on after the start."""
    async with receiver() as where:
        where.gates["hook"] = asyncio.Event()
        async with daemon(tmp_path / "state", LOOPBACK) as d:
            await d.call("POST", "/v1/endpoints", {"url": f"{where.url}/hook", "event_types": ["*"]}, expect=201)
            await send(d, "a", "b")
            await where.until(1)
            d.process.terminate()
            await asyncio.sleep(0.1)
            where.gates["hook"].set()
            assert 0 == await d.until_dead()
        assert ["a"] == where.ids("hook")
        async with daemon(tmp_path / "state", LOOPBACK) as d:
            await where.until(2)
            assert ["a", "b"] == where.ids("hook")
            deliveries = (await d.call("GET", "/v1/deliveries?event_id=a"))["data"]
            assert [("delivered", 1)] == [(each["state"], each["attempt_count"]) for each in deliveries]


async def test_a_second_daemon_on_the_same_state_is_refused_and_names_its_owner(tmp_path: Path) -> None:
    """The lock's message names the first one's pid."""
    async with daemon(tmp_path / "state") as d:
        lock = StateLock(tmp_path / "state")
        with pytest.raises(AlreadyRunning, match=rf"pid {d.process.pid}\b"):
            await lock.acquire(wait_seconds=0.05)
        assert 75 == AlreadyRunning.exit_code


async def test_a_database_that_is_not_fit_is_left_as_it_is(tmp_path: Path) -> None:
    """Exit code 78, the reason in the log, and not a byte of the file changed."""
    state = tmp_path / "state"
    async with daemon(state) as d:
        await send(d, *[f"e{number}" for number in range(100)])
    database = state / "webhookd.db"
    content = bytearray(database.read_bytes())
    content[-8192:] = b"\xa5" * 8192
    database.write_bytes(content)
    before = hashlib.sha256(database.read_bytes()).hexdigest()
    d = await process.start(state, alive=False)
    assert 78 == await d.until_dead()
    await d.session.close()
    assert before == hashlib.sha256(database.read_bytes()).hexdigest()
    assert "was left as it is" in d.log_file.read_text()
