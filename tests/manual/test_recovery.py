"""The manual's page on recovery, typed as it stands: a backup in the place of a database, and what came after it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.process import Daemon, daemon
from tests.support.receiver import receiver

PAGE = (Path(__file__).resolve().parents[2] / "webhookd" / "manual" / "recovery.md").read_text("utf-8")
# The blocks of steps 4 and 5; the page before the section on Litestream has no others.
REPLACE, RESEND = (
    re.sub("(?m)^ {7}", "", block) for block in re.findall(r"(?:^ {7}.*\n)+", PAGE.split("\n## ")[0], re.MULTILINE)
)
AT = "2026-01-31 04:00"
CONFIG = '[egress]\nallow = ["127.0.0.0/8"]\n'


def type_in(commands: str, root: Path, d: Daemon | None = None) -> str:
    """Run commands of the page by a shell whose /var and /root are in `root`; what they print."""
    commands = re.sub(r"(?<![\w}/])/(?=var/|root/)", f"{root}/", commands)
    environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(root)}
    if d is not None:
        environ |= {"WEBHOOKD_URL": d.url, "WEBHOOKD_TOKEN": (d.state_dir / "admin-token").read_text().strip()}
    commands = f"systemctl() {{ :; }}\n{commands}"  # the test stops and starts the daemon
    ran = subprocess.run(["bash", "-euc", commands], env=environ, capture_output=True, text=True, timeout=60)
    assert (0, "") == (ran.returncode, ran.stderr)
    return ran.stdout


async def accept(d: Daemon, endpoint: str, *event_ids: str) -> None:
    for event_id in event_ids:
        body = f'{{\n  "event_type": "message.sent",\n  "event_id": "{event_id}"\n}}'
        headers = {**d.admin(), "Content-Type": "application/json"}
        async with d.session.post(f"{d.url}/v1/events", data=body, headers=headers) as answer:
            assert 202 == answer.status
    await d.call("POST", f"/v1/endpoints/{endpoint}/test", {}, expect=200)
    async with asyncio.timeout(30):  # an outcome may share the commit of the next, and a copy without it sends again
        while {"delivered"} != {each["state"] for each in (await d.call("GET", "/v1/deliveries"))["data"]}:
            await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="no sqlite3 here: the page's commands weren't tried")
async def test_what_came_after_the_backup_is_sent_again(tmp_path: Path) -> None:
    """Producers may have ids that begin as those of tests do; the tests themselves aren't sent."""
    state, backups = tmp_path / "var" / "lib" / "webhookd", tmp_path / "var" / "backups" / "webhookd"
    for folder in (backups, tmp_path / "root"):
        folder.mkdir(parents=True)
    async with receiver() as where:
        async with daemon(state, CONFIG) as d:
            fields = {"url": f"{where.url}/hook", "event_types": ["*"]}
            endpoint = (await d.call("POST", "/v1/endpoints", fields, expect=201))["id"]
            await accept(d, endpoint, "m-1", "test_42")
            async with d.session.post(f"{d.url}/v1/backup", headers=d.admin()) as answer:
                (backups / "webhookd-20260131T040000Z.db").write_bytes(await answer.read())
            await asyncio.sleep(1.01 - time.time() % 1)
            backed_up_at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
            await accept(d, endpoint, "m-2", "test_43")
            await where.until(6)
        type_in(REPLACE, tmp_path)
        assert 0o600 == (state / "webhookd.db").stat().st_mode & 0o777
        async with daemon(state, CONFIG) as d:
            assert 1 == RESEND.count(AT)
            said = type_in(RESEND.replace(AT, backed_up_at), tmp_path, d)
            assert "2 accepted, 0 known already, 0 refused." in said
            received = await where.until(8)
            assert ["m-2", "test_43"] == [each.id for each in received if "x-webhook-test" not in each.headers][-2:]
