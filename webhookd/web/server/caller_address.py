"""Where a call came from, for the audit trail and against guessing; never for a right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from aiohttp import web

from webhookd.config import Network, networks

LOCAL = "local"  # over the unix socket
UNKNOWN = "unknown"  # the connection had ended before its peer could be asked

Address = IPv4Address | IPv6Address
AddressOf = Callable[[web.Request], str]
ADDRESS_OF: web.AppKey[AddressOf] = web.AppKey("address_of")


def caller_address(request: web.Request) -> str:
    """The caller's IP address, `local` or `unknown`."""
    return request.app[ADDRESS_OF](request)


def address_behind(trusted_proxies: Iterable[str]) -> AddressOf:
    """A function for `ADDRESS_OF`: the peer's address or, where that is a trusted proxy's, what the proxy says.

    `X-Forwarded-For` is read from its right end, where the nearest proxy adds what it saw: the first address that is
    no trusted proxy's is the caller's, and what stands left of it is the caller's own invention.
    """
    trusted = networks(trusted_proxies)

    def address_of(request: web.Request) -> str:
        peer = request.protocol.peername
        if not isinstance(peer, tuple):
            over_tcp = isinstance(request.protocol.sockname, tuple)
            return UNKNOWN if over_tcp else LOCAL
        address = _parsed(str(peer[0]))
        if address is None:
            return UNKNOWN
        if trusted and _is_in(address, trusted):
            address = _forwarded(address, request.headers.getall("X-Forwarded-For", ()), trusted)
        return str(address)

    return address_of


def _forwarded(proxy: Address, headers: Iterable[str], trusted: Iterable[Network]) -> Address:
    for text in reversed(",".join(headers).split(",")):
        address = _parsed(text.strip())
        if address is None:  # whatever this is, the proxy that sent it is the nearest that is known
            break
        proxy = address
        if not _is_in(address, trusted):
            break
    return proxy


def _is_in(address: Address, trusted: Iterable[Network]) -> bool:
    return any(address in network for network in trusted)


def _parsed(text: str) -> Address | None:
    """An address, which some proxies write with a port; an IPv4 one that was wrapped into IPv6 as itself."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
