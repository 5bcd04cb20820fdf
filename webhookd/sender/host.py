"""What webhookd asks its own machine: whose fault a failed connection is, and which addresses are its own.

Failures of this machine are `local`: recorded, never counted against a budget, tried again until they pass.  A VM
without a network must not disable its customers' webhooks.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

# Not /proc/net: under ProcSubset=pid, which the systemd unit asks for, that link is hidden.
PROC_NET = Path("/proc/self/net")

# What the system says when *it* has run out: descriptors, memory, buffers, and ports to call from.
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})

# Flags of a route, from linux/route.h and linux/ipv6_route.h.
_RTF_UP = 0x0001
_RTF_REJECT = 0x0200


def has_default_route(proc_net: Path = PROC_NET) -> bool:
    """Whether the machine has a default route of any family; True where that can't be found out.  Blocks shortly."""
    try:
        return _has_default_ipv4(proc_net / "route") or _has_default_ipv6(proc_net / "ipv6_route")
    except (OSError, ValueError, IndexError):
        return True


def is_cut_off(proc_net: Path = PROC_NET) -> bool:
    """Whether the machine has network interfaces beside loopback, but no way out: no default route of any family."""
    return any(name != "lo" for _, name in socket.if_nameindex()) and not has_default_route(proc_net)


# Of linux/rtnetlink.h: a question for the route to an address, and the type of route that ends on this machine.
_RTM_GETROUTE = 26
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_RTA_DST = 1
_RTN_LOCAL = 2
_NO_ROUTE = UNREACHABLE | {errno.EACCES, errno.EPERM, errno.EINVAL}  # of `ip route add prohibit` and `blackhole`
_HEAD = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")


def is_of_host(address: IPv4Address | IPv6Address) -> bool:
    """Whether packets to `address` stay on this machine: an interface has it, or a route keeps them here.

    Asks the kernel's routing table (rtnetlink(7)), which sends nothing; without netlink, whether a socket can be bound
    to it.  Neither blocks.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        return _ends_here(family, address.packed)
    except OSError:  # no netlink here (a filter of system calls), or no descriptor
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((str(address), 0))
            except OSError:
                return False
        return True


def _ends_here(family: int, packed: bytes) -> bool:
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _RTA_DST) + packed
    route = _ROUTE.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0)
    length = _HEAD.size + len(route) + len(attribute)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE) as kernel:
        kernel.sendto(_HEAD.pack(length, _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + route + attribute, (0, 0))
        answer = kernel.recv(4096)  # the kernel answers while it takes the question
    if _HEAD.unpack_from(answer)[1] == _NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, _HEAD.size)
        if -code in _NO_ROUTE:
            return False
        raise OSError(-code, os.strerror(-code))
    return bool(_ROUTE.unpack_from(answer, _HEAD.size)[7] == _RTN_LOCAL)


def _has_default_ipv4(table: Path) -> bool:
    """Columns: interface, destination, gateway, flags, three counters, mask; numbers in hex."""
    if not table.exists():
        return False
    rows = (line.split() for line in table.read_text().splitlines()[1:])
    return any(row[1] == row[7] == "00000000" and _usable(row[3]) for row in rows)


def _has_default_ipv6(table: Path) -> bool:
    """Columns: destination, its prefix length, source, its prefix length, gateway, three counters, flags, interface."""
    if not table.exists():
        return False
    rows = (line.split() for line in table.read_text().splitlines())
    return any(row[0] == "0" * 32 and row[1] == "00" and _usable(row[8]) for row in rows)


def _usable(flags: str) -> bool:
    return int(flags, 16) & (_RTF_UP | _RTF_REJECT) == _RTF_UP
