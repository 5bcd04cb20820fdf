"""The catalogue of event types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from webhookd.catalogue.checks import misfits
from webhookd.catalogue.types import EventType, TypeFile
from webhookd.config import Events, ExtraType
from webhookd.errors import ApiError
from webhookd.rules.event_types import BUILT_IN, EventTypes

SAMPLES = Path(__file__).parent / "samples"  # as shared/samples/ has them
PLAIN = EventTypes()
EXTENDED = EventTypes(
    Events(
        types={
            "order.paid": ExtraType(label="Order Paid", description="An order was paid."),
            "task.done": ExtraType(label="Task Done", description="…"),
        }
    )
)


def test_the_types_have_the_labels_of_the_page() -> None:
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
        "contact.lifecycle.updated": "Contact Lifecycle Updated",
        "call.ended": "Call Ended",
    } == {each.name: each.label for each in BUILT_IN}
    assert tuple(each.name for each in BUILT_IN) == PLAIN.names


def test_there_is_a_sample_file_for_each_type() -> None:
    """A sample, a type."""
    assert set(PLAIN.names) == {path.stem for path in SAMPLES.glob("*.json")}


@pytest.mark.parametrize("event_type", BUILT_IN, ids=lambda each: each.name)
def test_the_sample_is_the_shared_one(event_type: EventType) -> None:
    """What *Send test* sends is what a producer would pipe in, member for member."""
    text = (SAMPLES / f"{event_type.name}.json").read_text(encoding="utf-8")
    assert json.dumps(json.loads(text)) == json.dumps(event_type.sample)


@pytest.mark.parametrize("event_type", BUILT_IN, ids=lambda each: each.name)
def test_every_field_of_the_samples_is_described(event_type: EventType) -> None:
    """In each variant: no path but those described, each value of a type described; what isn't optional is there."""
    described = {field.path for field in event_type.fields}
    for name, sample in event_type.samples():
        assert set() == {path for path, _ in _paths(sample) if path not in described and not _in_open_object(path)}
        assert [] == list(misfits(event_type.fields, sample)), name
    for field in event_type.fields:
        assert field.meaning and "\n" not in field.meaning
    assert event_type.description.endswith(".") and "\n" not in event_type.description


def test_what_webhooks_choose_by_has_its_known_values() -> None:
    """The lists of the original's own integration node."""
    choices = {(kind.name, field.path): " ".join(field.values) for kind in BUILT_IN for field in kind.choices}
    assert {
        (
            "conversation.closed",
            "conversation.closedBySource",
        ): "user workflow api zapier bot make n8n ai_agent auto_close",
        ("conversation.opened", "conversation.source"): "user contact workflow api zapier make ctc_ads growth_widget",
        ("message.sent", "sender.source"): "user workflow api zapier bot echo make n8n ai_agent",
        (
            "message.sent",
            "message.message.type",
        ): "text attachment quick_reply custom_payload whatsapp_template "
        "location email card rating whatsapp_interactive facebook_template",
        ("message.received", "message.message.type"): "text attachment story_reply location email unsupported "
        "whatsapp_interactive post whatsapp_order",
        ("contact.updated", "contactFieldType"): "standard_field custom_field",
        ("contact.updated", "fields"): "firstName lastName email phone lang profilePic countryCode",
    } == choices


@pytest.mark.parametrize("name", ["message.sent", "message.received"])
def test_each_type_of_message_has_a_sample(name: str) -> None:
    """Every kind of content, and every state of a message."""
    kind = PLAIN.require(name)
    samples = [sample["message"] for _, sample in kind.samples()]
    (content,) = (field for field in kind.choices if field.path == "message.message.type")
    assert set(content.values) == {each["message"]["type"] for each in samples}
    (state,) = (field for field in kind.fields if field.path == "message.status[].value")
    assert set(state.values) - {"sent"} <= {one["value"] for each in samples for one in each.get("status", [])}


def test_the_configuration_adds_types() -> None:
    """After the built-in ones, each with its label, its description, and a sample that is an event of its type."""
    assert (*PLAIN.names, "order.paid", "task.done") == EXTENDED.names
    added = EXTENDED.require("order.paid")
    assert ("order.paid", "Order Paid", "An order was paid.") == (added.name, added.label, added.description)
    assert "order.paid" == added.sample["event_type"]
    assert sorted(added.sample) == sorted(field.path for field in added.fields)
    assert PLAIN.get("order.paid") is None


def test_a_built_in_type_can_be_given_a_products_own_words() -> None:
    """Its sample and its fields stay."""
    renamed = EventTypes(Events(types={"contact.created": ExtraType(label="New Lead", description="A lead came in.")}))
    before, after = PLAIN.require("contact.created"), renamed.require("contact.created")
    assert PLAIN.names == renamed.names
    assert ("New Lead", "A lead came in.", before.fields, before.sample) == (
        after.label,
        after.description,
        after.fields,
        after.sample,
    )


def test_a_file_replaces_a_types_fields_and_sample() -> None:
    """The words beside it are those of the configuration; a type without a label has its name."""
    file = TypeFile(label="Of the file", description="Of the file.", sample={"order": 7})
    types = EventTypes(Events(types={"contact.created": ExtraType(label="New Lead", file=file)}))
    replaced = types.require("contact.created")
    assert ("New Lead", "", 7) == (replaced.label, replaced.description, replaced.sample["order"])
    assert "contact" in PLAIN.require("contact.created").sample and "contact" not in replaced.sample
    unnamed = EventTypes(Events(types={"order.paid": ExtraType(file=file)})).require("order.paid")
    assert "order.paid" == unnamed.label
    assert list(types.names) == [each.name for each in types.all()] and replaced in types.all()


def test_an_event_is_held_against_the_schema_of_its_own_type() -> None:
    """The second event of a type as the first, for which the schema was compiled."""
    fits = PLAIN.require("contact.created").sample
    for _ in range(2):
        assert PLAIN.mismatch("contact.created", fits) is None
        refused = PLAIN.mismatch("contact.created", fits | {"contact": None})
        assert refused is not None and "schema_mismatch" == refused.code
        assert PLAIN.mismatch("message.sent", fits) is not None


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
        elif isinstance(member, list):
            for element in member:
                if isinstance(element, dict):
                    yield from _paths(element, f"{path}[].")


def _in_open_object(path: str) -> bool:
    """Objects that a channel or another system defines."""
    names = ("payload", "interactive", "order", "replyTo", "parameters[]", "buttons[]")
    return any(f".{name}." in f".{path}" for name in names)
