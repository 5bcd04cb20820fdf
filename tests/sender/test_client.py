"""One HTTP attempt over real sockets: what is on the wire, what counts as success, what is kept, whose fault it is."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import resource
import socket

import pytest

from tests.support.bad_receiver_server import OK, Peer, ScriptedReceiver
from tests.support.bad_receivers import GZIP_BOMB, head, healthy
from tests.support.clock import START_WALL_MS, ManualClock
from tests.support.sending import LATE_SECONDS, MakeSender, answering, request
from webhookd.clock import SystemClock
from webhookd.config import Config, Delivery
from webhookd.config import Egress as EgressSettings
from webhookd.delivery.attempt_record import attempt_record
from webhookd.models import Outcome, Reason
from webhookd.sender.client import Client, HttpSender

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


@pytest.mark.parametrize(
    ("headers", "body", "shown"),
    [
        (["Content-Encoding: gzip"], gzip.compress('{"error": "größer"}'.encode()), '{"error": "größer"}'),
        (["Content-Type: text/html; charset=iso-8859-1"], "zu groß".encode("latin-1"), "zu groß"),
        (["Content-Encoding: gzip"], GZIP_BOMB, "\0" * 16384),
    ],
    ids=["gzip", "latin-1", "bomb"],
)
async def test_the_log_shows_a_body_decoded(sender: HttpSender, headers: list[str], body: bytes, shown: str) -> None:
    """What is kept stays as it came; a bomb stays shut."""
    data = head(*headers, f"Content-Length: {len(body)}", status="400 Bad Request") + body
    async with ScriptedReceiver(answering(data)) as receiver:
        sent = request(receiver.url)
        outcome = await sender.post(sent)
    assert body[:16384] == outcome.response_body
    response = attempt_record(1, outcome, sent, counted=True)["response"]
    assert (shown, len(body) > 16384) == (response["body"], response["truncated"])


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


async def test_three_hundred_megabytes_leave_no_trace_in_memory(sender: HttpSender) -> None:
    """A receiver that sends at full speed is cut off; ten of them at once cost next to nothing."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(head("Content-Length: 300000000"))
        await peer.flood(b"a" * 1000, at_most=300_000_000)

    async with ScriptedReceiver(script) as receiver:
        await sender.post(request(receiver.url))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcomes: list[Outcome] = []
        for _ in range(3):
            outcomes += await asyncio.gather(*(sender.post(request(receiver.url)) for _ in range(10)))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert all(outcome.delivered and outcome.truncated for outcome in outcomes)
    assert grown < 32 * 1024


# --- changed settings --------------------------------------------------------------------------------------------
async def test_a_reload_leaves_no_descriptor_behind() -> None:
    """Also where nothing was under way: neither the idle connections nor the resolver of the settings before."""
    egress = EgressSettings(allow=("127.0.0.0/8", "::1/128"))
    settings = [Config(delivery=Delivery(timeout_seconds=seconds), egress=egress) for seconds in range(5, 12)]
    async with ScriptedReceiver(healthy) as receiver:
        client = Client(settings[0], SystemClock())
        counts = []
        for following in settings[1:]:
            outcome = await client.post(request(f"http://localhost:{receiver.port}/hook"))
            assert outcome.delivered, outcome.detail
            counts.append(len(os.listdir("/proc/self/fd")))
            client.configure(following)
        await client.close()
    assert max(counts[2:]) <= counts[1] + 1, counts
