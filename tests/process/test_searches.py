"""Fifty searches of one workspace over a big log, and how fast the rest of the daemon answers beside them."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

from tests.support.mailserver import MailServer, mail_server
from tests.support.process import Daemon, daemon, start

ROWS = 300_000
ASKED = 15
SEARCHES = 50
TOKENS = 5
# Beside the searches a question takes so many times what it takes alone, and a little: two cores, and one interpreter.
RATIO, SLACK_SECONDS = 15.0, 0.5
CONFIG = """
[egress]
allow = ["127.0.0.0/8"]
[delivery]
retry_seconds = []
[budget]
limit = 1
[log]
level = "error"
[mail]
host = "127.0.0.1"
port = {port}
from = "hooks@example.com"
notify = ["ops@example.com"]
digest_seconds = 0
"""


async def test_searches_of_one_workspace_keep_no_other_waiting(tmp_path: Path) -> None:
    """Another workspace's endpoints and search, the metrics and the mail of a disabling stay fast."""
    async with mail_server() as mails:
        config = CONFIG.format(port=mails.port)
        first = await start(tmp_path / "state", config)
        for workspace in ("noisy", "quiet"):
            await first.call("POST", "/v1/workspaces", {"id": workspace}, expect=201)
            await first.call("POST", f"/v1/workspaces/{workspace}/endpoints", _endpoint(workspace), expect=201)
        await first.stop()
        await first.session.close()
        await asyncio.to_thread(_fill, tmp_path / "state" / "webhookd.db")
        async with daemon(tmp_path / "state", config) as running:
            alone = await _times(running, mails)
            tokens = [
                (await running.call("POST", "/v1/tokens", {"scope": "admin", "workspace": "noisy"}, expect=201))[
                    "secret"
                ]
                for _ in range(TOKENS)
            ]
            searching = [asyncio.create_task(_search(running, tokens[n % TOKENS])) for n in range(SEARCHES)]
            await asyncio.sleep(1)
            beside = await _times(running, mails)
            for each in searching:
                assert not each.done() or each.exception() is None
                each.cancel()
            answered = sum(await asyncio.gather(*searching))
    print({name: f"{alone[name] * 1000:.0f} ms alone, {took * 1000:.0f} ms beside" for name, took in beside.items()})
    for name, took in beside.items():
        assert took <= RATIO * alone[name] + SLACK_SECONDS, (name, alone[name], took)
    assert answered > 5  # they were really asked


def _endpoint(name: str) -> dict[str, object]:
    return {"url": f"http://127.0.0.1:9/{name}", "event_types": ["*"]}  # nothing listens there


def _fill(path: Path) -> None:
    """A log of delivered events of the noisy workspace."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        ((workspace, endpoint),) = db.execute(
            "SELECT w.seq, e.seq FROM workspaces w JOIN endpoints e ON e.workspace_seq = w.seq WHERE w.id = 'noisy'"
        ).fetchall()
        now_ms = round(time.time() * 1000)
        db.execute("BEGIN")
        db.executemany(
            "INSERT INTO events (seq, workspace_seq, id, type, accepted_at, body) VALUES (?, ?, ?, ?, ?, ?)",
            ((n, workspace, f"e{n}", "message.sent", now_ms, b"{}") for n in range(1, ROWS)),
        )
        db.executemany(
            "INSERT INTO deliveries (event_seq, endpoint_seq, event_type, state, size, accepted_at, finished_at, "
            "attempt_count, final_attempt) VALUES (?, ?, 'message.sent', 1, 2, ?, ?, 1, x'7b7d')",
            ((n, endpoint, now_ms, now_ms) for n in range(1, ROWS)),
        )
        db.execute("COMMIT")


async def _search(running: Daemon, token: str) -> int:
    """One search after the other that finds nothing, from the beginning each time; how many were answered."""
    answered = 0
    url = f"{running.url}/v1/workspaces/noisy/deliveries?event_type=contact.created&limit=100"
    try:
        while True:
            async with running.session.get(url, headers={"Authorization": f"Bearer {token}"}) as answer:
                assert answer.status in (200, 429), await answer.text()
                await answer.read()
            answered += 1
    except asyncio.CancelledError:
        return answered


async def _times(running: Daemon, mails: MailServer) -> dict[str, float]:
    """The worst time of each question, and of a mail."""

    async def worst(ask: Callable[[], Awaitable[object]], count: int = ASKED) -> float:
        times = []
        for _ in range(count):
            began = time.monotonic()
            await ask()
            times.append(time.monotonic() - began)
        return max(times)

    async def disable() -> None:
        """The second failure disables the endpoint; until its mail is there."""
        count = len(mails.taken)
        shown = await running.call("GET", "/v1/workspaces/quiet/endpoints")
        await running.call("POST", f"/v1/workspaces/quiet/endpoints/{shown['data'][0]['id']}/enable", {}, expect=200)
        for _ in range(2):
            await running.call("POST", "/v1/workspaces/quiet/events", {"event_type": "message.sent"}, expect=202)
        await mails.until(count + 1)

    return {
        "endpoints": await worst(lambda: running.call("GET", "/v1/workspaces/quiet/endpoints", expect=200)),
        "search": await worst(lambda: running.call("GET", "/v1/workspaces/quiet/deliveries?state=expired", expect=200)),
        "metrics": await worst(lambda: running.call("GET", "/metrics", expect=200)),
        "mail": await worst(disable, 3),
    }
