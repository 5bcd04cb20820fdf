"""`webhookd demo`: the five-second proof proves itself."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    made = tmp_path / "temporary"
    made.mkdir()
    return made


async def test_once(run: Any, temporary: Path) -> None:
    """Without a terminal it ends with 0 after the last delivery, has shown all, and leaves nothing behind."""
    ran = await run("demo", env={"TMPDIR": str(temporary), "WEBHOOKD_LISTEN__PORT": "not even read"})
    assert (0, "") == (ran.code, ran.err)
    assert 11 == len(re.findall(r"A ← .* signature good, answered 200", ran.out))
    assert 7 == len(re.findall(r"B ← .* signature good, answered 500", ran.out))
    assert 10 == len(re.findall(r"B ← .* signature good, answered 200", ran.out))
    for words in ("dropped", "auto_disabled", "10 events held", "in order. Nothing was lost.", "The page: http://127"):
        assert words in ran.out
    assert "sign-in" not in ran.out  # to a page that is gone
    assert [] == os.listdir(temporary)


async def test_stays_up_on_a_terminal(start: Any, temporary: Path) -> None:
    """On a terminal it stays up for a look at the page, until Ctrl-C, which is no failure."""
    ours, theirs = pty.openpty()
    process = await start("demo", env={"TMPDIR": str(temporary)}, stdout=theirs)
    os.close(theirs)
    shown = b""
    async with asyncio.timeout(40):
        while b"Ctrl-C" not in shown:
            shown += await asyncio.to_thread(os.read, ours, 4096)
        assert [] != os.listdir(temporary)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    os.close(ours)
    assert b"/sign-in#" in shown
    assert (0, b"") == (process.returncode, err)
    assert [] == os.listdir(temporary)


async def test_interrupted(start: Any, temporary: Path) -> None:
    """Ended early it says so by its exit code, and tidies up all the same."""
    process = await start("demo", env={"TMPDIR": str(temporary)})
    async with asyncio.timeout(40):
        await process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
    assert (130, b"") == (process.returncode, err)
    assert [] == os.listdir(temporary)
