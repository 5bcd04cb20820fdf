"""Which addresses webhookd sends to: the table that all three SSRF gates use.

Source: IANA's *special-purpose address registries* for IPv4 and IPv6 (RFC 6890 and its successors).
`ipaddress.is_global` is True for addresses that reach into the machine or the cloud (`64:ff9b::a9fe:a9fe`), and differs
between versions of Python.  The first row that matches decides: in `egress.deny`: no; an address that wraps an IPv4
address (only NAT64's `64:ff9b::/96` is judged by the one inside: machines with DNS64 need it), link-local or metadata:
never; in `egress.allow`: yes; special-purpose, IPv6 outside of `2000::/3`, or of this machine's own interfaces: no.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether webhookd sends to an address (or a name), and why: `why` completes the sentence "it is …"."""

    allowed: bool
    why: str


@dataclass(frozen=True, slots=True)
class OwnAddress:
    """One of webhookd's own listening sockets.  An unspecified `ip` means every address of the machine."""

    ip: Address
    port: int


def _table(*rows: tuple[str, str]) -> tuple[tuple[Network, str], ...]:
    return tuple((ip_network(network), why) for network, why in rows)


_NAT64 = IPv6Network("64:ff9b::/96")

_WRAPPED = _table(
    ("::ffff:0:0/96", "an IPv4 address written as IPv6"),
    ("::ffff:0:0:0/96", "an IPv4 address translated to IPv6"),
    ("64:ff9b:1::/48", "a local-use NAT64 address"),
    ("2002::/16", "a 6to4 address, which wraps an IPv4 address"),
    ("2001::/32", "a Teredo address, which wraps an IPv4 address"),
)

_ALWAYS = _table(
    ("169.254.0.0/16", "a link-local address, where clouds keep their metadata service"),
    ("fe80::/10", "a link-local address"),
    ("fd00:ec2::/64", "a metadata service (AWS)"),
    ("fd20:ce::254/128", "a metadata service (Google)"),
    ("fd00:42::42/128", "a metadata service (Scaleway)"),
    ("100.100.100.200/32", "a metadata service (Alibaba)"),
    ("168.63.129.16/32", "a metadata service (Azure)"),
    ("192.0.0.192/32", "a metadata service (Oracle)"),
)

_SPECIAL = _table(
    ("0.0.0.0/8", 'an address of "this network"'),
    ("10.0.0.0/8", "a private address"),
    ("100.64.0.0/10", "a provider's shared address"),
    ("127.0.0.0/8", "a loopback address"),
    ("172.16.0.0/12", "a private address"),
    ("192.0.0.0/24", "an address reserved for protocols"),
    ("192.0.2.0/24", "a documentation address"),
    ("192.88.99.0/24", "a 6to4 relay's address"),
    ("192.168.0.0/16", "a private address"),
    ("198.18.0.0/15", "a benchmarking address"),
    ("198.51.100.0/24", "a documentation address"),
    ("203.0.113.0/24", "a documentation address"),
    ("224.0.0.0/4", "a multicast address"),
    ("240.0.0.0/4", "a reserved address"),
    ("::/128", "the unspecified address"),
    ("::1/128", "a loopback address"),
    ("100::/64", "a discard address"),
    ("2001::/23", "an address reserved for protocols"),
    ("2001:db8::/32", "a documentation address"),
    ("3fff::/20", "a documentation address"),
    ("5f00::/16", "a segment-routing address"),
    ("fc00::/7", "a private address"),
    ("fec0::/10", "a site-local address"),
    ("ff00::/8", "a multicast address"),
)

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_LOOPBACKS: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))

# Names that clouds give to their metadata service; the addresses behind them are in `_ALWAYS` as well.
_METADATA_NAMES = frozenset(
    {
        "instance-data",
        "instance-data.ec2.internal",
        "metadata",
        "metadata.azure.internal",
        "metadata.goog",
        "metadata.google.internal",
        "metadata.platformequinix.com",
        "metadata.tencentyun.com",
    }
)


def _row(address: Address, table: Iterable[tuple[Network, str]]) -> str | None:
    return next((why for network, why in table if address in network), None)


def _wrapped(address: Address) -> str | None:
    # The old IPv4-compatible form, `::a.b.c.d`; `::` and `::1` share its prefix but aren't of that form.
    if isinstance(address, IPv6Address) and 1 < int(address) <= 0xFFFFFFFF:
        return "an IPv4 address written as IPv6"
    return _row(address, _WRAPPED)


def _is_elsewhere(address: Address) -> bool:
    return False


def verdict(
    address: Address,
    allowed: Sequence[Network],
    denied: Sequence[Network] = (),
    is_of_host: Callable[[Address], bool] = _is_elsewhere,
) -> Verdict:
    """Judge one address by the order of the module's docstring.

    `allowed` and `denied` are the networks of `egress.allow` and `egress.deny`; `is_of_host` tells whether an
    interface of this machine has the address.
    """
    if isinstance(address, IPv6Address):
        address = IPv6Address(int(address))  # without the zone (%eth0), which names an interface, not a destination
    if any(address in network for network in denied):
        return Verdict(False, "in a network of egress.deny")
    if address in _NAT64:
        inside = IPv4Address(int(address) & 0xFFFFFFFF)
        judged = verdict(inside, allowed, denied, is_of_host)
        return Verdict(judged.allowed, f"the NAT64 address of {inside}, {judged.why}")
    why = _wrapped(address) or _row(address, _ALWAYS)
    if why is not None:
        return Verdict(False, why)
    if any(address in network for network in allowed):
        return Verdict(True, "in a network of egress.allow")
    why = _row(address, _SPECIAL)
    if why is None and isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        why = "outside of the public IPv6 addresses"
    if why is None and is_of_host(address):
        why = "an address of this machine"
    return Verdict(True, "a public address") if why is None else Verdict(False, why)


def is_localhost(name: str) -> bool:
    """Whether `name` always means this machine: `localhost` and everything below it (RFC 6761, section 6.3)."""
    bare = name.rstrip(".").lower()
    return bare == "localhost" or bare.endswith(".localhost") or bare == "localhost.localdomain"


def loopbacks(allowed: Sequence[Network], denied: Sequence[Network] = ()) -> list[Address]:
    """What a localhost name resolves to: those of 127.0.0.1 and ::1 that are sent to."""
    return [address for address in _LOOPBACKS if verdict(address, allowed, denied).allowed]


def name_verdict(name: str, allowed: Sequence[Network], denied: Sequence[Network] = ()) -> Verdict:
    """Judge a name before any lookup: localhost only where a loopback address is allowed, metadata never."""
    bare = name.rstrip(".").lower()
    if bare in _METADATA_NAMES or bare.endswith(".metadata.google.internal"):
        return Verdict(False, "a name of the cloud's metadata service")
    if is_localhost(bare) and not loopbacks(allowed, denied):
        return Verdict(False, "this machine")
    return Verdict(True, "a name")


def is_own(address: Address, port: int, own: Iterable[OwnAddress]) -> bool:
    """Whether `address` and `port` are a socket that webhookd listens on.

    A connection to 0.0.0.0 or :: goes to loopback; a socket that listens on them accepts loopback too.
    """
    target = address.ipv4_mapped if isinstance(address, IPv6Address) and address.ipv4_mapped else address
    here = target.is_loopback or target.is_unspecified
    return any(
        port == mine.port and (target == mine.ip or (here and (mine.ip.is_unspecified or target.is_unspecified)))
        for mine in own
    )
