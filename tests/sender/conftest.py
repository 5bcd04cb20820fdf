"""Senders that reach loopback and trust an authority of the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest
import trustme

from tests.support.sending import TIMEOUT_SECONDS, MakeSender
from webhookd.clock import SystemClock
from webhookd.sender.client import HttpSender, default_ssl_context
from webhookd.sender.egress import DnsResolver, Egress


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
