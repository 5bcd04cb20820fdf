"""Where webhookd sends: the second and the third gate.

A customer's URL makes webhookd connect from inside the operator's network, so an address is asked about three times
and each question fails closed: the URL when it is saved and again when it is used (`rules.urls`), *every* answer of
its name when it is resolved, and the very address of each connect, in the socket factory, which sees IP literals and
whatever else reaches a socket.  What was checked is what is dialled: the resolver hands over addresses, not names, so
no answer can change in between.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, ip_address

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType

from webhookd.models import Reason
from webhookd.rules.ip_policy import (
    Address,
    Network,
    OwnAddress,
    is_localhost,
    is_own,
    loopbacks,
    name_verdict,
    verdict,
)
from webhookd.rules.urls import UrlParts, judge_url, parse_url
from webhookd.sender.attempt_trace import CURRENT, AttemptTrace, EgressFailure, Stage, host_and_port
from webhookd.sender.resolver import Resolver

# A name may have a thousand addresses that all refuse; each family gets this many tries of the attempt's time.
_DIALLED_PER_FAMILY = 3

# At most 16 KiB of an answer are read.  A small receive buffer keeps a receiver that sends at full speed out of the
# kernel's memory and bounds what one turn of the event loop parses.  The kernel doubles it.
_RECEIVE_BUFFER_BYTES = 32 * 1024


class Egress:
    """The gates, as `egress.allow` and `egress.allow_http` set them.  Owns `resolver`: `close` closes it."""

    def __init__(self, allowed: Sequence[Network], *, allow_http: bool, resolver: Resolver) -> None:
        self._allowed = tuple(allowed)
        self._allow_http = allow_http
        self._resolver = resolver
        self._own: frozenset[OwnAddress] = frozenset()

    def set_own(self, addresses: Iterable[OwnAddress]) -> None:
        """Tell which sockets webhookd listens on, once they are bound: nothing is sent there."""
        self._own = frozenset(addresses)

    def check_url(self, url: str) -> UrlParts:
        """The first gate: `url` taken apart; Refusal `invalid_url` or `blocked_address` if it isn't one to send to."""
        return judge_url(parse_url(url), allow_http=self._allow_http, allowed=self._allowed, own=self._own)

    async def resolve(self, name: str, port: int) -> list[Address]:
        """The second gate: the addresses to dial for `name`; EgressFailure if there is none, or any is denied."""
        judged = name_verdict(name, self._allowed)
        if not judged.allowed:
            raise _blocked(f"{name} is {judged.why}")
        if is_localhost(name):
            addresses = loopbacks(self._allowed)
        else:
            addresses = [_parse(text) for text in await self._resolver.lookup(name)]
        for address in addresses:
            self._admit(address, port, f"{name} leads to ")
        return _some_of_each_family(addresses)

    def open_socket(self, target: AddrInfoType) -> socket.socket:
        """The third gate and the last word: a socket for `target`, which is dialled next; EgressFailure if denied."""
        family, kind, protocol, _, where = target
        trace = CURRENT.get()
        trace.stage = Stage.CONNECT
        trace.peer = host_and_port(str(where[0]), int(where[1]))
        try:
            self._admit(_parse(str(where[0])), int(where[1]))
        except EgressFailure as failure:
            trace.failure = failure  # kept: of several addresses dialled, aiohttp tells of one
            raise
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        return opened

    def check_peer(self, peer: tuple[str, int], trace: AttemptTrace) -> bool:
        """Whether the address that a fresh connection *did* reach is one to send to; notes the failure if not.

        It differs from the address dialled where the system redirects: towards 0.0.0.0 it reaches 127.0.0.1.
        """
        try:
            self._admit(_parse(peer[0]), peer[1])
        except EgressFailure as failure:
            trace.failure = failure
        return trace.failure is None

    async def close(self) -> None:
        """Close the resolver."""
        await self._resolver.close()

    def _admit(self, address: Address, port: int, prefix: str = "") -> None:
        judged = verdict(address, self._allowed)
        if not judged.allowed:
            raise _blocked(f"{prefix}{address}: {judged.why}")
        if is_own(address, port, self._own) or self._listens_here(address, port):
            raise _blocked(f"{prefix}{host_and_port(str(address), port)}, where webhookd itself listens")

    def _listens_here(self, address: Address, port: int) -> bool:
        """Whether webhookd listens on every address of the machine, and `address` is one of them.

        A datagram socket can be bound only to an address of the machine; that asks the kernel and sends nothing.
        """
        if not any(mine.ip.is_unspecified and mine.port == port for mine in self._own):
            return False
        family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((str(address), 0))
            except OSError:
                return False
        return True


class GatedResolver(AbstractResolver):
    """`Egress.resolve` in the shape that aiohttp asks for."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of `host` that may be dialled; EgressFailure, noted in the exchange."""
        trace = CURRENT.get()
        trace.stage = Stage.RESOLVE
        try:
            addresses = await self._egress.resolve(host, port)
        except EgressFailure as failure:
            trace.failure = failure
            raise
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing: the resolver is `Egress`'s, and two connectors share it."""


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
