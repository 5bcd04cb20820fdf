"""Commands that come in crowds, and what a crowd of them costs less than each by itself.

Every statement that Python's `sqlite3` runs gives up the interpreter's lock three times or so, and each time has to win
it back from a busy event loop, which costs more than most statements do.  A crowd of commands therefore goes to SQLite
as *one* statement: the rows of each kind as one JSON array, with all their bodies in one blob beside it, inserted into
a temporary view whose triggers do the work.  A statement is a transaction by itself, so that one call begins it, does
everything and commits it, on the second core while the loop goes on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson

I = TypeVar("I")  # noqa: E741 - an item
T = TypeVar("T")

# A row with a larger body counts as several, so that a group of rows bounds the bytes as well.
ROW_BYTES = 10 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class Bulk(Generic[I, T]):
    """A kind of command: `one` carries out a single item; many go together, with the same outcome for each.

    `pack` makes `(rows, blobs)` of the items, which the SQL of `together` finds as `NEW.{name}_rows` and
    `NEW.{name}_blobs` (see `packed`).  Where they can't be packed, or the SQL ends in a constraint's error (an id is
    known already, say), each item gets its `one` instead.  `read` then fetches what `results` needs besides the items.
    `size` is how many rows' worth of work an item is.  `pack` and `results` run on the event loop's thread, so that
    SQLite's has as little as possible to do with the interpreter.

    The writer moves commands of one kind together that came with other bulk kinds between them.  So all kinds must be
    indifferent to the order among different kinds; within a kind the order is kept.
    """

    name: str
    one: Callable[[sqlite3.Connection, I], T]
    pack: Callable[[Sequence[I]], tuple[str, bytes]]
    together: str
    read: Callable[[sqlite3.Connection, Sequence[I]], Any]
    results: Callable[[Sequence[I], Any], list[T]]
    size: Callable[[I], int] = lambda item: 1


class Crowds:
    """The kinds that go together in one statement."""

    def __init__(self, kinds: Sequence[Bulk[Any, Any]]) -> None:
        self._kinds = kinds
        self._insert = f"INSERT INTO crowd VALUES ({', '.join('?' for _ in kinds for _ in range(2))})"

    def prepare(self, db: sqlite3.Connection) -> None:
        """Make the view and its triggers, for this connection alone."""
        columns = ", ".join(f"NULL AS {kind.name}_rows, NULL AS {kind.name}_blobs" for kind in self._kinds)
        db.execute(f"CREATE TEMP VIEW crowd AS SELECT {columns}")
        for kind in self._kinds:
            db.execute(
                f"CREATE TEMP TRIGGER crowd_{kind.name} INSTEAD OF INSERT ON crowd "
                f"WHEN NEW.{kind.name}_rows IS NOT NULL BEGIN {kind.together}; END"
            )

    def pack(self, items: Mapping[Bulk[Any, Any], Sequence[Any]]) -> list[str | bytes | None]:
        """The values of the one statement that carries out `items`."""
        values: list[str | bytes | None] = []
        for kind in self._kinds:
            values += kind.pack(items[kind]) if kind in items else (None, None)
        return values

    def insert(self, db: sqlite3.Connection, values: Sequence[str | bytes | None]) -> None:
        """Carry out what was packed, all or nothing; sqlite3.Error where that doesn't go."""
        db.execute(self._insert, values)


def packed(rows: Iterable[tuple[tuple[Any, ...], bytes]]) -> tuple[str, bytes]:
    """`rows`, each with its blob: their JSON array, and their blobs in one.

    That is what `json_each` and `substr` take apart.  A row becomes `[*fields, offset, length]`, the offset counted
    from 1 as `substr` does.
    """
    fields: list[tuple[Any, ...]] = []
    blobs: list[bytes] = []
    offset = 1
    for row, blob in rows:
        fields.append((*row, offset, len(blob)))
        blobs.append(blob)
        offset += len(blob)
    return orjson.dumps(fields).decode(), b"".join(blobs)
