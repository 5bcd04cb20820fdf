"""State directories with something in them: endpoints, events that wait, a history; written past the daemon."""

from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.peer import event
from tests.support.stores import new_endpoint
from webhookd.models import Endpoint, EndpointState
from webhookd.store import endpoints, workspaces
from webhookd.store.connection import open_writer

STEP = 20_000
RECORD = (
    b'{"number":1,"started_at":"2026-01-01T00:00:00.000Z","duration_ms":4.2,"outcome":"delivered","reason":null,'
    b'"status":200,"detail":"answered 200","counted":false,"connection_retried":false,"request":{"headers":{}},'
    b'"response":{"headers":{},"body":"ok","truncated":false}}'
)


@dataclass(frozen=True, slots=True)
class Stock:
    """What a state directory holds: endpoints, each subscribed to one of `types`, and events, spread over them.

    `idle` endpoints more want what is never sent.  `filters`: of each endpoint, with its number for `NUMBER`.
    """

    endpoints: int = 0
    types: int = 1
    port: int = 0
    active: bool = True
    waiting: int = 0
    history: int = 0
    body_bytes: int = 1024
    idle: int = 0
    filters: str = ""


def type_names(count: int) -> list[str]:
    """Event types of the bench's own; `config` adds them to the catalogue."""
    return [f"bench.t{number}" for number in range(count)]


def config(types: int = 0, *, log_level: str = "info") -> str:
    """A configuration without the limits that a benchmark would run into."""
    names = "".join(f'[events."{name}"]\nlabel = "{name}"\n' for name in type_names(types))
    return (
        f'[egress]\nallow = ["127.0.0.0/8"]\n[log]\nlevel = "{log_level}"\n'
        "[limits]\nendpoints = 1000000\nwaiting_per_workspace = 100000000\nwaiting_mb_per_workspace = 1000000\n"
        "[hold]\nmax_events = 100000000\nmax_mb = 1000000\n[retention]\nmax_size_mb = 1000000\n" + names
    )


async def fill(state_dir: Path, stock: Stock) -> None:
    state_dir.mkdir(parents=True, exist_ok=True)
    connection, _, _ = await open_writer(state_dir / "webhookd.db")
    await connection.run(lambda db: db.execute("PRAGMA synchronous = OFF"))  # nothing was promised yet
    now_ms = time.time_ns() // 1_000_000
    await connection.run(lambda db: _base(db, stock, now_ms))
    total = stock.history + stock.waiting
    for first in range(0, total, STEP):
        numbers = range(first, min(total, first + STEP))
        await connection.run(lambda db, numbers=numbers: _events(db, stock, numbers, now_ms))  # type: ignore[misc]
    await connection.run(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    await connection.close()
    with (state_dir / "webhookd.db").open("rb") as file:
        os.fsync(file.fileno())  # or the disk would still be busy with it while something is measured


def _base(db: sqlite3.Connection, stock: Stock, now_ms: int) -> None:
    names = type_names(stock.types)
    db.execute("BEGIN")
    workspaces.insert(db, workspace_id="default", name="default", plan="advanced", notify=(), now_ms=now_ms)
    wanted = [names[number % len(names)] for number in range(stock.endpoints)] + ["contact.created"] * stock.idle
    for number, event_type in enumerate(wanted):
        endpoints.insert(db, _endpoint(number, event_type, stock, now_ms))
    db.execute("COMMIT")


def _endpoint(number: int, event_type: str, stock: Stock, now_ms: int) -> Endpoint:
    stopped = {} if stock.active else {"state": EndpointState.DISABLED, "disabled_at_ms": now_ms}
    url = f"http://127.0.0.1:{stock.port}/hook/{number}"
    filters = stock.filters.replace("NUMBER", str(number))
    return new_endpoint(
        now_ms=now_ms, id=f"ep_{number:026d}", url=url, event_types=(event_type,), filters=filters, **stopped
    )


def _events(db: sqlite3.Connection, stock: Stock, numbers: range, now_ms: int) -> None:
    """Events and their deliveries, one a millisecond: first the history, a tenth of it dropped."""
    began_ms = now_ms - stock.history - stock.waiting
    names = type_names(stock.types)
    per_endpoint = max(1, stock.endpoints)
    rows = [(number, names[number % per_endpoint % len(names)]) for number in numbers]
    db.execute("BEGIN")
    db.executemany(
        "INSERT INTO events (seq, workspace_seq, id, type, accepted_at, body) VALUES (?, 1, ?, ?, ?, ?)",
        [(n + 1, f"old-{n:012d}", name, began_ms + n, event(name, n, stock.body_bytes)) for n, name in rows],
    )
    db.executemany(
        "INSERT INTO deliveries (event_seq, endpoint_seq, event_type, size, accepted_at, state, attempt_count, tries, "
        "finished_at, final_attempt) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (n + 1, n % per_endpoint + 1, name, stock.body_bytes, began_ms + n)
            + ((1 if n % 10 else 2, 1, 1, began_ms + n, RECORD) if n < stock.history else (0, 0, 0, None, None))
            for n, name in rows
        ],
    )
    db.execute("COMMIT")
