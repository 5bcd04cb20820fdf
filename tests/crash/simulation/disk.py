"""The real store on a database in memory: its own SQL and its own writer, on virtual time and without threads.

What aiosqlite does on a thread of its own happens here at a moment that the seed draws: a function of the connection
runs whole (so a transaction is committed or it isn't), and its caller hears of it a little later.  A kill between the
two is the one that matters most.  What was committed outlives a kill; what waited to be run is gone.
"""

from __future__ import annotations

import sqlite3
import tempfile
from asyncio import Future
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from tests.crash.simulation.loop import SimulatedLoop
from webhookd.rules.encryption import PLAIN
from webhookd.store import connection, time_index
from webhookd.store.disk_space import DiskSpace
from webhookd.store.store import Readers, Store

T = TypeVar("T")

# What the observer needs to know of a commit, from triggers, so that it does not depend on the code that writes.
# In a table of its own, so that a rollback removes it too.
_TRIGGERS = "CREATE TEMP TABLE noted (kind, a, b, c, d, e, f);" + "".join(
    f"CREATE TEMP TRIGGER told_{number} AFTER {when} ON main.{table} BEGIN "
    f"INSERT INTO noted VALUES ('{kind}', {', '.join((*values.split(), *['NULL'] * 6)[:6])}); END;"
    for number, (kind, when, table, values) in enumerate(
        (
            ("event", "INSERT", "events", "NEW.seq NEW.workspace_seq NEW.id NEW.type"),
            ("queued", "INSERT", "deliveries", "NEW.seq NEW.event_seq NEW.endpoint_seq NEW.kind NEW.replay_of"),
            (
                "changed",
                "UPDATE OF state, attempt_count",
                "deliveries",
                "NEW.seq NEW.state NEW.attempt_count NEW.tries NEW.next_attempt_at",
            ),
            ("pruned", "DELETE", "deliveries", "OLD.seq OLD.state"),
            ("failed", "INSERT", "attempts", "NEW.delivery_seq NEW.endpoint_seq NEW.counted"),
            (
                "endpoint",
                "INSERT",
                "endpoints",
                "NEW.seq NEW.url NEW.workspace_seq NEW.event_types NEW.state NEW.ordering",
            ),
            (
                "endpoint_changed",
                "UPDATE",
                "endpoints",
                "NEW.seq NEW.state NEW.skipped_upto NEW.deleted_at NEW.event_types NEW.ordering",
            ),
            ("notice", "INSERT", "outbox", "NEW.kind"),
            ("plan", "UPDATE OF plan", "workspaces", "NEW.seq NEW.plan"),
        )
    )
)

Note = tuple[Any, ...]


@cache
def _empty() -> bytes:
    """A database as the store's own migrations leave it, as bytes."""
    with tempfile.TemporaryDirectory(prefix="webhookd-simulation-") as folder:
        path = Path(folder) / "webhookd.db"
        db = sqlite3.connect(path, isolation_level=None)
        connection._prepare(db)
        db.execute("PRAGMA journal_mode = DELETE")  # a database in memory has no WAL
        db.close()
        return path.read_bytes()


class Disk:
    """The database, which outlives the daemons on it.  `on_commit` gets the notes of each transaction."""

    def __init__(self, rng: Random, slowest_seconds: float, on_commit: Callable[[list[Note]], None]) -> None:
        self._draw = rng.random
        self.slowest_seconds = slowest_seconds
        self._on_commit = on_commit
        self.db = sqlite3.connect(":memory:", isolation_level=None, cached_statements=256)
        self.db.deserialize(_empty())
        self.db.executescript(connection._PRAGMAS.format(cache_kib=connection.CACHE_KIB))
        connection.add_functions(self.db, PLAIN)
        self.db.executescript(_TRIGGERS)

    def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function of the connection whole; if it committed anything, tell what."""
        changes = self.db.total_changes
        result = function(self.db)
        if self.db.total_changes != changes:
            notes = self.db.execute("SELECT * FROM noted ORDER BY rowid").fetchall()
            if notes:
                self.db.execute("DELETE FROM noted")
                self._on_commit(notes)
        return result

    def pause(self) -> float:
        """How long the next step takes, in seconds: mostly next to nothing."""
        share = self._draw()
        return self.slowest_seconds * share**6

    def close(self) -> None:
        self.db.close()


class SimulatedConnection(connection.Connection):
    """A `Connection` whose functions run one after the other at moments that the seed draws."""

    def __init__(self, disk: Disk, loop: SimulatedLoop, passed: Callable[[str], None]) -> None:
        self._disk = disk
        self._loop = loop
        self._passed = passed
        self._free_at = 0.0

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """See `Connection.run`: a caller that goes away leaves its function behind, which runs all the same."""
        future: Future[T] = self._loop.create_future()
        self._free_at = max(self._loop.time(), self._free_at) + self._disk.pause()
        self._loop.call_at(self._free_at, self._carry_out, function, future)
        return await future

    def _carry_out(self, function: Callable[[sqlite3.Connection], Any], future: Future[Any]) -> None:
        self._passed("before a step of the store")
        if self._loop.halted:
            return
        try:
            result = self._disk.run(function)
        except Exception as error:  # noqa: BLE001 - it belongs to the caller
            self._loop.call_later(self._disk.pause(), _fail, future, error)
            return
        self._passed("after a step of the store")
        self._loop.call_later(self._disk.pause(), _answer, future, result)

    async def close(self) -> None:
        """Nothing to close: the disk stays."""


class SimulatedReader(connection.Reader):
    """A `Reader` whose questions are never late: their time is the machine's own."""

    async def ask(
        self, question: Callable[[sqlite3.Connection, connection.Late], T], seconds: float, longest_seconds: float
    ) -> T:
        return await self._connection.run(lambda db: question(db, lambda: False))


def _answer(future: Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


class PlentyOfRoom(DiskSpace):
    def __init__(self) -> None:
        super().__init__(Path("simulated.db"), 0)

    def short(self) -> bool:
        return False


class NoWal(connection.WalIndex):
    """A database in memory has no write-ahead log."""

    def __init__(self) -> None:
        pass

    def pending_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass


class SimulatedStore(Store):
    def __init__(self, disk: Disk, loop: SimulatedLoop, passed: Callable[[str], None]) -> None:
        writer, *connections = (SimulatedConnection(disk, loop, passed) for _ in range(6))
        readers = Readers(*connections[:3], *map(SimulatedReader, connections[3:]))
        newest_ms = time_index.newest_ms(disk.db)
        super().__init__(Path("simulated.db"), PlentyOfRoom(), writer, readers, NoWal(), newest_ms, PLAIN)


class NoTime:
    """In the place of the module `time`, where the machine's own time would make two runs of a seed differ."""

    @staticmethod
    def perf_counter() -> float:
        return 0.0
