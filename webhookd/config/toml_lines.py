"""On which line of a TOML document each key stands, which `tomllib` doesn't say: for mistakes that name their line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

KeyPath = tuple[str, ...]
"""The names of the tables that a key is in, then its own: `("events", "order.paid", "label")`."""


def lines_of(text: str) -> dict[KeyPath, int]:
    """The first line of each key and table of `text` (a valid TOML document), counted from 1."""
    found: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for line, statement, tree in _statements(text):
        is_header = statement.lstrip().startswith("[")
        paths = [path if is_header else table + path for path in _paths(tree)]
        for path in paths:
            found.setdefault(path, line)
        if is_header:
            table = paths[-1]
    return found


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Each header and each `key = value` of `text`: its first line, its text and its parsed value."""
    begun: list[str] = []
    first = 1
    for number, line in enumerate(text.split("\n"), start=1):
        if not begun:
            first = number
        begun.append(line)
        if len(begun) > 1 and not any(mark in line for mark in ("]", '"""', "'''")):
            continue  # only these end a value of several lines; parsing after every line would be quadratic
        statement = "\n".join(begun) + "\n"
        try:
            tree = tomllib.loads(statement)
        except ValueError:
            continue
        begun.clear()
        if tree:
            yield first, statement, tree


def _paths(tree: Any) -> Iterator[KeyPath]:
    if isinstance(tree, list) and len(tree) == 1:
        tree = tree[0]
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield (key,)
            yield from ((key, *path) for path in _paths(value))
