"""The second and the third gate.  Python's audit hook records what was dialled, not the gates themselves."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.bad_receiver_server import ScriptedReceiver
from tests.support.bad_receivers import head, healthy
from tests.support.nameserver import NXDOMAIN, SERVFAIL, Alias, NameServer, Silence
from tests.support.sending import answering
from tests.support.watch import watch
from webhookd.clock import SystemClock
from webhookd.errors import ApiError
from webhookd.models import Outcome, Reason, Request
from webhookd.rules.ip_policy import OwnAddress
from webhookd.sender import host
from webhookd.sender.attempt_trace import AttemptTrace, EgressFailure
from webhookd.sender.client import HttpSender
from webhookd.sender.egress import DnsResolver, Egress

Dialled = list[tuple[str, int]]
LOOPBACK = [ip_network("127.0.0.0/8")]
EVERYTHING = [ip_network("0.0.0.0/0"), ip_network("::/0")]

ANSWERS = {
    "good.test": ("127.0.0.1",),
    "private.test": ("10.0.0.1",),
    "mixed.test": ("127.0.0.1", "10.0.0.1"),
    "mixed-six.test": ("127.0.0.1", "fd00::1"),
    "six.test": ("::1",),
    "mapped.test": ("::ffff:127.0.0.1",),
    "metadata.test": ("169.254.169.254",),
    "alias.test": Alias("inside.test", ("192.168.0.1",)),
    "good-alias.test": Alias("outside.test", ("127.0.0.1",)),
    "zero.test": ("0.0.0.0",),
    "gone.test": NXDOMAIN,
    "broken.test": SERVFAIL,
    "silent.test": Silence,
}


@pytest.fixture
def dialled() -> Iterator[Dialled]:
    """The addresses that this process has connected to since the test began."""
    with watch(through=True) as watching:
        yield watching.dialled


@pytest.fixture
async def names() -> AsyncIterator[NameServer]:
    async with NameServer(dict(ANSWERS)) as server:
        yield server


async def post(egress: Egress, url: str, *, timeout_seconds: float = 2.0) -> Outcome:
    sender = HttpSender(egress, timeout_seconds=timeout_seconds, clock=SystemClock())
    try:
        return await sender.post(Request(url, (), b"{}", False))
    finally:
        await sender.close()


def gates(names: NameServer, allowed: list[Any] = LOOPBACK) -> Egress:
    return Egress(allowed, allow_http=True, resolver=DnsResolver([names.address]))


@pytest.mark.parametrize("name", ["good.test", "good-alias.test", "GOOD.test"])
async def test_a_name_with_allowed_addresses_is_delivered_to(names: NameServer, dialled: Dialled, name: str) -> None:
    """The address that was judged is the one dialled."""
    async with ScriptedReceiver(healthy) as receiver:
        outcome = await post(gates(names), f"http://{name}:{receiver.port}/")
    assert (None, [("127.0.0.1", receiver.port)]) == (outcome.reason, dialled)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("private.test", LOOPBACK),
        ("mixed.test", LOOPBACK),
        ("mixed-six.test", LOOPBACK),
        ("six.test", LOOPBACK),
        ("mapped.test", LOOPBACK),
        ("metadata.test", LOOPBACK),
        ("metadata.test", EVERYTHING),
        ("alias.test", LOOPBACK),
        ("zero.test", LOOPBACK),
    ],
)
async def test_one_denied_answer_blocks_the_attempt(
    names: NameServer, dialled: Dialled, name: str, allowed: list[Any]
) -> None:
    """If any answer of the name is denied, nothing is dialled at all; link-local stays denied inside egress.allow."""
    async with ScriptedReceiver(healthy) as receiver:
        outcome = await post(gates(names, allowed), f"http://{name}:{receiver.port}/")
        assert (Reason.BLOCKED_ADDRESS, [], 0) == (outcome.reason, dialled, receiver.connections)
    assert name in outcome.detail


@pytest.mark.parametrize("name", ["gone.test", "broken.test", "silent.test"])
async def test_a_name_without_answer_is_a_failure_of_dns(names: NameServer, dialled: Dialled, name: str) -> None:
    """NXDOMAIN, SERVFAIL and silence up to the deadline."""
    outcome = await post(gates(names), f"http://{name}/", timeout_seconds=0.3)
    assert (Reason.DNS, []) == (outcome.reason, dialled)
    assert outcome.duration_ms < 550


@pytest.mark.slow
async def test_silent_names_leave_a_healthy_endpoint_alone(names: NameServer) -> None:
    """200 attempts that wait for DNS, and one beside them that is delivered long before they end."""
    sender = HttpSender(gates(names), timeout_seconds=1.5, clock=SystemClock())
    async with ScriptedReceiver(healthy) as receiver:
        silent = [
            asyncio.create_task(sender.post(Request("http://silent.test/", (), b"{}", False))) for _ in range(200)
        ]
        await asyncio.sleep(0.1)
        outcome = await sender.post(Request(f"http://good.test:{receiver.port}/", (), b"{}", False))
        assert (None, 0) == (outcome.reason, sum(task.done() for task in silent))
        assert {Reason.DNS} == {outcome.reason for outcome in await asyncio.gather(*silent)}
    await sender.close()


async def test_an_answer_that_changes_is_judged_again(names: NameServer, dialled: Dialled) -> None:
    """A name that was allowed and now is private: the next connection is blocked."""
    egress = gates(names)
    async with ScriptedReceiver(answering(head("Connection: close", "Content-Length: 0"))) as receiver:
        sender = HttpSender(egress, timeout_seconds=2.0, clock=SystemClock())
        request = Request(f"http://good.test:{receiver.port}/", (), b"{}", False)
        first = await sender.post(request)
        names.answers["good.test"] = ("10.0.0.1",)  # type: ignore[index]
        second = await sender.post(request)
        await sender.close()
    assert [None, Reason.BLOCKED_ADDRESS] == [first.reason, second.reason]
    assert [("127.0.0.1", receiver.port)] == dialled


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "foo.localhost"])
async def test_localhost_is_this_machine_by_rule(names: NameServer, dialled: Dialled, host: str) -> None:
    """Delivered over the allowed loopback address, without asking anybody; blocked where none is allowed."""
    async with ScriptedReceiver(healthy) as receiver:
        url = f"http://{host}:{receiver.port}/"
        allowed, denied = await post(gates(names), url), await post(gates(names, []), url)
    assert [None, Reason.BLOCKED_ADDRESS] == [allowed.reason, denied.reason]
    assert ([("127.0.0.1", receiver.port)], []) == (dialled, names.asked)


async def test_a_metadata_name_is_never_looked_up(names: NameServer) -> None:
    """metadata.google.internal is blocked by its name."""
    egress = gates(names, EVERYTHING)
    with pytest.raises(EgressFailure) as caught:
        await egress.resolve("metadata.google.internal", 80)
    assert (Reason.BLOCKED_ADDRESS, []) == (caught.value.reason, names.asked)
    await egress.close()


async def test_a_name_with_many_addresses_gets_a_few_tries(names: NameServer) -> None:
    """A thousand addresses that refuse would multiply each attempt; all are judged, three of each family dialled."""
    four, six = [f"127.0.1.{n}" for n in range(1, 21)], [f"fd00::{n:x}" for n in range(1, 6)]
    names.answers["many.test"] = (*four, *six)  # type: ignore[index]
    egress = gates(names, EVERYTHING)
    chosen = await egress.resolve("many.test", 80)
    assert [3, 3] == [sum(address.version == version for address in chosen) for version in (4, 6)]
    await egress.close()


# --- the third gate, by itself: nothing before it has judged ----------------------------------------------------
async def _dial(egress: Egress, url: str) -> EgressFailure:
    """A connection to what another program reads in `url`: what a fault in the first gate would come to."""
    trace, read = AttemptTrace(), urlsplit(url)
    with suppress(OSError):
        (await egress.dial(read.hostname or "", read.port or 80, trace)).close()
    await egress.close()
    assert trace.failure is not None
    return trace.failure


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://[fe80::1]/", "http://0.0.0.0:9/"])
async def test_an_ip_literal_meets_the_last_gate(names: NameServer, dialled: Dialled, url: str) -> None:
    """The resolver never sees an IP literal; the socket factory does, and nothing is dialled."""
    failure = await _dial(gates(names), url)
    assert (Reason.BLOCKED_ADDRESS, [], []) == (failure.reason, dialled, names.asked)


async def test_a_resolver_that_lies_meets_the_last_gate(
    names: NameServer, dialled: Dialled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the second gate let a denied address through among good ones, nothing is sent."""
    egress = gates(names)
    async with ScriptedReceiver(healthy) as receiver:

        async def lie(name: str, port: int) -> list[Any]:
            return [ip_address("10.0.0.1"), ip_address("127.0.0.1")]

        monkeypatch.setattr(egress, "resolve", lie)
        failure = await _dial(egress, f"http://good.test:{receiver.port}/")
    assert Reason.BLOCKED_ADDRESS == failure.reason
    assert "10.0.0.1" not in [where[0] for where in dialled]
    assert [] == receiver.requests


async def test_an_error_in_the_check_is_a_refusal(names: NameServer, dialled: Dialled) -> None:
    """An address that can't be read can't be judged: blocked, not passed."""
    egress = gates(names, EVERYTHING)
    with pytest.raises(EgressFailure) as caught:
        egress.open_socket(AttemptTrace(), (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("not an address", 80)))
    assert (Reason.BLOCKED_ADDRESS, []) == (caught.value.reason, dialled)
    await egress.close()


async def test_the_peer_that_was_reached_is_judged_too(names: NameServer) -> None:
    """Towards 0.0.0.0 the system connects to 127.0.0.1: allowed by its name, denied by where it leads."""
    async with ScriptedReceiver(healthy) as receiver:
        egress = gates(names, [ip_network("0.0.0.0/32")])
        failure = await _dial(egress, f"http://0.0.0.0:{receiver.port}/")
    assert (Reason.BLOCKED_ADDRESS, True) == (failure.reason, "127.0.0.1" in failure.detail)
    assert [] == receiver.requests


async def test_a_connection_that_the_kernel_has_forgotten_was_reset() -> None:
    """Reset before its peer could be asked for: nothing is sent, and it isn't called a blocked address."""

    class Forgotten(socket.socket):
        def getpeername(self) -> object:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    class Forgetful(Egress):
        def open_socket(self, *args: Any) -> socket.socket:
            opened = super().open_socket(*args)
            return Forgotten(opened.family, opened.type, opened.proto, fileno=opened.detach())

    async with ScriptedReceiver(healthy) as receiver:
        outcome = await post(Forgetful(LOOPBACK, allow_http=True, resolver=DnsResolver()), receiver.url)
        assert (Reason.RESET, []) == (outcome.reason, receiver.requests)


async def test_the_first_gate_knows_the_addresses_of_this_machine(
    names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A public one needs permission where it is the machine's own."""
    egress = gates(names, [])
    assert "8.8.8.8" == egress.check_url("http://8.8.8.8/").host
    monkeypatch.setattr(host, "is_of_host", lambda address: str(address) == "8.8.8.8")
    with pytest.raises(ApiError, match="doesn't send there"):
        egress.check_url("http://8.8.8.8/")
    await egress.close()


# --- webhookd itself --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("own", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "good.test", "127.1"])
async def test_webhookds_own_socket_is_never_dialled(names: NameServer, dialled: Dialled, own: str, host: str) -> None:
    """By number and by name, though loopback is allowed; another port of the same address is not webhookd."""
    async with ScriptedReceiver(healthy) as webhookd, ScriptedReceiver(healthy) as receiver:
        outcomes = []
        for port in (webhookd.port, receiver.port):
            egress = gates(names)
            egress.set_own([OwnAddress(ip_address(own), webhookd.port)])
            outcomes.append(await post(egress, f"http://{host}:{port}/"))
        assert [Reason.BLOCKED_ADDRESS, None] == [outcome.reason for outcome in outcomes]
        assert ([("127.0.0.1", receiver.port)], 0) == (dialled, webhookd.connections)


async def test_a_wildcard_socket_is_found_on_every_address_of_the_machine(names: NameServer) -> None:
    """Listening on 0.0.0.0, webhookd is at each address of the machine, and nowhere else."""
    egress = gates(names, EVERYTHING)
    egress.set_own([OwnAddress(ip_address("0.0.0.0"), 8780)])

    def is_denied(address: str, port: int) -> bool:
        try:
            egress.open_socket(AttemptTrace(), (socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port))).close()
        except EgressFailure:
            return True
        return False

    here = "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # asks for a route and sends nothing
        here = probe.getsockname()[0]
    assert [True, False, False] == [is_denied(*each) for each in ((here, 8780), ("192.0.2.1", 8780), (here, 8781))]
    await egress.close()


async def test_http_can_be_turned_off_after_an_endpoint_was_saved(names: NameServer, dialled: Dialled) -> None:
    """egress.allow_http = false holds for the endpoints that are there already."""
    egress = Egress(LOOPBACK, allow_http=False, resolver=DnsResolver([names.address]))
    outcome = await post(egress, "http://127.0.0.1:9/")
    assert (Reason.BLOCKED_ADDRESS, []) == (outcome.reason, dialled)


_ON_ITS_OWN_ADDRESSES = """
import asyncio, json
from webhookd.clock import SystemClock
from webhookd.config import networks
from webhookd.errors import ApiError
from webhookd.models import Request
from webhookd.sender.client import HttpSender
from webhookd.sender.egress import Egress

class Names:
    async def lookup(self, name):
        return ["9.9.9.9"]
    async def close(self):
        pass

async def answer(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")
    writer.close()

async def main():
    await asyncio.start_server(answer, None, 8081)
    hosts = ["9.9.9.9", "[2620:fe::fe]", "own.example", "9.9.8.7", "1.1.1.1"]
    everything = ("9.9.9.0/24", "2620:fe::/48", "9.9.8.0/24")
    for allow, deny in (((), ()), (everything, ()), (("9.9.9.0/24",), ("9.9.0.0/16",))):
        egress = Egress(networks(allow), networks(deny), allow_http=True, resolver=Names())
        sender = HttpSender(egress, timeout_seconds=2, clock=SystemClock())
        found = []
        for host in hosts:
            url = f"http://{host}:8081/"
            try:
                egress.check_url(url)
                saved = True
            except ApiError as error:
                saved = error.code
            outcome = await sender.post(Request(url, (), b"{}", False))
            found.append([saved, outcome.reason or "delivered"])
        await sender.close()
        print(json.dumps(found))

asyncio.run(main())
"""


def test_the_machines_own_public_addresses_are_denied_unless_allowed() -> None:
    """In a network namespace with public addresses on `lo`: by IP, by name, by a route that ends here."""
    unshare, ip = shutil.which("unshare"), shutil.which("ip")
    if unshare is None or ip is None or subprocess.run([unshare, "-n", "true"], check=False).returncode:
        pytest.skip("no network namespace can be made: it takes `unshare` and `ip`, and a machine that allows it")
    script = (
        f"{ip} link set lo up && {ip} addr add 9.9.9.9/32 dev lo && {ip} addr add 2620:fe::fe/128 dev lo && "
        f'{ip} route add local 9.9.8.0/24 dev lo && exec "$0" -c "$1"'
    )
    done = subprocess.run(
        [unshare, "-n", "sh", "-c", script, sys.executable, _ON_ITS_OWN_ADDRESSES],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "" == done.stderr
    denied, delivered, elsewhere = ["blocked_address"] * 2, [True, "delivered"], [True, "local"]
    assert [
        [denied, denied, [True, "blocked_address"], denied, elsewhere],
        [delivered, delivered, delivered, delivered, elsewhere],
        [denied, denied, [True, "blocked_address"], denied, elsewhere],
    ] == [json.loads(line) for line in done.stdout.splitlines()]


def test_without_netlink_a_socket_that_can_be_bound_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the routing table can't be asked, the answer is the same."""
    assert [True, True, False] == [host.is_of_host(ip_address(each)) for each in ("127.0.0.1", "::1", "9.9.9.9")]

    def fails(family: int, packed: bytes) -> bool:
        raise OSError(errno.EAFNOSUPPORT, "no netlink")

    monkeypatch.setattr(host, "_ends_here", fails)
    assert [True, True, False] == [host.is_of_host(ip_address(each)) for each in ("127.0.0.1", "::1", "9.9.9.9")]
