"""Whose fault a failed connection is: the receiver's, or this machine's own.

Failures of this machine are `local`: recorded, never counted against a budget, tried again until they pass.  A VM
without a network must not disable its customers' webhooks.
"""

from __future__ import annotations

import errno
import socket
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
    """Whether the machine has a default route of any family; True where that can't be found out.

    Blocks for two small reads of procfs, so it is asked only after a failure.
    """
    try:
        return _has_default_ipv4(proc_net / "route") or _has_default_ipv6(proc_net / "ipv6_route")
    except (OSError, ValueError, IndexError):
        return True


def is_cut_off(proc_net: Path = PROC_NET) -> bool:
    """Whether the machine has network interfaces beside loopback, but no way out: no default route of any family."""
    return any(name != "lo" for _, name in socket.if_nameindex()) and not has_default_route(proc_net)


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
