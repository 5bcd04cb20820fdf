"""Whether an event fits the schema of its type, by jsonschema-rs of the extra `validate`, imported where it is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from webhookd.catalogue.json_schema import type_schema
from webhookd.catalogue.types import EventType
from webhookd.errors import ApiError

NAMED_PROBLEMS = 5
_WORDS = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}


class Validator:
    """The compiled schema of one type."""

    def __init__(self, of: EventType) -> None:
        import jsonschema_rs

        self._name = of.name
        self._schema = jsonschema_rs.validator_for(type_schema(of) | {"examples": []})

    def mismatch(self, event: dict[str, Any]) -> ApiError | None:
        """The error `schema_mismatch` with path and reason of what doesn't fit; None if all does."""
        try:
            if self._schema.is_valid(event):
                return None
            found = list(_problems(self._schema.iter_errors(event)))
        except ValueError:  # of jsonschema-rs, at some 255 levels
            found = [("", "is nested too deeply to be checked")]
        problems = [{"path": path, "reason": reason} for path, reason in found[:NAMED_PROBLEMS]]
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        first = f"{found[0][0] or 'the event'} {found[0][1]}"
        return ApiError(
            "schema_mismatch",
            f"The event doesn't fit its type's schema (GET /v1/event-types/{self._name}/schema): {first}{more}.",
            details={"event_type": self._name, "problems": problems},
        )


def _problems(errors: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Path and reason of each error; where one of several schemas has to fit, those of the nearest."""
    for error in errors:
        path, kind = error.instance_path, error.kind
        forms: Sequence[Sequence[Any]] = kind.context if kind.name in ("anyOf", "oneOf") else ()
        same_kind = [form for form in forms if not any(_is_other_kind(each, path) for each in form)]
        if same_kind:
            nearest = min(same_kind, key=len)
            yield from _problems(nearest)
        elif kind.name == "required":
            yield _shown([*path, kind.property]), "is missing"
        else:
            yield _shown(path), _reason(error, forms)


def _is_other_kind(error: Any, path: Sequence[str | int]) -> bool:
    """Whether the value at `path` isn't of a schema's kind at all: of another JSON type, content of another `type`."""
    name, at = error.kind.name, error.instance_path
    return bool((name in ("type", "maxProperties") and at == path) or (name == "const" and at == [*path, "type"]))


def _reason(error: Any, forms: Sequence[Sequence[Any]]) -> str:
    kind, path = error.kind, error.instance_path
    if kind.name == "const":
        return f"is not {kind.expected_value!r}"
    given = error.instance.get("type") if isinstance(error.instance, dict) else None
    if forms and isinstance(given, str):
        return f"has a type that the schema hasn't: {given[:50]!r}"
    errors = [error, *(each for form in forms for each in form)]
    types = [each for one in errors if one.kind.name == "type" and one.instance_path == path for each in one.kind.types]
    if types:
        return f"is of the type {_WORDS.get(type(error.instance), 'null')}, not {' or '.join(dict.fromkeys(types))}"
    return f"breaks the schema's {kind.name}"


def _shown(path: Sequence[str | int]) -> str:
    """`message.status[0].value`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")[:200]
