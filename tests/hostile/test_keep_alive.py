"""A kept connection that the receiver ends just as the next request goes out: no failure, no share of the budget."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import pytest
import trustme

from tests.support.bad_receiver_server import OK, Line, Script, Tormentor
from tests.support.bad_receivers import contexts
from tests.support.process import daemon
from webhookd.clock import SystemClock
from webhookd.models import Outcome, Reason, Request
from webhookd.sender.client import HttpSender, default_ssl_context
from webhookd.sender.egress import Egress
from webhookd.sender.resolver import DnsResolver

CONFIG = '[egress]\nallow = ["127.0.0.0/8"]\n'
EVENTS = 12
BODY = b'"' + b"x" * 200_000 + b'"'


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["http", "https"])
def tls(request: pytest.FixtureRequest, authority: trustme.CA) -> ssl.SSLContext | None:
    return contexts(authority)["good"] if request.param == "https" else None


@pytest.fixture
async def sender(authority: trustme.CA) -> AsyncIterator[HttpSender]:
    trusted = default_ssl_context()
    authority.configure_trust(trusted)
    egress = Egress([ip_network("127.0.0.0/8")], allow_http=True, resolver=DnsResolver())
    sender = HttpSender(egress, timeout_seconds=5.0, clock=SystemClock(), ssl_context=trusted)
    yield sender
    await sender.close()


async def _post(sender: HttpSender, url: str, body: bytes = b"{}") -> Outcome:
    return await sender.post(Request(url, (), body, False))


# Each answers the first request of a connection; what it does then is its name.


async def closes(line: Line) -> None:
    """Hang up as the next request arrives."""
    await line.request()
    await line.send(OK)
    await line.reader.read(1)
    line.writer.close()


async def resets(line: Line) -> None:
    """RST as the next request arrives."""
    await line.request()
    await line.send(OK)
    await line.reader.read(1)
    line.reset()


async def reads_all_and_closes(line: Line) -> None:
    """Take the whole next request and hang up without a word."""
    await line.request()
    await line.send(OK)
    await line.request()
    line.requests.pop()
    line.writer.close()


async def half_closes(line: Line) -> None:
    """End what it sends as the next request arrives, and go on listening."""
    await line.request()
    await line.send(OK)
    await line.reader.read(1)
    line.half_close()
    await line.stay()


async def closes_unread(line: Line) -> None:
    """Hang up with the next request unread in the kernel: it answers with RST."""
    await line.request()
    await line.send(OK)
    line.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(0.05)
    line.writer.transport.abort()


AS_IT_ARRIVES = [closes, resets, reads_all_and_closes, half_closes, closes_unread]


@pytest.mark.parametrize("script", AS_IT_ARRIVES)
@pytest.mark.parametrize("body", [b"{}", BODY], ids=["small", "large"])
async def test_a_connection_that_ends_as_the_next_request_arrives_costs_nothing(
    sender: HttpSender, tls: ssl.SSLContext | None, script: Script, body: bytes
) -> None:
    """The same attempt goes on over a fresh connection, is delivered, and says `connection_retried`."""
    async with Tormentor(script, tls=tls) as receiver:
        outcomes = [await _post(sender, receiver.url, body) for _ in range(3)]
        assert [None] * 3 == [outcome.reason for outcome in outcomes], outcomes
        # The repeat's connection isn't kept, so every second request goes out over one that is.
        assert [False, True, False] == [outcome.connection_retried for outcome in outcomes]
        assert 3 == len(receiver.requests)


@pytest.mark.parametrize("how", ["close", "reset", "half_close"])
async def test_a_connection_that_ends_at_some_moment_while_idle_costs_nothing(
    sender: HttpSender, tls: ssl.SSLContext | None, how: str
) -> None:
    """Before, while or after the next request goes out: whoever comes first, every attempt is delivered."""
    moments = [0.0, 0.0005, 0.001, 0.002, 0.005] * 4

    async def script(line: Line) -> None:
        await line.request()
        await line.send(OK)
        await asyncio.sleep(moments[line.number % len(moments)])
        if how == "close":
            line.writer.close()
        elif how == "reset":
            line.reset()
        else:
            line.half_close()
            await line.stay()

    async with Tormentor(script, tls=tls) as receiver:
        outcomes = []
        for seconds in moments:
            outcomes.append(await _post(sender, receiver.url))
            await asyncio.sleep(seconds)
        assert [None] * len(moments) == [outcome.reason for outcome in outcomes]


@pytest.mark.parametrize("then", ["close", "reset", "half_close"])
async def test_a_byte_of_an_answer_makes_it_a_failed_attempt(
    sender: HttpSender, tls: ssl.SSLContext | None, then: str
) -> None:
    """The receiver has begun to answer the request, so it is not sent again."""

    async def script(line: Line) -> None:
        await line.request()
        await line.send(OK)
        await line.request()
        await line.send(b"H")
        await asyncio.sleep(0.05)
        if then == "reset":
            line.reset()
        elif then == "close":
            line.writer.close()
        else:
            line.half_close()
            await line.stay()

    async with Tormentor(script, tls=tls) as receiver:
        assert (await _post(sender, receiver.url)).delivered
        outcome = await _post(sender, receiver.url)
        assert (False, 2, 1) == (outcome.connection_retried, len(receiver.requests), receiver.connections)
        assert outcome.reason in (Reason.PROTOCOL, Reason.RESET)


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_fresh_connection_without_an_answer_is_a_failed_attempt(
    sender: HttpSender, tls: ssl.SSLContext | None, then: str
) -> None:
    """Nothing says that the receiver didn't act on it."""

    async def script(line: Line) -> None:
        await line.request()
        if then == "reset":
            line.reset()

    async with Tormentor(script, tls=tls) as receiver:
        outcome = await _post(sender, receiver.url)
        assert (Reason.RESET, False, 1) == (outcome.reason, outcome.connection_retried, receiver.connections)


async def test_in_a_daemon_it_takes_nothing_from_the_budget(tmp_path: Path) -> None:
    """A receiver that does it all the time: each event arrives once, at its first attempt, in order."""
    async with Tormentor(resets) as receiver, daemon(tmp_path / "state", CONFIG) as d:
        await d.call("POST", "/v1/endpoints", {"url": receiver.url, "event_types": ["*"]}, expect=201)
        for number in range(EVENTS):
            event = {"event_type": "message.sent", "event_id": f"e{number}"}
            await d.call("POST", "/v1/events", event, expect=202)
        async with asyncio.timeout(30):
            while len(done := (await d.call("GET", "/v1/deliveries?state=delivered"))["data"]) < EVENTS:
                await asyncio.sleep(0.02)
        assert {1} == {each["attempt_count"] for each in done}
        assert {True, False} == {each["last_attempt"]["connection_retried"] for each in done}
        assert {None} == {each["last_attempt"]["reason"] for each in done}
        assert 0 == (await d.call("GET", "/v1/budget", expect=200))["failures"]
        assert [f"e{number}" for number in range(EVENTS)] == [_id(sent) for sent in receiver.requests]


def _id(sent: bytes) -> str:
    line = next(line for line in sent.split(b"\r\n") if line.lower().startswith(b"webhook-id:"))
    return line.split(b":", 1)[1].strip().decode()
