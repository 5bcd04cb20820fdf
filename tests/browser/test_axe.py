"""axe-core finds nothing on any page in any state: with and without JavaScript, in both languages, light and dark."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from msgspec.structs import replace
from playwright.async_api import Browser, Page, Response

from tests.browser.conftest import TIMEOUT_SECONDS
from tests.browser.states import CONFIG, STATES, State, View, World, press, world
from webhookd.config import Page as Brand
from webhookd.web.api.openapi import paths_of
from webhookd.web.router import ROUTES
from webhookd.web.server.question_limit import QUESTION_LIMIT

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text("utf-8")
# Everything that axe knows about WCAG 2.2 A and AA, and its own good practices; in the dark only what is of colours.
RUN = """async (rules) => (await axe.run(document, {resultTypes: ["violations"], preload: false,
  ...(rules && {runOnly: rules})})).violations.map(
  each => `${each.id}: ${each.help}: ${each.nodes.map(node => node.html).slice(0, 3).join(" | ")}`)"""
SETTLE_SECONDS = 0.5
COLOURS = ["color-contrast", "link-in-text-block"]
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
# Each page is looked at in each of them, light and dark.
LOOKS: dict[str, dict[str, Any]] = {
    "desktop, English": {"viewport": DESKTOP},
    "desktop, Vietnamese, no script, branded": {"viewport": DESKTOP, "locale": "vi-VN"},
    "phone, Vietnamese, no script": {"viewport": PHONE, "locale": "vi-VN"},
}
# Addresses of the page that show none, and why.
NO_PAGE = {
    "GET /": "leads to the webhooks",
    "GET /workspaces/{workspace}/endpoints/{endpoint}": "leads to a webhook",
    "GET /static/{name}": "a file",
    "GET /brand.css": "a file",
    "GET /logo": "a file",
    "GET /help/images/{name}": "a picture",
    "GET /portal/help/images/{name}": "a picture",
    "GET /log/stream": "a live stream",
    "GET /portal/log/stream": "a live stream",
}
# Forms that lead elsewhere once they are sent; what is wrong with one of them is said by the page of errors.
LEAD_ELSEWHERE = re.compile(
    r"/(sign-out|language|confirm-address|key|rotate-key|enable|disable|test|delete|backfill|replay|revoke|end)"
)


@dataclass(slots=True)
class Visit:
    """Everybody who looks at the pages of a world, and which addresses answered with a page."""

    made: World
    browser: Browser
    look: str
    stack: AsyncExitStack
    views: dict[str, View] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)

    async def see(self, state: State) -> View:
        """Lead the right reader to the state's page, and do there what it says."""
        if state.who not in self.views:
            self.views[state.who] = await self._enter(state.who)
        view = self.views[state.who]
        async with AsyncExitStack() as busy:
            if state.busy:
                (token,) = [each for each in await self.made.services.tokens.list() if each.id == "tok_admin"]
                seq = self.made.services.registry.workspace("default").seq
                for _ in range(CONFIG.limits.questions_per_token):
                    await busy.enter_async_context(self.made.server[QUESTION_LIMIT].one(token, seq))
            await view.goto(self.made.site.url + state.path.format(**self.made.names))
        if state.act:
            await state.act(view, self.made)
        return view

    async def _enter(self, who: str) -> View:
        context = await self.browser.new_context(**LOOKS[self.look])
        self.stack.push_async_callback(context.close)
        context.set_default_timeout(TIMEOUT_SECONDS * 1000)
        if "no script" in self.look:  # not by the browser's own switch: axe needs a script as well
            await context.route("**/static/*.js?*", lambda route: route.abort())
        context.on("response", lambda response: self._note(response))  # it marks what it is given
        page = await context.new_page()
        if who in ("customer", "onlooker", "stranger"):
            return await self.made.embed(page, who, "vi" if "Vietnamese" in self.look else "en")
        secrets = {"admin": self.made.site.admin_token, "bound": self.made.bound_token}
        if who in secrets:
            await page.goto(f"{self.made.site.url}/sign-in")
            await press("button.main", secret=secrets[who])(page, self.made)
        return page

    def _note(self, response: Response) -> None:
        if response.request.is_navigation_request() and response.status != 303:
            self.shown.add(route_of(self.made.server, response.request.method, urlsplit(response.url).path))


def routes(server: web.Application) -> list[str]:
    """Every address of the page that shows one, with its method."""
    api = {path for route in ROUTES for path in paths_of(route)}
    named = [(each.method, each.resource.canonical) for each in server.router.routes() if each.resource is not None]
    return [
        f"{method} {path}"
        for method, path in named
        if method in ("GET", "POST")
        and path not in api
        and f"{method} {path}" not in NO_PAGE
        and not (method == "POST" and LEAD_ELSEWHERE.search(path))
    ]


def route_of(server: web.Application, method: str, path: str) -> str:
    """The address, as the routes write it, that answers for a path."""
    for each in routes(server):
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", each), f"{method} {path}"):
            return each
    return path


async def violations(view: View, *rules: str) -> list[str]:
    """What axe finds, by all of its rules or by some, twice: what is there amid a live update only is no state."""
    found: list[str] = await view.evaluate(RUN, list(rules) or None)
    if found:
        await asyncio.sleep(SETTLE_SECONDS)
        again = {each.partition(":")[0] for each in await view.evaluate(RUN, list(rules) or None)}
        found = [each for each in found if each.partition(":")[0] in again]
    return found


@pytest.mark.parametrize("look", LOOKS)
async def test_axe_finds_nothing_on_any_page_in_any_state(browser: Browser, tmp_path: Path, look: str) -> None:
    """No violation, light and dark; nothing is wider than the screen; no page is forgotten."""
    config = replace(CONFIG, page=Brand(name="Shop", accent="#7a2a8c")) if "branded" in look else CONFIG
    found: dict[str, list[str]] = {}
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(world(tmp_path, config))
        visit = Visit(made, browser, look, stack)
        for name, state in STATES.items():
            view = await visit.see(state)
            await view.evaluate(AXE)
            found[name] = await violations(view)
            if await view.evaluate("document.documentElement.scrollWidth > innerWidth"):
                found[name] += ["wider than the screen"]
            page = view if isinstance(view, Page) else view.page
            await page.emulate_media(color_scheme="dark")
            found[name] += [f"dark: {each}" for each in await violations(view, *COLOURS)]
            await page.emulate_media(color_scheme="light")
        assert [] == [each for each in routes(made.server) if each not in visit.shown]
    assert not any(found.values()), "\n".join(f"{name}: {each}" for name, each in found.items() if each)
