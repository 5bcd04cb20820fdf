"""Writes `etc/event-types.md`, the reference of the event types, from the catalogue.

python -m tests.manual.event_types > etc/event-types.md
"""

from __future__ import annotations

import json

from webhookd.rules.event_types import BUILT_IN, EventType

HEAD = """\
# Event types

What a receiver gets: when each event fires, every field with its meaning, a sample. The body of a request is the event
as the product sent it; a receiver should ignore fields that it doesn't know. `GET /v1/event-types` and the page (*Event
types*) say the same, with the types that the configuration adds.

(Made from `webhookd/rules/event_types.py` by `python -m tests.manual.event_types > etc/event-types.md`.)
"""


def document() -> str:
    """The whole file."""
    links = [
        f"- [`{each.name}`](#{each.name.replace('.', '')}): {each.description[0].lower()}{each.description[1:]}"
        for each in BUILT_IN
    ]
    return "\n".join([HEAD, *links, "", *map(_section, BUILT_IN)])


def _section(event_type: EventType) -> str:
    rows = [f"| `{field.path}` | {field.type} | {field.meaning} |" for field in event_type.fields]
    sample = json.dumps(event_type.sample, indent=2, ensure_ascii=False).replace("\n", "\n    ")
    return "\n".join(
        [
            f"## {event_type.name}",
            "",
            f"*{event_type.label}.* {event_type.description}",
            "",
            "| field | type | meaning |",
            "| --- | --- | --- |",
            *rows,
            "",
            f"    {sample}",
            "",
        ]
    )


if __name__ == "__main__":
    print(document(), end="")
