"""A commit whose sync failed, read again by the next daemon, and then the power fails: nothing answered for is lost."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
from contextlib import closing, suppress
from pathlib import Path

import aiohttp
import pytest

from tests.crash import disk_trace
from tests.crash.disk_image import Disk, Image
from tests.crash.disk_trace import Accepted, Attempted, Sync
from tests.crash.power_loss import CONFIG, traced
from tests.crash.supervisor import why_no_kill_points
from tests.support import process
from tests.support.process import Daemon, daemon

WHY_NOT = why_no_kill_points()
FILES = ("webhookd.db", "webhookd.db-wal")
BEFORE = {"event_type": "message.sent", "event_id": "before"}
IN_DOUBT = {"event_type": "message.received", "event_id": "in-doubt"}


async def fail_every_sync(d: Daemon, trace: Path) -> subprocess.Popen[bytes]:
    """From now on each fdatasync of the daemon fails with EIO; returns when that is so."""
    strace = shutil.which("strace")
    assert strace is not None
    tracer = subprocess.Popen(  # noqa: ASYNC220 - it returns at once, and is waited for in a thread
        [
            strace, "-f", "-p", str(d.process.pid), "-o", str(trace),
            "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    threads = Path(f"/proc/{d.process.pid}/task")
    async with asyncio.timeout(30):
        while any(b"TracerPid:\t0" in each.read_bytes() for each in threads.glob("*/status")):
            await asyncio.sleep(0.01)
    return tracer


async def with_an_endpoint(state_dir: Path) -> None:
    """An endpoint for what will be in doubt, which holds it; all of it in the database's file."""
    async with daemon(state_dir, CONFIG) as d:
        wanted = {"url": "http://127.0.0.1:9/off", "event_types": [IN_DOUBT["event_type"]]}
        endpoint = await d.call("POST", "/v1/endpoints", wanted, expect=201)
        await d.call("POST", f"/v1/endpoints/{endpoint['id']}/disable", expect=200)


async def die_of_a_sync(state_dir: Path) -> dict[str, bytearray]:
    """A daemon at rest commits an event, whose sync fails, and ends; what the disk holds of its files then.

    That is what they held before: what a failed sync should have written, Linux takes for written.
    """
    # A checkpoint's sync would fail before the event's.
    d = await process.start(state_dir, CONFIG, program=("-m", "tests.support.changed", "unswept"))
    await d.call("POST", "/v1/events", BEFORE, expect=202)
    on_disk = {name: bytearray((state_dir / name).read_bytes()) for name in FILES}
    tracer = await fail_every_sync(d, state_dir.with_suffix(".syncs"))
    try:
        with suppress(aiohttp.ClientError):
            await d.call("POST", "/v1/events", IN_DOUBT, expect=503)
        assert 1 == await d.until_dead(), d.log_file.read_text()
    finally:
        await d.stop()
        await d.session.close()
        await asyncio.to_thread(tracer.wait)
    assert IN_DOUBT["event_id"].encode() in (state_dir / "webhookd.db-wal").read_bytes()  # its own sync was the one
    return on_disk


async def say_duplicate(state_dir: Path) -> list[disk_trace.Step]:
    """The next daemon reads the event, says that it has it, and is killed; what it did."""
    trace = state_dir.with_suffix(".trace")
    d, tracer = await traced(state_dir, trace, "FULL")
    answer = await d.call("POST", "/v1/events", IN_DOUBT, expect=202)
    os.kill(d.process.pid, signal.SIGKILL)
    await d.until_dead()
    await d.session.close()
    await asyncio.to_thread(tracer.wait)
    assert answer["duplicate"] is True
    return disk_trace.read(trace, state_dir)


def judge(image: Image, folder: Path, *, promised: bool) -> None:
    """The database on an image is whole, and has what was answered for, all of it or nothing."""
    folder.mkdir()
    image.lay_out(folder)
    with closing(sqlite3.connect(folder / "webhookd.db")) as db:
        assert [("ok",)] == db.execute("PRAGMA integrity_check").fetchall()
        assert [] == db.execute("PRAGMA foreign_key_check").fetchall()
        found = db.execute(
            "SELECT v.id, count(d.seq) FROM events v LEFT JOIN deliveries d ON d.event_seq = v.seq GROUP BY v.seq"
        ).fetchall()
    shutil.rmtree(folder)
    assert found == [("before", 0), ("in-doubt", 1)] or (found == [("before", 0)] and not promised)


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
async def test_what_a_failed_sync_left_behind_is_durable_before_it_is_answered_for(tmp_path: Path) -> None:
    """Whenever the power goes: no half of it is there, and once it is said to be a duplicate all of it is."""
    state_dir, chance = tmp_path / "state", random.Random(0)
    await with_an_endpoint(state_dir)
    disk = Disk(await die_of_a_sync(state_dir))
    promised = False
    for number, step in enumerate(await say_duplicate(state_dir)):
        if isinstance(step, Sync):
            disk.sync(step)
        elif isinstance(step, Accepted | Attempted):
            promised = True
        else:
            disk.change(number, step)
        for image in disk.images(chance):
            judge(image, tmp_path / "image", promised=promised)
    assert promised
