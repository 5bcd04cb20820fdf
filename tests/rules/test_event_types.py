"""The catalogue of event types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from webhookd.errors import ApiError
from webhookd.rules.event_types import BUILT_IN, EventType, EventTypes

SAMPLES = Path(__file__).parent / "samples"  # as shared/samples/ has them
PLAIN = EventTypes()
EXTENDED = EventTypes({"order.paid": ("Order Paid", "An order was paid."), "call.ended": ("Call Ended", "…")})


def test_the_nine_types_have_the_labels_of_the_page() -> None:
    """The table of manual/event-types.md, in its order."""
    assert {
        "conversation.closed": "Conversation Closed",
        "contact.created": "New Contact",
        "message.sent": "New Outgoing Message",
        "message.received": "New Incoming Message",
        "contact.updated": "Contact Updated",
        "conversation.opened": "Conversation Opened",
        "contact.assignee.updated": "Contact Assignee Updated",
        "contact.tag.updated": "Contact Tag Updated",
        "comment.created": "New Comment",
    } == {each.name: each.label for each in BUILT_IN}
    assert tuple(each.name for each in BUILT_IN) == PLAIN.names


def test_there_is_a_sample_file_for_each_type() -> None:
    """Nine samples, nine types."""
    assert set(PLAIN.names) == {path.stem for path in SAMPLES.glob("*.json")}


@pytest.mark.parametrize("event_type", BUILT_IN, ids=lambda each: each.name)
def test_the_sample_is_the_shared_one(event_type: EventType) -> None:
    """What *Send test* sends is what a producer would pipe in, member for member."""
    text = (SAMPLES / f"{event_type.name}.json").read_text(encoding="utf-8")
    assert json.dumps(json.loads(text)) == json.dumps(event_type.sample)


@pytest.mark.parametrize("event_type", BUILT_IN, ids=lambda each: each.name)
def test_every_field_of_the_sample_is_described_and_no_other(event_type: EventType) -> None:
    """Each path once, with a type that fits the sample's value, a meaning, and the type's one-line description."""
    found = dict(_paths(event_type.sample))
    assert sorted(found) == sorted(field.path for field in event_type.fields)
    for field in event_type.fields:
        assert field.meaning and "\n" not in field.meaning
        assert _json_type(found[field.path]) in field.type.split(" or ")
    assert event_type.description.endswith(".") and "\n" not in event_type.description


def test_the_configuration_adds_types() -> None:
    """After the nine, each with its label, its description, and a sample that is an event of its type."""
    assert (*PLAIN.names, "order.paid", "call.ended") == EXTENDED.names
    added = EXTENDED.require("order.paid")
    assert ("order.paid", "Order Paid", "An order was paid.") == (added.name, added.label, added.description)
    assert "order.paid" == added.sample["event_type"]
    assert sorted(added.sample) == sorted(field.path for field in added.fields)
    assert PLAIN.get("order.paid") is None


def test_a_built_in_type_can_be_given_a_products_own_words() -> None:
    """Its sample and its fields stay."""
    renamed = EventTypes({"contact.created": ("New Lead", "A lead came in.")})
    before, after = PLAIN.require("contact.created"), renamed.require("contact.created")
    assert PLAIN.names == renamed.names
    assert ("New Lead", "A lead came in.", before.fields, before.sample) == (
        after.label,
        after.description,
        after.fields,
        after.sample,
    )


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("message.recieved", "message.received"), ("MESSAGE.RECEIVED", "message.received"),
        ("message_sent", "message.sent"), ("contact.tags.updated", "contact.tag.updated"),
        ("conversation.close", "conversation.closed"), ("order.payed", "order.paid"),
    ],
)  # fmt: skip
def test_an_unknown_type_is_refused_with_the_nearest_name(name: str, nearest: str) -> None:
    """The message is for the person, the details are for the program."""
    with pytest.raises(ApiError) as caught:
        EXTENDED.require(name)
    assert ("unknown_event_type", 422) == (caught.value.code, caught.value.status)
    assert {"event_type": name, "nearest": nearest} == caught.value.details
    assert f'did you mean "{nearest}"?' in caught.value.message


def test_a_type_that_an_endpoint_has_is_known_though_the_configuration_lost_it() -> None:
    """By its name alone."""
    assert "order.lost" == EXTENDED.require("order.lost", kept=["order.lost"]).name


@pytest.mark.parametrize("name", ["", "☃", "\x1b[31m", "x" * 100_000, "*"])
def test_a_name_like_none_is_refused_too(name: str) -> None:
    """There is always a nearest name; what a caller sent is shown in part and without control characters."""
    with pytest.raises(ApiError) as caught:
        PLAIN.require(name)
    assert caught.value.details["nearest"] in PLAIN.names
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 400 and len(caught.value.details["event_type"]) <= 100


def test_check_types_keeps_each_name_once_in_its_order() -> None:
    """A doubled name is no mistake."""
    names = ["message.sent", "order.paid", "message.sent", "contact.created"]
    assert ("message.sent", "order.paid", "contact.created") == EXTENDED.check_types(names)


@pytest.mark.parametrize("names", [["*"], ["*", "*"]])
def test_a_star_alone_is_every_type(names: list[str]) -> None:
    """It stays a star, so that types added later are in it."""
    assert ("*",) == PLAIN.check_types(names)


@pytest.mark.parametrize(
    ("names", "code", "said"),
    [
        ([], "invalid_field", "to stop an endpoint, disable it"),
        (["*", "message.sent"], "invalid_field", "stands alone"),
        (["message.sent", "message.send"], "unknown_event_type", 'did you mean "message.sent"?'),
        (["message.*"], "unknown_event_type", "message."),
    ],
)
def test_check_types_refuses_what_no_endpoint_can_want(names: list[str], code: str, said: str) -> None:
    """None at all, a star beside another, an unknown name."""
    with pytest.raises(ApiError) as caught:
        PLAIN.check_types(names)
    assert code == caught.value.code
    assert said in caught.value.message
    assert code != "invalid_field" or {"field": "event_types"} == caught.value.details


def _paths(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, member in value.items():
        path = f"{prefix}{name}"
        yield path, member
        if isinstance(member, dict):
            yield from _paths(member, f"{path}.")
        elif isinstance(member, list) and isinstance(member[0], dict):
            yield from dict(pair for element in member for pair in _paths(element, f"{path}[].")).items()


def _json_type(value: object) -> str:
    if isinstance(value, list):
        return f"array of {_json_type(value[0])}s"
    names = {dict: "object", str: "string", int: "integer", type(None): "null"}
    return names[type(value)]
