"""Names to addresses, by c-ares (aiodns): every lookup waits for itself alone.

The system's own `getaddrinfo` blocks a thread per lookup; with a few silent names all threads hang and healthy
endpoints time out (measured).  c-ares asks over its own sockets, as many names at once as there are, honours
/etc/resolv.conf, /etc/hosts and /etc/nsswitch.conf, follows their changes, and keeps answers for their time to live.

One thing its questions share: after an answer that is no DNS message c-ares gives up the socket, and asks again for
everybody who waited on it.  A few such answers for one name use up the tries of all the others; so whoever is told of
a malformed answer asks once more over a channel of its own, where only its own name can spoil it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Protocol

import aiodns
import aiodns.error as ares
import pycares

from webhookd.models import Reason
from webhookd.sender import host
from webhookd.sender.attempt_trace import EgressFailure

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
