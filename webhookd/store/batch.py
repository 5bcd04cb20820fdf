"""Which commands make the next batch (`Turns`), and how it is carried out: as one statement where possible, else
in one transaction.

Each statement of `sqlite3` gives up the interpreter's lock several times and has to win it back from a busy event loop.
So commands of a `BatchKind` go to SQLite together: the rows of each kind as one JSON array, with their bodies in one
blob beside it, inserted into a temporary view whose triggers do the work.  `manual/decisions.md` has the figures.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Generic, TypeVar

import orjson

from webhookd.store.connection import concerns_command_only

I = TypeVar("I")  # noqa: E741 - an item
T = TypeVar("T")

# A row with a larger body counts as several, so that a batch of rows bounds the bytes as well.
ROW_BYTES = 4 * 1024
QUANTUM = 25
# Of each batch, so that outcomes of thousands of endpoints can't keep events from being accepted.
SHARE_OF_WORKSPACES = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class BatchKind(Generic[I, T]):
    """A kind of command of which many go together: `one` carries out a single item, `sql` all of them, alike.

    `pack` makes `(rows, blobs)` of the items, which `sql` finds as `NEW.{name}_rows` and `NEW.{name}_blobs` (see
    `packed`).  Where they can't be packed, or `sql` ends in a constraint's error (a known id, say), each item gets its
    `one` instead.  `read` then fetches what `results` needs besides the items.  `size` is an item's work, in rows.

    Kinds have to be indifferent to the order among different kinds; within a kind the order is kept.
    """

    name: str
    one: Callable[[sqlite3.Connection, I], T]
    pack: Callable[[Sequence[I]], tuple[str, bytes]]
    sql: str
    read: Callable[[sqlite3.Connection, Sequence[I]], Any]
    results: Callable[[Sequence[I], Any], list[T]]
    size: Callable[[I], int] = lambda item: 1

    def of(self, item: I) -> BatchItem[T]:
        """The command for one item."""
        return BatchItem(self, item)


@dataclass(frozen=True, slots=True, eq=False)
class BatchItem(Generic[T]):
    """A command of a kind; alone it runs like any other command."""

    kind: BatchKind[Any, T]
    item: Any

    @property
    def size(self) -> int:
        """Its work, in rows."""
        return self.kind.size(self.item)

    def __call__(self, db: sqlite3.Connection) -> T:
        """Carry out this item by itself."""
        return self.kind.one(db, self.item)


@dataclass(slots=True, eq=False)
class Command(Generic[T]):
    """What a caller submitted to the writer."""

    run: Callable[[sqlite3.Connection], T]
    on_commit: Callable[[T], None] | None
    retry_when_full: bool
    exclusive: bool
    future: asyncio.Future[T]
    size: int = 1  # its work, in rows
    workspace_seq: int | None = None  # whose turn it takes; None goes first


@dataclass(frozen=True, slots=True)
class Refused:
    """The result of a command that was refused."""

    error: Exception


class BatchStatement:
    """The statement that carries out items of all kinds."""

    def __init__(self, kinds: Sequence[BatchKind[Any, Any]]) -> None:
        self._kinds = kinds
        self._insert = f"INSERT INTO batch VALUES ({', '.join('?' for _ in kinds for _ in range(2))})"

    def prepare(self, db: sqlite3.Connection) -> None:
        """Make the view and its triggers, for this connection alone."""
        columns = ", ".join(f"NULL AS {kind.name}_rows, NULL AS {kind.name}_blobs" for kind in self._kinds)
        db.execute(f"CREATE TEMP VIEW batch AS SELECT {columns}")
        for kind in self._kinds:
            db.execute(
                f"CREATE TEMP TRIGGER batch_{kind.name} INSTEAD OF INSERT ON batch "
                f"WHEN NEW.{kind.name}_rows IS NOT NULL BEGIN {kind.sql}; END"
            )

    def pack(self, items: Mapping[BatchKind[Any, Any], Sequence[Any]]) -> list[str | bytes | None]:
        """The statement's values for `items`."""
        values: list[str | bytes | None] = []
        for kind in self._kinds:
            values += kind.pack(items[kind]) if kind in items else (None, None)
        return values

    def insert(self, db: sqlite3.Connection, values: Sequence[str | bytes | None]) -> None:
        """Carry out what was packed, all or nothing; sqlite3.Error where that fails."""
        db.execute(self._insert, values)


class PackedBatch:
    """Items for one statement: packed and answered on the event loop's thread, run on SQLite's."""

    def __init__(self, statement: BatchStatement, items: Sequence[BatchItem[Any]]) -> None:
        self._statement = statement
        self._order = [each.kind for each in items]
        self._items: dict[BatchKind[Any, Any], list[Any]] = {}
        for each in items:
            self._items.setdefault(each.kind, []).append(each.item)
        self._values: list[str | bytes | None] | None
        try:
            self._values = statement.pack(self._items)
        except orjson.JSONEncodeError:  # one has text that isn't UTF-8, or a number beyond 64 bits
            self._values = None
        self._read: dict[BatchKind[Any, Any], Any] = {}
        self._is_committed = False

    def run(self, db: sqlite3.Connection) -> bool:
        """Carry all out; False, and nothing is done, where they have to go one by one."""
        if self._values is None:
            return False
        try:
            self._statement.insert(db, self._values)
        except sqlite3.Error as error:
            if not concerns_command_only(error):
                raise
            return False
        self._is_committed = not db.in_transaction
        with self._memory_needed():
            self._read = {kind: kind.read(db, items) for kind, items in self._items.items()}
        return True

    def results(self) -> list[Any]:
        """What came of each item, in their order."""
        with self._memory_needed():
            results = {kind: iter(kind.results(items, self._read[kind])) for kind, items in self._items.items()}
            return [next(results[kind]) for kind in self._order]

    @contextmanager
    def _memory_needed(self) -> Iterator[None]:
        """After the commit a caller can't be refused any more: only a new start knows what is durable."""
        try:
            yield
        except MemoryError as error:
            if self._is_committed:
                raise sqlite3.InternalError("there was no memory to read what was committed") from error
            raise


def packed(rows: Iterable[tuple[tuple[Any, ...], bytes]]) -> tuple[str, bytes]:
    """`rows`, each with its blob: their JSON array, and their blobs in one, for `json_each` and `substr`.

    A row becomes `[*fields, offset, length]`, the offset counted from 1 as `substr` does.
    """
    fields: list[tuple[Any, ...]] = []
    blobs: list[bytes] = []
    offset = 1
    for row, blob in rows:
        fields.append((*row, offset, len(blob)))
        blobs.append(blob)
        offset += len(blob)
    return orjson.dumps(fields).decode(), b"".join(blobs)


def run_batch(db: sqlite3.Connection, statement: BatchStatement | None, batch: Sequence[Command[Any]]) -> list[Any]:
    """All of `batch` in one transaction, or none of it; without `statement` items go one by one as well."""
    db.execute("BEGIN IMMEDIATE")
    try:
        results: list[Any] = []
        for is_item, part in groupby((command.run for command in batch), lambda run: isinstance(run, BatchItem)):
            runs: list[Any] = list(part)
            together = PackedBatch(statement, runs) if is_item and statement is not None else None
            results += together.results() if together and together.run(db) else [_run_one(db, run) for run in runs]
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # some errors, SQLITE_FULL among them, roll back by themselves
            db.execute("ROLLBACK")
        raise
    return results


def _run_one(db: sqlite3.Connection, run: Callable[[sqlite3.Connection], Any]) -> Any:
    db.execute("SAVEPOINT command")
    try:
        result = run(db)
    except MemoryError:
        raise  # this concerns the whole batch, as does a fault of the disk or of the file
    except Exception as error:
        if isinstance(error, sqlite3.Error) and not concerns_command_only(error):
            raise
        db.execute("ROLLBACK TO command")
        result = Refused(error)
    db.execute("RELEASE command")
    return result


class Turns:
    """Commands that wait for the writer: in which order it takes them, and how many make a batch.

    Commands without a workspace (outcomes of attempts, changes by people) go first, because an endpoint gets its next
    event only after the outcome of the one before is durable.  Commands with a workspace (accepted events, replays)
    wait in one queue per workspace, and the workspaces take turns by *deficit round robin*: at each turn a workspace
    gets a credit of `QUANTUM` rows, and its commands go as long as the credit pays for them.  So one that submits a
    lot waits behind itself.  A command of more than `QUANTUM` rows goes in no batch that another workspace began, so
    that a small one gets a short commit.  A batch of outcomes alone is followed by one that begins with a workspace.
    """

    def __init__(self) -> None:
        self._first: deque[Command[Any]] = deque()
        self._workspaces: OrderedDict[int, deque[Command[Any]]] = OrderedDict()  # whose turn it is comes first
        self._credits: dict[int, int] = {}
        # A command that must keep its place, and everything after it: added when all before it was taken.
        self._after: deque[tuple[Command[Any], bool]] = deque()
        self._passed_by = False  # the last batch had no room for those with a workspace
        self._count = 0
        self.size = 0  # of all that wait, in rows

    def __len__(self) -> int:
        """How many commands wait."""
        return self._count

    @property
    def workspaces(self) -> AbstractSet[int]:
        """Of which workspaces commands wait, by number."""
        return self._workspaces.keys()

    def add(self, command: Command[Any], *, in_order: bool = False) -> None:
        """Let a command wait; with `in_order` none that is added later is taken before it, none earlier after it."""
        self._count += 1
        self.size += command.size
        if self._after or in_order:
            self._after.append((command, in_order))
        else:
            self._queue_of(command).append(command)

    def put_back(self, commands: list[Command[Any]]) -> None:
        """Let commands that were taken go next of their kind, in their order."""
        self._count += len(commands)
        self.size += sum(command.size for command in commands)
        for command in reversed(commands):
            self._queue_of(command).appendleft(command)

    def take_refusable(self) -> list[Command[Any]]:
        """Every command that needn't be retried when the disk is full."""
        taken: list[Command[Any]] = []
        for queue in (self._first, *self._workspaces.values()):
            taken += (command for command in queue if not command.retry_when_full)
            kept = [command for command in queue if command.retry_when_full]
            queue.clear()
            queue.extend(kept)
        for workspace_seq in [each for each, queue in self._workspaces.items() if not queue]:
            del self._workspaces[workspace_seq]
            self._credits.pop(workspace_seq, None)
        taken += (command for command, _ in self._after if not command.retry_when_full)
        self._after = deque(each for each in self._after if each[0].retry_when_full)
        self._count -= len(taken)
        self.size -= sum(command.size for command in taken)
        return taken

    def take(self, size: int, worthwhile_size: int, *, apart: bool = False) -> list[Command[Any]]:
        """The next batch: up to about `size` rows, half of what waits if that is worthwhile; an exclusive one alone.

        One command of a workspace may be larger than `size`, alone.  `apart`: none with a workspace beside the others.
        """
        batch = self._take_next(size, worthwhile_size, apart=apart)
        self._count -= len(batch)
        self.size -= sum(command.size for command in batch)
        return batch

    def _take_next(self, size: int, worthwhile_size: int, *, apart: bool) -> list[Command[Any]]:
        if not self._first and not self._workspaces:
            return self._take_in_order()
        half = self._count // 2
        batch: list[Command[Any]] = []
        taken = 0
        for_first = size * (1 - SHARE_OF_WORKSPACES) if self._workspaces else size
        with_workspaces = bool(self._workspaces) and not (apart and self._first)
        if with_workspaces and self._passed_by:
            batch += self._next_of_workspaces(None)
            taken = batch[0].size
        while taken < size and not (taken >= worthwhile_size and len(batch) >= half):
            if self._first and taken < for_first:
                if batch and self._first[0].exclusive:
                    break
                batch.append(self._first.popleft())
            elif with_workspaces and self._workspaces:
                beside = next((each.workspace_seq for each in batch if each.workspace_seq is not None), None)
                found = self._next_of_workspaces(size - taken if batch else None, beside)
                if not found:
                    break
                batch += found
            else:
                break
            taken += batch[-1].size
            if batch[-1].exclusive:
                break
        around_exclusive = batch[-1].exclusive or bool(self._first and self._first[0].exclusive)
        outcomes_only = all(command.workspace_seq is None for command in batch)
        self._passed_by = with_workspaces and outcomes_only and not around_exclusive
        return batch

    def _queue_of(self, command: Command[Any]) -> deque[Command[Any]]:
        if command.workspace_seq is None:
            return self._first
        return self._workspaces.setdefault(command.workspace_seq, deque())

    def _take_in_order(self) -> list[Command[Any]]:
        batch = [self._after.popleft()[0]]
        while self._after and not self._after[0][1]:
            command = self._after.popleft()[0]
            self._queue_of(command).append(command)
        return batch

    def _next_of_workspaces(self, at_most: int | None, beside: int | None = None) -> list[Command[Any]]:
        """The command whose turn it is; none if it is larger than `at_most`, or large and another's than `beside`."""
        while True:
            workspace_seq, commands = next(iter(self._workspaces.items()))
            credit = self._credits.get(workspace_seq, QUANTUM)
            if beside not in (None, workspace_seq) and commands[0].size > QUANTUM:
                self._credits[workspace_seq] = max(credit, commands[0].size)  # it begins the next batch
                return []
            if len(self._workspaces) == 1 or commands[0].size <= credit:
                if at_most is not None and commands[0].size > at_most:
                    return []
                command = commands.popleft()
                self._credits[workspace_seq] = max(0, credit - command.size)
                if not commands:
                    del self._workspaces[workspace_seq]
                    self._credits.pop(workspace_seq, None)
                return [command]
            self._credits[workspace_seq] = credit + QUANTUM
            self._workspaces.move_to_end(workspace_seq)
