"""The way of an event whose endpoint has nothing else to do: from the commit to the request, past the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.engine import engine
from webhookd.store.store import Db


async def test_what_was_just_accepted_is_not_read_again(tmp_path: Path) -> None:
    """Neither for an endpoint that was idle nor for one that is busy: deliveries are handed over in memory."""
    async with engine(tmp_path) as e:
        await e.endpoint("https://a.example.com/")
        asked = 0
        read = e.app.store.read_for_delivery

        async def counted(question: Callable[[Db], Any]) -> Any:
            nonlocal asked
            asked += 1
            return await read(question)

        e.app.store.read_for_delivery = counted  # type: ignore[method-assign]
        for group in (["a"], ["b", "c", "d"], ["e"]):
            await e.send(*group)
            await e.quiet()
        assert list("abcde") == e.network.ids("https://a.example.com/")
        assert 0 == asked


async def test_what_is_accepted_while_an_endpoint_is_disabled_waits_for_its_turn(tmp_path: Path) -> None:
    """Held events go first once it is enabled, and those accepted after that follow."""
    async with engine(tmp_path) as e:
        endpoint = await e.endpoint("https://a.example.com/")
        endpoints = e.app.services.endpoints
        await endpoints.disable("default", endpoint.id)
        await e.send("held-1", "held-2")
        await endpoints.enable("default", endpoint.id, skip_held=False)
        await e.send("new-1")
        await e.quiet()
        assert ["held-1", "held-2", "new-1"] == e.network.ids("https://a.example.com/")
