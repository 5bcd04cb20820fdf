"""A folder of the configuration with event types: `NAME.toml` describes the type NAME."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from webhookd.catalogue.checks import FileMistake, mistakes
from webhookd.catalogue.types import TypeFile

_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_LINE = re.compile(r" \(at line (\d+), column \d+\)$")
_ITEM = re.compile(r"(fields|variants)\[(\d+)\]")


class FolderMistake(NamedTuple):
    """A mistake in a file of the folder, or of the folder itself; `line` is None where it has none."""

    path: Path
    line: int | None
    mistake: FileMistake


def read_types(folder: Path, type_name: re.Pattern[str]) -> tuple[dict[str, TypeFile], list[FolderMistake]]:
    """The types of a folder, by their names, and what is wrong there; `type_name` is the form of a name."""
    types: dict[str, TypeFile] = {}
    found: list[FolderMistake] = []
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except OSError as error:
        return {}, [FolderMistake(folder, None, FileMistake("", f"the folder can't be read: {error.strerror}"))]
    for path in files:
        if not type_name.fullmatch(path.stem):
            found.append(FolderMistake(path, None, FileMistake("", "not a name of an event type", "order.paid.toml")))
            continue
        try:
            text = path.read_bytes().decode("utf-8-sig")
            types[path.stem] = msgspec.convert(tomllib.loads(text), TypeFile)
        except OSError as error:
            found.append(FolderMistake(path, None, FileMistake("", f"the file can't be read: {error.strerror}")))
        except msgspec.ValidationError as error:
            found.append(_placed(path, text, _of_convert(str(error))))
        except (ValueError, RecursionError) as error:
            found.append(_not_toml(path, str(error)))
        else:
            found += [_placed(path, text, each) for each in mistakes(path.stem, types[path.stem])]
    return types, found


def _not_toml(path: Path, message: str) -> FolderMistake:
    place = _LINE.search(message)
    what = FileMistake("", f"not TOML: {message[: place.start()] if place else message}")
    return FolderMistake(path, int(place[1]) if place else None, what)


def _of_convert(message: str) -> FileMistake:
    place = _PLACE.search(message)
    what = message[: place.start()] if place else message
    return FileMistake(place[1] if place else "", what[0].lower() + what[1:])


def _placed(path: Path, text: str, mistake: FileMistake) -> FolderMistake:
    return FolderMistake(path, next(_lines(text, mistake.key), None), mistake)


def _lines(text: str, key: str) -> Iterator[int]:
    """The line that a key of the file begins at, if it is written as a table."""
    item = _ITEM.match(key)
    header = f"[[{item[1]}]]" if item else f"[{key.partition('.')[0]}]"
    skipped = int(item[2]) if item else 0
    lines = [number for number, line in enumerate(text.split("\n"), 1) if line.partition("#")[0].strip() == header]
    yield from lines[skipped:]
