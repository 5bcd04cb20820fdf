"""A real browser in front of a real daemon: Debian's Chromium, headless, and an app on the machine's own clock.

The schedules are shortened, the receivers are on loopback.  Where there is no Chromium these tests are skipped, and
say so.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.support.listening import listening
from tests.support.receiver import Receiver
from tests.support.receiver import receiver as receiving
from webhookd.app import App
from webhookd.clock import SystemClock
from webhookd.config import Budget, Config, Delivery, Egress
from webhookd.models import Endpoint, NewEvent
from webhookd.web.router import make_app
from webhookd.web.server.http_server import Runner

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# As root in a container, and with no talk to anybody but the tests.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_SECONDS = 20.0
CONFIG = Config(
    egress=Egress(allow=("127.0.0.0/8",)),
    delivery=Delivery(retry_seconds=(0.3, 0.3, 0.3), timeout_seconds=2),
    budget=Budget(limit=5),
)


@dataclass(slots=True)
class Site:
    app: App
    url: str
    receiver: Receiver
    admin_token: str

    def link(self) -> str:
        made = self.app.services.sessions.link(self.url)
        assert made is not None
        return made

    async def endpoint(self, *, path: str = "", description: str = "", workspace: str = "default") -> Endpoint:
        return await self.app.services.endpoints.create(
            workspace, url=self.receiver.url + path, event_types=["*"], description=description
        )

    async def send(self, *ids: str, text: str = "hello", workspace: str = "default") -> None:
        events = [
            NewEvent(
                i,
                "message.received",
                orjson.dumps({"event_type": "message.received", "event_id": i, "message": {"text": text}}),
            )
            for i in ids
        ]
        await self.app.services.ingest.accept(workspace, events)


@asynccontextmanager
async def exchanged(page: Page, part: str) -> AsyncIterator[None]:
    """What happens inside makes the page's script replace what a live part holds; wait until it has."""
    await page.evaluate("id => { window.held = document.getElementById(id).firstElementChild }", part)
    yield
    await until_page(page, "!held.isConnected")


async def until_page(page: Page, expression: str) -> None:
    """As Playwright's own, which the page's policy forbids."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not await page.evaluate(expression):
            await asyncio.sleep(0.02)


async def painted(page: Page) -> None:
    """Until a page has painted, Chromium drops what a mouse does."""
    await page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


async def waits_for_the_button(page: Page) -> None:
    """The page's script has something new, and keeps it while the mouse's button is down."""
    await until_page(page, "live.busy && pressed")
    await page.evaluate("window.kept = document.querySelector('[data-live]').firstElementChild")
    await page.wait_for_timeout(300)
    assert await page.evaluate("live.busy && kept.isConnected")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        made.url, made.body = f"{made.url}/hook", b'{"ok":true}'
        yield made


@pytest.fixture
async def site(tmp_path: Path, receiver: Receiver) -> AsyncIterator[Site]:
    app = await App.open(CONFIG, tmp_path, clock=SystemClock())
    try:
        await app.start({})
        async with listening(Runner(make_app(app.services), shutdown_seconds=0.2)) as url:
            yield Site(app, url, receiver, (tmp_path / "admin-token").read_text().strip())
            app.stop_accepting()
    finally:
        await app.stop()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium): the page was not tried in it")
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        await launched.close()


Open = Callable[..., Awaitable[Page]]


@pytest.fixture
async def opened(browser: Browser, site: Site) -> AsyncIterator[Open]:
    """Open a tab in a fresh context and sign in; at the end no page may have complained of anything."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    async def opening(*, script: bool = True, sign_in: bool = True, **options: object) -> Page:
        context = await browser.new_context(java_script_enabled=script, **options)  # type: ignore[arg-type]
        context.set_default_timeout(TIMEOUT_SECONDS * 1000)
        contexts.append(context)
        page = await context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
        if sign_in:
            await sign_in_to(page, site, script=script)
        return page

    yield opening
    for context in contexts:
        await context.close()
    assert [] == complaints


async def sign_in_to(page: Page, site: Site, *, script: bool) -> None:
    if script:
        await page.goto(site.link())
    else:
        await page.goto(f"{site.url}/sign-in")
        await page.get_by_label("Token or sign-in code").fill(site.admin_token)
        await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url("**/webhooks*")
