"""How a group of commands is carried out: as one statement where that goes, else in one transaction, one by one.

What has no need of SQLite is done on the event loop's thread (`Crowd`): while both threads are at work, each wait
for the interpreter's lock costs more than most statements.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Generic, TypeVar

import orjson

from webhookd.store.bulk import Bulk, Crowds
from webhookd.store.connection import concerns_command_only

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Command(Generic[T]):
    """What a caller submitted: `run` or, of a kind of which many may come, `item`; `size` in rows."""

    run: Callable[[sqlite3.Connection], T]
    on_commit: Callable[[T], None] | None
    retry_when_full: bool
    future: asyncio.Future[T]
    bulk: Bulk[Any, T] | None = None
    item: Any = None
    size: int = 1
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The result of a command that was refused."""

    error: Exception


class Crowd:
    """Bulk commands that go to SQLite as one statement: packed here, carried out there, answered here again."""

    def __init__(self, crowds: Crowds, commands: list[Command[Any]]) -> None:
        self._crowds = crowds
        self._commands = commands
        self._items: dict[Bulk[Any, Any], list[Any]] = {}
        for command in commands:
            assert command.bulk is not None
            self._items.setdefault(command.bulk, []).append(command.item)
        self._values: list[str | bytes | None] | None
        try:
            self._values = crowds.pack(self._items)
        except orjson.JSONEncodeError:  # text that isn't UTF-8, a number beyond 64 bits: of one, not of its neighbours
            self._values = None

    def run(self, db: sqlite3.Connection) -> dict[Bulk[Any, Any], Any] | None:
        """Carry all out and read what it came to; None, and nothing is done, where that doesn't go."""
        if self._values is None:
            return None
        try:
            self._crowds.insert(db, self._values)
        except sqlite3.Error as error:
            if not concerns_command_only(error):
                raise
            return None
        try:
            return {bulk: bulk.read(db, items) for bulk, items in self._items.items()}
        except MemoryError as error:
            if db.in_transaction:
                raise  # it can be undone
            raise lost_sight() from error

    def results(self, read: dict[Bulk[Any, Any], Any]) -> list[Any]:
        """What came of each command, in their order."""
        results = {bulk: iter(bulk.results(items, read[bulk])) for bulk, items in self._items.items()}
        return [next(results[command.bulk]) for command in self._commands if command.bulk is not None]


def run_group(db: sqlite3.Connection, crowds: Crowds | None, group: list[Command[Any]]) -> list[Any]:
    """All of `group` in one transaction, or none of it; without `crowds` bulk commands go one by one as well."""
    db.execute("BEGIN IMMEDIATE")
    try:
        results = _run_all(db, crowds, group)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # some errors, SQLITE_FULL among them, roll back by themselves
            db.execute("ROLLBACK")
        raise
    return results


def _run_all(db: sqlite3.Connection, crowds: Crowds | None, group: list[Command[Any]]) -> list[Any]:
    if crowds is None:
        return [_run_one(db, command) for command in group]
    results: list[Any] = []
    for is_bulk, time_range in groupby(group, lambda command: command.bulk is not None):
        commands = list(time_range)
        results += _run_crowd(db, crowds, commands) if is_bulk else [_run_one(db, command) for command in commands]
    return results


def _run_crowd(db: sqlite3.Connection, crowds: Crowds, commands: list[Command[Any]]) -> list[Any]:
    """Run bulk commands together, or, where that doesn't go, one by one."""
    crowd = Crowd(crowds, commands)
    read = crowd.run(db)
    return [_run_one(db, command) for command in commands] if read is None else crowd.results(read)


def _run_one(db: sqlite3.Connection, command: Command[Any]) -> Any:
    db.execute("SAVEPOINT command")
    try:
        result = command.run(db)
    except sqlite3.Error as error:
        if concerns_command_only(error):
            return _undo(db, error)
        raise  # the disk's or the file's fault concerns the whole group
    except MemoryError:
        raise  # the machine's too
    except Exception as error:  # noqa: BLE001 - it belongs to the caller, who gets it from the future
        return _undo(db, error)
    db.execute("RELEASE command")
    return result


def _undo(db: sqlite3.Connection, error: Exception) -> Refused:
    db.execute("ROLLBACK TO command")
    db.execute("RELEASE command")
    return Refused(error)


def lost_sight() -> sqlite3.Error:
    """After a commit nobody may be told that nothing was done: only a new start knows what was."""
    return sqlite3.InternalError("there was no memory to read what was committed")
