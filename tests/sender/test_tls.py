"""TLS to receivers: verified, never repeated insecurely, and small."""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from tests.support.bad_receiver_server import Peer, ScriptedReceiver
from tests.support.bad_receivers import healthy
from tests.support.sending import MakeSender, request, server_context
from webhookd.models import Reason
from webhookd.sender.client import HttpSender

# --- TLS --------------------------------------------------------------------------------------------------------


def _expired(authority: trustme.CA) -> ssl.SSLContext:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    return server_context(authority, not_before=yesterday - timedelta(days=9), not_after=yesterday)


def _old_protocol(authority: trustme.CA, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = server_context(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("context", "words"),
    [
        pytest.param(_expired, "expired", id="expired"),
        pytest.param(lambda ca: server_context(ca, identity="other.example"), "mismatch", id="wrong host"),
        pytest.param(lambda _: server_context(trustme.CA()), "certificate", id="unknown authority"),
        pytest.param(lambda ca: _old_protocol(ca, ssl.TLSVersion.TLSv1), "TLS", id="TLS 1.0"),
        pytest.param(lambda ca: _old_protocol(ca, ssl.TLSVersion.TLSv1_1), "TLS", id="TLS 1.1"),
    ],
)
async def test_bad_tls_is_a_failure_and_nothing_is_sent(
    sender: HttpSender, authority: trustme.CA, context: Callable[[trustme.CA], ssl.SSLContext], words: str
) -> None:
    """Never repeated insecurely: one connection, no request, and the reason for a person."""
    async with ScriptedReceiver(healthy, tls=context(authority)) as receiver:
        outcome = await sender.post(request(receiver.url))
        assert (Reason.TLS, None, []) == (outcome.reason, outcome.status, receiver.requests)
        assert receiver.connections <= 1
    assert words in outcome.detail
    assert outcome.detail.isprintable()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_good_tls_is_delivered_over_and_kept_alive(
    sender: HttpSender, authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    """TLS 1.2 and 1.3, verified, one handshake for several attempts."""
    context = server_context(authority)
    context.minimum_version = context.maximum_version = version
    async with ScriptedReceiver(healthy, tls=context) as receiver:
        outcomes = [await sender.post(request(receiver.url)) for _ in range(3)]
        assert ([True] * 3, 1) == ([outcome.delivered for outcome in outcomes], receiver.connections)


async def test_a_self_signed_certificate_is_refused_by_default(make_sender: MakeSender, authority: trustme.CA) -> None:
    """Without a context of the tests' own, the system's authorities decide."""
    sender = make_sender(ssl_context=None)
    async with ScriptedReceiver(healthy, tls=server_context(authority)) as receiver:
        outcome = await sender.post(request(receiver.url))
    assert (Reason.TLS, []) == (outcome.reason, receiver.requests)


async def test_a_kept_tls_connection_is_small(make_sender: MakeSender, authority: trustme.CA) -> None:
    """asyncio's own transport keeps 256 KiB for each, which would be 256 MiB for a thousand: none of them is ours."""
    sender = make_sender()
    async with ScriptedReceiver(healthy, tls=server_context(authority)) as receiver:
        assert all(o.delivered for o in await asyncio.gather(*(sender.post(request(receiver.url)) for _ in range(5))))
        gc.collect()
        assert receiver.connections == sum(isinstance(each, SSLProtocol) for each in gc.get_objects())


async def test_bytes_that_are_no_tls_end_a_session(sender: HttpSender, authority: trustme.CA) -> None:
    """After a handshake that went well."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.writer.transport._ssl_protocol._transport.write(b"HTTP/1.1 200 OK\r\n\r\n")  # type: ignore[attr-defined]
        await peer.stay()

    async with ScriptedReceiver(script, tls=server_context(authority)) as receiver:
        outcome = await sender.post(request(receiver.url))
    assert (Reason.TLS, "TLS: ") == (outcome.reason, outcome.detail[:5]), outcome


@pytest.mark.parametrize("size", [0, 16_384, 1_000_000])
async def test_bodies_of_every_size_go_over_tls(sender: HttpSender, authority: trustme.CA, size: int) -> None:
    """In records of 16 KiB, more than one turn of the loop takes."""
    body = os.urandom(size)
    async with ScriptedReceiver(healthy, tls=server_context(authority)) as receiver:
        outcomes = [await sender.post(request(receiver.url, body=body)) for _ in range(2)]
        assert ([True] * 2, 1) == ([outcome.delivered for outcome in outcomes], receiver.connections)
    assert [body] * 2 == [sent.partition(b"\r\n\r\n")[2] for sent in receiver.requests]
