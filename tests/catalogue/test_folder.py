"""Event types in TOML files: what they add, and what is wrong in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from webhookd import manual
from webhookd.config import Config, Events, ExtraType, reloadable
from webhookd.config.loader import check, differences, load
from webhookd.errors import ConfigError
from webhookd.rules.event_types import EventTypes

ORDER = """
label = "Order Paid"
description = "An order was paid in full."
notes = ["Amounts are in cents."]

[[fields]]
path = "order"
type = "object"
meaning = "The order"

[[fields]]
path = "order.status"
type = "string"
meaning = "Its state"
choice = true
values = { paid = "Paid", refunded = "Refunded" }

[[fields]]
path = "order.items"
type = "array of objects"
meaning = "What was bought"
optional = true

[[fields]]
path = "order.items[].price"
type = "integer or null"
meaning = "The price"

[[fields]]
path = "contact"
type = "object"
meaning = "Who paid"
optional = true
of = "contact"

[sample]
order = { status = "paid", items = [{ price = 5 }] }

[[variants]]
name = "refunded"
set = { "order.status" = "refunded" }
drop = ["order.items"]
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def written(text: str, name: str = "order.paid.toml", more: str = "") -> Path:
        (tmp_path / "types").mkdir(exist_ok=True)
        (tmp_path / "types" / name).write_text(text, "utf-8")
        config = tmp_path / "webhookd.toml"
        config.write_text(f'[events]\ntypes_folder = "types"\n{more}', "utf-8")
        return config

    return written


def test_a_file_adds_a_type(write: Any) -> None:
    """Label, description, fields with those of a shared part, choices, sample and variants, a schema of its own."""
    config = load(write(ORDER, more='[events."task.done"]\n'), {})
    types = EventTypes(config.events)
    assert ("order.paid", "task.done") == types.names[-2:]
    kind = types.require("order.paid")
    assert ("Order Paid", "An order was paid in full.") == (kind.label, kind.description)
    paths = [field.path for field in kind.fields]
    assert ["event_type", "event_id", "order", "order.status", "order.items"] == paths[:5]
    assert "contact.assignee.email" in paths
    assert [("order.status", {"paid": "Paid", "refunded": "Refunded"})] == [(f.path, f.values) for f in kind.choices]
    assert [{"status": "paid", "items": [{"price": 5}]}, {"status": "refunded"}] == [
        body["order"] for _, body in kind.samples()
    ]
    assert "order.paid" == kind.sample["event_type"] and kind.sample["event_id"]
    assert types.mismatch("order.paid", kind.sample) is None
    error = types.mismatch("order.paid", {"event_type": "order.paid", "event_id": "a", "order": {"status": 1}})
    assert error is not None and "order.status is of the type integer, not string" in error.message


def test_a_file_replaces_a_built_in_type(write: Any) -> None:
    """Its fields, sample and schema; at its place.  Words of the configuration's own table win over the file's."""
    text = 'label = "New Lead"\n[schema]\ntype = "object"\nrequired = ["lead"]\n[sample]\nlead = 1\n'
    more = '[events."contact.created"]\ndescription = "A lead came in."\n'
    types = EventTypes(load(write(text, "contact.created.toml", more), {}).events)
    kind = types.require("contact.created")
    assert EventTypes().names == types.names
    assert ("New Lead", "A lead came in.") == (kind.label, kind.description)
    assert types.mismatch("contact.created", kind.sample) is None
    error = types.mismatch("contact.created", {"event_type": "contact.created"})
    assert error is not None and [{"path": "lead", "reason": "is missing"}] == error.details["problems"]


def test_the_folder_is_read_again_at_a_reload(write: Any) -> None:
    """Its types are what differs, under their names; `check-config` names the file."""
    path = write(ORDER)
    before = load(path, {})
    after = load(write(ORDER.replace("cents", "pence")), {})
    assert (['events."order.paid"'], []) == reloadable(before, after)
    shown = {each.key: each.source for each in differences(path, {})}
    assert {"events.types_folder": str(path), 'events."order.paid"': "types/order.paid.toml"} == shown
    assert Config(events=Events(types={"a.b": ExtraType(label="x")})) != Config()


def test_the_example_of_the_manual_is_a_type(write: Any) -> None:
    """As it stands there, with its variant."""
    text = manual.read("configuration").split("`events.types_folder` names")[1].split("\nBelow an object")[0]
    path = write("\n".join(line[4:] for line in text.split("\n") if line.startswith("    ") or not line))
    assert [] == check(path)
    kind = EventTypes(load(path, {}).events).require("order.paid")
    assert ["paid", "refunded"] == [body["order"]["status"] for _, body in kind.samples()]


FIELD = '[[fields]]\npath = "{}"\ntype = "{}"\nmeaning = "x"\noptional = true\n{}'


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("label = \n", 1, "not TOML: Invalid value"),
        ('labl = "x"\n', None, "`labl`"),
        ('[[fields]]\npath = "a"\nmeaning = "x"\n', 1, "fields[0]: object missing required field `type`"),
        ("label = 5\n", None, "label: expected `str`, got `int`"),
        (FIELD.format("a..b", "string", ""), 1, "fields[0]: a..b: not a path, expected"),
        (FIELD.format("a", "text", ""), 1, 'fields[0]: a: "text" is no type, expected one of string'),
        (FIELD.format("a", "array of text", ""), 1, '"array of text" is no type'),
        (FIELD.format("a.b", "string", ""), 1, 'no field "a" of the type object before it'),
        (FIELD.format("a", "object", "") + FIELD.format("a[].b", "string", ""), 6, 'no field "a" of the type array of'),
        (FIELD.format("a", "string", "") * 2, 6, "fields[1]: a: described twice"),
        (FIELD.format("a", "object", 'of = "person"\n'), 1, 'no part "person", expected one of user, contact'),
        (FIELD.format("a", "string", 'when = ["x"]\n'), 1, "when names no value"),
        (FIELD.format("a", "string", "").replace("true", "false"), None, "sample: missing, expected an event"),
        (FIELD.format("a", "string", "") + "[sample]\na = 5\n", 6, "sample: a: not of the type string"),
        ('[sample]\nevent_type = "a.b"\n', 1, 'sample.event_type: another type, expected "order.paid"'),
        (ORDER.replace('"order.items"]', '"order.things"]'), 39, "variants[0]: a path that the sample hasn't got"),
        (ORDER.replace('"refunded" }\ndrop', "7 }\ndrop"), 39, "variants[0]: order.status: not of the type string"),
        ('[schema]\ntype = "objekt"\n', 1, "schema: no JSON Schema"),
        ('[schema]\ntype = "object"\nrequired = ["x"]\n', 1, "schema: the sample doesn't fit it"),
    ],
)
def test_each_mistake_is_named(write: Any, text: str, line: int | None, said: str) -> None:
    """With its file, its line where it is a table's, its key and the right form; the daemon doesn't start with it."""
    path = write(text)
    (mistake,) = check(path)
    assert str(path.parent / "types" / "order.paid.toml") == mistake.source
    assert said in str(mistake) and line == mistake.line
    with pytest.raises(ConfigError):
        load(path, {})


def test_a_wrong_name_and_a_folder_that_is_not_there_are_named(write: Any, tmp_path: Path) -> None:
    """Other files of the folder are left alone."""
    path = write(ORDER, "order paid.toml")
    (tmp_path / "types" / "README").write_text("x", "utf-8")
    assert ["not a name of an event type"] == [each.what for each in check(path)]
    path.write_text('[events]\ntypes_folder = "elsewhere"\nvalidte = "warn"\n', "utf-8")
    assert ["did you mean validate?", "can't be read: No such file"] == [
        word for word in ("did you mean validate?", "can't be read: No such file") if word in str(check(path))
    ]
