"""*Help*: the manual, for readers who are signed in and those who are not."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from aiohttp import web

from webhookd import manual
from webhookd.errors import ApiError
from webhookd.web.ui.pages import Page

if TYPE_CHECKING:
    from markdown_it.token import Token

_LINK_IN_MANUAL = re.compile(r"([a-z-]+)\.md(#.*)?")


async def show_contents(page: Page) -> web.StreamResponse:
    """The topics."""
    return page.show("help.html", sections=_contents(), topic=None, title="", html="")


async def show_topic(page: Page) -> web.StreamResponse:
    """One topic.  ApiError `not_found` if there is no such topic."""
    topic = page.request.match_info["topic"]
    if topic not in manual.TOPICS:
        raise ApiError("not_found", "The manual has no such page.")
    return page.show("help.html", sections=_contents(), topic=topic, title=manual.title(topic), html=render(topic))


async def show_image(page: Page) -> web.StreamResponse:
    """A picture of the manual."""
    body = manual.image(page.request.match_info["name"])
    if body is None:
        raise ApiError("not_found", "The manual has no such picture.")
    return web.Response(body=body, content_type="image/png")


def slug(heading: str) -> str:
    """The anchor of a heading, as code hosts make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@cache
def render(topic: str) -> str:
    """A topic as HTML.  The Markdown can hold no HTML of its own."""
    from markdown_it import MarkdownIt  # here because only readers of the manual need it

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(manual.read(topic))
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and following is not None:
            token.attrSet("id", slug("".join(each.content for each in following.children or ())))
        elif token.type == "inline":
            token.children = _relinked(token.children or [])
    html: str = markdown.renderer.render(tokens, markdown.options, {})
    # What may be wider than a phone scrolls by itself; tabindex lets keys scroll it.
    html = html.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace("</table>", "</table></div>")
    return html.replace("<pre>", '<pre tabindex="0">')


def _relinked(tokens: list[Token]) -> list[Token]:
    """Links between pages lead to `/help/…`; those to files of the repository, which the page doesn't have, go."""
    kept, outside = [], False
    for token in tokens:
        if token.type == "link_open":
            href = str(token.attrGet("href"))
            found = _LINK_IN_MANUAL.fullmatch(href)
            if found:
                token.attrSet("href", f"/help/{found[1]}{found[2] or ''}")
            outside = not found and not href.startswith(("#", "https:"))
        elif token.type == "image":
            token.attrSet("src", f"/help/{token.attrGet('src')}")
        if not (outside and token.type in ("link_open", "link_close")):
            kept.append(token)
        if token.type == "link_close":
            outside = False
    return kept


@cache
def _contents() -> list[tuple[str, list[tuple[str, str]]]]:
    return [(name, [(topic, manual.title(topic)) for topic in topics]) for name, topics in manual.SECTIONS.items()]
