"""The page for those who come from respond.io: every option of its integration node has its equal here."""

from __future__ import annotations

import json
import re
from typing import Any

from webhookd import manual
from webhookd.rules.event_types import EventTypes
from webhookd.rules.filters import check_filters, compiled

PAGE = manual.read("moving-from-respondio")
# What the page says of an option, beside its values and its pattern: type and path of the field that it is about.
OPTIONS = {
    "Event Source of Conversation Closed": ("conversation.closed", "conversation.closedBySource"),
    "Event Source of Conversation Opened": ("conversation.opened", "conversation.source"),
    "Event Source of New Outgoing Message": ("message.sent", "sender.source"),
    "Message Type of New Incoming Message": ("message.received", "message.message.type"),
    "Message Type of New Outgoing Message": ("message.sent", "message.message.type"),
    "Contact Field Type": ("contact.updated", "contactFieldType"),
    "Select Contact Fields, standard": ("contact.updated", "fields"),
}


def rows(section: str) -> list[list[str]]:
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_trigger_is_a_type_here() -> None:
    """By its label, which is the page's too; and no type is left over."""
    triggers = [row for row in rows("Every option of its integration") if len(row) == 3]
    found = {option: code(here)[0] for option, _, here in triggers if code(here)}
    assert {kind.label: kind.name for kind in EventTypes().all()} == found


def test_every_option_is_a_filter_with_the_values_of_the_catalogue() -> None:
    """Each pattern is taken as it stands, matches a sample and leaves another out."""
    types = EventTypes()
    seen = set()
    for option, values, of, pattern in (row for row in rows("Every option of its integration") if len(row) == 4):
        if option in ("option", "---"):
            continue
        (event_type,), (text,) = code(of), code(pattern)
        kind = types.require(event_type)
        filters = compiled(check_filters({event_type: json.loads(text)}))
        verdicts = [filters.matches(event_type, sample) for _, sample in kind.samples()]
        assert True in verdicts and False in verdicts, option
        if option in OPTIONS:
            field = next(each for each in kind.choices if (event_type, each.path) == OPTIONS[option])
            assert list(field.values) == code(values)
            seen.add(option)
    assert OPTIONS.keys() == seen


def test_the_command_of_the_page_is_a_filter() -> None:
    """The one of the steps, and the two options in one pattern."""
    wanted: list[Any] = re.findall(r"--filter '([a-z.]+)=(\{.*?\})' ", PAGE)
    wanted += [("message.sent", found) for found in re.findall(r"as `(\{.*\})`", PAGE)]
    assert 2 == len(wanted)
    for event_type, text in wanted:
        assert compiled(check_filters({event_type: json.loads(text)})).concerns(event_type)
