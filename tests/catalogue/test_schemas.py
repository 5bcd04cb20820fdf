"""The schemas of the event types, and the documents that hold them."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.manual.__main__ import schema_files
from webhookd import catalogue
from webhookd.catalogue.documents import ANY_EVENT, asyncapi, webhooks
from webhookd.catalogue.json_schema import pascal, type_schema
from webhookd.catalogue.types import EventType
from webhookd.rules.event_types import BUILT_IN, EventTypes
from webhookd.rules.validation import Validator

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda each: each.name)
def test_every_sample_fits_its_schema_and_no_other_type(kind: EventType) -> None:
    """The schema is JSON Schema 2020-12, its examples are the samples."""
    schema = type_schema(kind)
    jsonschema_rs.meta.validate(schema)
    validator = jsonschema_rs.validator_for(schema)
    assert [body for _, body in kind.samples()] == schema["examples"]
    assert [] == [name for name, body in kind.samples() if not validator.is_valid(body)]
    other = next(each for each in BUILT_IN if each is not kind)
    assert not validator.is_valid({**kind.sample, "event_type": other.name})
    assert validator.is_valid({**kind.sample, "a_field_of_tomorrow": {"x": [1]}})


@pytest.mark.parametrize("path", schema_files(), ids=lambda path: path.stem)
def test_the_files_are_fresh(path: Path) -> None:
    """Stale?  Run `python -m tests.manual`."""
    assert schema_files()[path] == path.read_text("utf-8")


def test_there_is_a_file_for_each_type_and_no_other() -> None:
    """Beside the catalogue's own."""
    folder = ROOT / "webhookd" / "catalogue"
    assert {f"{name}.json" for name in catalogue.NAMES} == {path.name for path in (folder / "schemas").iterdir()}
    assert {f"{name}.json" for name in (*catalogue.NAMES, catalogue.PARTS)} == {p.name for p in folder.glob("*.json")}


@pytest.mark.slow
def test_the_wheel_has_all_of_it(tmp_path: Path) -> None:
    """Catalogue, schemas, manual: each file of the package that isn't Python."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode and "hatchling" in built.stderr:
        pytest.skip("hatchling could not be fetched: no wheel was built")
    assert 0 == built.returncode, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    data = {path for path in (ROOT / "webhookd").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert [] == sorted(name for path in data if (name := path.relative_to(ROOT).as_posix()) not in inside)
    assert "webhookd/catalogue/schemas/message.received.json" in inside


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


def test_the_documents_name_every_type_once() -> None:
    """Each reference leads somewhere; the examples are the samples; what types share is there once."""
    hooks, schemas = webhooks(BUILT_IN)
    assert [each.name for each in BUILT_IN] == list(hooks)
    assert [f"#/components/schemas/{pascal(each.name)}" for each in BUILT_IN] == [
        each["$ref"] for each in schemas[ANY_EVENT]["oneOf"]
    ]
    document = asyncapi(BUILT_IN, "1.0")
    assert [each.name for each in BUILT_IN] == [each["name"] for each in document["components"]["messages"].values()]
    for whole in ({"webhooks": hooks, "components": {"schemas": schemas}}, document):
        text = json.dumps(whole)
        for ref in {part.split('"')[0] for part in text.split('"$ref": "#/')[1:]}:
            at: Any = whole
            for name in ref.split("/"):
                at = at[name]
    kept = [name for name in schemas if name not in {pascal(each.name) for each in BUILT_IN}]
    assert {"Contact", "User", "Channel", "Lifecycle", "TextContent", "EmailContent"} <= set(kept)
