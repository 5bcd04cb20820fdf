"""A sender that reaches loopback alone, and what its tests send."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import trustme

from tests.support.bad_receiver_server import Peer, Script
from webhookd.models import Request
from webhookd.sender.client import HttpSender

TIMEOUT_SECONDS = 2.0
LATE_SECONDS = 0.3
HEADERS = (("Content-Type", "application/json"), ("User-Agent", "webhookd/test"), ("webhook-id", "evt_1"))
BODY = b'{"event_type": "contact.created"}'

MakeSender = Callable[..., HttpSender]


def request(url: str, *, body: bytes = BODY, accept_any_2xx: bool = False) -> Request:
    return Request(url, HEADERS, body, accept_any_2xx)


def answering(data: bytes) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(data)

    return script


def server_context(authority: trustme.CA, **settings: object) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    identity = settings.pop("identity", "127.0.0.1")
    authority.issue_cert(str(identity), **settings).configure_cert(context)  # type: ignore[arg-type]
    return context
