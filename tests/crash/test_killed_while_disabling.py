"""SIGKILL at each step of a disabling: before, in and after its transaction, before, in and after its mail."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support import process
from tests.support.mailserver import MailServer, mail_server
from tests.support.process import Daemon
from tests.support.receiver import Receiver, receiver
from webhookd.models import Json

LIMIT = 5
EVENTS = 10
POINTS = [
    *[f"failure:{LIMIT + 1}:{when}" for when in ("before", "in", "after")],
    *[f"failure:{LIMIT + 2}:{when}" for when in ("before", "in", "after")],
    *[f"mail:1:{when}" for when in ("before", "in", "after")],
    *[f"commit:{number}:in" for number in (6, 11, 17)],
    "commit:14:after",
]
CONFIG = """
[egress]
allow = ["127.0.0.0/8"]
[delivery]
retry_seconds = []
[budget]
limit = {limit}
[mail]
host = "127.0.0.1"
port = {port}
notify = ["ops@example.com"]
digest_seconds = 0
[log]
format = "json"
"""


def two_fail(name: str) -> int:
    """Two endpoints answer 500, the third 200."""
    return 200 if name == "well" else 500


class Supervisor:
    """Keeps a daemon running: the first one dies at its point, the ones after it live."""

    def __init__(self, state_dir: Path, config: str, point: str) -> None:
        self._state_dir = state_dir
        self._config = config
        self._point = point
        self.daemon: Daemon | None = None
        self.deaths = 0

    async def call(self, method: str, path: str, json: Any = None) -> tuple[int, Any]:
        """Call the API until there is an answer, starting the daemon again where it died."""
        for _ in range(100):
            daemon = await self.alive()
            try:
                async with daemon.session.request(
                    method, daemon.url + path, json=json, headers=daemon.admin()
                ) as answer:
                    return answer.status, await answer.json()
            except (aiohttp.ClientError, FileNotFoundError):
                await asyncio.sleep(0.02)
        raise AssertionError(f"no answer to {method} {path}")

    async def alive(self) -> Daemon:
        """The running daemon."""
        while self.daemon is None or self.daemon.process.returncode is not None:
            if self.daemon is not None:
                assert -9 == self.daemon.process.returncode, self.daemon.log_file.read_text()[-2000:]
                self.deaths += 1
                await self.daemon.session.close()
            point = self._point if self.daemon is None else "never"
            command = ["-m", "tests.crash.kill_at", str(self._state_dir), "CONFIG", point]
            self.daemon = await process.start(self._state_dir, self._config, command=command, alive=False)
            await process.until_ready(self.daemon)
        return self.daemon

    async def until_told(self) -> None:
        """Wait until no mail is unsent."""
        async with asyncio.timeout(20):
            while (await self.call("GET", "/v1/status"))[1]["unsent_mail"]["count"]:
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        """End it."""
        if self.daemon is not None:
            await self.daemon.stop()
            await self.daemon.session.close()


async def play(supervisor: Supervisor, where: Receiver) -> dict[str, Json]:
    """Two failing endpoints and a healthy one get events until both failing ones are disabled; the endpoints."""
    types = {"one": ["message.received"], "two": ["message.sent"], "well": ["*"]}
    ids = {}
    for name, event_types in types.items():
        status, answer = await supervisor.call(
            "POST", "/v1/endpoints", {"url": f"{where.url}/{name}", "event_types": event_types}
        )
        ids[name] = answer["id"] if status == 201 else answer["error"]["details"]["id"]
    for number in range(EVENTS):
        for event_type in ("message.received", "message.sent"):
            event = {"event_type": event_type, "event_id": f"{event_type.replace('.', '-')}-{number}"}
            status, answer = await supervisor.call("POST", "/v1/events", event)
            assert 202 == status, answer
    async with asyncio.timeout(30):
        while True:
            found = {name: (await supervisor.call("GET", f"/v1/endpoints/{each}"))[1] for name, each in ids.items()}
            stopped = all(found[name]["state"] == "auto_disabled" for name in ("one", "two"))
            if stopped and not found["well"]["queue"]["waiting"]:
                return found
            await asyncio.sleep(0.02)


def judge(found: dict[str, Json], where: Receiver, mails: MailServer, deaths: int) -> None:
    """Everything that issue and contract promise of this scenario."""
    assert "active" == found["well"]["state"]
    first_sights = list(dict.fromkeys(where.ids("well")))
    sent = [f"{kind}-{n}" for n in range(EVENTS) for kind in ("message-received", "message-sent")]
    assert sent == first_sights
    repeats = sum(count - 1 for name in found for count in Counter(where.ids(name)).values())
    assert repeats <= 3 * deaths  # at most one per endpoint and crash
    failures = len(set(where.ids("one"))) + len(set(where.ids("two")))
    # The failure past the limit stops its endpoint, the other one's next failure stops that: not one request more.
    assert LIMIT + 2 == failures
    # Each disabling is told in one mail (after a kill both may share it); a second copy is the same to the byte.
    copies = {(mail["Message-ID"], raw) for mail, (_, raw) in zip(mails.mails, mails.taken, strict=True)}
    for name in ("one", "two"):
        assert 1 == len({message_id for message_id, raw in copies if found[name]["id"].encode() in raw})
    assert len(copies) == len({message_id for message_id, _ in copies})
    assert len(mails.taken) - len(copies) <= deaths


@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_any_step_the_same_holds(point: str, tmp_path: Path) -> None:
    """The right endpoints are disabled, not one request goes to them after, and each notice is told once."""
    async with receiver(two_fail) as where, mail_server() as mails:
        supervisor = Supervisor(tmp_path / "state", CONFIG.format(limit=LIMIT, port=mails.port), point)
        try:
            await play(supervisor, where)
            await supervisor.until_told()
            judge(await play(supervisor, where), where, mails, supervisor.deaths)
            assert 1 == supervisor.deaths
        finally:
            await supervisor.close()
