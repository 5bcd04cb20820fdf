"""The machine of the trial as its steps see it: the manual's commands, systemd's view, the journal, the callers."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.callers import Callers, calling
from tests.support.container import CHECKOUT, Container
from tests.support.mailserver import MailServer
from tests.support.process import ROOT
from tests.support.receiver import Receiver

URL = "http://127.0.0.1:8780"
CONFIG = "/etc/webhookd/webhookd.toml"
STATE = "/var/lib/private/webhookd"
CALLERS = 8
PAUSE_SECONDS = 0.02  # one endpoint, one at a time, is to keep up with them
WAIT_SECONDS = 120.0


def typed() -> list[str]:
    """The blocks of commands of `manual/installing.md`, in their order."""
    page = (ROOT / "webhookd" / "manual" / "installing.md").read_text("utf-8")
    return [re.sub(r"(?m)^ {4,6}", "", block).strip("\n") for block in re.findall(r"(?:\n {4,6}\S.*)+\n", page)]


def block(beginning: str) -> str:
    """The one block that begins so."""
    (found,) = (each for each in typed() if each.startswith(beginning))
    return found


@dataclass(slots=True)
class Machine:
    """Everything a step needs."""

    container: Container
    hook: Receiver
    mail: MailServer
    run_number: int = 0

    async def run(self, script: str, *, check: bool = True, where: str = CHECKOUT, given: str = "") -> str:
        """What a root shell in the machine prints, errors included; with `check`, it has to exit 0."""
        ran = await self.ran(f"cd {where} && {{ {script}\n}}", given=given)
        assert not check or ran.returncode == 0, f"{script!r} gave {ran.returncode}:\n{ran.stdout}"
        return ran.stdout

    async def ran(self, script: str, *, given: str = "") -> subprocess.CompletedProcess[str]:
        """The same with its exit code."""
        return await asyncio.to_thread(self.container.run, f"{{ {script}\n}} 2>&1", check=False, given=given)

    async def shows(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return (await self.run(f"systemctl show --value -p {name} {unit}")).strip()

    async def journal(self, *arguments: str, since: str = "") -> list[dict[str, Any]]:
        """The journal's entries of the daemon and its unit, each with `at` (seconds) and `line` (its JSON, or None)."""
        cursor = f"--after-cursor='{since}'" if since else ""
        shown = await self.run(
            f"journalctl --sync; journalctl -u webhookd -o json --all {cursor} {' '.join(arguments)}"
        )
        entries = [json.loads(entry) for entry in shown.splitlines() if entry.startswith("{")]
        for entry in entries:
            entry["at"] = int(entry["__REALTIME_TIMESTAMP"]) / 1_000_000
            entry["line"] = _json_of(entry["MESSAGE"]) if entry["_TRANSPORT"] == "stdout" else None
        return entries

    async def cursor(self) -> str:
        """Where the journal stands now."""
        shown = await self.run("journalctl --sync; journalctl -n 0 --show-cursor")
        return shown.rpartition("-- cursor: ")[2].strip()

    async def lines(self, event: str, since: str = "") -> list[dict[str, Any]]:
        """The daemon's own log lines of one kind."""
        return [e["line"] for e in await self.journal(since=since) if e["line"] and e["line"]["event"] == event]

    async def admin(self) -> dict[str, str]:
        """The header of the admin token."""
        return {"Authorization": f"Bearer {(await self.run(f'cat {STATE}/admin-token')).strip()}"}

    async def until_ready(self) -> float:
        """How long it took until /readyz said yes."""
        began = time.monotonic()
        while time.monotonic() - began < WAIT_SECONDS:
            ran = await self.ran(f"curl -fsS -m 20 {URL}/readyz")
            if ran.returncode == 0:
                return time.monotonic() - began
            await asyncio.sleep(0.02)
        raise AssertionError("webhookd did not get ready")

    @asynccontextmanager
    async def load(self) -> AsyncIterator[Callers]:
        """Callers, half of them on connections that they keep; in the end all of what they sent has to arrive."""
        self.run_number += 1
        names = [f"r{self.run_number}-c{number}" for number in range(CALLERS)]
        async with calling(URL, await self.admin(), names, pause_seconds=PAUSE_SECONDS) as them:
            await them.until_more()
            yield them
            await them.until_more()
        async with asyncio.timeout(WAIT_SECONDS):
            while them.accepted - {each.id for each in self.hook.received}:
                await asyncio.sleep(0.1)

    async def starts(self, since: str) -> int:
        """How often systemd began to start it."""
        return sum(each["MESSAGE"].startswith("Starting webhookd.service") for each in await self.journal(since=since))


def _json_of(message: str) -> dict[str, Any] | None:
    try:
        found = json.loads(message)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
