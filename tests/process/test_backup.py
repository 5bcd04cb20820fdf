"""`webhookd backup` while events pour in: what was accepted before is in the copy, and a daemon goes on from it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.process import daemon
from tests.support.receiver import receiver

CONFIG = '[egress]\nallow = ["127.0.0.0/8"]\n'


async def test_a_copy_made_under_load_misses_nothing_that_was_accepted_before(tmp_path: Path) -> None:
    """Every id whose 202 came before the backup began is there, and all of them arrive, in order, from the copy."""
    async with receiver() as where:
        where.gates["hook"] = asyncio.Event()
        accepted: list[str] = []
        stopping = asyncio.Event()
        async with daemon(tmp_path / "state", CONFIG) as d:
            await d.call("POST", "/v1/endpoints", {"url": f"{where.url}/hook", "event_types": ["*"]}, expect=201)

            async def pour() -> None:
                while not stopping.is_set():
                    ids = [f"e{len(accepted) + number}" for number in range(20)]
                    events = [{"event_type": "message.sent", "event_id": each, "text": "x" * 500} for each in ids]
                    await d.call("POST", "/v1/events", events, expect=202)
                    accepted.extend(ids)

            pouring = asyncio.create_task(pour())
            while len(accepted) < 400:
                await asyncio.sleep(0.01)
            before = list(accepted)
            async with d.session.post(d.url + "/v1/backup", headers=d.admin()) as answer:
                copy = await answer.read()
            stopping.set()
            await pouring
            d.process.kill()
            await d.until_dead()
        where.gates.pop("hook").set()
        where.received.clear()
        restored = tmp_path / "restored"
        restored.mkdir()
        (restored / "webhookd.db").write_bytes(copy)
        async with daemon(restored, CONFIG):
            await where.until(len(before))
        assert before == where.ids("hook")[: len(before)]
