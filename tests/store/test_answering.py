"""What the heartbeat asks of the writer."""

from __future__ import annotations

import asyncio
from pathlib import Path

from webhookd.store.store import Store


async def test_an_answer_of_the_writer_is_no_sign_of_room(tmp_path: Path) -> None:
    """An empty transaction goes through on a full disk: only a command that wrote something ends «full»."""
    store = await Store.open(tmp_path / "webhookd.db")
    writing = asyncio.create_task(store.writer.run())
    try:
        store.writer.full = True
        await store.writer.answer()
        assert store.writer.full
        await store.write(lambda db: None)
        assert not store.writer.full
    finally:
        writing.cancel()
        await asyncio.wait([writing])
        await store.close()
