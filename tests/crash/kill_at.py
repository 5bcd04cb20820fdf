"""`webhookd serve`, except that it kills itself (SIGKILL) at one exact point.

    python -m tests.crash.kill_at STATE_DIR CONFIG_FILE POINT

POINT is `commit:N:before|in|after` (around the N-th group commit: before it begins, with everything written but not
committed, and committed but told to nobody), `failure:N:…` (the same around the commit of the N-th failed attempt),
`mail:N:before|in|after` (around the N-th mail: before the server hears of it, before its content goes, and taken by
the server but not recorded), or `never`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from webhookd import daemon
from webhookd.config_loader import load
from webhookd.mail import smtp
from webhookd.store import writer


def die() -> None:
    """End as a power cut ends it, for the process's part."""
    os.kill(os.getpid(), signal.SIGKILL)


class MortalConnection:
    """The writer's connection, except that it counts commits and failed attempts, and dies at one of them."""

    def __init__(self, what: str, number: int, when: str) -> None:
        self.db: sqlite3.Connection | None = None
        self._what = what
        self._number = number
        self._when = when
        self._seen = {"commit": 0, "failure": 0}

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """Carry out a statement, or die."""
        assert self.db is not None
        whole = sql.startswith("INSERT INTO batch") and not self.db.in_transaction  # a transaction by itself
        if (whole or sql.startswith("BEGIN")) and self._note("commit") and self._when == "before":
            die()
        if sql.startswith("INSERT INTO attempts") and self._note("failure") and self._when == "before":
            die()
        due = (whole or sql == "COMMIT") and self._seen[self._what] == self._number
        if due and self._when == "in":
            die()
        cursor = self.db.execute(sql, *values)
        if due and self._when == "after":
            die()
        return cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)

    def _note(self, what: str) -> bool:
        """Count one more; whether it is the one."""
        self._seen[what] += 1
        return what == self._what and self._seen[what] == self._number


def doom_commit(what: str, number: int, when: str) -> None:
    """Die around the `number`-th group commit, or that of the `number`-th failed attempt."""
    timed = writer._timed
    kill_at = MortalConnection(what, number, when)

    def doomed(db: Any, run: Any) -> Any:
        kill_at.db = db
        return timed(kill_at, run)  # type: ignore[arg-type]

    writer._timed = doomed


def doom_mail(number: int, when: str) -> None:
    """Die around the `number`-th mail."""
    count = 0
    method = "_hand_over" if when == "in" else "send"
    original: Callable[..., Any] = getattr(smtp.Conversation, method)

    async def doomed(self: smtp.Conversation, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == number and when != "after":
            die()
        result = await original(self, *arguments)
        if count == number:
            die()
        return result

    setattr(smtp.Conversation, method, doomed)


def main(state_dir: str, config_file: str, point: str) -> int:
    """Serve until the point is reached, or SIGTERM."""
    if point != "never":
        what, number, when = point.split(":")
        if what == "mail":
            doom_mail(int(number), when)
        else:
            doom_commit(what, int(number), when)
    config = load(Path(config_file), {})
    return asyncio.run(daemon.serve(config, Path(state_dir), environ={}))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
