"""Questions under way: so many of each token, and none whose caller has gone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.api import Api, Wire, head, running_api, wire
from webhookd.config import Config, Limits
from webhookd.store import delivery_log
from webhookd.store.store import LONGEST_SECONDS, Db
from webhookd.web.server import http_server, question_limit
from webhookd.web.server.question_limit import QUESTION_LIMIT

LIST = "/v1/deliveries"


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setattr(question_limit, "REFUSAL_SECONDS", 0.0)
    monkeypatch.setattr(http_server, "PROBE_SECONDS", 0.01)
    async with running_api(tmp_path, Config(limits=Limits(questions_per_token=2))) as running:
        yield running


@asynccontextmanager
async def hanging_search(api: Api) -> AsyncIterator[None]:
    """All searches of the workspace `default` wait."""
    release = threading.Event()
    hanging = asyncio.create_task(api.app.store.search(1, lambda db, late: release.wait(10)))
    await asyncio.sleep(0)
    try:
        yield
    finally:
        release.set()
        await hanging


async def until_under_way(api: Api, count: int) -> None:
    async with asyncio.timeout(5):
        while api.application[QUESTION_LIMIT]._under_way.total() != count:
            await asyncio.sleep(0.002)


async def test_a_token_has_so_many_questions_at_a_time(api: Api) -> None:
    """Beyond it, any question about the workspace is 429; another workspace's, another token's and changes aren't."""
    await api.app.services.workspaces.create("acme")
    _, other = await api.app.services.tokens.add("admin", None)
    link = api.app.services.sessions.link("http://x")
    assert link is not None
    session = await api.app.services.sessions.sign_in(link.partition("#")[2])
    assert session is not None
    async with hanging_search(api):
        asking = [asyncio.create_task(api.get(LIST)) for _ in range(2)]
        await until_under_way(api, 2)
        dry_run = {"since": "2020-01-01T00:00:00Z", "dry_run": True}
        for path in (LIST, "/v1/endpoints", "/v1/workspaces/default/budget", "/v1/replay"):
            refused = await (api.post(path, dry_run) if path.endswith("replay") else api.get(path))
            assert (429, "too_many_questions", "1") == (refused.status, refused.code, refused.headers["Retry-After"])
        page = await api.get("/webhooks", headers={"Cookie": f"webhookd_session={session.secret}"}, token=None)
        assert (429, "1") == (page.status, page.headers["Retry-After"])
        assert 200 == (await api.get("/v1/workspaces/acme/endpoints")).status
        assert 200 == (await api.get("/v1/endpoints", token=other)).status
        assert 200 == (await api.call("PATCH", "/v1/workspaces/default", {"name": "Changed"})).status
        event = {"event_type": "message.sent"}
        assert 202 == (await api.post("/v1/events", event)).status
    assert [200, 200] == [each.status for each in await asyncio.gather(*asking)]
    assert 200 == (await api.get(LIST)).status
    assert {} == api.application[QUESTION_LIMIT]._under_way


def _end(line: Wire) -> None:
    line._writer.close()


@pytest.mark.parametrize("leave", [_end, Wire.reset], ids=["closes", "resets"])
async def test_a_caller_that_leaves_cancels_its_question(api: Api, leave: Callable[[Wire], None]) -> None:
    """One that waits, and one that runs: the reader is free long before the limit."""

    def endless(db: Db, *_: object, **__: object) -> None:
        db.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n").fetchall()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery_log, "search", endless)
        began = time.monotonic()
        async with wire(api.port) as running, wire(api.port) as waiting:
            for line in (running, waiting):
                line.send(head(api, "GET", LIST, Authorization=f"Bearer {api.admin_token}"))
                await line.sent()
            await until_under_way(api, 2)
            leave(running)
            leave(waiting)
            await until_under_way(api, 0)
    assert 200 == (await api.get(LIST)).status
    assert time.monotonic() - began < LONGEST_SECONDS / 2


async def test_a_dry_run_ends_when_its_caller_leaves(api: Api) -> None:
    """It only asks, so nothing is left undone; a replay itself goes on."""
    body = b'{"since":"2020-01-01T00:00:00Z","dry_run":true}'
    values = {"Authorization": f"Bearer {api.admin_token}", "Content_Length": str(len(body))}
    async with hanging_search(api), wire(api.port) as line:
        line.send(head(api, "POST", "/v1/replay", **values).encode() + body)
        await until_under_way(api, 1)
        line.reset()
        await until_under_way(api, 0)


async def test_a_caller_that_only_sends_nothing_more_gets_its_answer(api: Api) -> None:
    """`nc -N`, of which webhookd can't know whether it has gone: interim responses find out (RFC 9110, 15.2)."""
    async with wire(api.port) as line:
        async with hanging_search(api):
            line.send(head(api, "GET", LIST, Authorization=f"Bearer {api.admin_token}"))
            line.end()
            await until_under_way(api, 1)
            await asyncio.sleep(0.05)
        *interim, answer = (await line.ended()).split(b"HTTP/1.1 ")[1:]
    assert answer.startswith(b"200 OK") and interim and {b"102 Processing\r\n\r\n"} == set(interim)
