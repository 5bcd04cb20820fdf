"""The manual: Markdown pages, one for each task of a reader.  The page's *Help* and `webhookd help TOPIC` show them."""

from __future__ import annotations

import importlib.resources
import re

# Sections with their topics, in reading order.  A topic is the name of its file without `.md`.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Use": ("sending", "portal", "receiving", "event-types", "filters-and-ordering", "cli", "api"),
    "Run": ("installing", "configuration", "operating", "recovery", "security", "scaling-out"),
    "Understand": ("behaviour", "architecture", "decisions", "changes"),
}
TOPICS = tuple(topic for topics in SECTIONS.values() for topic in topics)

_FOLDER = importlib.resources.files(__name__)
_COMMENT = re.compile(r"^<!--.*-->\n", re.MULTILINE)


def read(topic: str) -> str:
    """The Markdown of a topic, without comments.  KeyError if there is no such topic."""
    if topic not in TOPICS:
        raise KeyError(topic)
    return _COMMENT.sub("", (_FOLDER / f"{topic}.md").read_text("utf-8"))


def title(topic: str) -> str:
    """The heading of a topic's page."""
    return read(topic).split("\n", 1)[0].removeprefix("# ")


def image(name: str) -> bytes | None:
    """A PNG of the manual, None if there is no such file."""
    if not re.fullmatch(r"[\w-]+\.png", name):
        return None
    file = _FOLDER / "images" / name
    return file.read_bytes() if file.is_file() else None
