"""The built-in event types, a file each, and the parts that they share (`parts.json`).

`webhookd.catalogue.types` says what a file holds.
"""

from __future__ import annotations

import importlib.resources

# In the order of the page.
NAMES = (
    "conversation.closed",
    "contact.created",
    "message.sent",
    "message.received",
    "contact.updated",
    "conversation.opened",
    "contact.assignee.updated",
    "contact.tag.updated",
    "comment.created",
    "contact.lifecycle.updated",
    "call.ended",
)
PARTS = "parts"

_FOLDER = importlib.resources.files(__name__)


def read(name: str) -> bytes:
    """The file of a type, or of the parts, as JSON."""
    return (_FOLDER / f"{name}.json").read_bytes()
