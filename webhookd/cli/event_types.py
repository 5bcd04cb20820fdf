"""`webhookd types`: the event types that there are, and what their events hold."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from webhookd.cli.options import Call, complete_event_type, examples, with_call
from webhookd.cli.output import json_text, print_json, table
from webhookd.text import escape


@click.command(
    "types",
    short_help="List and explain the event types.",
    epilog=examples(
        "webhookd types",
        "webhookd types message.received",
        "webhookd types message.received --schema",
        "webhookd types --openapi > webhookd.json",
    ),
)
@click.argument("name", metavar="[TYPE]", required=False, shell_complete=complete_event_type)
@click.option("--schema", "form", flag_value="schema", help="Print the JSON Schema of TYPE.")
@click.option("--openapi", "form", flag_value="openapi", help="Print the OpenAPI document, with all types as webhooks.")
@click.option("--asyncapi", "form", flag_value="asyncapi", help="Print all types as an AsyncAPI document.")
@with_call
def types(call: Call, name: str | None, form: str | None) -> None:
    """List the event types, the product's own among them; with TYPE, show the fields and a sample of one.

    The schema and the documents are for programs that generate code: `webhookd help receiving`.
    """
    if (form == "schema") != (name is not None) and form is not None:
        raise click.UsageError("--schema takes a TYPE; --openapi and --asyncapi take none.")
    if form is not None:
        return print_json(
            call.client().get(f"/v1/event-types/{quote(name, safe='')}/schema" if name else f"/{form}.json")
        )
    found = list(call.client().pages("/v1/event-types"))
    if name is not None:
        return _explain(call, _named(name, found))
    if call.as_json:
        return print_json({"data": found, "next": None})
    return table(("type", "label", "description"), [(one["name"], one["label"], one["description"]) for one in found])


def _named(name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    for one in found:
        if one["name"] == name:
            return one
    raise unknown_type(name, [one["name"] for one in found])


def unknown_type(name: str, known: list[str]) -> click.ClickException:
    """The error for a name, or a pattern, that fits no event type."""
    from webhookd.errors import did_you_mean

    nearest = did_you_mean(name.replace("*", ""), known, cutoff=0.0)
    return click.ClickException(
        f"no event type is {escape(repr(name))}: did you mean {escape(nearest)}? `webhookd types` lists all."
    )


def _explain(call: Call, one: dict[str, Any]) -> None:
    if call.as_json:
        return print_json(one)
    click.echo(f"{escape(one['name'])}: {escape(one['label'])}\n{escape(one['description'])}\n")
    for note in one["notes"]:
        click.echo(f"- {escape(note)}")
    table(("field", "type", "meaning"), [(each["path"], _type(each), each["meaning"]) for each in one["fields"]])
    return click.echo(f"\nA sample:\n{json_text(one['sample'])}")


def _type(field: dict[str, Any]) -> str:
    parts = [field["type"], *(["may be missing"] if field.get("optional") else [])]
    if "when" in field:
        parts.append(f"only with {', '.join(field['when'])}")
    return "; ".join(parts)


def expanded(call: Call, given: tuple[str, ...]) -> list[str]:
    """The event types of `-e`: several separated by commas, and patterns (`message.*`) by the daemon's catalogue.

    `*` alone stays; a pattern that fits no type is an error that names the nearest one.
    """
    from fnmatch import fnmatchcase

    words = [word.strip() for one in given for word in one.split(",") if word.strip()]
    if not any("*" in word and word != "*" for word in words):
        return list(dict.fromkeys(words))
    known = [one["name"] for one in call.client().pages("/v1/event-types")]
    names: list[str] = []
    for word in words:
        is_pattern = "*" in word and word != "*"
        fitting = [name for name in known if fnmatchcase(name, word)] if is_pattern else [word]
        if not fitting:
            raise unknown_type(word, known)
        names += fitting
    return list(dict.fromkeys(names))
