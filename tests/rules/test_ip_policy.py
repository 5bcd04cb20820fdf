"""The table of addresses: what webhookd sends to, whatever `ipaddress` thinks of it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from webhookd.rules.ip_policy import OwnAddress, Verdict, is_localhost, is_own, loopbacks, name_verdict, verdict

EVERYTHING = [ip_network("0.0.0.0/0"), ip_network("::/0")]
LOOPBACK_V4 = [ip_network("127.0.0.0/8")]

PUBLIC = [
    "1.0.0.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "93.184.216.34", "100.63.255.255", "100.128.0.0",
    "126.255.255.255", "128.0.0.0", "168.63.129.15", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0",
    "192.0.1.0", "192.0.3.0", "192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0", "198.17.255.255",
    "198.20.0.0", "223.255.255.255", "2001:200::1", "2001:4860:4860::8888", "2003::1", "2606:4700:4700::1111",
    "2a00:1450:4001::1", "3ffe::1", "64:ff9b::808:808", "64:ff9b::8.8.4.4",
]  # fmt: skip

DENIED_UNLESS_ALLOWED = [
    "0.0.0.0", "0.1.2.3", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "127.0.0.1",
    "127.255.255.254", "172.16.0.0", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.0.1",
    "192.168.255.255", "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.7", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255", "::", "::1", "100::1", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1",
    "3fff::1", "3fff:fff:ffff::1", "4000::1", "5f00::1", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "ff0e::1",
    "64:ff9b::a00:1", "64:ff9b::7f00:1", "64:ff9b::c0a8:101",
]  # fmt: skip

DENIED_ALWAYS = [
    "169.254.0.1", "169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fe80::1",
    "fe80::1%eth0", "febf::1", "fd00:ec2::254", "fd20:ce::254", "fd00:42::42", "64:ff9b::a9fe:a9fe",
    "64:ff9b::6464:64c8", "64:ff9b:1::1", "64:ff9b:1:ffff::a9fe:a9fe", "::ffff:127.0.0.1", "::ffff:8.8.8.8",
    "::ffff:a9fe:a9fe", "::ffff:0:8.8.8.8", "::127.0.0.1", "::2", "::ffff", "::8.8.8.8", "2002:7f00:1::",
    "2002:808:808::1", "2001::1", "2001:0:808:808::1",
]  # fmt: skip


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_sent_to(text: str) -> None:
    """A public address needs no permission."""
    assert verdict(ip_address(text), []).allowed


@pytest.mark.parametrize("text", DENIED_UNLESS_ALLOWED)
def test_special_addresses_need_permission(text: str) -> None:
    """A special-purpose address is denied by default, and sent to where egress.allow holds it."""
    assert (False, True) == (verdict(ip_address(text), []).allowed, verdict(ip_address(text), EVERYTHING).allowed)


@pytest.mark.parametrize("text", DENIED_ALWAYS)
def test_metadata_link_local_and_wrapped_are_never_sent_to(text: str) -> None:
    """Not even an egress.allow of everything opens metadata, link-local and wrapped addresses."""
    assert (False, False) == (verdict(ip_address(text), []).allowed, verdict(ip_address(text), EVERYTHING).allowed)


def test_a_network_allows_its_own_addresses_alone() -> None:
    """egress.allow of one network opens neither its neighbour nor the other family."""
    judged = [verdict(ip_address(text), LOOPBACK_V4).allowed for text in ("127.0.0.1", "126.0.0.1", "10.0.0.1", "::1")]
    assert [True, True, False, False] == judged


@pytest.mark.parametrize("text", ["8.8.8.8", "127.0.0.1", "2a00:1450:4001::1", "64:ff9b::808:808"])
def test_a_denied_network_wins_over_everything(text: str) -> None:
    """egress.deny against egress.allow and the table; NAT64 by the address inside too."""
    denied = [ip_network("8.8.8.0/24"), ip_network("127.0.0.0/8"), ip_network("2a00::/16")]
    judged = [verdict(ip_address(text), allowed, denied).allowed for allowed in ([], EVERYTHING)]
    assert [False, False] == judged
    assert not name_verdict("localhost", EVERYTHING, [*denied, ip_network("::1/128")]).allowed


@pytest.mark.parametrize("text", ["8.8.8.8", "2a00:1450:4001::1", "64:ff9b::808:808"])
def test_the_machines_own_addresses_need_permission(text: str) -> None:
    """A public address of this machine is no public target."""
    judged = [verdict(ip_address(text), allowed, (), lambda _: True).allowed for allowed in ([], EVERYTHING)]
    assert [False, True] == judged


def test_a_verdict_says_why() -> None:
    """The reason completes "it is …", for messages."""
    assert Verdict(False, "a loopback address") == verdict(ip_address("127.0.0.1"), [])
    inside = verdict(ip_address("64:ff9b::a00:1"), [])
    assert Verdict(False, "the NAT64 address of 10.0.0.1, a private address") == inside


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "foo.localhost", "a.b.LocalHost", "localhost.localdomain"])
def test_localhost_names_need_a_loopback_network(name: str) -> None:
    """localhost and everything below it are this machine, whatever DNS says (RFC 6761)."""
    assert is_localhost(name)
    judged = (name_verdict(name, []).allowed, name_verdict(name, LOOPBACK_V4).allowed)
    assert (False, True) == judged


@pytest.mark.parametrize("name", ["localhost.example.com", "notlocalhost", "example.com", "localhosts"])
def test_names_that_only_look_like_localhost_are_names(name: str) -> None:
    """A name is judged by its addresses later."""
    assert not is_localhost(name)
    assert name_verdict(name, []).allowed


@pytest.mark.parametrize(
    "name",
    [
        "metadata.google.internal",
        "METADATA.google.internal.",
        "x.metadata.google.internal",
        "metadata",
        "metadata.goog",
    ],
)
def test_metadata_names_are_denied_always(name: str) -> None:
    """The cloud's metadata service has names, too."""
    assert not name_verdict(name, EVERYTHING).allowed


def test_localhost_leads_to_the_allowed_loopbacks() -> None:
    """With 127.0.0.0/8 allowed, localhost is 127.0.0.1 and not ::1."""
    assert [ip_address("127.0.0.1")] == loopbacks(LOOPBACK_V4)
    assert [] == loopbacks([])
    assert [ip_address("127.0.0.1"), ip_address("::1")] == loopbacks(EVERYTHING)


@pytest.mark.parametrize(
    ("address", "port", "own", "expected"),
    [
        ("127.0.0.1", 8780, "127.0.0.1", True), ("127.0.0.1", 8781, "127.0.0.1", False),
        ("127.0.0.2", 8780, "127.0.0.1", False), ("127.0.0.2", 8780, "0.0.0.0", True),
        ("0.0.0.0", 8780, "127.0.0.1", True), ("::1", 8780, "127.0.0.1", False), ("::1", 8780, "::", True),
        ("::ffff:127.0.0.1", 8780, "127.0.0.1", True), ("192.0.2.1", 8780, "0.0.0.0", False),
        ("192.0.2.1", 8780, "192.0.2.1", True),
    ],
)  # fmt: skip
def test_own_sockets_are_recognised(address: str, port: int, own: str, expected: bool) -> None:
    """webhookd doesn't send to where it listens itself."""
    assert expected == is_own(ip_address(address), port, [OwnAddress(ip_address(own), 8780)])
