"""Where webhookd sends: the three gates against SSRF, and a look at the peer once connected.

An address is judged three times, and each check fails closed: the URL when it is saved and used (`rules.urls`),
*every* address that its name resolves to, and the address of each connect, in the socket factory.  The resolver hands
over addresses, not names, so no answer can change in between.

Names are resolved by c-ares (aiodns): `getaddrinfo` blocks a thread per lookup, and a few silent names would hang all
threads.  All lookups share one socket, which c-ares gives up after a malformed answer, asking again for every name; so
a lookup that gets one is repeated over a channel of its own.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from functools import partial
from ipaddress import IPv4Address, ip_address
from typing import Protocol

import aiodns
import aiodns.error as ares
import pycares
from aiohappyeyeballs import AddrInfoType, start_connection

from webhookd.errors import ApiError
from webhookd.models import Reason
from webhookd.rules.ip_policy import (
    Address,
    Network,
    OwnAddress,
    Verdict,
    is_localhost,
    is_own,
    loopbacks,
    name_verdict,
    verdict,
)
from webhookd.rules.urls import HOW_TO_ALLOW, UrlParts, judge_url, parse_url
from webhookd.sender import host
from webhookd.sender.attempt_trace import AttemptTrace, EgressFailure, Stage, host_and_port

# A name may have a thousand addresses that all refuse; each family gets this many tries of the attempt's time.
_DIALLED_PER_FAMILY = 3

# RFC 8305, section 5: so long after one address the next is tried beside it.
_NEXT_ADDRESS_SECONDS = 0.25

# At most 16 KiB of an answer are read.  A small receive buffer keeps a receiver that sends at full speed out of the
# kernel's memory and bounds what one turn of the event loop parses.  The kernel doubles it.
_RECEIVE_BUFFER_BYTES = 32 * 1024

# c-ares waits this long for the first answer and longer for each further try; the attempt's own deadline is above it.
_FIRST_TRY_SECONDS = 1.0
_TRIES = 4

# ARES_AI_NOSORT of ares.h, which pycares doesn't export.  Sorting would open a socket towards each address, and that
# before any gate has judged it.
_NO_SORT = 1 << 7

_ALONE_AT_ONCE = 16  # each is a thread and some descriptors, for as long as a lookup takes

_TEXTS = {
    ares.ARES_ENOTFOUND: "the name doesn't exist",
    ares.ARES_ENODATA: "the name has no address",
    ares.ARES_EBADNAME: "the name is malformed",
    ares.ARES_ESERVFAIL: "the name server failed (SERVFAIL)",
    ares.ARES_EREFUSED: "the name server refused to answer",
    ares.ARES_EBADRESP: "the name server's answer is malformed",
    ares.ARES_ETIMEOUT: "no name server answered",
}
_NO_RESOLVER = frozenset({ares.ARES_ECONNREFUSED, ares.ARES_ENOTINITIALIZED, ares.ARES_EFILE, ares.ARES_ENOMEM})
_RESOLVER_AT_A_LOSS = frozenset({ares.ARES_ESERVFAIL, ares.ARES_EREFUSED})


class Resolver(Protocol):
    """What `Egress` asks for the addresses of a name."""

    async def lookup(self, name: str) -> list[str]:
        """All addresses of `name`, of both families; EgressFailure (`dns` or `local`) if there are none."""
        ...

    async def close(self) -> None:
        """Give back sockets and threads."""
        ...


class DnsResolver:
    """The resolver of the machine, or the given `nameservers` ("127.0.0.1:5353")."""

    def __init__(self, nameservers: Sequence[str] = ()) -> None:
        self._nameservers = list(nameservers)
        self._channel: aiodns.DNSResolver | None = None
        self._alone: set[aiodns.DNSResolver] = set()
        self._turns = asyncio.Semaphore(_ALONE_AT_ONCE)

    async def lookup(self, name: str) -> list[str]:
        """See `Resolver.lookup`."""
        try:
            try:
                return await _ask(self._shared_channel(), name)
            except ares.DNSError as error:
                if _code(error) != ares.ARES_EBADRESP:
                    raise
                return await self._ask_alone(name)
        except ares.DNSError as error:
            raise _explain(name, error) from error
        except pycares.AresError as error:
            raise EgressFailure(Reason.LOCAL, f"this machine's resolver could not be started: {error}") from error

    async def close(self) -> None:
        """See `Resolver.close`."""
        for channel in (*self._alone, *([self._channel] if self._channel else [])):
            await channel.close()
        self._channel = None

    async def _ask_alone(self, name: str) -> list[str]:
        """Ask over a channel that carries no other question."""
        async with self._turns:
            channel = self._open()
            self._alone.add(channel)
            try:
                return await _ask(channel, name)
            finally:
                self._alone.discard(channel)
                await channel.close()

    def _shared_channel(self) -> aiodns.DNSResolver:
        """The channel of all, opened at the first lookup: a machine without a resolver may get one later."""
        if self._channel is None:
            self._channel = self._open()
        return self._channel

    def _open(self) -> aiodns.DNSResolver:
        return aiodns.DNSResolver(nameservers=self._nameservers or None, timeout=_FIRST_TRY_SECONDS, tries=_TRIES)


class Egress:
    """The gates, as `[egress]` sets them.  Owns `resolver`: `close` closes it."""

    def __init__(
        self, allowed: Sequence[Network], denied: Sequence[Network] = (), *, allow_http: bool, resolver: Resolver
    ) -> None:
        self._allowed = tuple(allowed)
        self._denied = tuple(denied)
        self._allow_http = allow_http
        self._resolver = resolver
        self._own: frozenset[OwnAddress] = frozenset()

    def set_own(self, addresses: Iterable[OwnAddress]) -> None:
        """Set the sockets that webhookd listens on, once they are bound: nothing is sent there."""
        self._own = frozenset(addresses)

    def check_url(self, url: str) -> UrlParts:
        """The first gate: `url` taken apart; ApiError `invalid_url` or `blocked_address` otherwise."""
        parts = judge_url(
            parse_url(url), allow_http=self._allow_http, allowed=self._allowed, denied=self._denied, own=self._own
        )
        judged = self._judge(parts.address) if parts.address is not None else Verdict(True, "a name")
        if not judged.allowed:
            message = f"{parts.host} is {judged.why}; webhookd doesn't send there. {HOW_TO_ALLOW}"
            raise ApiError("blocked_address", message, details={"field": "url"})
        return parts

    async def resolve(self, name: str, port: int) -> list[Address]:
        """The second gate: the addresses to dial for `name`; EgressFailure if there is none, or any is denied."""
        judged = name_verdict(name, self._allowed, self._denied)
        if not judged.allowed:
            raise _blocked(f"{name} is {judged.why}")
        if is_localhost(name):
            addresses = loopbacks(self._allowed, self._denied)
        else:
            addresses = [_parse(text) for text in await self._resolver.lookup(name)]
        for address in addresses:
            self._admit(address, port, f"{name} leads to ")
        return _some_of_each_family(addresses)

    async def dial(self, host: str, port: int, trace: AttemptTrace) -> socket.socket:
        """A connected socket to `host`, which is a name or an address: what was judged and nothing else is dialled.

        EgressFailure, noted in `trace`, if a gate denies it or there is no address; OSError if none can be reached.
        """
        try:
            addresses = await self._addresses(host, port, trace)
        except EgressFailure as failure:
            trace.failure = failure
            raise
        sock = await start_connection(
            [_dialled(address, port) for address in addresses],
            happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS,
            socket_factory=partial(self.open_socket, trace),
        )
        try:
            self._check_peer(sock, trace)
        except EgressFailure as failure:
            trace.failure = failure
        if trace.failure is not None:  # also of another address that was dialled beside it
            sock.close()
            raise trace.failure
        return sock

    def open_socket(self, trace: AttemptTrace, target: AddrInfoType) -> socket.socket:
        """The third gate: a socket for `target`, which is dialled next; EgressFailure, noted in `trace`, if denied."""
        family, kind, protocol, _, where = target
        trace.stage = Stage.CONNECT
        trace.peer = host_and_port(str(where[0]), int(where[1]))
        try:
            self._admit(_parse(str(where[0])), int(where[1]))
        except EgressFailure as failure:
            trace.failure = failure  # of several addresses dialled, one error alone is raised in the end
            raise
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        return opened

    async def _addresses(self, host: str, port: int, trace: AttemptTrace) -> list[Address]:
        try:
            return [ip_address(host)]
        except ValueError:
            trace.stage = Stage.RESOLVE
            return await self.resolve(host, port)

    def _check_peer(self, sock: socket.socket, trace: AttemptTrace) -> None:
        """EgressFailure if the address that *was* reached is denied: 0.0.0.0 reaches 127.0.0.1."""
        try:
            host, port, *_ = sock.getpeername()
        except OSError:  # the kernel has forgotten it: the connection is over already
            raise EgressFailure(Reason.RESET, f"the connection to {trace.peer} was reset") from None
        self._admit(_parse(host), port)

    async def close(self) -> None:
        """Close the resolver."""
        await self._resolver.close()

    def _judge(self, address: Address) -> Verdict:
        return verdict(address, self._allowed, self._denied, host.is_of_host)

    def _admit(self, address: Address, port: int, prefix: str = "") -> None:
        judged = self._judge(address)
        if not judged.allowed:
            raise _blocked(f"{prefix}{address}: {judged.why}")
        if is_own(address, port, self._own) or self._listens_here(address, port):
            raise _blocked(f"{prefix}{host_and_port(str(address), port)}, where webhookd itself listens")

    def _listens_here(self, address: Address, port: int) -> bool:
        """Whether webhookd listens on every address of the machine, and `address` is one of them."""
        everywhere = any(mine.ip.is_unspecified and mine.port == port for mine in self._own)
        return everywhere and host.is_of_host(address)


def _dialled(address: Address, port: int) -> AddrInfoType:
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (str(address), port)


def _parse(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise _blocked(f"{text[:64]!a} is no address that can be judged") from None


def _blocked(detail: str) -> EgressFailure:
    return EgressFailure(Reason.BLOCKED_ADDRESS, f"blocked: {detail}")


def _some_of_each_family(addresses: list[Address]) -> list[Address]:
    dialled = {4: 0, 6: 0}
    chosen = []
    for address in addresses:
        dialled[address.version] += 1
        if dialled[address.version] <= _DIALLED_PER_FAMILY:
            chosen.append(address)
    return chosen


async def _ask(channel: aiodns.DNSResolver, name: str) -> list[str]:
    answer = await channel.getaddrinfo(name, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM, flags=_NO_SORT)
    return [node.addr[0].decode("ascii") for node in answer.nodes]


def _code(error: ares.DNSError) -> int:
    return int(error.args[0])


def _explain(name: str, error: ares.DNSError) -> EgressFailure:
    """`local` if no resolver could be reached, or if it is at a loss because the machine is cut off; else `dns`.

    A local stub (systemd-resolved) goes on answering when the network is gone: with SERVFAIL, for every name.
    """
    code = _code(error)
    if code in _NO_RESOLVER:
        return EgressFailure(Reason.LOCAL, f"no usable resolver: no name server of this machine was reached for {name}")
    if code in _RESOLVER_AT_A_LOSS and host.is_cut_off():
        return EgressFailure(Reason.LOCAL, f"this machine has no default route, and its resolver no answer for {name}")
    return EgressFailure(Reason.DNS, f"DNS: {_TEXTS.get(code, 'the lookup failed')}: {name}")
