"""Tokens bound to a workspace, against every path of the OpenAPI document and every spelling of another workspace."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from yarl import URL

from tests.support.api import Api
from webhookd.models import NewEvent
from webhookd.rules.ids import delivery_id
from webhookd.web.api.event_types import DOCUMENT

MARK = "zq7-secret"  # in all that belongs to the other workspace, and in nothing that a caller sends
SPELLINGS = (
    "theirs",
    "default",
    "THEIRS",
    "%74heirs",
    "theirs%20",
    "%20theirs",
    "theirs%00",
    "theirs.",
    "theirs%2F",
    "mine%2F..%2Ftheirs",
    "mine/../theirs",
    "./theirs",
    "theirs;mine",
    "theirs,mine",
    "%EF%BD%94heirs",
    "*",
    "%25",
    "",
    "nobody",
    "{seq}",
)
BODIES: dict[tuple[str, str], Any] = {
    ("post", "/endpoints"): {"url": "https://mine.example/", "event_types": ["*"]},
    ("post", "/events"): {"event_type": "message.sent", "text": "x"},
    ("post", "/replay"): {"since": "2020-01-01T00:00:00Z"},
    ("post", "/endpoints/{endpoint}/backfill"): {"since": "2020-01-01T00:00:00Z"},
    ("patch", "/endpoints/{endpoint}"): {"description": "taken"},
    ("patch", "/v1/workspaces/{workspace}"): {"name": "taken"},
    ("post", "/v1/workspaces"): {"id": "taken"},
    ("post", "/v1/tokens"): {"scope": "admin", "workspace": "theirs"},
}


@dataclass
class Theirs:
    """The other workspace as it is now, and all of its ids that ever were."""

    seq: int = 0
    endpoint: str = ""
    delivery: str = ""
    session: str = ""
    ids: set[str] = field(default_factory=set)


async def make_theirs(api: Api, theirs: Theirs) -> None:
    services = api.app.services
    made = await services.workspaces.create("theirs", name=MARK, notify=(f"{MARK}@example.com",))
    endpoint = await services.endpoints.create(
        made.seq, url=f"https://{MARK}.example/", event_types=["*"], headers={"X-Key": MARK}, description=MARK
    )
    theirs.seq, theirs.endpoint = made.seq, endpoint.id
    token, secret = await services.tokens.add("admin", "theirs", MARK)
    session = await services.sessions.sign_in(secret, MARK)
    assert session is not None
    (held,) = [each for each in await services.tokens.list() if each.id == token.id]
    await services.sessions.portal_link(
        "http://x", held, made, expires_in_seconds=600, return_url=f"https://{MARK}.example/"
    )
    theirs.session = session.id
    theirs.ids |= {endpoint.id, endpoint.signing_key, token.id, session.id}
    body = orjson.dumps({"event_type": "message.sent", "text": MARK})
    events = [NewEvent(f"{MARK}-{n}", "message.sent", body) for n in range(3)]
    theirs.delivery = delivery_id((await services.ingest.accept(made.seq, events))[0].queued[0].seq)


async def replace_theirs(api: Api, theirs: Theirs) -> None:
    services = api.app.services
    await services.endpoints.delete(theirs.seq, theirs.endpoint)
    await services.workspaces.delete(theirs.seq)
    await make_theirs(api, theirs)


def operations(api: Api) -> list[tuple[str, str]]:
    """Every method of every path of the document."""
    paths = orjson.loads(api.application[DOCUMENT])["paths"]
    return [(method, path) for path, methods in paths.items() for method in methods]


async def leaks(api: Api, tokens: dict[str, str], theirs: Theirs) -> tuple[int, list[str]]:
    """Call everything with every token, naming the other workspace in each way; returns how many calls, and leaks."""
    found, calls = [], 0
    for (method, path), (scope, secret) in itertools.product(operations(api), tokens.items()):
        for spelling in (*SPELLINGS, "mine") if "{workspace}" in path else ("",):
            target, sent = aimed(path, spelling, theirs)
            body = BODIES.get((method, re.sub(r"^/v1(/workspaces/\{workspace\}(?=/))?", "", path)))
            calls += 1
            async with api.session.request(
                method,
                URL(api.url + target, encoded=True),
                headers={"Authorization": f"Bearer {secret}", "Content-Type": "application/json"},
                data=orjson.dumps(body or BODIES.get((method, path), {})) if method in ("post", "patch") else None,
                allow_redirects=False,
            ) as response:
                streams = response.content_type == "text/event-stream"
                text = "" if streams else (await response.read()).decode("utf-8", "replace")
            text = re.sub(r'"target":"[^"]*"', "", text)  # the audit trail: what these tokens themselves sent
            theirs_shown = any(each in text for each in {MARK, *theirs.ids} if not any(each in one for one in sent))
            may = spelling == "mine" or not ("{workspace}" in path or _of_default(path))
            if theirs_shown or (response.status < 400 and not may):
                found.append(f"{scope} {method} {target}: {response.status} {text[:200]}")
    return calls, found


def aimed(path: str, spelling: str, theirs: Theirs) -> tuple[str, set[str]]:
    """The path with the ids of the other workspace in it, and these ids."""
    named = {
        "workspace": spelling.replace("{seq}", str(theirs.seq)),
        "endpoint": theirs.endpoint,
        "event": f"{MARK}-0",
        "delivery": theirs.delivery,
        "token": "tok_admin",
        "session": theirs.session,
        "node": "0a1b2c3d4e5f",
        "type": "message.received",
    }
    used = {named[name] for name in re.findall(r"\{(\w+)\}", path) if name != "workspace"}
    return re.sub(r"\{(\w+)\}", lambda match: named[match[1]], path), used


def _of_default(path: str) -> bool:
    return re.match(r"/v1/(endpoints|events|deliveries|replay|budget)(/|$)", path) is not None


async def state_of(api: Api, seq: int) -> list[Any]:
    """All rows of a workspace that a call could change."""
    sql = (
        "SELECT seq, name, plan, notify FROM workspaces WHERE seq = ?1 "
        "UNION ALL SELECT seq, url, state, description FROM endpoints WHERE workspace_seq = ?1 "
        "UNION ALL SELECT seq, id, type, '' FROM events WHERE workspace_seq = ?1 "
        "UNION ALL SELECT 0, id, scope, note FROM tokens WHERE workspace_seq = ?1 "
        "UNION ALL SELECT 0, s.id, '', '' FROM sessions s JOIN tokens t ON t.id = token_id WHERE t.workspace_seq = ?1 "
        "UNION ALL SELECT read_only, hex(code_sha256), token_id, language FROM portal_links WHERE workspace_seq = ?1"
    )
    return await api.app.store.read(lambda db: db.execute(sql, (seq,)).fetchall())


@asynccontextmanager
async def churning(api: Api, theirs: Theirs) -> AsyncIterator[list[int]]:
    """The other workspace is deleted and made again all the time, and events pour into the token's own."""
    rounds = [0]

    async def churn() -> None:
        while True:
            await replace_theirs(api, theirs)
            rounds[0] += 1
            body = b'{"event_type":"message.sent"}'
            await api.app.services.ingest.accept("mine", [NewEvent(f"own-{rounds[0]}", "message.sent", body)])

    churner = asyncio.create_task(churn())
    try:
        yield rounds
    finally:
        churner.cancel()
        await asyncio.wait([churner])
        assert churner.cancelled(), churner.exception()


@pytest.mark.slow
async def test_no_token_of_a_workspace_reaches_another(api: Api) -> None:
    """Before, while and after it is deleted and made again: nothing is read and nothing is changed."""
    services, theirs = api.app.services, Theirs()
    await services.workspaces.create("mine")
    await make_theirs(api, theirs)
    tokens = {scope: (await services.tokens.add(scope, "mine"))[1] for scope in ("admin", "ingest", "observe")}
    await api.engine.quiet()
    before, untouched = await state_of(api, theirs.seq), await state_of(api, 1)
    calls, found = await leaks(api, tokens, theirs)
    assert calls > 1000 and found == []
    assert before == await state_of(api, theirs.seq)
    async with churning(api, theirs) as rounds:
        _, found = await leaks(api, tokens, theirs)
        assert rounds[0] > 10 and found == []
    await api.engine.quiet()
    names = {each.id for each in api.app.registry.workspaces()}
    if "theirs" not in names:
        await make_theirs(api, theirs)
    before = await state_of(api, theirs.seq)
    _, found = await leaks(api, tokens, theirs)
    assert found == [] and before == await state_of(api, theirs.seq)
    assert untouched == await state_of(api, 1)
    for endpoint in api.app.registry.endpoints("mine"):
        await services.endpoints.delete("mine", endpoint.id)
    await services.workspaces.delete("mine")
    await services.workspaces.create("mine")
    for (method, path), secret in itertools.product(operations(api), tokens.values()):
        target = re.sub(r"\{\w+\}", "mine", path)
        answer = await api.call(method.upper(), target, {} if method != "get" else None, token=secret)
        assert (path, 401 if path not in ("/healthz", "/readyz") else 200) == (path, answer.status)
