"""Hostile names: whatever a name server answers, nothing denied is dialled, and no endpoint waits for another's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network

import pytest

from tests.hostile.urls import NAMES, Name
from tests.support.bad_receiver_server import OK, Peer, ScriptedReceiver
from tests.support.bad_receivers import healthy
from tests.support.nameserver import Alias, Answer, NameServer
from tests.support.watch import watch
from webhookd.clock import SystemClock
from webhookd.models import Outcome, Reason, Request
from webhookd.rules.ip_policy import Address, Network
from webhookd.rules.urls import check_url
from webhookd.sender.client import HttpSender, default_ssl_context
from webhookd.sender.egress import DnsResolver, Egress

NOTHING: list[Network] = []
LOOPBACK: list[Network] = [ip_network("127.0.0.1")]
TLS = default_ssl_context()
PUBLIC = {"8.8.8.8", "2606:4700:4700::1111"}
SILENT_SECONDS = 0.3

EACH = pytest.mark.parametrize("name", [pytest.param(name, id=f"DNS | {name.name}") for name in NAMES])


def _sender(names: NameServer, allowed: list[Network], *, timeout_seconds: float = 5.0) -> HttpSender:
    egress = Egress(allowed, allow_http=True, resolver=DnsResolver([names.address]))
    return HttpSender(egress, timeout_seconds=timeout_seconds, clock=SystemClock(), ssl_context=TLS)


async def _post(sender: HttpSender, url: str) -> Outcome:
    return await sender.post(Request(url, (), b"{}", False))


@EACH
def test_saved(name: Name) -> None:
    """A name by itself says nothing: it is kept, and judged when it is used."""
    url = f"http://{name.name}/"
    assert url == check_url(url, allow_http=True, allowed=NOTHING)


@EACH
async def test_resolved(name: Name) -> None:
    """Denied if a single answer is; dialled is what was judged and nothing else."""
    async with NameServer({name.name: name.answer}) as names, ScriptedReceiver(healthy) as receiver:
        for allowed, expected in ((NOTHING, name.closed), (LOOPBACK, name.opened)):
            seconds = SILENT_SECONDS if isinstance(name.answer, type) else 5.0
            sender = _sender(names, allowed, timeout_seconds=seconds)
            with watch(through=True) as watching:
                outcome = await _post(sender, f"http://{name.name}:{receiver.port}/")
            await sender.close()
            assert expected == outcome.reason, outcome
            assert (set() if expected else {"127.0.0.1"}) == watching.hosts


@EACH
async def test_connected(name: Name, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the second gate lets every answer through, the socket factory keeps the denied ones from being dialled."""
    async with NameServer({}) as names, ScriptedReceiver(healthy) as receiver:
        for allowed in (NOTHING, LOOPBACK):
            sender = _sender(names, allowed)

            async def lie(host: str, port: int) -> list[Address]:
                return [ip_address(text) for text in _addresses(name.answer)]

            monkeypatch.setattr(sender._egress, "resolve", lie)
            with watch(through=True) as watching:
                outcome = await _post(sender, f"http://{name.name}:{receiver.port}/")
            await sender.close()
            permitted = PUBLIC | ({"127.0.0.1"} if allowed else set())
            assert watching.hosts <= permitted
            if permitted.isdisjoint(_addresses(name.answer)):
                assert (Reason.BLOCKED_ADDRESS, []) == (outcome.reason, watching.dialled)
            assert len(receiver.requests) == outcome.delivered
            receiver.requests.clear()


def _addresses(answer: Answer) -> tuple[str, ...]:
    """The addresses in an answer; a denied one for an answer without."""
    found = answer.addresses if isinstance(answer, Alias) else answer
    return found if isinstance(found, tuple) and found else ("10.0.0.1",)


class _Rebinding(Mapping[str, Answer]):
    def __init__(self) -> None:
        self.asked = 0

    def __getitem__(self, name: str) -> Answer:
        self.asked += 1
        return ("127.0.0.1",) if self.asked % 2 else ("10.0.0.1",)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


async def test_a_name_that_is_bound_anew_between_check_and_connect_gains_nothing() -> None:
    """Public first, private at the next question: each attempt dials the answer that it judged, or nothing."""

    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))

    answers = _Rebinding()
    async with NameServer(answers) as names, ScriptedReceiver(once) as receiver:
        sender = _sender(names, LOOPBACK)
        with watch(through=True) as watching:
            outcomes = [await _post(sender, f"http://rebinding.test:{receiver.port}/") for _ in range(20)]
        await sender.close()
    delivered = sum(outcome.delivered for outcome in outcomes)
    assert {None, Reason.BLOCKED_ADDRESS} == {outcome.reason for outcome in outcomes}
    assert [("127.0.0.1", receiver.port)] * delivered == watching.dialled
    assert answers.asked <= 2 * 20  # A and AAAA, once per attempt: no second question between check and connect
