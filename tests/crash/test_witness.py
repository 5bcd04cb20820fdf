"""The receiver that keeps the log: what it calls two at once is two at once."""

from __future__ import annotations

import asyncio
import socket

from tests.crash.arrivals import overlapping
from tests.crash.case import Case
from tests.crash.history import Final, History, Terms
from tests.crash.witness import Reply, Witness, witness

REQUEST = b"POST /one HTTP/1.1\r\nHost: here\r\nwebhook-id: e-1\r\nX-Webhook-Attempt: 1\r\nContent-Length: 2\r\n\r\n{}"


async def two_requests(where: Witness, *, close_first: bool) -> None:
    """Two requests that the receiver finds in one look at its sockets; the first one ended before, or not."""
    first, second = (socket.create_connection(("127.0.0.1", where.port)) for _ in range(2))
    async with asyncio.timeout(10):
        first.sendall(REQUEST)
        while not where.received:
            await asyncio.sleep(0.001)
        if close_first:
            first.close()
        second.sendall(REQUEST)
        while len(where.received) < 2:
            await asyncio.sleep(0.001)
    first.close()
    second.close()


async def test_a_request_that_was_given_up_before_the_next_one_has_ended() -> None:
    """Whichever of the two sockets the receiver reads first."""
    async with witness() as where:
        where.begin(lambda received: Reply(None))
        await two_requests(where, close_first=True)
        history = History(Terms(), received=where.received)
        assert [] == list(overlapping(Case(history, Final())))


async def test_two_at_once_are_seen() -> None:
    """The second comes while the first waits for its answer."""
    async with witness() as where:
        where.begin(lambda received: Reply(None))
        await two_requests(where, close_first=False)
        history = History(Terms(), received=where.received)
        assert ["overlapping"] == [each.rule for each in overlapping(Case(history, Final()))]
