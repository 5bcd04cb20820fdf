"""Receivers that sign `JSON.stringify(parsed)` verify what the recipes, the examples and the samples send."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
from typing import Any

import orjson

from tests.recipes.languages import RECIPES, Program, needs
from tests.recipes.test_receivers import CONFIG, KEY, running, until_delivered
from tests.recipes.test_senders import COMMANDS
from tests.support.listening import free_port
from tests.support.process import daemon
from webhookd.rules.event_types import BUILT_IN

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "webhookd").rglob("*.md"), *(ROOT / "webhookd").rglob("*.html")]
PAGES += [ROOT / "etc" / "recipes" / "send.sh"]
TEXT = "Xin chào 📦 / \u2028 <&> \u007f \u001f \\"
FROM_PROGRAMS = {
    "python3": ("-c", "import os, send; send.send('message.received', text=os.environ['TEXT'])"),
    "node": ("-e", "import('./send.mjs').then((m) => m.send('message.received', { text: process.env.TEXT }))"),
    "php": ("-r", "require 'send.php'; send('message.received', ['text' => getenv('TEXT')]);"),
}


def examples() -> list[str]:
    texts = [html.unescape(page.read_text("utf-8")) for page in PAGES]
    return [found for text in texts for found in re.findall(r"""['\n] *(\{"event_type".*?\})(?=['\n])""", text)]


async def test_what_we_show_and_what_recipes_send_verifies(tmp_path: Path) -> None:
    """Compact JSON with every character as itself is what `JSON.stringify` makes of it; anything else is refused."""
    node = needs("node")
    folder = tmp_path / "receiver"
    folder.mkdir()
    for file in (*RECIPES.glob("send.*"), Path(__file__).with_name("older.mjs")):
        shutil.copy(file, folder)
    older = Program("older.mjs", folder, {"WEBHOOK_KEY": KEY, "PORT": str(free_port())})
    shown = examples()
    assert 7 <= len(shown)
    async with daemon(tmp_path / "state", CONFIG) as d, running(older, [node, "older.mjs"]) as url:
        fields = {"url": url, "event_types": ["*"], "signing_key": KEY}
        endpoint = (await d.call("POST", "/v1/endpoints", fields, expect=201))["id"]

        async def post(body: str | bytes) -> Any:
            headers = {**d.admin(), "Content-Type": "application/json"}
            async with d.session.post(f"{d.url}/v1/events", data=body, headers=headers) as answer:
                return answer.status, await answer.text()

        for number, example in enumerate(shown):  # several pages show the same id
            assert 202 == (await post(example.replace('"m-1"', f'"m-{number}"')))[0], example
        for kind in BUILT_IN:
            assert 202 == (await post(orjson.dumps(kind.sample)))[0]
        token = (d.state_dir / "ingest-token").read_text().strip()
        environ = {"WEBHOOKD_URL": d.url, "WEBHOOKD_INGEST_TOKEN": token, "TEXT": TEXT}
        sender = Program("send", folder, environ)
        runs = [[needs(command), *words] for command, words in FROM_PROGRAMS.items()]
        runs += [[needs(command), name, shown[-1].replace("m-1", "m-sh")] for name, command in COMMANDS.items()]
        for words in runs:
            ran = await sender.run(*words)
            assert 0 == ran.code, ran.err
        tested = await d.call("POST", f"/v1/endpoints/{endpoint}/test", {}, expect=200)
        assert "delivered" == tested["outcome"]
        await until_delivered(d, len(shown) + len(BUILT_IN) + len(runs) + 1)
        assert 202 == (await post('{"event_type": "message.sent"}'))[0]
        dropped: list[Any] = []
        while not dropped:
            dropped = (await d.call("GET", "/v1/deliveries?state=dropped"))["data"]
        assert [401] == [each["last_attempt"]["status"] for each in dropped]
