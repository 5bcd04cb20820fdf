"""The portal in a product's page of another site, over https, where third-party cookies are blocked: the real nginx
before the daemon, and Chromium."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from playwright.async_api import BrowserContext, Frame, Page, async_playwright, expect

from tests.browser.conftest import ARGUMENTS, CHROMIUM, CONFIG, TIMEOUT_SECONDS
from tests.support.listening import listening, served
from tests.support.receiver import Receiver
from webhookd.app import App
from webhookd.clock import SystemClock
from webhookd.config import Config, Listen
from webhookd.config import Page as Brand
from webhookd.web.router import make_app
from webhookd.web.server.http_server import Runner

HOOKS, PRODUCT = "hooks.webhookd.test", "app.shop.test"  # two sites, and neither is on a list of public suffixes
BLOCKED = [
    "--test-third-party-cookie-phaseout",
    f"--host-resolver-rules=MAP {HOOKS} 127.0.0.1, MAP {PRODUCT} 127.0.0.1",
]
PAGE = """<!doctype html><html lang="en"><title>Shop</title><body style="margin: 0"><h1>Shop settings</h1>
<iframe id="webhooks" title="Webhooks" src="{link}" style="width: 100%; height: 300px; border: 0"></iframe>
<iframe id="control" title="control" src="{control}"></iframe>
<script>
  addEventListener("message", ({{ origin, data }}) => {{
    if (origin !== "{origin}" || data?.type !== "webhookd:height") return;
    document.getElementById("webhooks").style.height = `${{data.height}}px`;
  }});
</script></body></html>"""
NGINX = """daemon off; master_process off; pid {folder}/pid; error_log {folder}/log; events {{}}
http {{ access_log off; {temporary}
  ssl_certificate {folder}/chain.pem; ssl_certificate_key {folder}/key.pem;
  proxy_http_version 1.1; proxy_buffering off;
  proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto https;
  server {{ listen 127.0.0.1:{port} ssl; server_name {hooks};
    location /control {{
      add_header Set-Cookie "control=1; Path=/; Secure; SameSite=None"; return 200 "cookie: $http_cookie."; }}
    location / {{ proxy_pass {daemon}; }} }}
  server {{ listen 127.0.0.1:{port} ssl; server_name {product}; location / {{ proxy_pass {shop}; }} }}
}}
"""


@dataclass
class Shop:
    """A product with webhookd behind it, each under its own site; `fields` are those of the next link."""

    app: App
    port: int
    link: str = ""
    read_only: bool = False
    language: str = ""

    @property
    def hooks(self) -> str:
        return f"https://{HOOKS}:{self.port}"

    @property
    def url(self) -> str:
        return f"https://{PRODUCT}:{self.port}/settings"

    async def show(self, request: web.BaseRequest) -> web.StreamResponse:
        """The product's settings: its backend asks for a link each time."""
        services = self.app.services
        (token,) = [each for each in await services.tokens.list() if each.id == "tok_admin"]
        self.link, _ = await services.sessions.portal_link(
            self.hooks,
            token,
            self.app.registry.workspace("acme"),
            expires_in_seconds=600,
            read_only=self.read_only,
            language=self.language,
            return_url=f"{self.url}?back",
        )
        text = PAGE.format(link=self.link, origin=self.hooks, control=f"{self.hooks}/control")
        return web.Response(text=text, content_type="text/html")


@asynccontextmanager
async def proxied(folder: Path, port: int, daemon: str, shop: str) -> AsyncIterator[None]:
    """nginx with a certificate of the test's own for both names."""
    folder.mkdir()
    certificate = trustme.CA().issue_cert(HOOKS, PRODUCT)
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(folder / "chain.pem", append=True)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{each}_temp_path {folder};" for each in kinds)
    names = {"hooks": HOOKS, "product": PRODUCT, "daemon": daemon, "shop": shop}
    (folder / "config").write_text(NGINX.format(folder=folder, temporary=temporary, port=port, **names))
    process = await asyncio.create_subprocess_exec("nginx", "-c", f"{folder}/config", "-p", str(folder))
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                assert process.returncode is None
                try:
                    (await asyncio.open_connection("127.0.0.1", port))[1].close()
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.05)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    if CHROMIUM is None or shutil.which("nginx") is None:
        pytest.skip("no Chromium or no nginx on this machine: the portal was not tried in a product's page")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    origin = f"https://{PRODUCT}:{port}"
    config = Config(
        egress=CONFIG.egress,
        delivery=CONFIG.delivery,
        budget=CONFIG.budget,
        listen=Listen(public_url=f"https://{HOOKS}:{port}", frame_ancestors=(origin,)),
        page=Brand(name="Shop", accent="#7a2a8c"),
    )
    app = await App.open(config, tmp_path, clock=SystemClock())
    try:
        await app.start({})
        await app.services.workspaces.create("acme", name="Acme")
        made = Shop(app, port)
        async with (
            listening(Runner(make_app(app.services), shutdown_seconds=0.2)) as daemon,
            served(made.show) as product,
            proxied(tmp_path / "nginx", port, daemon, product),
        ):
            yield made
            app.stop_accepting()
    finally:
        await app.stop()


@asynccontextmanager
async def browsing(complaints: int = 0, **options: object) -> AsyncIterator[BrowserContext]:
    """A fresh browser with third-party cookies blocked; so many times a page may complain of a policy."""
    said_so: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *BLOCKED])
        context = await browser.new_context(ignore_https_errors=True, **options)  # type: ignore[arg-type]
        context.set_default_timeout(TIMEOUT_SECONDS * 1000)
        context.on("weberror", lambda error: said_so.append(str(error.error)))
        context.on("console", lambda said: said_so.append(said.text) if "Content Security" in said.text else None)
        yield context
        await browser.close()
    assert complaints == len(said_so), said_so


async def frame_of(page: Page, name: str = "webhooks") -> Frame:
    """The document in the product's frame."""
    handle = await page.locator(f"#{name}").element_handle()
    frame = await handle.content_frame()
    assert frame is not None
    return frame


async def enter(page: Page, shop: Shop, *, script: bool) -> Frame:
    """Open the product's page; the portal signs in by itself, without a script by hand."""
    await page.goto(shop.url)
    frame = await frame_of(page)
    if not script:
        await frame.get_by_label("Code").fill(shop.link.partition("#")[2])
        await frame.get_by_role("button", name="Open").click()
    await frame.wait_for_url(f"{shop.hooks}/portal/webhooks")
    return frame


async def add(frame: Frame, url: str) -> None:
    await frame.get_by_role("link", name="Connect").click()
    await frame.get_by_label("URL", exact=True).fill(url)
    await frame.get_by_label("Every event").check()
    await frame.get_by_role("button", name="Add webhook").click()
    await expect(frame.locator("#signing-key")).to_be_visible()
    await frame.get_by_role("link", name="Done").click()


@pytest.mark.parametrize("script", [True, False], ids=["with JavaScript", "without JavaScript"])
async def test_a_customer_manages_webhooks_inside_the_product(shop: Shop, receiver: Receiver, script: bool) -> None:
    """Sign in, add, disable, enable, read the log, all within the frame; third-party cookies are really blocked."""
    async with browsing(java_script_enabled=script) as context:
        page = await context.new_page()
        frame = await enter(page, shop, script=script)
        control = await frame_of(page, "control")
        await control.goto(f"{shop.hooks}/control")
        assert "control=1" not in await control.content()
        await add(frame, receiver.url)
        await frame.get_by_role("button", name="Disable").first.click()
        await expect(frame.get_by_text("Disabled: its events are held")).to_be_visible()
        await frame.get_by_role("link", name="Enable").first.click()
        await frame.get_by_role("button", name="Enable").click()
        await expect(frame.get_by_text("Enabled.")).to_be_visible()
        (endpoint,) = shop.app.registry.endpoints("acme")
        assert ("active", receiver.url) == (endpoint.state, endpoint.url)
        await frame.get_by_role("navigation", name="Main").get_by_role("link", name="Event log").click()
        await expect(frame.get_by_role("heading", name="Event log")).to_be_visible()
        if script:
            high = await page.locator("#webhooks").evaluate("element => element.clientHeight")
            assert high != 300 and not await frame.evaluate("document.documentElement.scrollHeight > innerHeight + 1")
        await frame.get_by_role("link", name="Back").click()
        await page.wait_for_url(f"{shop.url}?back")


async def test_only_the_product_may_embed_it(shop: Shop) -> None:
    """In a page of another origin the frame stays empty; other pages are in no frame at all."""
    async with browsing(complaints=2) as context:
        page = await context.new_page()
        await page.goto(f"{shop.hooks}/control")  # webhookd's own origin is none of those named either
        for path in ("/portal", "/sign-in"):
            await page.set_content(f'<iframe id="webhooks" src="{shop.hooks}{path}"></iframe>')
            await page.wait_for_timeout(300)
            frame = await frame_of(page)
            assert "chrome-error" in frame.url
