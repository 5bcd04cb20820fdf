"""The receiver's recipes: each program takes what a real daemon signs, once, and nothing that others send."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.recipes.languages import Program, prepare
from tests.support.listening import free_port
from tests.support.process import Daemon, daemon
from webhookd.rules.signing import Signer, new_key

KEY = new_key(bytes(range(32)))
CONFIG = '[egress]\nallow = ["127.0.0.0/8"]\n[delivery]\nretry_seconds = []\n'
BODY = '{"text": "Xin chào 📦"}'.encode()
RECEIVERS = ["receive.py", "receive.mjs", "receive.php", "receive.go"]


@asynccontextmanager
async def running(program: Program, words: list[str]) -> AsyncIterator[str]:
    process = await program.start(*words)
    port = int(program.environ["PORT"])
    try:
        async with asyncio.timeout(30):
            while True:
                assert process.returncode is None, (await process.communicate())[1].decode()
                try:
                    (await asyncio.open_connection("127.0.0.1", port))[1].close()
                    break
                except OSError:
                    await asyncio.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.kill()
        program.out += (await process.communicate())[0].decode()


async def statuses(url: str) -> list[int]:
    """The answers to: a good request, a changed body, an old one, another's key, no headers at all."""
    body, now = BODY, int(time.time())
    good = Signer(KEY).headers("evt_1", now, body)
    requests: list[tuple[Any, bytes]] = [
        (good, body),
        (good, body + b" "),
        (Signer(KEY).headers("evt_2", now - 400, body), body),
        (Signer(new_key(b"x" * 32)).headers("evt_3", now, body), body),
        ((), body),
    ]
    found = []
    async with aiohttp.ClientSession() as session:
        for headers, sent in requests:
            async with session.post(url, data=sent, headers=dict(headers)) as answer:
                found.append(answer.status)
    return found


async def until_done(program: Program, words: list[str], count: int) -> set[str]:
    """Let the receiver work until so many events are done; their ids."""
    done = program.folder / "done"
    async with asyncio.timeout(60):
        while len(list(done.glob("*"))) < count:
            if words[0] == "php":  # its work is a program of its own
                program.out += (await program.run("php", program.name)).out
            await asyncio.sleep(0.05)
    return {path.name for path in done.iterdir()}


def worked_on(program: Program) -> list[str]:
    """The ids of what a receiver that has ended worked on, in its order."""
    return re.findall(r"(?m)^working on (\S+) ", program.out)


async def until_delivered(d: Daemon, count: int) -> None:
    async with asyncio.timeout(60):
        while len((await d.call("GET", "/v1/deliveries?state=delivered&limit=500"))["data"]) < count:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("name", RECEIVERS)
async def test_a_receiver_takes_what_is_signed_once(tmp_path: Path, name: str) -> None:
    """Two events, one of them replayed, and a rotated key: each is worked on once; what isn't ours is refused."""
    folder = tmp_path / "receiver"
    folder.mkdir()
    program = Program(name, folder, {"WEBHOOK_KEY": KEY, "PORT": str(free_port())})
    words = await prepare(program)
    async with daemon(tmp_path / "state", CONFIG) as d, running(program, words) as url:
        fields = {"url": url, "event_types": ["*"], "signing_key": KEY}
        endpoint = (await d.call("POST", "/v1/endpoints", fields, expect=201))["id"]
        for number in (1, 2):
            event = {"event_type": "message.sent", "event_id": f"m-{number}"}
            await d.call("POST", "/v1/events", event, expect=202)
        await until_delivered(d, 2)
        assert {"m-1", "m-2"} == await until_done(program, words, 2)
        await d.call("POST", f"/v1/endpoints/{endpoint}/rotate-key", {}, expect=200)  # for a day both sign
        await d.call("POST", "/v1/replay", {"endpoint": endpoint, "state": "delivered"}, expect=200)
        await until_delivered(d, 4)
        assert [200, 401, 401, 401, 401] == await statuses(url)
        assert {"m-1", "m-2", "evt_1"} == await until_done(program, words, 3)
        assert [] == [path.name for path in (folder / "inbox").iterdir()]
        assert BODY == (folder / "done" / "evt_1").read_bytes()
    assert ["m-1", "m-2", "evt_1"] == worked_on(program)


@pytest.mark.parametrize("name", RECEIVERS)
async def test_a_receiver_keeps_the_order_of_a_burst(tmp_path: Path, name: str) -> None:
    """400 events at once: all of them, in order, each once."""
    folder = tmp_path / "receiver"
    folder.mkdir()
    program = Program(name, folder, {"WEBHOOK_KEY": KEY, "PORT": str(free_port())})
    words = await prepare(program)
    ids = [f"m-{number}" for number in range(400)]
    events = [{"event_type": "message.sent", "event_id": event_id} for event_id in ids]
    async with daemon(tmp_path / "state", CONFIG) as d, running(program, words) as url:
        await d.call("POST", "/v1/endpoints", {"url": url, "event_types": ["*"], "signing_key": KEY}, expect=201)
        await d.call("POST", "/v1/events", events, expect=202)
        await until_done(program, words, len(ids))
    assert ids == worked_on(program)


async def test_a_receiver_proves_what_it_missed(tmp_path: Path) -> None:
    """In order by key: nothing of 60 events; then three that were skipped; a place that isn't signed is refused."""
    program = Program("receive_in_order.py", tmp_path, {"WEBHOOK_KEY": KEY, "PORT": str(free_port())})
    words = await prepare(program)
    events = [{"event_type": "message.sent", "event_id": f"m-{n}", "contact": {"id": n % 7}} for n in range(64)]
    async with daemon(tmp_path / "state", CONFIG) as d, running(program, words) as url, aiohttp.ClientSession() as http:

        async def found() -> Any:
            async with http.get(url) as answer:
                return await answer.json(content_type=None)

        ordering = {"key": "contact.id", "lanes": 4}
        fields = {"url": url, "event_types": ["*"], "signing_key": KEY, "ordering": ordering}
        endpoint = f"/v1/endpoints/{(await d.call('POST', '/v1/endpoints', fields, expect=201))['id']}"
        await d.call("POST", "/v1/events", events[:60], expect=202)
        await until_delivered(d, 60)
        assert {"highest": 60, "missing": [], "without_the_one_before": []} == await found()
        await d.call("POST", f"{endpoint}/disable", {}, expect=200)
        await d.call("POST", "/v1/events", events[60:63], expect=202)
        await d.call("POST", f"{endpoint}/enable", {"skip_held": True}, expect=200)
        await d.call("POST", "/v1/events", events[63:], expect=202)
        await until_delivered(d, 61)
        assert (64, [61, 62, 63]) == ((told := await found())["highest"], told["missing"])
        now = int(time.time())
        signed = dict([*Signer(KEY).headers("evt", now, BODY), *Signer(KEY).order_headers("evt", now, 65, "m-63")])
        for changed, status in (({"webhook-sequence": "66"}, 401), ({"webhook-lane-previous": "m-1"}, 401), ({}, 200)):
            async with http.post(url, data=BODY, headers={**signed, **changed}) as answer:
                assert status == answer.status


@pytest.mark.parametrize("document", ["README.md", "webhookd/manual"])
def test_every_recipe_is_linked(document: str) -> None:
    """Each file in etc/recipes is linked, and each link leads to a file."""
    root = Path(__file__).resolve().parents[2]
    pages = [root / document] if document.endswith(".md") else (root / document).glob("*.md")
    linked = {name for page in pages for name in re.findall(r"etc/recipes/([\w.]+)\)", page.read_text("utf-8"))}
    assert {path.name for path in (root / "etc" / "recipes").iterdir() if os.path.isfile(path)} == linked
