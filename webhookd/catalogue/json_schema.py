"""JSON Schema 2020-12 of the event types, made of their fields.

Members that no field describes are allowed everywhere, and so are values beyond those known: more may come.  Only the
kinds of content that an object has by its `type` (fields with `when`) are a closed list, so that programs can tell
them apart.  https://json-schema.org/draft/2020-12/schema
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from webhookd.catalogue.types import ARRAY_OF, EventType, Field, part_fields

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
LOCAL_REF = "#/$defs/{name}"
_EVENT_ID = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
_NO_OBJECT_WORDS = ("string", "integer", "number", "boolean", "null")


def type_schema(of: EventType) -> Schema:
    """The schema of a type's events, whole by itself, with its samples as examples."""
    schemas = Schemas(LOCAL_REF)
    head = {"$schema": DIALECT, "$id": f"urn:webhookd:event-type:{of.name}"}
    schema = head | schemas.of_type(of) | {"examples": [sample for _, sample in of.samples()]}
    return schema | ({"$defs": schemas.shared} if schemas.shared and "$defs" not in schema else {})


def pascal(name: str) -> str:
    """`message.received` as the name of a type in a program: MessageReceived."""
    words = "".join(character if character.isalnum() else " " for character in name).split()
    return "".join(word[0].upper() + word[1:] for word in words)


@dataclass(slots=True)
class _Node:
    """A field with those below it."""

    field: Field
    children: list[_Node] = dataclasses.field(default_factory=list)

    def fields_below(self) -> list[Field]:
        return [each for child in self.children for each in (child.field, *child.fields_below())]


class Schemas:
    """The schemas of several types; `shared` collects those that they refer to by `ref`."""

    def __init__(self, ref: str) -> None:
        self.shared: dict[str, Schema] = {}
        self._ref = ref

    def of_type(self, of: EventType) -> Schema:
        """The schema of a type's events."""
        if of.own_schema is not None:
            return {"title": pascal(of.name), **of.own_schema}
        schema = self._object(_tree(of.fields), pascal(of.name))
        schema["properties"]["event_type"] |= {"const": of.name}
        schema["properties"]["event_id"] |= _EVENT_ID
        return {"title": pascal(of.name), "description": of.description, **schema}

    def _object(self, nodes: Iterable[_Node], owner: str) -> Schema:
        nodes = list(nodes)
        if not nodes:
            return {"type": "object", "additionalProperties": True}  # said, since generators take it for an empty one
        schema: Schema = {"type": "object"}
        schema["properties"] = {node.field.path.rpartition(".")[2]: self._field(node, owner) for node in nodes}
        if required := [node.field.path.rpartition(".")[2] for node in nodes if not node.field.optional]:
            schema["required"] = required
        return schema

    def _field(self, node: _Node, owner: str) -> Schema:
        known = list(node.field.values)
        simple = [word for word in node.field.types if word in _NO_OBJECT_WORDS]
        forms = [self._form(node, word, owner) for word in node.field.types if word not in simple]
        if "any" in node.field.types:
            return {"description": node.field.meaning}
        if simple:
            forms.append({"type": simple[0] if len(simple) == 1 else simple})
        schema = forms[0] if len(forms) == 1 else {"anyOf": forms}
        schema = {"description": node.field.meaning, **schema}
        return schema | {"examples": known} if known and simple else schema

    def _form(self, node: _Node, word: str, owner: str) -> Schema:
        if word == "empty object":
            return {"type": "object", "maxProperties": 0}
        if word.startswith(ARRAY_OF):
            return {"type": "array", "items": self._items(node, word.removeprefix(ARRAY_OF).removesuffix("s"), owner)}
        if not node.field.of:
            return self._content(node, owner)
        name = pascal(node.field.of)
        if not _as_in_its_part(node):
            name = owner + name
        if name not in self.shared:
            self.shared[name] = {}  # its place, before those that it refers to
            self.shared[name] = self._content(node, owner)
        return {"$ref": self._ref.format(name=name)}

    def _items(self, node: _Node, word: str, owner: str) -> Schema:
        if word == "object":
            return self._form(node, word, owner)
        if word == "any":
            return {}
        return {"type": word} | ({"examples": list(node.field.values)} if node.field.values else {})

    def _content(self, node: _Node, owner: str) -> Schema:
        """An object: its members, or a choice by its `type`."""
        common = [child for child in node.children if child.field.when == node.field.when]
        if len(common) == len(node.children):
            return self._object(common, owner)
        kind = next(child for child in common if child.field.path.endswith(".type"))
        return {"oneOf": [self._one_of(node, value, common, kind, owner) for value in kind.field.values]}

    def _one_of(self, node: _Node, value: str, common: Sequence[_Node], kind: _Node, owner: str) -> Schema:
        name = pascal(value) + (pascal(node.field.of) or owner)
        if name not in self.shared:
            own = [child for child in node.children if child not in common and value in child.field.when]
            schema = self._object([*common, *own], name)
            schema["properties"]["type"] = {"description": kind.field.meaning, "type": "string", "const": value}
            self.shared[name] = schema
        return {"$ref": self._ref.format(name=name)}


def _tree(fields: Iterable[Field]) -> list[_Node]:
    """The fields at the top, each with those below it: a field follows the one that it is below."""
    top: list[_Node] = []
    nodes: dict[str, _Node] = {}
    for each in fields:
        node = nodes[each.path] = _Node(each)
        parent = each.path.rpartition(".")[0].removesuffix("[]")
        (nodes[parent].children if parent else top).append(node)
    return top


def _as_in_its_part(node: _Node) -> bool:
    """Whether the type itself changes nothing of the part that the fields are from."""
    above = node.field.path + ("[]." if ARRAY_OF in node.field.type else ".")
    return list(part_fields(node.field.of, above, node.field.when)) == node.fields_below()
