"""Reads the settings: the TOML file, then systemd's credentials, then the environment, each overriding the last.

All mistakes are collected and reported at once, each with its source, line, key and right form.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import inspect
from msgspec.structs import FieldInfo, replace

from webhookd.catalogue.folder import read_types
from webhookd.catalogue.types import TypeFile
from webhookd.config import (
    RULES,
    SECRETS,
    SECTIONS,
    TYPE_NAME,
    Config,
    Events,
    ExtraType,
    branding,
    contradictions,
    reloadable,
)
from webhookd.config.secret_files import credential
from webhookd.config.toml_lines import KeyPath, lines_of
from webhookd.errors import ConfigError, did_you_mean

PREFIX = "WEBHOOKD_"
OTHER_VARIABLES = frozenset(
    {"WEBHOOKD_CONFIG", "WEBHOOKD_STATE_DIR", "WEBHOOKD_URL", "WEBHOOKD_TOKEN", "WEBHOOKD_INGEST_TOKEN"}
)
EVENTS_VARIABLE = "WEBHOOKD_EVENTS"

KEYS: dict[KeyPath, FieldInfo] = {
    (section, field.encode_name): field
    for section, struct in SECTIONS.items()
    for field in msgspec.structs.fields(struct)
    if (section, field.name) != ("events", "types")
}
EXTRA_TYPE_KEYS = {field.encode_name: field for field in msgspec.structs.fields(ExtraType) if field.name != "file"}
VARIABLES: dict[str, KeyPath] = {f"{PREFIX}{section}__{key}".upper(): (section, key) for section, key in KEYS}


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake: `source` is a file, a credential or a variable; `line` is None where it has none."""

    source: str
    line: int | None
    key: str
    what: str
    form: str = ""

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}" if self.line else self.source
        what = f"{self.key}: {self.what}" if self.key else self.what
        return f"{where}: {what}, expected {self.form}" if self.form else f"{where}: {what}"


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The settings of the file at `path` (None: the defaults) and the environment; ConfigError with each mistake."""
    reading = _Reading()
    config = reading.read(path, environ)
    if reading.mistakes:
        raise ConfigError("\n".join(map(str, reading.mistakes)))
    return config


def check(path: Path | None, environ: Mapping[str, str] | None = None) -> list[Mistake]:
    """What is wrong with the file at `path` and the environment, in the order of the file."""
    reading = _Reading()
    reading.read(path, environ or {})
    return reading.mistakes


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that differs from its default; both values as TOML, secrets hidden; the rest as in `Mistake`."""

    key: str
    value: str
    default: str
    source: str
    line: int | None
    needs_restart: bool


def differences(path: Path | None, environ: Mapping[str, str]) -> list[Difference]:
    """What a valid file at `path` and the environment change; first what a reload applies."""
    reading = _Reading()
    return reading.differences(reading.read(path, environ))


def form(key: str, field: FieldInfo) -> str:
    """The valid form of a key's value, in words."""
    if key in RULES:
        return RULES[key].form
    if get_origin(field.type) is Literal:
        return "one of " + ", ".join(f'"{value}"' for value in get_args(field.type))
    info = inspect.type_info(field.type)
    if isinstance(info, inspect.Metadata):
        return str((info.extra_json_schema or {})["description"])
    return "true or false" if isinstance(info, inspect.BoolType) else "a text in quotes"


def dotted(path: KeyPath) -> str:
    """`path` as TOML writes it: `events."order.paid".label`."""
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else _shown(part) for part in path)


@dataclass(frozen=True, slots=True)
class _Given:
    """A value and where it was set."""

    value: Any
    source: str


class _Reading:
    """Reads all sources once and collects `mistakes`."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self._file = ""
        self._text = ""
        self._lines: dict[KeyPath, int] | None = None
        self._given: dict[KeyPath, _Given] = {}
        self._extra_types: dict[str, str] = {}
        self._bad: set[str] = set()

    def read(self, path: Path | None, environ: Mapping[str, str]) -> Config:
        """The settings; a wrong one keeps its default and is added to `mistakes`."""
        if path is not None:
            self._file = str(path)
            self._add_tree(self._parse(path), self._file)
        self._add_credentials(environ)
        self._add_environment(environ)
        config = self._build()
        for keys, what, right in (*contradictions(config), *branding.contradictions(config)):
            if self._bad.isdisjoint(keys):
                path_of = next((tuple(key.split(".")) for key in keys if tuple(key.split(".")) in self._given), ())
                source = self._given[path_of].source if path_of else self._file or "the defaults"
                self._mistake(source, tuple(keys[0].split(".")), what, right, at=path_of)
        self.mistakes.sort(key=lambda mistake: (mistake.source != self._file, mistake.line or 0))
        return config

    def differences(self, config: Config) -> list[Difference]:
        """The settings that differ from their defaults."""
        free, fixed = reloadable(Config(), config)
        set_by = {dotted(path): (path, given) for path, given in self._given.items()}
        found = []
        for key in (*free, *fixed):
            if key in set_by:
                path, given = set_by[key]
                value = "a secret" if key in SECRETS else _shown(given.value)
                source, default = given.source, _shown(getattr(getattr(Config(), path[0]), KEYS[path].name))
            else:  # an event type
                types = config.events.types
                path = next(("events", name) for name in types if key == f'events."{name}"')
                source, value, default = self._extra_types[path[1]], _shown(types[path[1]].label), "not there"
            line = self._line(path) if source == self._file else None
            found.append(Difference(key, value, default, source, line, key in fixed))
        return found

    def _line(self, path: KeyPath) -> int | None:
        if self._lines is None:
            self._lines = lines_of(self._text)
        return self._lines.get(path)

    def _mistake(self, source: str, path: KeyPath, what: str, right: str = "", at: KeyPath | None = None) -> None:
        line = self._line(path if at is None else at) if source == self._file else None
        self._bad.add(dotted(path))
        self.mistakes.append(Mistake(source, line, dotted(path), what, right))

    def _parse(self, path: Path) -> dict[str, Any]:
        """The file as nested tables; {} and a mistake if it can't be read or isn't TOML."""
        raw = b""
        try:
            raw = path.read_bytes()
            text = raw.decode("utf-8-sig").replace("\r\n", "\n")
            tree = tomllib.loads(text)
        except OSError as error:
            self.mistakes.append(Mistake(self._file, None, "", f"the file can't be read: {error.strerror or error}"))
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            self.mistakes.append(Mistake(self._file, line, "", "the file is not UTF-8 here"))
        except RecursionError:
            self.mistakes.append(Mistake(self._file, None, "", "brackets are nested too deeply"))
        except ValueError as error:
            self.mistakes.append(_syntax_mistake(self._file, text, str(error)))
        else:
            self._text = text
            return tree
        return {}

    def _add_tree(self, tree: dict[str, Any], source: str) -> None:
        for section, table in tree.items():
            if section not in SECTIONS:
                self._unknown(source, (section,), SECTIONS)
            elif not isinstance(table, dict):
                self._mistake(source, (section,), f"got {_shown(table)}", f"a table: [{section}]")
            else:
                known = [key for of, key in KEYS if of == section]
                for key, value in table.items():
                    if section == "events" and (isinstance(value, dict) or key not in known):
                        self._add_event_type(key, value, source)
                    elif key in known:
                        self._given[section, key] = _Given(value, source)
                    else:
                        self._unknown(source, (section, key), known)

    def _add_event_type(self, name: str, body: Any, source: str) -> None:
        path = ("events", name)
        if not TYPE_NAME.fullmatch(name):
            self._mistake(source, path, "not a name of an event type", 'words joined by dots: [events."order.paid"]')
        elif not isinstance(body, dict):
            near = did_you_mean(name, [key for section, key in KEYS if section == "events"])
            what = f"unknown key, did you mean {near}?" if near else f"got {_shown(body)}"
            self._mistake(source, path, what, "" if near else f'a table: [events."{name}"]')
        else:
            self._extra_types[name] = source
            for key, value in body.items():
                if key in EXTRA_TYPE_KEYS:
                    self._given[*path, key] = _Given(value, source)
                elif isinstance(value, dict):
                    right = f'the name in quotes: [events."{name}.{key}"]'
                    self._mistake(source, (*path, key), "a table in an event type", right)
                else:
                    self._unknown(source, (*path, key), EXTRA_TYPE_KEYS)

    def _unknown(self, source: str, path: KeyPath, known: Iterable[str]) -> None:
        """Add the mistake of an unknown section or key, with the nearest known one."""
        what = "unknown key" if len(path) > 1 else "unknown section"
        key = path[-1]
        elsewhere = [section for section, other in KEYS if other == key]
        if elsewhere:
            what += f", {key} belongs in " + " or ".join(f"[{section}]" for section in elsewhere)
        elif near := did_you_mean(key, known):
            what += f", did you mean {near}?"
        else:
            what += "; known are " + ", ".join(known)
        self._mistake(source, path, what)

    def _add_credentials(self, environ: Mapping[str, str]) -> None:
        for key, name in SECRETS.items():
            try:
                secret = credential(name, environ)
            except ConfigError as error:
                self.mistakes.append(Mistake("$CREDENTIALS_DIRECTORY", None, key, str(error)))
            else:
                if secret is not None:
                    self._given[tuple(key.split("."))] = _Given(secret, f"$CREDENTIALS_DIRECTORY/{name}")

    def _add_environment(self, environ: Mapping[str, str]) -> None:
        for variable in sorted(environ):
            text = environ[variable]
            if variable in VARIABLES:
                path = VARIABLES[variable]
                self._given[path] = _Given(_from_text(text, KEYS[path]), variable)
            elif variable == EVENTS_VARIABLE:
                self._add_tree({"events": _toml_value(text)}, variable)
            elif variable.startswith(PREFIX) and variable not in OTHER_VARIABLES:
                near = did_you_mean(variable.removeprefix(PREFIX), [known.removeprefix(PREFIX) for known in VARIABLES])
                what = f"unknown variable, did you mean {PREFIX}{near}?" if near else "unknown variable"
                right = "" if near else f"{PREFIX}<SECTION>__<KEY>, as in WEBHOOKD_LISTEN__PORT"
                self.mistakes.append(Mistake(variable, None, "", what, right))

    def _build(self) -> Config:
        sections: dict[str, Any] = {name: struct(**self._values((name,))) for name, struct in SECTIONS.items()}
        events: Events = sections["events"]
        files: dict[str, TypeFile] = {}
        if events.types_folder:
            folder = Path(self._file).parent / Path(events.types_folder).expanduser()
            files, mistakes = read_types(folder, TYPE_NAME)
            self.mistakes += [Mistake(str(path), line, *mistake) for path, line, mistake in mistakes]
        types = {}
        for name in {**files, **self._extra_types}:
            file, values = files.get(name, TypeFile()), self._values(("events", name))
            self._extra_types.setdefault(name, f"{events.types_folder}/{name}.toml")
            label, description = values.get("label") or file.label, values.get("description", file.description)
            types[name] = ExtraType(label=label or name, description=description, file=files.get(name))
        return Config(**sections | {"events": replace(events, types=types)})

    def _values(self, parent: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for path, given in self._given.items():
            if path[:-1] != parent:
                continue
            key = dotted(path)
            field = KEYS.get(path) or EXTRA_TYPE_KEYS[path[-1]]
            try:
                value = msgspec.convert(given.value, field.type)
                good = _is_clean(value) and (key not in RULES or RULES[key].holds(value))
            except (msgspec.ValidationError, OverflowError):
                good = False
            if good:
                values[field.name] = value
            else:
                what = "got a value that doesn't fit" if key in SECRETS else f"got {_shown(given.value)}"
                self._mistake(given.source, path, what, form(key, field))
        return values


def _is_clean(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_clean, value))
    return not isinstance(value, str) or not re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", value)


def _from_text(text: str, field: FieldInfo) -> Any:
    """A variable's text as a value of the field's type; the check refuses a text that can't be converted."""
    info = inspect.type_info(field.type)
    while isinstance(info, inspect.Metadata):
        info = info.type
    if isinstance(info, inspect.StrType | inspect.LiteralType):
        return text
    if not isinstance(info, inspect.VarTupleType) or text.strip().startswith("["):
        return _toml_value(text)
    if isinstance(info.item_type, inspect.StrType):
        return [part.strip() for part in text.split(",") if part.strip()]
    items = _toml_value(f"[{text}]")
    return items if isinstance(items, list) else text


def _toml_value(text: str) -> Any:
    try:
        tree = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return tree["value"] if len(tree) == 1 else text


def _syntax_mistake(source: str, text: str, message: str) -> Mistake:
    """tomllib's message, with the line moved to `line`."""
    place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
    if place is None:
        return Mistake(source, None, "", f"not TOML: {message}")
    line = int(place[1]) if place[1] else text.rstrip("\n").count("\n") + 1
    return Mistake(source, line, "", f"not TOML: {message[: place.start()]}")


def _shown(value: Any) -> str:
    try:
        shown = json.dumps(value, default=str)
    except (ValueError, RecursionError):
        return "a value too large to show"
    return shown if len(shown) <= 60 else shown[:57] + "…"
