"""A kept connection that the receiver ends just as the next request goes out: no failure, no share of the budget."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import pytest
import trustme

from tests.support.bad_receiver_server import OK, Peer, Script, ScriptedReceiver
from tests.support.bad_receivers import contexts
from tests.support.process import daemon
from webhookd.clock import SystemClock
from webhookd.models import Outcome, Reason, Request
from webhookd.sender.client import HttpSender, default_ssl_context
from webhookd.sender.egress import DnsResolver, Egress

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
async def closes(peer: Peer) -> None:
    await peer.request()
    await peer.send(OK)
    await peer.reader.read(1)
    peer.writer.close()


async def resets(peer: Peer) -> None:
    await peer.request()
    await peer.send(OK)
    await peer.reader.read(1)
    peer.reset()


async def reads_all_and_closes(peer: Peer) -> None:
    await peer.request()
    await peer.send(OK)
    await peer.request()
    peer.requests.pop()
    peer.writer.close()


async def half_closes(peer: Peer) -> None:
    """End what it sends as the next request arrives, and go on listening."""
    await peer.request()
    await peer.send(OK)
    await peer.reader.read(1)
    peer.half_close()
    await peer.stay()


async def closes_unread(peer: Peer) -> None:
    """Hang up with the next request unread in the kernel: it answers with RST."""
    await peer.request()
    await peer.send(OK)
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(0.05)
    peer.writer.transport.abort()


AS_IT_ARRIVES = [closes, resets, reads_all_and_closes, half_closes, closes_unread]


@pytest.mark.parametrize("script", AS_IT_ARRIVES)
@pytest.mark.parametrize("body", [b"{}", BODY], ids=["small", "large"])
async def test_a_connection_that_ends_as_the_next_request_arrives_costs_nothing(
    sender: HttpSender, tls: ssl.SSLContext | None, script: Script, body: bytes
) -> None:
    """The same attempt goes on over a fresh connection, is delivered, and says `connection_retried`."""
    async with ScriptedReceiver(script, tls=tls) as receiver:
        outcomes = [await _post(sender, receiver.url, body) for _ in range(3)]
        assert [None] * 3 == [outcome.reason for outcome in outcomes], outcomes
        # The repeat's connection isn't kept, so every second request goes out over one that is.
        assert [False, True, False] == [outcome.connection_retried for outcome in outcomes]
        assert [body] * 3 == [sent.partition(b"\r\n\r\n")[2] for sent in receiver.requests]


@pytest.mark.parametrize("how", ["close", "reset", "half_close"])
async def test_a_connection_that_ends_at_some_moment_while_idle_costs_nothing(
    sender: HttpSender, tls: ssl.SSLContext | None, how: str
) -> None:
    """Before, while or after the next request goes out: whichever comes first, every attempt is delivered."""
    moments = [0.0, 0.0005, 0.001, 0.002, 0.005] * 4

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await asyncio.sleep(moments[peer.number % len(moments)])
        if how == "close":
            peer.writer.close()
        elif how == "reset":
            peer.reset()
        else:
            peer.half_close()
            await peer.stay()

    async with ScriptedReceiver(script, tls=tls) as receiver:
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

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.send(b"H")
        await asyncio.sleep(0.05)
        if then == "reset":
            peer.reset()
        elif then == "close":
            peer.writer.close()
        else:
            peer.half_close()
            await peer.stay()

    async with ScriptedReceiver(script, tls=tls) as receiver:
        assert (await _post(sender, receiver.url)).delivered
        outcome = await _post(sender, receiver.url)
        assert (False, 2, 1) == (outcome.connection_retried, len(receiver.requests), receiver.connections)
        assert outcome.reason in (Reason.PROTOCOL, Reason.RESET)


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_fresh_connection_without_an_answer_is_a_failed_attempt(
    sender: HttpSender, tls: ssl.SSLContext | None, then: str
) -> None:
    """Nothing says that the receiver didn't act on it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        if then == "reset":
            peer.reset()

    async with ScriptedReceiver(script, tls=tls) as receiver:
        outcome = await _post(sender, receiver.url)
        assert (Reason.RESET, False, 1) == (outcome.reason, outcome.connection_retried, receiver.connections)


@pytest.mark.slow
async def test_in_a_daemon_it_takes_nothing_from_the_budget(tmp_path: Path) -> None:
    """A receiver that does it all the time: each event arrives once, at its first attempt, in order."""
    async with ScriptedReceiver(resets) as receiver, daemon(tmp_path / "state", CONFIG) as d:
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
