"""Commands that come in crowds, and what a crowd of them costs less than each by itself.

Every statement that Python's `sqlite3` runs gives up the interpreter's lock and has to win it back from a busy event
loop, which costs more than most statements do.  A crowd of commands therefore goes to SQLite as a few statements over
the rows of one JSON array, with all bodies in one blob beside it: SQLite works through them on the second core while
the loop goes on (measured, an event with its delivery in groups of 64: 17 µs instead of 39, and most of it without
the lock).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson

I = TypeVar("I")  # noqa: E741 - an item
T = TypeVar("T")

# Of one statement's blob.  It is copied twice on its way, and SQLite's own limit is a gigabyte.
BLOB_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class Bulk(Generic[I, T]):
    """A kind of command: `one` carries out a single item, `together` many, with the same outcome for each.

    `together` returns None when it can't (an id is known already, say); whatever it did is undone then, and each item
    gets its `one`.  `size` is how many rows' worth of work an item is.

    The writer moves commands of one kind together that came with other bulk kinds between them.  So all kinds must be
    indifferent to the order among different kinds; within a kind the order is kept.
    """

    one: Callable[[sqlite3.Connection, I], T]
    together: Callable[[sqlite3.Connection, Sequence[I]], list[T] | None]
    size: Callable[[I], int] = lambda item: 1


def packed(rows: Sequence[tuple[tuple[Any, ...], bytes]]) -> Iterator[tuple[int, str, bytes]]:
    """`rows`, each with its blob, in pieces of bounded size: how many, their JSON array, their blobs in one.

    That is what `json_each` and `substr` take apart.  A row becomes `[*fields, offset, length]`, the offset counted
    from 1 as `substr` does.
    """
    fields: list[tuple[Any, ...]] = []
    blobs: list[bytes] = []
    size = 0
    for row, blob in rows:
        if blobs and size + len(blob) > BLOB_BYTES:
            yield len(fields), orjson.dumps(fields).decode(), b"".join(blobs)
            fields, blobs, size = [], [], 0
        fields.append((*row, size + 1, len(blob)))
        blobs.append(blob)
        size += len(blob)
    if blobs:
        yield len(fields), orjson.dumps(fields).decode(), b"".join(blobs)
