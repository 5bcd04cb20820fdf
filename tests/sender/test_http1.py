"""Connections over real sockets: kept, raced, ended, and what they cost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import struct
import threading
import time
from ipaddress import ip_network

import pytest
import trustme

from tests.support.bad_receiver_server import OK, Peer, Script, ScriptedReceiver
from tests.support.bad_receivers import SURPLUS, deaf, head, healthy
from tests.support.sending import LATE_SECONDS, TIMEOUT_SECONDS, MakeSender, answering, request, server_context
from webhookd.clock import SystemClock
from webhookd.models import Reason
from webhookd.sender import http1
from webhookd.sender.attempt_trace import AttemptTrace
from webhookd.sender.client import HttpSender
from webhookd.sender.egress import DnsResolver, Egress
from webhookd.sender.http1 import Connection

# --- connections ------------------------------------------------------------------------------------------------


async def test_a_connection_is_used_again(sender: HttpSender) -> None:
    """Attempts of an endpoint go over one keep-alive connection."""
    async with ScriptedReceiver(healthy) as receiver:
        outcomes = [await sender.post(request(receiver.url)) for _ in range(5)]
        assert (1, 5) == (receiver.connections, len(receiver.requests))
    assert not any(outcome.connection_retried for outcome in outcomes)


async def _closes_as_the_next_request_comes(peer: Peer) -> None:
    """Answer one request, and hang up when the next begins to arrive: it crossed the close on its way."""
    await peer.request()
    await peer.send(OK)
    await peer.reader.read(1)


async def _says_408_to_the_next(peer: Peer) -> None:
    await peer.request()
    await peer.send(OK)
    await peer.request()
    await peer.send(head("Content-Length: 0", "Connection: close", status="408 Request Timeout"))


async def _begins_the_next_answer(peer: Peer) -> None:
    await peer.request()
    await peer.send(OK)
    await peer.request()
    await peer.send(b"H")
    peer.writer.close()


async def _silent_to_the_next(peer: Peer) -> None:
    await peer.request()
    await peer.send(OK)
    await peer.stay()


async def test_the_repeat_takes_a_fresh_connection_though_others_are_idle(sender: HttpSender) -> None:
    """Another idle connection may be as dead as the first: it isn't tried."""
    script = _closes_as_the_next_request_comes
    async with ScriptedReceiver(script) as receiver:
        await asyncio.gather(*(sender.post(request(receiver.url)) for _ in range(3)))
        assert 3 == receiver.connections
        outcome = await sender.post(request(receiver.url))
        assert (None, True, 4) == (outcome.reason, outcome.connection_retried, receiver.connections)


async def test_a_request_is_repeated_once_at_most(sender: HttpSender) -> None:
    """If the fresh connection ends without an answer as well, the attempt has failed."""

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await _closes_as_the_next_request_comes(peer)
        else:
            await peer.request()
            peer.writer.close()

    async with ScriptedReceiver(script) as receiver:
        await sender.post(request(receiver.url))
        outcome = await sender.post(request(receiver.url))
        assert (Reason.RESET, True, 2) == (outcome.reason, outcome.connection_retried, receiver.connections)


async def test_the_repeat_has_no_time_of_its_own(make_sender: MakeSender) -> None:
    """Both tries together end at the attempt's deadline."""

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.request()
            await peer.send(OK)
            await peer.reader.read(1)
            await asyncio.sleep(LATE_SECONDS / 2)
        else:
            await peer.stay()

    sender = make_sender(LATE_SECONDS)
    async with ScriptedReceiver(script) as receiver:
        await sender.post(request(receiver.url))
        started = time.monotonic()
        outcome = await sender.post(request(receiver.url))
        assert time.monotonic() - started < LATE_SECONDS + 0.25
    assert (Reason.TIMEOUT, True) == (outcome.reason, outcome.connection_retried)


@pytest.mark.parametrize(
    ("script", "reason", "requests"),
    [
        (_says_408_to_the_next, Reason.STATUS, 2),
        (_silent_to_the_next, Reason.TIMEOUT, 1),
    ],
)
async def test_nothing_else_is_repeated(make_sender: MakeSender, script: Script, reason: Reason, requests: int) -> None:
    """Neither after an answer nor what is merely late."""
    sender = make_sender(LATE_SECONDS)
    async with ScriptedReceiver(script) as receiver:
        assert (await sender.post(request(receiver.url))).delivered
        outcome = await sender.post(request(receiver.url))
        assert (reason, False) == (outcome.reason, outcome.connection_retried)
        assert (1, requests) == (receiver.connections, len(receiver.requests))


@pytest.mark.parametrize("unasked", [OK, b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n", b"H", b"\r\n"])
async def test_what_comes_unasked_is_no_answer(sender: HttpSender, unasked: bytes) -> None:
    """Bytes on an idle connection end it; the next request gets a fresh one and its own answer."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if peer.number == 1:
            await asyncio.sleep(0.05)
            await peer.send(unasked)
        await peer.stay()
        gone.set()

    gone = asyncio.Event()
    async with ScriptedReceiver(script) as receiver:
        await sender.post(request(receiver.url))
        async with asyncio.timeout(5):
            await gone.wait()
        outcome = await sender.post(request(receiver.url))
        assert (None, b"ok", False, 2) == (
            outcome.reason,
            outcome.response_body,
            outcome.connection_retried,
            receiver.connections,
        )


async def test_a_receiver_that_never_reads_is_hung_up_on(make_sender: MakeSender) -> None:
    """After the deadline neither socket nor buffer is left behind, though most of the request was never taken."""
    sender = make_sender(LATE_SECONDS)
    async with ScriptedReceiver(deaf, receive_buffer_bytes=4096) as receiver:
        outcome = await sender.post(request(receiver.url, body=b"x" * 32_000_000))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (Reason.TIMEOUT, 0) == (outcome.reason, _connections_to(receiver.port))


async def test_closing_ends_what_is_under_way(make_sender: MakeSender) -> None:
    """Attempts under way fail, and so do later ones."""

    async def script(peer: Peer) -> None:
        await peer.request()
        reached.set()
        await peer.stay()

    reached = asyncio.Event()
    sender = make_sender(10.0)
    async with ScriptedReceiver(script) as receiver, asyncio.timeout(5):
        waiting = asyncio.create_task(sender.post(request(receiver.url)))
        await reached.wait()
        await sender.close()
        outcomes = [await waiting, await sender.post(request(receiver.url))]
    assert all(not outcome.delivered for outcome in outcomes)


async def test_cancelling_is_passed_on(sender: HttpSender) -> None:
    """CancelledError alone comes out of post, and the connection is closed."""

    async def script(peer: Peer) -> None:
        await peer.request()
        reached.set()
        await peer.stay()
        gone.set()

    reached, gone = asyncio.Event(), asyncio.Event()
    async with ScriptedReceiver(script) as receiver, asyncio.timeout(5):
        waiting = asyncio.create_task(sender.post(request(receiver.url)))
        await reached.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await gone.wait()


async def test_closing_while_a_connection_is_handed_over_sends_nothing() -> None:
    """In the very turn of the loop in which it was dialled."""

    class Closing(Egress):
        async def dial(self, host: str, port: int, trace: AttemptTrace) -> socket.socket:
            sock = await super().dial(host, port, trace)
            asyncio.get_running_loop().call_soon(sender._pool.close)
            return sock

    egress = Closing([ip_network("127.0.0.0/8")], allow_http=True, resolver=DnsResolver())
    sender = HttpSender(egress, timeout_seconds=TIMEOUT_SECONDS, clock=SystemClock())
    async with ScriptedReceiver(healthy) as receiver:
        assert not (await sender.post(request(receiver.url))).delivered
        await asyncio.sleep(0.05)
        assert ([], 0) == (receiver.requests, _connections_to(receiver.port))
    await sender.close()


async def test_an_answer_in_the_last_moment_counts(make_sender: MakeSender, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was complete when the deadline came, though the attempt's task had not run yet."""
    sender = make_sender(LATE_SECONDS)

    async def send(target: object, request: object, trace: AttemptTrace, *, fresh: bool = False) -> None:
        trace.status, trace.complete = 200, True
        await asyncio.sleep(10)

    monkeypatch.setattr(sender._pool, "send", send)
    assert (await sender.post(request("http://127.0.0.1/"))).delivered


# --- a complete answer decides ----------------------------------------------------------------------------------
@pytest.mark.parametrize("what", SURPLUS)
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_what_follows_an_answer_costs_the_connection_alone(
    sender: HttpSender, authority: trustme.CA, what: str, tls: bool
) -> None:
    """Each attempt gets the answer to its own request, over a connection of its own."""
    answer, rest, *_, status = SURPLUS[what]
    script = answering(answer + rest)
    async with ScriptedReceiver(script, tls=server_context(authority) if tls else None) as receiver:
        outcomes = [await sender.post(request(receiver.url, accept_any_2xx=True)) for _ in range(3)]
        assert ([status] * 3, 3) == ([outcome.status for outcome in outcomes], receiver.connections)
    assert {None if status < 300 else Reason.STATUS} == {outcome.reason for outcome in outcomes}
    assert not any(rest in outcome.response_body for outcome in outcomes if rest != OK)


class _Slow(Egress):
    """The whole process stands still for a moment between the connection and the request; `dialled` says when."""

    dialled = threading.Event()

    async def dial(self, host: str, port: int, trace: AttemptTrace) -> socket.socket:
        sock = await super().dial(host, port, trace)
        self.dialled.set()
        time.sleep(0.1)  # noqa: ASYNC251
        return sock


async def test_an_answer_counts_though_the_request_can_not_be_written() -> None:
    """The receiver has answered and reset the connection before a byte of the request goes out: the write fails."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer_and_reset() -> None:
            accepted, _ = listening.accept()
            _Slow.dialled.wait(5)
            accepted.sendall(OK)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()

        answering = threading.Thread(target=answer_and_reset)
        answering.start()
        egress = _Slow([ip_network("127.0.0.0/8")], allow_http=True, resolver=DnsResolver())
        sender = HttpSender(egress, timeout_seconds=TIMEOUT_SECONDS, clock=SystemClock())
        outcome = await sender.post(request(f"http://127.0.0.1:{listening.getsockname()[1]}/"))
        answering.join()
        await sender.close()
    assert (None, b"ok") == (outcome.reason, outcome.response_body), outcome


async def test_a_connection_with_unsent_bytes_is_not_used_again(sender: HttpSender) -> None:
    """The receiver answers while most of the request waits to be sent: the next one would come behind the rest."""

    async def script(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.send(OK)
        await peer.stay()

    async with ScriptedReceiver(script, receive_buffer_bytes=4096) as receiver:
        outcomes = [await sender.post(request(receiver.url, body=b"x" * 8_000_000)) for _ in range(2)]
        assert ([True, True], 2) == ([outcome.delivered for outcome in outcomes], receiver.connections)


async def test_an_idle_connection_is_closed_after_a_while(
    make_sender: MakeSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before most receivers close theirs."""
    monkeypatch.setattr(http1, "KEEP_ALIVE_SECONDS", 0.05)
    sender = make_sender()
    async with ScriptedReceiver(healthy) as receiver:
        assert (await sender.post(request(receiver.url))).delivered
        async with asyncio.timeout(5):
            while _connections_to(receiver.port):
                await asyncio.sleep(0.01)
        assert (await sender.post(request(receiver.url))).delivered
        assert 2 == receiver.connections


# --- what it costs ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(_begins_the_next_answer, id="begun"),
        pytest.param(answering(b"SSH-2.0-OpenSSH_9.2\r\n"), id="garbage"),
    ],
)
async def test_a_failed_attempt_leaves_nothing_to_the_collector(
    make_sender: MakeSender, authority: trustme.CA, script: Script
) -> None:
    """Its connection is gone with it: no error, frame or context that holds it and is held by it."""
    sender = make_sender(LATE_SECONDS)
    async with ScriptedReceiver(script, tls=server_context(authority)) as receiver:
        gc.collect()
        gc.disable()
        try:
            outcomes = [await sender.post(request(receiver.url)) for _ in range(12)]
            await asyncio.sleep(0.05)
            left = [each for each in gc.get_objects() if isinstance(each, Connection)]
        finally:
            gc.enable()
    assert any(not outcome.delivered for outcome in outcomes)
    assert len(left) <= 2, len(left)


def _connections_to(port: int) -> int:
    found = 0
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as held:
            found += held.getpeername()[1:2] == (port,)
    return found
