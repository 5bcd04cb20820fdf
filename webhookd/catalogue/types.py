"""Event types as data: what a file of the catalogue holds, and the event type that it describes.

A built-in type is a JSON file in `webhookd/catalogue`, one of the configuration a TOML file; both have the same keys
(`TypeFile`).  A field's path reads `contact.assignee.email`; `attachments[].url` is a field of each element of a list.
Its type is one of `WORDS`, `array of` the plural of one, or several of these joined by ` or `.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from webhookd import catalogue

# A JSON type's name and its name in JSON Schema; `any` is every value.
WORDS = ("object", "empty object", "string", "integer", "number", "boolean", "null", "any")
ARRAY_OF = "array of "


class Field(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One field of a payload."""

    path: str
    type: str
    meaning: str
    optional: Annotated[bool, Meta(description="Whether it may be left out")] = False
    values: Annotated[dict[str, str], Meta(description="Values known, each with a label; others may come")] = {}
    choice: Annotated[bool, Meta(description="Whether webhooks choose their events by it")] = False
    when: Annotated[tuple[str, ...], Meta(description="There only where its object's `type` is one of these")] = ()
    of: Annotated[str, Meta(description="The part, shared by several types, that the fields below it are from")] = ""

    @property
    def types(self) -> list[str]:
        """The JSON types that it may have."""
        return self.type.split(" or ")


class Variant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another form of the sample: members set and left out, by their paths."""

    name: str
    set: dict[str, Any] = {}
    drop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EventType:
    """One event type: its label on the page, when it fires, what its events hold.  Never change `sample`."""

    name: str
    label: str
    description: str
    fields: tuple[Field, ...]
    sample: dict[str, Any]
    notes: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()
    own_schema: Mapping[str, Any] | None = None  # instead of one made of the fields

    @property
    def choices(self) -> tuple[Field, ...]:
        """The fields that a webhook's events are chosen by, each with its known values."""
        return tuple(field for field in self.fields if field.choice)

    def samples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The sample, with the name "", then each variant of it, with an id of its own."""
        yield "", self.sample
        for variant in self.variants:
            body = deepcopy(self.sample)
            body["event_id"] = f"{body['event_id']}-{variant.name}"
            for path in variant.drop:
                parent, name = _at(body, path)
                del parent[name]
            for path, value in variant.set.items():
                parent, name = _at(body, path)
                parent[name] = value
            yield variant.name, body


def _at(body: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    *parents, name = path.split(".")
    for each in parents:
        body = body[each]
    return body, name


class TypeFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that describes an event type; the fields of the envelope are in every type."""

    label: str = ""
    description: str = ""
    notes: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()
    sample: dict[str, Any] = {}
    variants: tuple[Variant, ...] = ()
    schema: dict[str, Any] | None = None


@cache
def parts() -> Mapping[str, tuple[Field, ...]]:
    """The fields that several types share, by the part's name."""
    return msgspec.json.decode(catalogue.read(catalogue.PARTS), type=dict[str, tuple[Field, ...]])


def built_in_types() -> tuple[EventType, ...]:
    """The types of the catalogue, in the page's order."""
    files = ((name, msgspec.json.decode(catalogue.read(name), type=TypeFile)) for name in catalogue.NAMES)
    return tuple(event_type(name, file) for name, file in files)


def bare_type(name: str, label: str = "", description: str = "") -> EventType:
    """A type of which only the name is known."""
    return event_type(name, TypeFile(label=label or name, description=description))


def event_type(name: str, file: TypeFile) -> EventType:
    """The type that a (valid) file describes."""
    found: dict[tuple[str, tuple[str, ...]], Field] = {}
    for field in (*expanded(parts()["envelope"]), *expanded(file.fields)):
        found[field.path, field.when] = field  # a field of the type itself replaces that of a part, at its place
    return EventType(
        name,
        file.label,
        file.description,
        tuple(_possible(found.values())),
        {"event_type": name, "event_id": "6f1d4a0e-2f0f-4b6e-9a53-0a1c6de7b000", **file.sample},
        file.notes,
        file.variants,
        file.schema,
    )


def expanded(fields: Iterable[Field], above: str = "") -> Iterator[Field]:
    """The fields, each followed by those of its part; a field below one with `when` has it too."""
    whens: dict[str, tuple[str, ...]] = {}
    for field in fields:
        parent = field.path.rpartition(".")[0].removesuffix("[]")
        when = whens[field.path] = field.when or whens.get(parent, ())
        path = above + field.path
        yield replace(field, path=path, when=when)
        if field.of:
            yield from part_fields(field.of, path + ("[]." if ARRAY_OF in field.type else "."), when)


@cache
def part_fields(name: str, above: str, when: tuple[str, ...]) -> tuple[Field, ...]:
    """The fields of a part; types that have the part at the same path share them."""
    fields = expanded(parts()[name], above)
    return tuple(replace(each, when=when) for each in fields) if when else tuple(fields)


def _possible(fields: Iterable[Field]) -> Iterator[Field]:
    """The fields without those that no value of their object's `type` allows."""
    known: dict[str, Sequence[str]] = {}
    objects: dict[str, str] = {}  # of a field with `when`: the object that has the `type`
    for field in fields:
        parent = field.path.rpartition(".")[0].removesuffix("[]")
        if field.values and field.path.endswith(".type") and not field.when:
            known[parent] = tuple(field.values)
        if not field.when:
            yield field
            continue
        of = objects[field.path] = objects.get(parent, parent)
        when = tuple(each for each in field.when if each in known.get(of, field.when))
        if when:
            yield replace(field, when=when)
