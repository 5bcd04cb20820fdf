"""The reference of the event types: when each fires, every field with its meaning, a sample."""

from __future__ import annotations

import json
from dataclasses import dataclass

from aiohttp import web
from msgspec.structs import replace

from webhookd.catalogue.types import Field
from webhookd.web.ui.pages import Page
from webhookd.web.ui.view_models import EventTypeView, event_type_view


@dataclass(frozen=True, slots=True)
class ShownReference:
    """One type with all that is known of it; the meanings are in the reader's language."""

    kind: EventTypeView
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
    return ShownReference(event_type_view(page, name), fields, json.dumps(known.sample, indent=2, ensure_ascii=False))
