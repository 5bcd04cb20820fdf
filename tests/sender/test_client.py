"""One HTTP attempt over real sockets: what is on the wire, what counts as success, what is repeated, what is kept."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import os
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import time
from asyncio.sslproto import SSLProtocol
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
import trustme
from aiohttp.connector import AddrInfoType

from tests.support.bad_receiver_server import OK, Peer, Script, ScriptedReceiver
from tests.support.bad_receivers import deaf, head, healthy
from tests.support.clock import START_WALL_MS, ManualClock
from webhookd.clock import SystemClock
from webhookd.models import Outcome, Reason, Request
from webhookd.sender.client import HttpSender, default_ssl_context
from webhookd.sender.egress import DnsResolver, Egress
from webhookd.sender.http1 import Connection

TIMEOUT_SECONDS = 2.0
LATE_SECONDS = 0.3
HEADERS = (("Content-Type", "application/json"), ("User-Agent", "webhookd/test"), ("webhook-id", "evt_1"))
BODY = b'{"event_type": "contact.created"}'

MakeSender = Callable[..., HttpSender]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def make_sender(authority: trustme.CA) -> AsyncIterator[MakeSender]:
    """Senders that reach loopback and trust `authority`; closed after the test."""
    made: list[HttpSender] = []

    def make(timeout_seconds: float = TIMEOUT_SECONDS, **settings: object) -> HttpSender:
        trusted = default_ssl_context()
        authority.configure_trust(trusted)
        egress = Egress([ip_network("127.0.0.0/8"), ip_network("::1/128")], allow_http=True, resolver=DnsResolver())
        made.append(
            HttpSender(
                egress,
                timeout_seconds=timeout_seconds,
                **{"clock": SystemClock(), "ssl_context": trusted, **settings},  # type: ignore[arg-type]
            )
        )
        return made[-1]

    yield make
    for sender in made:
        await sender.close()


@pytest.fixture
async def sender(make_sender: MakeSender) -> HttpSender:
    return make_sender()


def request(url: str, *, body: bytes = BODY, accept_any_2xx: bool = False) -> Request:
    return Request(url, HEADERS, body, accept_any_2xx)


def answering(data: bytes) -> Script:
    """A script that gives `data` to every request of a connection."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(data)

    return script


# --- the wire ---------------------------------------------------------------------------------------------------


async def test_the_request_goes_out_as_it_is(sender: HttpSender) -> None:
    """Path and query byte for byte, the given headers in their order, the body byte for byte, nothing compressed."""
    async with ScriptedReceiver(healthy) as receiver:
        outcome = await sender.post(request(f"{receiver.url}/a/../b;c?d={{1}}&e=%2f%zz|\"'", body=b'{"x": "\xc3\xb6"}'))
    assert outcome.delivered
    sent, _, body = receiver.requests[0].partition(b"\r\n\r\n")
    lines = [
        "POST /hook/a/../b;c?d={1}&e=%2f%zz|\"' HTTP/1.1",
        f"Host: 127.0.0.1:{receiver.port}",
        "Content-Type: application/json",
        "User-Agent: webhookd/test",
        "webhook-id: evt_1",
        "Accept: */*",
        "Content-Length: 11",
    ]
    assert (lines, b'{"x": "\xc3\xb6"}') == (sent.decode().split("\r\n"), body)


@pytest.mark.parametrize(
    ("ending", "target"), [("", "/"), ("/", "/"), ("?x=1", "/?x=1"), ("//a", "//a"), ("/%7e~", "/%7e~")]
)
async def test_the_target_is_the_urls(sender: HttpSender, ending: str, target: str) -> None:
    """What stands after the host is what is asked for."""
    async with ScriptedReceiver(healthy) as receiver:
        await sender.post(request(f"http://127.0.0.1:{receiver.port}{ending}"))
    assert f"POST {target} HTTP/1.1" == receiver.requests[0].split(b"\r\n")[0].decode()


@pytest.mark.parametrize("size", [2, 65536, 262144, 2_000_000])
async def test_bodies_of_every_size_arrive_whole(sender: HttpSender, size: int) -> None:
    """Up to the largest that can be configured."""
    body = b'"' + os.urandom((size - 2) // 2).hex().encode() + b'"'
    async with ScriptedReceiver(healthy) as receiver:
        outcome = await sender.post(request(receiver.url, body=body))
    assert (True, body) == (outcome.delivered, receiver.requests[0].partition(b"\r\n\r\n")[2])


async def test_cookies_are_not_kept(sender: HttpSender) -> None:
    """What a receiver sets is not sent back."""
    async with ScriptedReceiver(answering(head("Set-Cookie: a=b", "Content-Length: 0"))) as receiver:
        for _ in range(2):
            await sender.post(request(receiver.url))
    assert not any(b"cookie" in sent.lower() for sent in receiver.requests)


async def test_the_environments_proxy_is_ignored(sender: HttpSender, monkeypatch: pytest.MonkeyPatch) -> None:
    """http_proxy would lead around the gates."""
    async with ScriptedReceiver(healthy) as proxy, ScriptedReceiver(healthy) as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await sender.post(request(receiver.url))).delivered
        assert 0 == proxy.connections


async def test_ipv6_is_reached(sender: HttpSender) -> None:
    """An IPv6 literal, with its brackets in Host."""
    async with ScriptedReceiver(healthy, host="::1") as receiver:
        assert (await sender.post(request(receiver.url))).delivered
    assert f"Host: [::1]:{receiver.port}".encode() in receiver.requests[0]


# --- what counts and what is kept -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "exactly_200", "any_2xx"),
    [(200, None, None), (201, Reason.STATUS, None), (204, Reason.STATUS, None), (299, Reason.STATUS, None)]
    + [(status, Reason.STATUS, Reason.STATUS) for status in (300, 302, 304, 400, 410, 429, 500, 503)],
)
async def test_the_success_rule(
    sender: HttpSender, status: int, exactly_200: Reason | None, any_2xx: Reason | None
) -> None:
    """Exactly 200, or any 2xx where the endpoint says so."""
    async with ScriptedReceiver(answering(head("Content-Length: 0", status=f"{status} X"))) as receiver:
        outcomes = [
            await sender.post(request(receiver.url, accept_any_2xx=accept_any_2xx)) for accept_any_2xx in (False, True)
        ]
    assert [exactly_200, any_2xx] == [outcome.reason for outcome in outcomes]
    assert [status, status] == [outcome.status for outcome in outcomes]


@pytest.mark.parametrize(
    ("status", "size", "kept", "truncated"),
    [
        ("200 OK", 0, 0, False),
        ("200 OK", 1024, 1024, False),
        ("200 OK", 1025, 1024, True),
        ("200 OK", 16384, 1024, True),
        ("500 Oops", 1025, 1025, False),
        ("500 Oops", 16383, 16383, False),
        ("500 Oops", 16385, 16384, True),
        ("500 Oops", 1_000_000, 16384, True),
    ],
)
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_how_much_of_a_body_is_kept(
    sender: HttpSender, status: str, size: int, kept: int, truncated: bool, framing: str
) -> None:
    """16 KiB of a failure, 1 KiB of a success, and whether there was more."""
    body = b"a" * size
    chunks = b"".join(b"1000\r\n" + b"a" * 4096 + b"\r\n" for _ in range(size // 4096))
    rest = b"%x\r\n%b\r\n" % (size % 4096, b"a" * (size % 4096)) if size % 4096 else b""
    data = {
        "length": head(f"Content-Length: {size}", status=status) + body,
        "chunked": head("Transfer-Encoding: chunked", status=status) + chunks + rest + b"0\r\n\r\n",
        "close": head("Connection: close", status=status) + body,
    }[framing]

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)
        peer.half_close()
        await peer.stay()

    async with ScriptedReceiver(script) as receiver:
        outcome = await sender.post(request(receiver.url))
    assert (b"a" * kept, truncated) == (outcome.response_body, outcome.truncated)


async def test_headers_are_kept_as_they_came(sender: HttpSender) -> None:
    """In their order, twice where they came twice, and readable whatever their bytes."""
    data = head("X-A: 1", "x-a: 2", "X-Bytes: \xff\xfe", "Content-Length: 0")
    async with ScriptedReceiver(answering(data)) as receiver:
        outcome = await sender.post(request(receiver.url))
    expected = (("X-A", "1"), ("x-a", "2"), ("X-Bytes", "\ufffd\ufffd"), ("Content-Length", "0"))
    assert expected == outcome.response_headers
    json.dumps(outcome.response_headers).encode()


async def test_an_outcome_has_both_times(make_sender: MakeSender) -> None:
    """The start by the wall clock, the duration by the monotonic one."""
    clock = ManualClock()

    async def script(peer: Peer) -> None:
        await peer.request()
        await clock.advance(0.0417)
        clock.jump_wall(-3600)
        await peer.send(OK)

    async with ScriptedReceiver(script) as receiver:
        outcome = await make_sender(clock=clock).post(request(receiver.url))
    assert (START_WALL_MS, 41.7) == (outcome.started_at_ms, outcome.duration_ms)


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


async def _resets_as_the_next_request_comes(peer: Peer) -> None:
    await _closes_as_the_next_request_comes(peer)
    peer.reset()


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


@pytest.mark.parametrize("script", [_closes_as_the_next_request_comes, _resets_as_the_next_request_comes])
@pytest.mark.parametrize("tls", [False, True])
async def test_a_reused_connection_that_ends_unanswered_is_replaced_once(
    sender: HttpSender, authority: trustme.CA, script: Script, tls: bool
) -> None:
    """The request goes once more, over a fresh connection, in the same attempt; the record says so."""
    async with ScriptedReceiver(script, tls=_server_context(authority) if tls else None) as receiver:
        first, second = [await sender.post(request(receiver.url)) for _ in range(2)]
        assert 2 == receiver.connections
    assert [(None, False), (None, True)] == [(o.reason, o.connection_retried) for o in (first, second)]
    assert [BODY, BODY] == [sent.partition(b"\r\n\r\n")[2] for sent in receiver.requests]


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


async def _ends_unanswered(peer: Peer) -> None:
    await peer.request()


@pytest.mark.parametrize(
    ("warm_up", "script", "reason", "requests"),
    [
        (False, _ends_unanswered, Reason.RESET, 1),
        (True, _says_408_to_the_next, Reason.STATUS, 2),
        (True, _begins_the_next_answer, Reason.PROTOCOL, 2),
        (True, _silent_to_the_next, Reason.TIMEOUT, 1),
    ],
)
async def test_nothing_else_is_repeated(
    make_sender: MakeSender, warm_up: bool, script: Script, reason: Reason, requests: int
) -> None:
    """Not a fresh connection, not after a byte of an answer, not what is merely late."""
    sender = make_sender(LATE_SECONDS)
    async with ScriptedReceiver(script) as receiver:
        if warm_up:
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
    """Whoever waits in post gets a failed outcome, and so does whoever comes after."""

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


# --- TLS --------------------------------------------------------------------------------------------------------


def _server_context(authority: trustme.CA, **settings: object) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    identity = settings.pop("identity", "127.0.0.1")
    authority.issue_cert(str(identity), **settings).configure_cert(context)  # type: ignore[arg-type]
    return context


def _expired(authority: trustme.CA) -> ssl.SSLContext:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    return _server_context(authority, not_before=yesterday - timedelta(days=9), not_after=yesterday)


def _old_protocol(authority: trustme.CA, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = _server_context(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("context", "said"),
    [
        pytest.param(_expired, "expired", id="expired"),
        pytest.param(lambda ca: _server_context(ca, identity="other.example"), "mismatch", id="wrong host"),
        pytest.param(lambda _: _server_context(trustme.CA()), "certificate", id="unknown authority"),
        pytest.param(lambda ca: _old_protocol(ca, ssl.TLSVersion.TLSv1), "TLS", id="TLS 1.0"),
        pytest.param(lambda ca: _old_protocol(ca, ssl.TLSVersion.TLSv1_1), "TLS", id="TLS 1.1"),
    ],
)
async def test_bad_tls_is_a_failure_and_nothing_is_sent(
    sender: HttpSender, authority: trustme.CA, context: Callable[[trustme.CA], ssl.SSLContext], said: str
) -> None:
    """Never repeated insecurely: one connection, no request, and the reason for a person."""
    async with ScriptedReceiver(healthy, tls=context(authority)) as receiver:
        outcome = await sender.post(request(receiver.url))
        assert (Reason.TLS, None, []) == (outcome.reason, outcome.status, receiver.requests)
        assert receiver.connections <= 1
    assert said in outcome.detail
    assert outcome.detail.isprintable()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_good_tls_is_delivered_over_and_kept_alive(
    sender: HttpSender, authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    """TLS 1.2 and 1.3, verified, one handshake for several attempts."""
    context = _server_context(authority)
    context.minimum_version = context.maximum_version = version
    async with ScriptedReceiver(healthy, tls=context) as receiver:
        outcomes = [await sender.post(request(receiver.url)) for _ in range(3)]
        assert ([True] * 3, 1) == ([outcome.delivered for outcome in outcomes], receiver.connections)


async def test_a_self_signed_certificate_is_refused_by_default(make_sender: MakeSender, authority: trustme.CA) -> None:
    """Without a context of the tests' own, the system's authorities decide."""
    sender = make_sender(ssl_context=None)
    async with ScriptedReceiver(healthy, tls=_server_context(authority)) as receiver:
        outcome = await sender.post(request(receiver.url))
    assert (Reason.TLS, []) == (outcome.reason, receiver.requests)


async def _stall(peer: Peer) -> None:
    await peer.stay()


async def _speak_plainly(peer: Peer) -> None:
    await peer.reader.read(1)
    await peer.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nplain HTTP here\r\n")
    await peer.stay()


async def _hang_up(peer: Peer) -> None:
    await peer.reader.read(1024)
    peer.writer.close()


async def _reset(peer: Peer) -> None:
    await peer.reader.read(1)
    peer.reset()


async def _drip_a_handshake(peer: Peer) -> None:
    await peer.drip(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc" + b"\0" * 1000, seconds=0.02)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (_stall, Reason.TIMEOUT),
        (_drip_a_handshake, Reason.TIMEOUT),
        (_speak_plainly, Reason.TLS),
        (_hang_up, Reason.TLS),
        (_reset, Reason.RESET),
    ],
)
async def test_a_handshake_that_goes_wrong(
    make_sender: MakeSender, script: Callable[[Peer], Awaitable[None]], reason: Reason
) -> None:
    """Stalled, one byte at a time, not TLS at all, ended: in time, each with its reason."""
    sender = make_sender(LATE_SECONDS)
    async with ScriptedReceiver(script) as receiver:
        started = time.monotonic()
        outcome = await sender.post(request(f"https://127.0.0.1:{receiver.port}/"))
        assert time.monotonic() - started < LATE_SECONDS + 0.25
    assert reason == outcome.reason, outcome.detail


# --- whose fault ------------------------------------------------------------------------------------------------


async def test_a_closed_port_refuses(sender: HttpSender) -> None:
    """The address is named, the query is not."""
    async with ScriptedReceiver(healthy) as receiver:
        port = receiver.port
    outcome = await sender.post(request(f"http://127.0.0.1:{port}/x?token=secret"))
    assert (Reason.REFUSED, f"connection refused by 127.0.0.1:{port}") == (outcome.reason, outcome.detail)


async def test_a_full_queue_of_connections_is_a_timeout(make_sender: MakeSender) -> None:
    """A receiver that listens and never accepts."""
    sender = make_sender(LATE_SECONDS)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        port = listening.getsockname()[1]
        outcomes = await asyncio.gather(*(sender.post(request(f"http://127.0.0.1:{port}/")) for _ in range(4)))
    assert [Reason.TIMEOUT] * 4 == [outcome.reason for outcome in outcomes]


async def test_no_descriptors_left_is_this_machines_fault(sender: HttpSender) -> None:
    """EMFILE is `local`; with descriptors again, the next attempt goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with ScriptedReceiver(healthy) as receiver:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            short = await sender.post(request(receiver.url))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert Reason.LOCAL == short.reason, short
        assert (await sender.post(request(receiver.url))).delivered


_WITHOUT_NETWORK = """
import asyncio, ipaddress, json
from webhookd.clock import SystemClock
from webhookd.sender.http1 import Connection
from webhookd.sender.egress import DnsResolver, Egress
from webhookd.sender.client import HttpSender
from webhookd.models import Request

async def main():
    everything = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
    sender = HttpSender(Egress(everything, allow_http=True, resolver=DnsResolver()), timeout_seconds=2,
                        clock=SystemClock())
    urls = ["http://192.0.2.1/", "http://[2001:db8::1]/", "http://name.example/", "http://127.0.0.1:9/"]
    print(json.dumps([(await sender.post(Request(url, (), b"{}", False))).reason for url in urls]))
    await sender.close()

asyncio.run(main())
"""


def test_a_machine_without_network_blames_itself() -> None:
    """In a network namespace with nothing in it: addresses and names are `local`, loopback stays the receiver's."""
    unshare = shutil.which("unshare")
    ip = shutil.which("ip")
    if unshare is None or ip is None or subprocess.run([unshare, "-n", "true"], check=False).returncode:
        pytest.skip("network namespaces can't be made here")
    script = f'{ip} link set lo up; exec "$0" -c "$1"'
    done = subprocess.run(
        [unshare, "-n", "sh", "-c", script, sys.executable, _WITHOUT_NETWORK],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert ["local", "local", "local", "refused"] == json.loads(done.stdout)


async def test_three_hundred_megabytes_leave_no_trace_in_memory(sender: HttpSender) -> None:
    """A receiver that sends at full speed is cut off; ten of them at once cost next to nothing."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(head("Content-Length: 300000000"))
        await peer.flood(b"a" * 1000, at_most=300_000_000)

    async with ScriptedReceiver(script) as receiver:
        await sender.post(request(receiver.url))
        before = _peak_memory_kib()
        outcomes: list[Outcome] = []
        for _ in range(3):
            outcomes += await asyncio.gather(*(sender.post(request(receiver.url)) for _ in range(10)))
        grown = _peak_memory_kib() - before
    assert all(outcome.delivered and outcome.truncated for outcome in outcomes)
    assert grown < 32 * 1024


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
    async with ScriptedReceiver(script, tls=_server_context(authority)) as receiver:
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


async def test_a_kept_tls_connection_holds_a_small_buffer(sender: HttpSender, authority: trustme.CA) -> None:
    """Not asyncio's 256 KiB: a thousand kept connections would be 256 MiB."""
    async with ScriptedReceiver(healthy, tls=_server_context(authority)) as receiver:
        assert (await sender.post(request(receiver.url))).delivered
        found = [each for each in gc.get_objects() if isinstance(each, SSLProtocol)]
        assert found
        assert max(len(each._ssl_buffer) for each in found) <= 4 * 1024  # type: ignore[attr-defined]


async def test_a_connection_that_the_kernel_has_forgotten_was_reset(authority: trustme.CA) -> None:
    """Reset before its peer could be asked for: nothing is sent, and it isn't called a blocked address."""

    class Forgotten(socket.socket):
        def getpeername(self) -> object:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    class Forgetful(Egress):
        def open_socket(self, target: AddrInfoType) -> socket.socket:
            opened = super().open_socket(target)
            return Forgotten(opened.family, opened.type, opened.proto, fileno=opened.detach())

    egress = Forgetful([ip_network("127.0.0.0/8")], allow_http=True, resolver=DnsResolver())
    sender = HttpSender(egress, timeout_seconds=TIMEOUT_SECONDS, clock=SystemClock())
    async with ScriptedReceiver(healthy) as receiver:
        outcome = await sender.post(request(receiver.url))
        await sender.close()
        assert (Reason.RESET, []) == (outcome.reason, receiver.requests)


def _peak_memory_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _connections_to(port: int) -> int:
    """How many sockets of this process are connected to `port`."""
    found = 0
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as held:
            found += held.getpeername()[1:2] == (port,)
    return found
