"""*Help*: the manual, for readers who are signed in and those who are not; and the reference of the event types."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from aiohttp import web
from msgspec.structs import replace

from webhookd import manual
from webhookd.catalogue.types import Field
from webhookd.errors import ApiError
from webhookd.web.ui.pages import PORTAL, Page
from webhookd.web.ui.view_models import EventTypeView, event_type_view

if TYPE_CHECKING:
    from markdown_it.token import Token

_LINK_IN_MANUAL = re.compile(r"(?:\.\./)?([a-z-]+)\.md(#.*)?")
# What the customers of a product need: the rest is for those who run webhookd.
IN_PORTAL = ("receiving", "filters-and-ordering")


async def show_contents(page: Page) -> web.StreamResponse:
    """The topics."""
    return page.show("help.html", sections=_contents(page), topic=None, title="", html="", language=page.text.language)


async def show_topic(page: Page) -> web.StreamResponse:
    """One topic.  ApiError `not_found` if there is no such topic."""
    topic = page.request.match_info["topic"]
    if topic not in (IN_PORTAL if page.portal else manual.TOPICS):
        raise ApiError("not_found", "The manual has no such page.")
    language = manual.language_of(topic, page.text.language)
    return page.show(
        "help.html",
        sections=_contents(page),
        topic=topic,
        title=manual.title(topic, language),
        html=render(topic, language, in_portal=page.portal),
        language=language,
    )


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
def render(topic: str, language: str = "en", *, in_portal: bool = False) -> str:
    """A topic as HTML.  The Markdown can hold no HTML of its own.  Headings have the same anchors in every language."""
    from markdown_it import MarkdownIt  # here because only readers of the manual need it

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(manual.read(topic, language))
    anchors = iter(map(slug, _headings(markdown.parse(manual.read(topic)))))
    for token in tokens:
        if token.type == "heading_open":
            token.attrSet("id", next(anchors))
        elif token.type == "inline":
            token.children = _relinked(token.children or [], in_portal=in_portal)
    for opened, text, closed in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if opened.type == "th_open" and not text.content:
            opened.tag = closed.tag = "td"  # the head of a column that explains itself
    html: str = markdown.renderer.render(tokens, markdown.options, {})
    # What may be wider than a phone scrolls by itself; tabindex lets keys scroll it.
    html = html.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace("</table>", "</table></div>")
    return html.replace("<pre>", '<pre tabindex="0">')


def _headings(tokens: list[Token]) -> list[str]:
    return [
        "".join(each.content for each in text.children or ())
        for token, text in pairwise(tokens)
        if token.type == "heading_open"
    ]


def _relinked(tokens: list[Token], *, in_portal: bool) -> list[Token]:
    """Links between pages lead to `/help/…`; those to files of the repository, which the page doesn't have, go.

    So do those to pages that the portal hasn't got.  A link to another site opens beside the page.
    """
    kept, outside, base = [], False, PORTAL if in_portal else ""
    for token in tokens:
        if token.type == "link_open":
            href = str(token.attrGet("href"))
            found = _LINK_IN_MANUAL.fullmatch(href)
            if found:
                page = "event-types" if in_portal and found[1] == "event-types" else f"help/{found[1]}{found[2] or ''}"
                token.attrSet("href", f"{base}/{page}")
            elif href.startswith("https:"):
                token.attrSet("target", "_blank")
                token.attrSet("rel", "noopener noreferrer")
            outside = not href.startswith(("#", "https:")) and not (
                found and (not in_portal or found[1] in (*IN_PORTAL, "event-types"))
            )
        elif token.type == "image":
            token.attrSet("src", f"{base}/help/{token.attrGet('src')}")
        if not (outside and token.type in ("link_open", "link_close")):
            kept.append(token)
        if token.type == "link_close":
            outside = False
    return kept


def _contents(page: Page) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """The sections, each with its topics: name, title, language."""
    wanted = page.text.language
    if page.portal:
        return [("", [_entry(topic, wanted) for topic in IN_PORTAL])]
    sections = manual.SECTIONS.items()
    return [(page.text(f"help.{name.lower()}"), [_entry(each, wanted) for each in topics]) for name, topics in sections]


@cache
def _entry(topic: str, wanted: str) -> tuple[str, str, str]:
    language = manual.language_of(topic, wanted)
    return topic, manual.title(topic, language), language


@dataclass(frozen=True, slots=True)
class ShownReference:
    """One type with all that is known of it; notes and meanings are in the reader's language."""

    kind: EventTypeView
    notes: tuple[list[str], ...]  # each in pieces, every other one of them code
    fields: tuple[Field, ...]
    sample: str


async def show_event_types(page: Page) -> web.StreamResponse:
    """Every type of the catalogue, in its own order."""
    event_types = page.services.event_types()
    shown = [_shown(page, name) for name in event_types.names]
    return page.show("event_types.html", types=shown, open=page.asked("type"))


def _shown(page: Page, name: str) -> ShownReference:
    known = page.services.event_types().require(name)
    fields = tuple(replace(each, meaning=page.text.meaning(each.meaning)) for each in known.fields)
    notes = tuple(page.text.meaning(note).split("`") for note in known.notes)
    sample = json.dumps(known.sample, indent=2, ensure_ascii=False)
    return ShownReference(event_type_view(page, name), notes, fields, sample)
