"""Hostile endpoint URLs, class by class, each with the verdict expected; and more of their kind.

What a URL *says* is judged when it is saved, and there its spelling counts.  Where it *leads* is judged again when a
name is resolved and when a socket is connected, and there the address alone counts; so each case has both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from tests.support.nameserver import NXDOMAIN, REFUSED, SERVFAIL, Alias, Answer, Garbage, Silence
from webhookd.models import Reason

OWN_PORT = 8780


class Saved(StrEnum):
    """What becomes of the URL when it is saved: kept, or refused with a code."""

    KEPT = "kept"
    INVALID = "invalid_url"
    BLOCKED = "blocked_address"


class Sent(StrEnum):
    """What becomes of an attempt to where the URL leads: dialled by default, if allowed, or never."""

    PUBLIC = "public"
    IF_ALLOWED = "if allowed"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Case:
    """`saved` with nothing allowed and with everything allowed; `leads_to` are the addresses that a reader may find."""

    url: str
    saved: tuple[Saved, Saved]
    leads_to: tuple[str, ...]
    sent: Sent


def _unless_allowed(leads_to: str, *hosts: str) -> list[Case]:
    saved = (Saved.BLOCKED, Saved.KEPT)
    return [Case(f"http://{host}/", saved, tuple(leads_to.split()), Sent.IF_ALLOWED) for host in hosts]


def _never(leads_to: str, *hosts: str) -> list[Case]:
    return [Case(f"http://{host}/", (Saved.BLOCKED, Saved.BLOCKED), (leads_to,), Sent.NEVER) for host in hosts]


def _public(leads_to: str, *hosts: str) -> list[Case]:
    return [Case(f"https://{host}/", (Saved.KEPT, Saved.KEPT), (leads_to,), Sent.PUBLIC) for host in hosts]


def _invalid(leads_to: str, urls: Iterable[str], sent: Sent = Sent.IF_ALLOWED) -> list[Case]:
    return [Case(url, (Saved.INVALID, Saved.INVALID), (leads_to,), sent) for url in urls]


def _literal(address: str) -> str:
    return f"[{address}]" if ":" in address else address


_LOOPBACK = [
    *_unless_allowed(
        "127.0.0.1",
        *("127.0.0.1", "127.1", "2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1"),
        *("127.0.1", "127.0.0.1.", "127.0x0.0.1", "0X7F.0.0.0x1", "0x7f.0x0.0x0.0x1", "0177.0.0.01", "017700000001"),
        *("0000177.0.0.1", "0x0000007f.1", "127.0.0.1:8000", "0x7f.0.1"),
    ),
    *_unless_allowed("127.255.255.254", "127.255.255.254", "2147483646"),
    *_unless_allowed("0.0.0.0", "0", "0.0.0.0", "0x0", "0x", "00.0", "0.0"),
    *_unless_allowed("0.1.2.3", "0.1.2.3"),
    *_unless_allowed("::1", "[::1]", "[0:0:0:0:0:0:0:1]", "[::0001]", "[::0.0.0.1]"),
    *_unless_allowed("::", "[::]", "[0:0:0:0:0:0:0:0]", "[::0.0.0.0]"),
    *_unless_allowed(
        "127.0.0.1 ::1",
        *("localhost", "LOCALHOST.", "foo.localhost", "a.b.LocalHost.", "localhost.localdomain", "localhost:9"),
    ),
]

_WRAPPED = [
    *_never("::ffff:7f00:1", "[::ffff:7f00:1]", "[::ffff:127.0.0.1]", "[0:0:0:0:0:ffff:7f00:1]", "[::FFFF:127.0.0.1]"),
    *_never("::127.0.0.1", "[::127.0.0.1]", "[::7f00:1]"),
    *_never("64:ff9b::a9fe:a9fe", "[64:ff9b::a9fe:a9fe]", "[64:ff9b::169.254.169.254]"),
    *_never("64:ff9b:1::1", "[64:ff9b:1::1]"),
    *_never("64:ff9b:1::7f00:1", "[64:ff9b:1::127.0.0.1]"),
    *_never("2002:7f00:1::", "[2002:7f00:1::]"),
    *_never("2002:a9fe:a9fe::1", "[2002:a9fe:a9fe::1]"),
    *_never("2001::1", "[2001::1]", "[2001:0:0:0::1]"),
    *_never("2001:0:808:808::1", "[2001:0:808:808::1]"),
    *_never("::ffff:8.8.8.8", "[::ffff:8.8.8.8]"),
    *_never("::ffff:0:7f00:1", "[::ffff:0:127.0.0.1]"),
    *_unless_allowed("64:ff9b::7f00:1", "[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]"),
    *_unless_allowed("64:ff9b::a00:1", "[64:ff9b::10.0.0.1]"),
    *_public("64:ff9b::808:808", "[64:ff9b::808:808]", "[64:ff9b::8.8.8.8]"),
]

_METADATA = [
    *_never(
        "169.254.169.254",
        *("169.254.169.254", "2852039166", "0xa9fea9fe", "0xa9.0xfe.0xa9.0xfe", "0251.0376.0251.0376", "025177524776"),
        *("169.254.43518", "169.16689662", "0xa9.254.0251.254", "169.254.169.254.", "169.254.169.254:80"),
        *("0xA9FEA9FE", "00000251.0xfe.43518", "metadata.google.internal", "METADATA.google.internal.", "metadata"),
        *("metadata.goog", "instance-data", "x.metadata.google.internal", "metadata.azure.internal"),
    ),
    *_never("::ffff:a9fe:a9fe", "[::ffff:a9fe:a9fe]", "[::ffff:169.254.169.254]"),
    *_never("::169.254.169.254", "[::169.254.169.254]"),
    *_never("fd00:ec2::254", "[fd00:ec2::254]", "[fd00:0ec2:0:0:0:0:0:254]"),
    *_never("fd20:ce::254", "[fd20:ce::254]"),
    *_never("fd00:42::42", "[fd00:42::42]"),
    *_never("fe80::1", "[fe80::1%25eth0]", "[fe80::1]", "[fe80::1%eth0]", "[febf::1%25lo]"),
    *_never("169.254.0.1", "169.254.0.1", "169.254.1"),
    *_never("169.254.170.2", "169.254.170.2"),
    *_never("169.254.255.255", "169.254.255.255"),
    *_never("100.100.100.200", "100.100.100.200", "1684301000"),
    *_never("168.63.129.16", "168.63.129.16"),
    *_never("192.0.0.192", "192.0.0.192"),
]

_RESERVED_ADDRESSES = (
    *("10.0.0.0", "10.0.0.1", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255"),
    *("100.64.0.0", "100.127.255.255", "192.0.0.0", "192.0.0.170", "192.0.0.255", "192.0.2.0", "192.0.2.255"),
    *("198.51.100.0", "198.51.100.255", "203.0.113.0", "203.0.113.255", "198.18.0.0", "198.19.255.255"),
    *("192.88.99.0", "192.88.99.1", "192.88.99.255", "224.0.0.0", "239.255.255.255", "240.0.0.0", "255.255.255.254"),
    *("255.255.255.255", "fc00::", "fc00::1", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fec0::", "fec0::1"),
    *("feff:ffff::1", "ff00::", "ff02::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "100::"),
    *("100::ffff", "2001:db8::"),
    *("2001:db8:ffff::1", "3fff::", "3fff:fff:ffff::1", "5f00::", "5f00:ffff::1", "2001:2::1", "2001:10::1", "4000::1"),
)

_PRIVATE = [
    *(case for address in _RESERVED_ADDRESSES for case in _unless_allowed(address, _literal(address))),
    *_unless_allowed("10.0.0.1", "0xa.1", "012.0.0.1", "167772161"),
    *_unless_allowed("192.168.1.1", "3232235777", "192.168.257"),
    *(case for address in ("8.8.8.8", "2606:4700:4700::1111") for case in _public(address, _literal(address))),
    *(
        case
        for address in ("9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0")
        for case in _public(address, address)
    ),
]

_UNICODE = _invalid(
    "127.0.0.1",
    (
        *(
            "http://①②⑦.⓪.⓪.①/",
            "http://127。0。0。1/",
            "http://127．0．0．1/",
            "http://127｡0｡0｡1/",
            "http://１２７.0.0.1/",
        ),
        *("http://127.0.0.①/", "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/", "http://loca\u212aost/", "http://LOCALHO\u017fT/"),
        *("http://loc\u00adalhost/", "http://local\u200bhost/", "http://\u202e127.0.0.1/", "http://[::\uff11]/"),
        *("http://𝟏𝟐𝟕.0.0.1/", "http://٠١٢٧.0.0.1/", "http://0𝑥7f.1/"),
        *("http://127.0.0.1:８０/", "http://127.0.0.1\uff0f/"),
        *("http://example.com\uff20127.0.0.1/", "http://127.0.0.1\u2044@e.com/", "http://localhost\uff1a80/"),
        *("http://⑯⑨.②⑤④.⑯⑨.②⑤④/", "http://müller.example/", "http://пример.example/"),
    ),
)

_USERINFO = _invalid(
    "127.0.0.1",
    (
        *("http://u:p@h/", "http://example.com@127.0.0.1/", "http://%00@127.0.0.1/", "http://u@127.0.0.1/"),
        *("http://@127.0.0.1/", "http://:@127.0.0.1/", "http://:p@127.0.0.1/", "http://u:@127.0.0.1/"),
        *("http://example.com:80@127.0.0.1/", "http://example.com%40127.0.0.1/", "http://a@b@127.0.0.1/"),
        *("http://127.0.0.1@example.com/", "http://127.0.0.1:80@example.com:80/", "http://[::1]@127.0.0.1/"),
        *("http://example.com%2f@127.0.0.1/", "http://example.com%23@127.0.0.1/", "http://u:p@[::1]/"),
        *("http://127.0.0.1%20@e.com/", "https://user:pass@example.com/hook", "http://＠127.0.0.1/"),
    ),
)

_PARSER = _invalid(
    "127.0.0.1",
    (
        *("http://example.com\\@127.0.0.1/", "http:\\\\127.0.0.1\\"),
        *("http://127.0.0.1\\.example.com/", "http:/\\127.0.0.1/"),
        *("http://example.com/\\", "\\\\127.0.0.1\\x", "http:///x", "http:////127.0.0.1/"),
        *("http:127.0.0.1", "http:/127.0.0.1"),
        *("http://127.0.0.1#@e.com/", "http://e.com#@127.0.0.1/", "http://e.com/#", "http://127.0.0.1?@#e.com/"),
        *("http://127.0.0.1:0/", "http://127.0.0.1:-1/", "http://127.0.0.1:65536/", "http://127.0.0.1:/"),
        *("http://127.0.0.1:80:80/", "http://127.0.0.1:0x50/", "http://127.0.0.1:+80/", "http://127.0.0.1: 80/"),
        *("http://127.0.0.1:080/", "http://127.0.0.1:99999999999999999999/", "http://127.0.0.1:80a/", "http://:80/"),
        *("http://a..b/", "http://.127.0.0.1/", "http://127..1/", "http://127.0.0.1../", "http://./", "http://-a.b/"),
        *("http://exa%6dple.com/", "http://127%2e0%2e0%2e1/", "http://%31%32%37.0.0.1/", "http://127.0.0.1%00.e.com/"),
        *("http://127.0.0.1/\r\nHost: e.com", "http://127.0.0.1\r/", "http://127.0.0.1\n/", "http://127.0.0.1/\x00"),
        *("http://127.0.\x000.1/", "http://127.0.0.1\t/", "ht\ntp://127.0.0.1/"),
        *("http://\t127.0.0.1/", "\nhttp://127.0.0.1/"),
        *("http://127.0.0.1/\x0b", "http://127.0.0.1 /", " http://127.0.0.1/"),
        *("http://127.0.0.1/ ", "http://127.0.0.1 .e.com/"),
        *("http://127.0.0.1/\x7f", "http://127.0.0.1/\x1b[31m", "http://127.0.0.1/\u2028", "http://127.0.0.1/\ud800"),
        *("http://256.0.0.1/", "http://127.0.0.0.1/", "http://127.0.0.256/"),
        *("http://4294967297/", "http://0x100000001/"),
        *("http://127.0.0.08/", "http://0x7g.1/", "http://1_27.0.0.1/", "http://+127.0.0.1/", "http://127.0.0.-1/"),
        *("http://[]/", "http://[::1/", "http://::1/", "http://[[::1]]/", "http://[127.0.0.1]/", "http://[::1]x/"),
        *("http://[::1%25lo]/", "http://[::1]:/", "http://[v1.x]/", "http://[::1].e.com/", "http://[::127.0.0.1:80]/"),
        *("http://127.0.0.1,e.com/", "http://e.com;127.0.0.1/", "http://e.com&127.0.0.1/", "http://(127.0.0.1)/"),
        *("http://*/", "http://{127.0.0.1}/", "http://$HOST/", "http://'127.0.0.1'/", "http://127.0.0.1|e.com/"),
        *("http://", ""),
        *(f"http://127.0.0.1/{'a' * 2032}", f"http://{'a' * 64}.e/", f"http://127.0.0.1/{'ä' * 400}"),
        *(f"http://{'a.' * 127}/x", f"http://{'a' * 3000}/"),
    ),
)

_SCHEME = _invalid(
    "127.0.0.1",
    (
        *("ftp://127.0.0.1/", "file:///etc/passwd", "gopher://127.0.0.1:25/_HELO"),
        *("ws://127.0.0.1/", "wss://127.0.0.1/"),
        *("javascript:alert(1)", "//127.0.0.1/x", "unix:///run/docker.sock", "http+unix://%2Frun%2Fdocker.sock/"),
        *("javascript://127.0.0.1/%0aalert(1)", "data:text/html,x", "ldap://127.0.0.1/", "dict://127.0.0.1:11211/"),
        *("jar:http://127.0.0.1!/", "view-source:http://127.0.0.1/", "httpx://127.0.0.1/", "h\u0442tp://127.0.0.1/"),
        *("127.0.0.1", "127.0.0.1:80", "/hook", "?x", "http\u017f://127.0.0.1/"),
        *("https ://127.0.0.1/", "mailto:a@e.com"),
        *("tcp://127.0.0.1:22", "blob:http://127.0.0.1/", "feed:http://127.0.0.1/", "url:http://127.0.0.1/"),
    ),
)

_OWN = [
    Case(f"http://{host}:{OWN_PORT}/v1/events", (Saved.BLOCKED, Saved.BLOCKED), ("127.0.0.1",), Sent.NEVER)
    for host in (
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "localhost",
        "foo.localhost",
        "LOCALHOST.",
    )
] + [
    Case(f"http://{host}:{OWN_PORT}/", (Saved.BLOCKED, Saved.BLOCKED), (leads_to,), Sent.NEVER)
    for host, leads_to in (("0.0.0.0", "0.0.0.0"), ("0", "0.0.0.0"), ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1"))
]

URLS: dict[str, list[Case]] = {
    "loopback, this network": _LOOPBACK,
    "wrapped IPv4": _WRAPPED,
    "metadata, link-local": _METADATA,
    "private, reserved": _PRIVATE,
    "Unicode hosts": _UNICODE,
    "userinfo": _USERINFO,
    "parser": _PARSER,
    "scheme": _SCHEME,
    "itself": _OWN,
}


@dataclass(frozen=True, slots=True)
class Name:
    """A name, what the name server says to it, and what an attempt comes to: with nothing allowed, with 127.0.0.1."""

    name: str
    answer: Answer
    closed: Reason
    opened: Reason | None


def _names(expected: tuple[Reason, Reason | None], **answers: Answer) -> list[Name]:
    return [Name(f"{name.replace('_', '-')}.test", answer, *expected) for name, answer in answers.items()]


_DENIED: tuple[Reason, Reason] = (Reason.BLOCKED_ADDRESS, Reason.BLOCKED_ADDRESS)
_PRIVATE_NETWORK = tuple(f"127.0.0.{number}" for number in range(1, 25))

NAMES = [
    *_names((Reason.BLOCKED_ADDRESS, None), loopback=("127.0.0.1",), twice=("127.0.0.1", "127.0.0.1")),
    *_names((Reason.BLOCKED_ADDRESS, None), alias_of_loopback=Alias("localhost", ("127.0.0.1",))),
    *_names(_DENIED, ten=("10.0.0.1",), class_b=("172.16.0.1",), class_c=("192.168.0.1",), shared=("100.64.0.1",)),
    *_names(_DENIED, six=("::1",), unique_local=("fd00::1",), site_local=("fec0::1",), multicast_six=("ff02::1",)),
    *_names(_DENIED, metadata=("169.254.169.254",), metadata_six=("fd00:ec2::254",), link_local=("fe80::1",)),
    *_names(_DENIED, zero=("0.0.0.0",), zero_six=("::",), broadcast=("255.255.255.255",), multicast=("224.0.0.1",)),
    *_names(_DENIED, mapped=("::ffff:127.0.0.1",), mapped_public=("::ffff:8.8.8.8",), compatible=("::127.0.0.1",)),
    *_names(_DENIED, six_to_four=("2002:7f00:1::",), teredo=("2001::1",), translated=("::ffff:0:127.0.0.1",)),
    *_names(_DENIED, nat64=("64:ff9b::a00:1",), nat64_metadata=("64:ff9b::a9fe:a9fe",), nat64_local=("64:ff9b:1::1",)),
    *_names(_DENIED, mixed=("127.0.0.1", "10.0.0.1"), mixed_otherwise=("10.0.0.1", "127.0.0.1")),
    *_names(_DENIED, public_and_private=("8.8.8.8", "10.0.0.1"), private_and_public=("10.0.0.1", "8.8.8.8")),
    *_names(_DENIED, mixed_families=("127.0.0.1", "::1"), public_four_private_six=("8.8.8.8", "fd00::1")),
    *_names(_DENIED, public_six_private_four=("2606:4700:4700::1111", "10.0.0.1"), many=_PRIVATE_NETWORK),
    *_names(_DENIED, alias_of_private=Alias("inside.test", ("192.168.0.1",))),
    *_names(_DENIED, alias_of_metadata=Alias("metadata.google.internal", ("169.254.169.254",))),
    *_names(_DENIED, alias_mixed=Alias("both.test", ("127.0.0.1", "10.0.0.1"))),
    *_names((Reason.DNS, Reason.DNS), gone=NXDOMAIN, broken=SERVFAIL, refused=REFUSED, empty=()),
    *_names((Reason.DNS, Reason.DNS), silent=Silence, noise=Garbage, alias_of_nothing=Alias("nothing.test", ())),
    Name("127.0.0.1.nip.test", ("127.0.0.1",), Reason.BLOCKED_ADDRESS, None),
    Name("169-254-169-254.nip.test", ("169.254.169.254",), *_DENIED),
    Name("metadata.google.internal.e.test", ("169.254.169.254",), *_DENIED),
    Name("localhost.e.test", ("127.0.0.1",), Reason.BLOCKED_ADDRESS, None),
]

CASES = [(name, case) for name, cases in URLS.items() for case in cases]
