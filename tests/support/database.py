"""A new database as a first start makes it, copied: to migrate it each time was half of what most tests cost."""

from __future__ import annotations

import os
from pathlib import Path

from webhookd.store.connection import open_writer

_made: list[bytes] = []


async def new_database(path: Path, *, reserve_bytes: int = 0) -> None:
    """Make an empty database at `path`, unless there is one; its reserve is a file without blocks."""
    if path.exists():
        return
    if _made:
        path.write_bytes(_made[0])
    else:
        connection, _, _ = await open_writer(path)
        await connection.close()
        _made.append(path.read_bytes())
    if reserve_bytes:
        reserve = path.with_name(f"{path.name}-reserve")
        reserve.touch()
        os.truncate(reserve, reserve_bytes)
