"""The manual: Markdown pages, one for each task of a reader.  The page's *Help* and `webhookd help TOPIC` show them.

Pages for those who send and receive are in other languages too, each in a folder of its own.
"""

from __future__ import annotations

import importlib.resources
import re

# Sections with their topics, in reading order.  A topic is the name of its file without `.md`.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Use": (
        "sending",
        "portal",
        "receiving",
        "event-types",
        "filters-and-ordering",
        "moving-from-respondio",
        "cli",
        "api",
    ),
    "Run": ("installing", "configuration", "operating", "recovery", "security", "scaling-out"),
    "Understand": ("behaviour", "architecture", "decisions", "changes"),
}
TOPICS = tuple(topic for topics in SECTIONS.values() for topic in topics)

_FOLDER = importlib.resources.files(__name__)
_COMMENT = re.compile(r"^<!--.*-->\n", re.MULTILINE)


def read(topic: str, language: str = "en") -> str:
    """The Markdown of a topic, without comments.  KeyError if there is no such topic, or not in this language."""
    if topic not in TOPICS:
        raise KeyError(topic)
    file = _FOLDER / f"{topic}.md" if language == "en" else _FOLDER / language / f"{topic}.md"
    if not file.is_file():
        raise KeyError(topic)
    return _COMMENT.sub("", file.read_text("utf-8"))


def language_of(topic: str, wanted: str) -> str:
    """The language in which a topic is shown to a reader who wants this one: English where there is no other."""
    return wanted if (_FOLDER / wanted / f"{topic}.md").is_file() else "en"


def title(topic: str, language: str = "en") -> str:
    """The heading of a topic's page."""
    return read(topic, language).split("\n", 1)[0].removeprefix("# ")


def image(name: str) -> bytes | None:
    """A PNG of the manual, None if there is no such file."""
    if not re.fullmatch(r"[\w-]+\.png", name):
        return None
    file = _FOLDER / "images" / name
    return file.read_bytes() if file.is_file() else None
