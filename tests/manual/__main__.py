"""Writes into the manual what the code knows: `python -m tests.manual`.

A page has a place for each such part, between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from inspect import cleandoc
from pathlib import Path

import click
import msgspec

from webhookd.catalogue.json_schema import type_schema
from webhookd.catalogue.types import EventType, Field
from webhookd.cli import cli
from webhookd.config import NEED_RESTART, SECTIONS, Config
from webhookd.config.loader import KEYS, form
from webhookd.errors import ERRORS
from webhookd.log import LOG_EVENTS
from webhookd.metrics import METRICS
from webhookd.rules.event_types import BUILT_IN
from webhookd.web.api.openapi import paths_of
from webhookd.web.router import ROUTES

ROOT = Path(__file__).resolve().parents[2]
MANUAL = ROOT / "webhookd" / "manual"
PLACE = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
SETTING = re.compile(r"#([a-z_]+) = ")


def table(head: str, rows: Iterable[Iterable[str]]) -> str:
    """A table; `head` is its first line's cells, separated by commas."""
    names = head.split(", ")
    lines = [names, ["---"] * len(names), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def errors() -> str:
    """Every error code."""
    return table(
        "code, status, meaning", ([f"`{code}`", str(kind.status), kind.meaning] for code, kind in ERRORS.items())
    )


def log_events() -> str:
    """Every log event."""
    return table(
        "event, level, what happened, fields",
        (
            [f"`{name}`", each.level, each.meaning, ", ".join(f"`{field}`" for field in each.fields)]
            for name, each in LOG_EVENTS.items()
        ),
    )


def metrics() -> str:
    """Every metric."""
    return table(
        "metric, type, labels, meaning",
        (
            [f"`{name}`", each.kind, ", ".join(f"`{label}`" for label in each.labels), each.meaning]
            for name, each in METRICS.items()
        ),
    )


def paths() -> str:
    """Every route, by its longest path."""
    return table(
        "call, scope, purpose",
        (
            [f"`{route.method} {paths_of(route)[0]}`", f"`{route.scope}`" if route.scope else "open", route.summary]
            for route in ROUTES
        ),
    )


def settings() -> str:
    """Every setting: its default from the code, its meaning from the comment above it in `etc/webhookd.toml`."""
    defaults = msgspec.json.decode(msgspec.json.encode(Config()))
    comments = dict(_comments((ROOT / "etc" / "webhookd.toml").read_text("utf-8")))
    parts = []
    for section in SECTIONS:
        rows = [
            [f"`{key}`", f"`{json.dumps(defaults[of][key])}`", _form(f"{of}.{key}"), comments[of, key]]
            for of, key in KEYS
            if of == section
        ]
        restart = " Changes take a restart." if section in NEED_RESTART else ""
        parts.append(
            f"\n## [{section}]\n\n{comments[section, '']}{restart}\n\n{table('key, default, value, meaning', rows)}"
        )
    return "".join(parts)[1:]


def _form(key: str) -> str:
    words = form(key, KEYS[key.split(".")[0], key.split(".")[1]])
    return re.sub(r': (\[[^\]]*\]|"[^"]*"(, "[^"]*")*)$', "", words)


def _comments(text: str) -> Iterator[tuple[tuple[str, str], str]]:
    """The comment above each section, with the key "", and above each setting."""
    section, comment = "", ""
    for line in text.splitlines():
        if line.startswith("# "):
            comment += " " + line[2:]
        elif line.startswith("["):
            section = line.strip("[]")
            yield (section, ""), _one_line(comment)
            comment = ""
        elif match := SETTING.match(line):
            yield (section, match[1]), _one_line(comment)
            comment = ""
        else:
            comment = ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def commands() -> str:
    """Every command with its options; those that all commands share are shown once."""
    context = click.Context(cli, info_name="webhookd")
    shared = {option.name for option in cli.params} | {"help"}
    parts = [f"## Options of every command\n\n{_options(context, cli, set())}"]
    for name, command in commands_of(cli):
        inner = click.Context(command, info_name=name)
        usage = " ".join(command.collect_usage_pieces(inner)[1:])
        parts.append(
            f"\n## webhookd {name}\n\n{_prose(command.help or '')}\n\n    webhookd {name} {usage}".rstrip() + "\n"
        )
        if options := _options(inner, command, shared):
            parts.append(f"\n{options}")
    return "".join(parts)


def _prose(text: str) -> str:
    return cleandoc(text).replace("*", "\\*")


def _options(context: click.Context, command: click.Command, but: set[str | None]) -> str:
    rows = []
    for option in command.params:
        record = option.get_help_record(context) if option.name not in but else None
        if record and record[1]:
            rows.append([f"`{record[0]}`", " ".join(record[1].split()).replace("*", "\\*").replace("<", "\\<")])
    return table("option, meaning", rows) if rows else ""


def commands_of(group: click.Group, prefix: str = "") -> list[tuple[str, click.Command]]:
    """All commands below a group, with their full names."""
    found = []
    for name, command in group.commands.items():
        found.append((prefix + name, command))
        if isinstance(command, click.Group):
            found += commands_of(command, f"{prefix}{name} ")
    return found


def event_types() -> str:
    """Every built-in event type."""
    links = [
        f"- [`{each.name}`](#{each.name.replace('.', '')}): {each.description[0].lower()}{each.description[1:]}\n"
        for each in BUILT_IN
    ]
    return "".join([*links, *map(_event_type, BUILT_IN)])


def _event_type(of: EventType) -> str:
    sample = json.dumps(of.sample, indent=2, ensure_ascii=False).replace("\n", "\n    ")
    rows = ([f"`{field.path}`", field.type, _meaning(field)] for field in of.fields)
    notes = "".join(f"- {note}\n" for note in of.notes)
    return (
        f"\n## {of.name}\n\n*{of.label}.* {of.description}\n\n{notes}{notes and chr(10)}"
        f"{table('field, type, meaning', rows)}\nSample:\n\n    {sample}\n"
    )


def _meaning(field: Field) -> str:
    parts = [field.meaning]
    if field.optional:
        parts.append("May be missing")
    if field.when:
        parts.append(f"Only with the type {', '.join(f'`{each}`' for each in field.when)}")
    if field.values:
        parts.append(f"Known values: {', '.join(f'`{each}`' for each in field.values)}")
    return ". ".join(parts)


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "errors": errors,
    "event-types": event_types,
    "log": log_events,
    "metrics": metrics,
    "paths": paths,
    "settings": settings,
}


def filled(text: str) -> str:
    """A page with what the code says now in its places."""
    return PLACE.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]()}\n", text)


def schema_files() -> dict[Path, str]:
    """The schema of each built-in type, which is a file of the wheel."""
    folder = ROOT / "webhookd" / "catalogue" / "schemas"
    return {
        folder / f"{each.name}.json": json.dumps(type_schema(each), indent=1, ensure_ascii=False) + "\n"
        for each in BUILT_IN
    }


if __name__ == "__main__":
    for file, text in schema_files().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
    for page in sorted(MANUAL.glob("*.md")):
        page.write_text(filled(page.read_text("utf-8")), "utf-8")
