"""Whether an event fits the schema of its type; what is named where it doesn't."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from webhookd.catalogue.types import EventType
from webhookd.rules.event_types import BUILT_IN, EventTypes
from webhookd.rules.validation import Validator

TYPES = EventTypes()


def event_type(name: str) -> EventType:
    found = TYPES.get(name)
    assert found is not None
    return found


def sample(name: str, path: str = "", value: Any = None, *, drop: str = "") -> dict[str, Any]:
    body = deepcopy(event_type(name).sample)
    *parents, last = (path or drop).split(".")
    at = body
    for each in parents:
        at = at[each]
    if drop:
        del at[last]
    elif path:
        at[last] = value
    return body


MISFITS: list[tuple[dict[str, Any], str, str]] = [
    (sample("message.received", drop="contact"), "contact", "is missing"),
    (sample("message.received", "contact", None), "contact", "is of the type null, not object"),
    (sample("message.received", "contact.id", "1"), "contact.id", "is of the type string, not integer"),
    (sample("message.received", "contact.assignee.email", 5), "contact.assignee.email", "is of the type integer"),
    (sample("message.received", "contact.assignee", "x"), "contact.assignee", "string, not object or null"),
    (sample("message.received", "message.message.text", None), "message.message.text", "is of the type null"),
    (sample("message.received", drop="message.message.type"), "message.message.type", "is missing"),
    (
        sample("message.received", "message.message.type", "rating"),
        "message.message",
        "that the schema hasn't: 'rating'",
    ),
    (
        sample("message.received", "message.message", {"type": "attachment", "attachment": {"type": "file"}}),
        "message.message.attachment.url",
        "is missing",
    ),
    (sample("message.sent", "message.status", [{"timestamp": 1}]), "message.status[0].value", "is missing"),
    (sample("conversation.closed", "conversation.closedBy", {"id": 1}), "conversation.closedBy.email", "is missing"),
    (
        sample("contact.created", "contact.custom_fields", [{"name": "a"}]),
        "contact.custom_fields[0].value",
        "is missing",
    ),
    (sample("contact.created", "event_id", "a b"), "event_id", "pattern"),
]


@pytest.mark.parametrize(("event", "path", "reason"), MISFITS, ids=[path for _, path, _ in MISFITS])
def test_a_mismatch_has_path_and_reason(event: dict[str, Any], path: str, reason: str) -> None:
    """Of the branch that the value is of, where there are several."""
    error = Validator(event_type(event["event_type"])).mismatch(event)
    assert error is not None and ("schema_mismatch", 422) == (error.code, error.status)
    shown = {each["path"]: each["reason"] for each in error.details["problems"]}
    assert reason in shown[path]
    assert event["event_type"] == error.details["event_type"] and len(shown) <= 5


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda each: each.name)
def test_the_sample_of_a_type_fits_it(kind: EventType) -> None:
    assert Validator(kind).mismatch(kind.sample) is None


def test_several_problems_are_counted_and_the_first_five_named() -> None:
    error = Validator(event_type("message.received")).mismatch({"event_type": "message.received", "event_id": 1})
    assert error is not None and error.message.endswith("more).")
    assert 1 < len(error.details["problems"]) <= 5


def test_what_is_nested_too_deeply_is_a_mismatch() -> None:
    """jsonschema-rs gives up at some 255 levels; our own parser takes more."""
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    error = Validator(event_type("message.received")).mismatch(
        {**event_type("message.received").sample, "contact": deep}
    )
    assert error is not None and "nested too deeply" in error.message
