"""One at a time per endpoint, and nothing kept of those who are gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.engine import engine
from webhookd.delivery.turns import Turns
from webhookd.errors import ApiError


async def test_turns_are_taken_one_after_the_other() -> None:
    """In the order in which they were asked for; another endpoint's turn waits for nobody."""
    turns, seen = Turns(), []

    async def take(key: str, name: str) -> None:
        async with turns.of(key):
            seen.append(f"{name} begins")
            await asyncio.sleep(0)
            seen.append(f"{name} ends")

    await asyncio.gather(take("a", "first"), take("a", "second"), take("b", "other"))
    assert ["first begins", "other begins", "first ends", "other ends", "second begins", "second ends"] == seen
    assert 0 == len(turns)


async def test_ids_that_never_were_leave_nothing(tmp_path: Path) -> None:
    """Whatever ids are asked for, and however many endpoints come and go."""
    async with engine(tmp_path) as e:
        service = e.app.services.endpoints
        for number in range(20):
            with pytest.raises(ApiError):
                await service.enable("default", f"ep_{number}")
            made = await e.endpoint(f"https://{number}.example/hook")
            await service.disable("default", made.id)
            await service.delete("default", made.id)
        assert 0 == len(service._turns)
