"""Takes the manual's pictures of the page: `python -m tests.manual.screenshot`.

Chromium in front of a daemon with sample data, in light colours.  Nothing leaves the machine: the network is scripted.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from pathlib import Path

import orjson
from playwright.async_api import async_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.manual.__main__ import MANUAL
from tests.support.engine import ScriptedNetwork
from tests.support.listening import listening
from webhookd.app import App
from webhookd.clock import SystemClock
from webhookd.config import Budget, Config, Delivery
from webhookd.models import NewEvent
from webhookd.rules.event_types import BUILT_IN
from webhookd.web.router import make_app
from webhookd.web.server.http_server import Runner

WEBHOOKS = (
    ("https://crm.example/hook", "CRM", ["contact.created", "contact.updated", "contact.tag.updated"]),
    ("https://desk.example/hook", "Help desk", ["conversation.opened", "conversation.closed"]),
    ("https://data.example/in", "Data warehouse", ["*"]),
    ("https://bot.example/hook", "Auto-reply bot", ["message.received"]),
)
EVENTS = 110


async def take() -> None:
    """The front page, with webhooks that deliver and one that the budget has disabled."""
    config = Config(delivery=Delivery(retry_seconds=(0.05, 0.05, 0.05)), budget=Budget(limit=30))
    network = ScriptedNetwork(SystemClock(), takes_seconds=0.03)  # type: ignore[arg-type]
    network.answer = lambda url, webhook_id: 503 if "bot." in url else 200
    with tempfile.TemporaryDirectory() as folder:
        app = await App.open(config, Path(folder), clock=SystemClock(), transport=network)
        await app.start({})
        for url, description, types in WEBHOOKS:
            await app.services.endpoints.create("default", url=url, event_types=types, description=description)
        for number, kind in zip(range(EVENTS), itertools.cycle(BUILT_IN), strict=False):
            body = orjson.dumps({**kind.sample, "event_id": f"evt_{number}"})
            await app.services.ingest.accept("default", [NewEvent(f"evt_{number}", kind.name, body)])
            await asyncio.sleep(0.05)
        async with (
            listening(Runner(make_app(app.services), shutdown_seconds=0.2)) as url,
            async_playwright() as playwright,
        ):
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            page = await browser.new_page(viewport={"width": 1200, "height": 600}, color_scheme="light")
            await page.goto(app.services.sessions.link(url) or url)
            await page.wait_for_url("**/webhooks*")
            await page.screenshot(path=MANUAL / "images" / "page.png", full_page=True)
            await browser.close()
        await app.stop()


if __name__ == "__main__":
    asyncio.run(take())
