"""The schemas of the event types, and the documents that hold them."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.manual.__main__ import schema_files
from webhookd import catalogue
from webhookd.catalogue.documents import ANY_EVENT, asyncapi, webhooks
from webhookd.catalogue.json_schema import pascal, type_schema
from webhookd.catalogue.types import EventType
from webhookd.rules.event_types import BUILT_IN

ROOT = Path(__file__).resolve().parents[2]


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
