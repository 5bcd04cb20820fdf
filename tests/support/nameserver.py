"""A real DNS server on loopback (UDP, RFC 1035) that answers as a test says."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from types import TracebackType
from typing import cast

NXDOMAIN = 3
SERVFAIL = 2
REFUSED = 5

_A, _CNAME, _AAAA = 1, 5, 28


class Silence:
    """The answer of a server that doesn't answer."""


class Garbage:
    """An answer that is none: the question's number, and noise after it."""


@dataclass(frozen=True, slots=True)
class Alias:
    """A CNAME, followed by the addresses of the other name in the same answer."""

    name: str
    addresses: tuple[str, ...]


# Addresses of both families, an error code, an alias, noise, or nothing at all.
Answer = tuple[str, ...] | int | Alias | type[Garbage] | type[Silence]


@dataclass(slots=True)
class NameServer:
    """`async with NameServer({"a.test": ("192.0.2.1",)}) as server`; unknown names don't exist.

    `address` is what `DnsResolver` takes; `asked` lists the names in the order of the questions.
    """

    answers: Mapping[str, Answer]
    ttl_seconds: int = 0
    asked: list[str] = field(default_factory=list)
    _transport: asyncio.DatagramTransport | None = None

    @property
    def address(self) -> str:
        assert self._transport is not None
        host, port = self._transport.get_extra_info("sockname")
        return f"{host}:{port}"

    async def __aenter__(self) -> NameServer:
        self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Protocol(self), local_addr=("127.0.0.1", 0)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._transport is not None
        self._transport.close()

    def reply(self, query: bytes) -> bytes | None:
        """The answer to one query, None for silence."""
        name, end = _question(query)
        kind = int.from_bytes(query[end : end + 2], "big")
        self.asked.append(name)
        answer = self.answers.get(name, NXDOMAIN)
        if answer is Silence:
            return None
        if answer is Garbage:
            return query[:2] + b"\x81\x80" + b"\xff" * 40
        assert not isinstance(answer, type)
        code = answer if isinstance(answer, int) else 0
        records = [] if isinstance(answer, int) else self._records(answer, kind)
        head = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(records), 0, 0)
        return head + query[12 : end + 4] + b"".join(records)

    def _records(self, answer: tuple[str, ...] | Alias, kind: int) -> list[bytes]:
        owner, records = b"\xc0\x0c", []
        addresses = answer
        if isinstance(answer, Alias):
            target = _encode(answer.name)
            records.append(self._record(owner, _CNAME, target))
            owner, addresses = target, answer.addresses
        for text in addresses:
            address = ip_address(text)
            if kind == (_AAAA if isinstance(address, IPv6Address) else _A):
                records.append(self._record(owner, kind, address.packed))
        return records

    def _record(self, owner: bytes, kind: int, data: bytes) -> bytes:
        return owner + struct.pack(">HHIH", kind, 1, self.ttl_seconds, len(data)) + data


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._server.reply(data)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)


def _question(query: bytes) -> tuple[str, int]:
    """The name asked for, in lower case, and where its bytes end."""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii").lower())
        at += 1 + query[at]
    return ".".join(labels), at + 1


def _encode(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
