"""Names to addresses, against a real DNS server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.nameserver import NXDOMAIN, REFUSED, SERVFAIL, Alias, Answer, Garbage, NameServer, Silence
from webhookd.models import Reason
from webhookd.sender import host
from webhookd.sender.attempt_trace import EgressFailure
from webhookd.sender.egress import DnsResolver

ANSWERS = {
    "one.test": ("192.0.2.1",),
    "many.test": ("192.0.2.1", "192.0.2.2", "2001:db8::1"),
    "six.test": ("2001:db8::1",),
    "alias.test": Alias("target.test", ("10.0.0.1",)),
    "empty.test": (),
    "alias-of-nothing.test": Alias("nothing.test", ()),
    "gone.test": NXDOMAIN,
    "broken.test": SERVFAIL,
    "refused.test": REFUSED,
    "silent.test": Silence,
    "noise.test": Garbage,
}


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    async with NameServer(ANSWERS) as server:
        yield server


@pytest.fixture
async def resolver(server: NameServer) -> AsyncIterator[DnsResolver]:
    resolver = DnsResolver([server.address])
    yield resolver
    await resolver.close()


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("one.test", {"192.0.2.1"}),
        ("ONE.test", {"192.0.2.1"}),
        ("one.test.", {"192.0.2.1"}),
        ("many.test", {"192.0.2.1", "192.0.2.2", "2001:db8::1"}),
        ("six.test", {"2001:db8::1"}),
        ("alias.test", {"10.0.0.1"}),
    ],
)
async def test_all_addresses_of_both_families_are_found(resolver: DnsResolver, name: str, addresses: set[str]) -> None:
    """Every answer counts, because each of them is judged."""
    assert addresses == set(await resolver.lookup(name))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone.test", "doesn't exist"),
        ("unknown.test", "doesn't exist"),
        ("empty.test", "no address"),
        ("alias-of-nothing.test", "no address"),
        ("broken.test", "SERVFAIL"),
        ("refused.test", "refused"),
        ("noise.test", "malformed"),
        ("x" * 70 + ".test", "malformed"),
    ],
)
async def test_a_failed_lookup_is_a_failure_of_dns(resolver: DnsResolver, name: str, words: str) -> None:
    """NXDOMAIN, SERVFAIL and their like are the endpoint's, and say what happened."""
    with pytest.raises(EgressFailure) as caught:
        await resolver.lookup(name)
    assert (Reason.DNS, True, True) == (caught.value.reason, words in caught.value.detail, name in caught.value.detail)


async def test_a_silent_name_leaves_the_others_alone(resolver: DnsResolver) -> None:
    """200 lookups that get no answer don't delay the one that does."""
    silent = [asyncio.create_task(resolver.lookup("silent.test")) for _ in range(200)]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(0.5):
        assert ["192.0.2.1"] == await resolver.lookup("one.test")
    assert not any(task.done() for task in silent)
    for task in silent:
        task.cancel()
    await asyncio.gather(*silent, return_exceptions=True)


async def test_a_malformed_answer_spoils_no_other_lookup(server: NameServer, resolver: DnsResolver) -> None:
    """Names that are asked for at the same time are found, though c-ares gives up the socket that they share."""
    names = {f"name{number}.test": (f"192.0.2.{number}",) for number in range(40)}
    server.answers = {**ANSWERS, **names}
    noise = [asyncio.create_task(resolver.lookup("noise.test")) for _ in range(10)]
    found = await asyncio.gather(*(resolver.lookup(name) for name in names))
    assert [list(addresses) for addresses in names.values()] == found
    for task in noise:
        with pytest.raises(EgressFailure):
            await task


async def test_an_unreachable_name_server_is_this_machines_fault() -> None:
    """No server listens where the resolver is configured: `local`, whatever the name."""
    async with NameServer({}) as server:
        address = server.address
    resolver = DnsResolver([address])
    with pytest.raises(EgressFailure) as caught:
        await resolver.lookup("one.test")
    assert Reason.LOCAL == caught.value.reason
    await resolver.close()


async def test_a_resolver_that_cannot_be_started_is_this_machines_fault() -> None:
    """What is configured is no name server: `local`, and nothing is left open."""
    resolver = DnsResolver(["no address"])
    with pytest.raises(EgressFailure) as caught:
        await resolver.lookup("one.test")
    assert (Reason.LOCAL, True) == (caught.value.reason, "could not be started" in caught.value.detail)
    await resolver.close()


async def test_a_resolver_at_a_loss_on_a_machine_without_network_is_local(
    resolver: DnsResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local stub answers SERVFAIL when the network is gone; NXDOMAIN stays the endpoint's."""
    monkeypatch.setattr(host, "is_cut_off", lambda: True)
    reasons = []
    for name in ("broken.test", "refused.test", "gone.test"):
        with pytest.raises(EgressFailure) as caught:
            await resolver.lookup(name)
        reasons.append(caught.value.reason)
    assert [Reason.LOCAL, Reason.LOCAL, Reason.DNS] == reasons


async def test_names_of_the_hosts_file_are_found() -> None:
    """What /etc/hosts says counts, as with every other program; no name server is asked."""
    async with NameServer({}) as server:
        resolver = DnsResolver([server.address])
        name = _a_name_of_the_hosts_file()
        assert await resolver.lookup(name)
        assert [] == server.asked
        await resolver.close()


class _NoiseThenSilence(dict[str, Answer]):
    """Noise for the lookup that shares a channel, silence for the one that has its own."""

    def __init__(self, resolver: DnsResolver) -> None:
        super().__init__({"silent.test": Silence})
        self._resolver = resolver

    def get(self, name: str, default: Any = None) -> Any:
        return Silence if self._resolver._alone else Garbage


async def test_closing_with_lookups_under_way_leaves_nothing_behind(server: NameServer, resolver: DnsResolver) -> None:
    """A lookup that still waits ends, one that was to be repeated too, and a closed resolver can be closed again."""
    server.answers = _NoiseThenSilence(resolver)
    waiting = [asyncio.create_task(resolver.lookup("noise.test"))]
    async with asyncio.timeout(5):
        while not resolver._alone:
            await asyncio.sleep(0.01)
    waiting.append(asyncio.create_task(resolver.lookup("silent.test")))
    await asyncio.sleep(0.05)
    await resolver.close()
    async with asyncio.timeout(2):
        for task in waiting:
            with pytest.raises(EgressFailure):
                await task
    await resolver.close()


def _a_name_of_the_hosts_file() -> str:
    with open("/etc/hosts", encoding="utf-8") as hosts:
        names = [name for line in hosts for name in line.partition("#")[0].split()[1:]]
    return next((name for name in names if name not in ("localhost", "ip6-localhost")), "localhost")
