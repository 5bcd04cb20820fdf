"""Whose fault a failed connection is: read from the kernel's tables of routes."""

from __future__ import annotations

from pathlib import Path

import pytest

from webhookd.sender import host

HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
DEFAULT_V4 = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
LAN_V4 = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
HALF_V4 = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000080\t0\t0\t0\n"
REJECT_V4 = "*\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0\n"
DOWN_V4 = "eth0\t00000000\t010200C0\t0002\t0\t0\t0\t00000000\t0\t0\t0\n"
ZERO = "0" * 32
DEFAULT_V6 = f"{ZERO} 00 {ZERO} 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth0\n"
REJECT_V6 = f"{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo\n"
LINK_V6 = f"fe80{'0' * 28} 40 {ZERO} 00 {ZERO} 00000100 00000001 00000000 00000001     eth0\n"


@pytest.mark.parametrize(
    ("route", "ipv6_route", "expected"),
    [
        (HEADER + DEFAULT_V4 + LAN_V4, "", True),
        (HEADER, DEFAULT_V6, True),
        (None, LINK_V6 + DEFAULT_V6 + REJECT_V6, True),
        (HEADER + DEFAULT_V4, None, True),
        (HEADER, REJECT_V6, False),
        (HEADER + LAN_V4 + REJECT_V4, LINK_V6 + REJECT_V6, False),
        (HEADER + DOWN_V4 + HALF_V4, "", False),
        ("", "", False),
        (None, None, False),
        ("Iface\nnonsense\n", "", True),
    ],
)
def test_the_default_route_is_found(tmp_path: Path, route: str | None, ipv6_route: str | None, expected: bool) -> None:
    """A usable default route of either family; reject and half routes are none; what can't be read counts as one."""
    for name, text in (("route", route), ("ipv6_route", ipv6_route)):
        if text is not None:
            (tmp_path / name).write_text(text)
    assert expected == host.has_default_route(tmp_path)


def test_a_machine_of_loopback_alone_is_not_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any other interface there is no network to lose."""
    monkeypatch.setattr(host.socket, "if_nameindex", lambda: [(1, "lo")])
    assert not host.is_cut_off(tmp_path)
    monkeypatch.setattr(host.socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    assert host.is_cut_off(tmp_path)
