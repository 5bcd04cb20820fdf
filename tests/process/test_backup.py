"""`webhookd backup` while events pour in: what was accepted before is in the copy, and a daemon goes on from it."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import changed
from tests.support.process import ROOT, daemon
from tests.support.receiver import receiver

CONFIG = '[egress]\nallow = ["127.0.0.0/8"]\n'


async def test_a_copy_made_under_load_misses_nothing_that_was_accepted_before(tmp_path: Path) -> None:
    """Every id whose 202 came before the backup began is there, and all of them arrive, in order, from the copy."""
    async with receiver() as where:
        where.gates["hook"] = asyncio.Event()
        accepted: list[str] = []
        stopping = asyncio.Event()
        async with daemon(tmp_path / "state", CONFIG) as d:
            await d.call("POST", "/v1/endpoints", {"url": f"{where.url}/hook", "event_types": ["*"]}, expect=201)

            async def pour() -> None:
                while not stopping.is_set():
                    ids = [f"e{len(accepted) + number}" for number in range(20)]
                    events = [{"event_type": "message.sent", "event_id": each, "text": "x" * 500} for each in ids]
                    await d.call("POST", "/v1/events", events, expect=202)
                    accepted.extend(ids)

            pouring = asyncio.create_task(pour())
            while len(accepted) < 400:
                await asyncio.sleep(0.01)
            before = list(accepted)
            async with d.session.post(d.url + "/v1/backup", headers=d.admin()) as answer:
                copy = await answer.read()
            stopping.set()
            await pouring
            d.process.kill()
            await d.until_dead()
        where.gates.pop("hook").set()
        where.received.clear()
        restored = tmp_path / "restored"
        restored.mkdir()
        (restored / "webhookd.db").write_bytes(copy)
        async with daemon(restored, CONFIG):
            await where.until(len(before))
        assert before == where.ids("hook")[: len(before)]


UNIT = changed.UNIT.with_name("webhookd-backup.service")
USER = 64_321  # as DynamicUser= makes one up
# `ProtectSystem=strict` with `ReadWritePaths=`, as far as a shell can: the root is read-only, the copies' place isn't.
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro / && exec "$@"'


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("systemd-analyze") is None,
    reason="reading the unit takes root and systemd-analyze",
)
async def test_the_units_commands_work_within_what_it_allows(tmp_path: Path) -> None:
    """One capability, its system calls and address families, a read-only root; the service's files are another user's.

    Not tried here, since that takes systemd itself: the private /tmp, /home, /dev and /proc.
    """
    of_unit = changed.directives(UNIT)
    backups = tmp_path / "backups"
    backups.mkdir()
    for day in range(20):
        (backups / f"webhookd-202501{day + 10}T000000Z.db").touch()
    async with daemon(tmp_path / "state") as d:
        for file in (d.state_dir, *d.state_dir.iterdir()):
            os.chown(file, USER, USER)
        environ = {**os.environ, "BACKUP_DIRECTORY": str(backups), "WEBHOOKD_STATE_DIR": str(d.state_dir)}
        (tmp_path / "webhookd").write_text(f'#!/bin/sh\nexec {sys.executable} -m webhookd "$@"\n')
        (tmp_path / "webhookd").chmod(0o755)
        caps = dict(of_unit)["CapabilityBoundingSet"].removeprefix("CAP_").lower()
        assert "dac_read_search" == caps
        for command in (value for name, value in of_unit if name in ("ExecStartPre", "ExecStart", "ExecStartPost")):
            words = shlex.split(command.replace("%%", "%").replace("${BACKUP_DIRECTORY}", str(backups)))
            words = [word.replace("/opt/webhookd/bin/webhookd", str(tmp_path / "webhookd")) for word in words]
            limited = ["setpriv", f"--bounding-set=-all,+{caps}", "--inh-caps=-all", "--no-new-privs"]
            confined = [sys.executable, "-m", "tests.support.changed", f"confined={UNIT}"]
            ran = await asyncio.to_thread(
                subprocess.run,
                ["unshare", "-m", "--propagation=private", "sh", "-c", READ_ONLY, backups, *limited, *confined, *words],
                cwd=ROOT, env=environ, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if "mount" in ran.stderr or "unshare" in ran.stderr:
                pytest.skip(f"this process may not mount, as the unit's confinement needs: {ran.stderr.strip()[:200]}")
            assert 0 == ran.returncode, ran.stderr
    kept = sorted(each.name for each in backups.iterdir())
    assert 14 == len(kept) and re.fullmatch(r"webhookd-20[2-9]\d{5}T\d{6}Z\.db", kept[-1])
    copy = backups / kept[-1]
    assert (0o600, 0) == (copy.stat().st_mode & 0o777, copy.stat().st_uid)
    assert copy.read_bytes().startswith(b"SQLite format 3")
