"""What is wrong in a file that describes an event type, and what in an event doesn't fit its type's fields."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

from webhookd.catalogue.json_schema import type_schema
from webhookd.catalogue.types import ARRAY_OF, WORDS, EventType, Field, TypeFile, event_type, parts

VALIDATOR = "jsonschema_rs"  # of the extra `validate`
_PATH = re.compile(r"[^\s.\[\]]+(\[\])?(\.[^\s.\[\]]+)*(\[\]\.[^\s.\[\]]+)*")
_JSON_TYPES: Mapping[type, tuple[str, ...]] = {
    dict: ("object",),
    str: ("string",),
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    type(None): ("null",),
}


class FileMistake(NamedTuple):
    """One mistake: the key, what is wrong, and the right form if there is one."""

    key: str
    what: str
    form: str = ""


def mistakes(name: str, file: TypeFile) -> Iterator[FileMistake]:
    """What is wrong in a type's file beyond the types of its values."""
    before: dict[str, Field] = {"event_type": Field(path="event_type", type="string", meaning="")}
    found = False
    for index, field in enumerate(file.fields):
        for what, form in _of_field(field, before):
            found = True
            yield FileMistake(f"fields[{index}]", f"{field.path}: {what}", form)
        before[field.path] = field
    if not found:
        yield from _of_samples(event_type(name, file), file)


def _of_field(field: Field, before: Mapping[str, Field]) -> Iterator[tuple[str, str]]:
    if not _PATH.fullmatch(field.path):
        yield "not a path", '"order.id", or "items[].price" for a field of each element of a list'
        return
    if bad := [word for word in field.types if not _is_type(word)]:
        yield f'"{bad[0]}" is no type', 'one of string, integer, number, boolean, object, null, any, or "array of …s"'
    parent, dot, _ = field.path.rpartition(".")
    above = before.get(parent.removesuffix("[]"))
    wanted = f"{ARRAY_OF}objects" if parent.endswith("[]") else "object"
    if dot and (above is None or (wanted not in above.types and not above.of)):
        yield f'no field "{parent.removesuffix("[]")}" of the type {wanted} before it', "the object above its fields"
    if field.path in before and (before[field.path].when, field.when) == ((), ()):
        yield "described twice", ""
    if field.of and field.of not in parts():
        yield f'no part "{field.of}"', "one of " + ", ".join(part for part in parts() if part != "envelope")
    kind = before.get(f"{parent}.type" if dot else "type")
    if field.when and (kind is None or not set(field.when) <= kind.values.keys()):
        yield "when names no value of the field type beside it", "a field `type` before it, with these values"


def _is_type(word: str) -> bool:
    return word in WORDS or (word.startswith(ARRAY_OF) and word.removeprefix(ARRAY_OF).removesuffix("s") in WORDS)


def _of_samples(kind: EventType, file: TypeFile) -> Iterator[FileMistake]:
    if not file.sample and any(not field.optional for field in file.fields):
        yield FileMistake("sample", "missing", "an event of the type, which a test sends")
        return
    if file.sample.get("event_type", kind.name) != kind.name:
        yield FileMistake("sample.event_type", "another type", f'"{kind.name}", or left out')
    key = "sample"
    try:
        for index, (_, sample) in enumerate(kind.samples()):
            for path, what in misfits(kind.fields, sample) if kind.own_schema is None else ():
                yield FileMistake(key, f"{path}: {what}")
            key = f"variants[{index}]"  # which is made next
    except (KeyError, TypeError):
        yield FileMistake(key, "a path that the sample hasn't got", "paths of members of the sample")
        return
    if kind.own_schema is not None and find_spec(VALIDATOR):
        yield from _of_own_schema(kind)


def _of_own_schema(kind: EventType) -> Iterator[FileMistake]:
    import jsonschema_rs

    try:
        validator = jsonschema_rs.validator_for(type_schema(kind))
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        yield FileMistake("schema", f"no JSON Schema: {str(error).splitlines()[0]}")
        return
    for name, sample in kind.samples():
        if not validator.is_valid(sample):
            yield FileMistake("schema", f"the {f'variant {name}' if name else 'sample'} doesn't fit it")


def misfits(fields: Sequence[Field], event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Path and reason for each member of an event that doesn't fit the fields."""
    for field in fields:
        *above, name = field.path.split(".")
        for parent in _parents(event, above):
            if field.when and not _applies(field, fields, event):
                continue
            if name not in parent:
                if not field.optional:
                    yield field.path, "missing"
            elif not _fits(parent[name], field.types):
                yield field.path, f"not of the type {field.type}"


def _parents(value: Any, above: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The objects that a path leads to; an empty one has no members."""
    if isinstance(value, dict):
        if not above and value:
            yield value
        elif above and (member := value.get(above[0].removesuffix("[]"))) is not None:
            for each in member if above[0].endswith("[]") and isinstance(member, list) else [member]:
                yield from _parents(each, above[1:])


def _applies(field: Field, fields: Sequence[Field], event: Mapping[str, Any]) -> bool:
    """Whether the `type` of the object that the field is below is one of its `when`."""
    above = field.path.split(".")[:-1]
    kinds = {each.path for each in fields if each.path.endswith(".type") and not each.when}
    while above and ".".join([*above, "type"]).replace("[]", "") not in kinds:
        above.pop()
    return any(parent.get("type") in field.when for parent in _parents(event, above))


def _fits(value: object, types: Sequence[str]) -> bool:
    if isinstance(value, list):
        inner = [word.removeprefix(ARRAY_OF).removesuffix("s") for word in types if word.startswith(ARRAY_OF)]
        return "any" in types or (bool(inner) and all(_fits(each, inner) for each in value))
    if value == {} and "empty object" in types:
        return True
    return "any" in types or any(word in types for word in _JSON_TYPES.get(type(value), ()))
