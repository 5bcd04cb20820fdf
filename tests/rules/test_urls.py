"""The first gate: which texts may be an endpoint's URL, what they are understood as, and which headers may go along."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from webhookd.errors import ApiError
from webhookd.rules.urls import OwnAddress, check_headers, check_url, normal_form, parse_url

LOOPBACK = [ip_network("127.0.0.0/8"), ip_network("::1/128")]
EVERYTHING = [ip_network("0.0.0.0/0"), ip_network("::/0")]
OWN = frozenset({OwnAddress(ip_address("127.0.0.1"), 8780)})


def error_of(url: str, **settings: object) -> tuple[str, str]:
    with pytest.raises(ApiError) as caught:
        check_url(url, **{"allow_http": True, "allowed": [], "own": OWN, **settings})  # type: ignore[arg-type]
    assert {"field": "url"} == caught.value.details
    return caught.value.code, caught.value.message


# --- what is taken as it is -------------------------------------------------------------------------------------

KEPT = [
    "https://example.com", "https://example.com/", "https://example.com/hook", "http://example.com/hook",
    "https://example.com:8443/hook", "https://example.com:443/hook", "http://example.com:80/",
    "https://example.com:1/", "https://example.com:65535/", "https://example.com?x=1", "https://example.com/?",
    "https://example.com/a?b=c&d=e/f?g", "https://example.com/a/../b/./c", "https://example.com//double//slash",
    "https://example.com/%2e%2e/%00/%0d%0a", "https://example.com/%zz", "https://example.com/{id}|\"<>`^'",
    "https://example.com/a;b=c,d!$&()*+~@:", "https://example.com/path@127.0.0.1/",
    "https://example.com/http://127.0.0.1/", "https://example.com?@127.0.0.1/",
    "https://example.com/?url=http://169.254.169.254/", "https://example.com.", "https://example.com./hook",
    "https://a-b.c--d.example", "https://under_score.example/", "https://xn--mller-kva.example/",
    "https://1.example.com/", "https://1.2.3.4.example/", "https://0x7f.example/", "https://127.0.0.1.nip.io/",
    "https://localhost.example.com/", "https://hooks/", "https://" + "a" * 63 + ".example/", "https://8.8.8.8/hook",
    "http://93.184.216.34:8080/hook?x=1", "https://[2606:4700:4700::1111]/hook",
    "https://[2606:4700:4700::1111]:8443/hook", "https://[64:ff9b::808:808]/", "https://example.com/" + "a" * 2028,
]  # fmt: skip


@pytest.mark.parametrize("url", KEPT)
def test_good_urls_are_kept_as_given(url: str) -> None:
    """What is safe is not touched, and checking it again changes nothing."""
    assert url == check_url(url, allow_http=True, allowed=[], own=OWN)


@pytest.mark.parametrize(
    ("given_url", "stored"),
    [
        ("HTTPS://Example.COM/Path?Q=A", "https://example.com/Path?Q=A"),
        ("hTTp://EXAMPLE.com:80/", "http://example.com:80/"),
        ("https://[2606:4700:4700:0:0:0:0:1111]/x", "https://[2606:4700:4700::1111]/x"),
        ("https://[2606:4700:4700::1.1.1.1]/x", "https://[2606:4700:4700::101:101]/x"),
        ("https://134744072/", "https://8.8.8.8/"),
        ("https://8.8.2056/", "https://8.8.8.8/"),
        ("https://0x08.8.8.8/", "https://8.8.8.8/"),
        ("https://010.8.8.8/", "https://8.8.8.8/"),
        ("https://8.8.8.8./", "https://8.8.8.8/"),
        ("https://example.com/höök?ü=ß", "https://example.com/h%C3%B6%C3%B6k?%C3%BC=%C3%9F"),
        ("https://example.com/\u202egnp.exe", "https://example.com/%E2%80%AEgnp.exe"),
        ("https://example.com/😀", "https://example.com/%F0%9F%98%80"),
    ],
)
def test_what_has_several_spellings_is_stored_in_one(given_url: str, stored: str) -> None:
    """Case of scheme and host, notations of an address, characters beyond ASCII: one canonical form."""
    assert stored == check_url(given_url, allow_http=True, allowed=[])
    assert stored == check_url(stored, allow_http=True, allowed=[])


@pytest.mark.parametrize(
    ("urls", "normal"),
    [
        (("https://h/x", "https://h:443/x", "https://h./x", "HTTPS://H.:443/x", "https://h/x?"), "https://h/x"),
        (("http://h:8080", "http://h:8080/", "http://h:8080?", "http://h.:8080/?"), "http://h:8080/"),
        (("http://h:443/?a", "http://h.:443?a"), "http://h:443/?a"),
        (
            ("https://[2606:4700:4700::1111]", "https://[2606:4700:4700:0::1111]:443/"),
            "https://[2606:4700:4700::1111]/",
        ),
        (("https://8.8.8.8./ü", "https://134744072:443/%C3%BC"), "https://8.8.8.8/%C3%BC"),
        (("https://h/?x=?",), "https://h/?x=?"),
        (("https://h/x/",), "https://h/x/"),
        (("no URL",), "no URL"),
    ],
)
def test_urls_are_compared_in_one_normal_form(urls: tuple[str, ...], normal: str) -> None:
    """Without what makes no difference to a request; it is its own normal form."""
    assert {normal} == {normal_form(url) for url in (*urls, normal)}


# --- what can't be an endpoint's URL ----------------------------------------------------------------------------

INVALID = [
    "", " ", "example.com", "example.com/hook", "//example.com/hook", "/hook", "?x", "https:", "https:/",
    "https:/example.com", "https:example.com", "https://", "https:///hook", "http:///x", "http://?x", "http://:80/",
    "http:\\\\example.com", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "ws://example.com/",
    "wss://example.com/", "javascript:alert(1)", "javascript://example.com/%0aalert(1)", "data:text/plain,x",
    "unix:///run/x.sock", "http+unix://%2Frun%2Fx.sock/", "ldap://example.com/", "httpſ://example.com/",
    "https ://example.com/", "xhttps://example.com/",
    # userinfo
    "http://u:p@example.com/", "http://u@example.com/", "http://@example.com/", "http://:@example.com/",
    "http://example.com@127.0.0.1/", "http://example.com:80@127.0.0.1/", "http://%00@127.0.0.1/", "http://a@b@c/",
    "http://example.com%40127.0.0.1/",
    # parsers that disagree
    "http://127.0.0.1#@example.com/", "http://example.com#@127.0.0.1/", "http://example.com/#fragment",
    "http://example.com#", "http://example.com\\@127.0.0.1/", "http://example.com\\.evil.example/",
    "http://example.com/\\..", "\\\\example.com\\x", "http://exa%6dple.com/", "http://127.0.0.1%2f@example.com/",
    "http://example.com%00.evil.example/", "http://a..b/", "http://.example.com/", "http://example.com../",
    "http://./", "http://../", "http://-a.example/", "http://a-.example/", "http://exam ple.com/",
    "http://exam,ple.com/", "http://exam;ple.com/", "http://(example.com)/", "http://example.com'/", "http://$host/",
    "http://{host}/", "http://ex*mple.com/", "http://" + "a" * 64 + ".example/",
    "http://" + ".".join(["a" * 49] * 6) + "/",
    # ports
    "http://example.com:/", "http://example.com:0/", "http://example.com:-1/", "http://example.com:+80/",
    "http://example.com:65536/", "http://example.com:99999/", "http://example.com:100000/", "http://example.com:080/",
    "http://example.com:80a/", "http://example.com:8_0/", "http://example.com:８０/", "http://example.com:80:80/",
    "http://example.com: 80/", "http://[2606:4700:4700::1111]:/", "http://[2606:4700:4700::1111]x/",
    "http://[2606:4700:4700::1111]80/",
    # numbers that are no address
    "http://256.1.1.1/", "http://1.2.3.4.5/", "http://1.2.3.256/", "http://1.2.65536/", "http://1.16777216/",
    "http://4294967296/", "http://99999999999999999999/", "http://0x100000000/", "http://0xfffffffff/",
    "http://1..1/", "http://.1/", "http://1.2.3.08/", "http://09.1.1.1/", "http://1_0.1/", "http://+1.1/",
    "http://foo.1/", "http://foo.0x1f/", "http://1.2.3.-4/",
    # brackets
    "http://[]/", "http://[::1/", "http://::1/", "http://::1]/", "http://[[::1]]/", "http://[127.0.0.1]/",
    "http://[example.com]/", "http://[1:2:3]/", "http://[::g]/", "http://[v1.x]/",
    "http://[2606:4700:4700::1111%25eth0]/",
    # characters
    "http://example.com/\r\nX: y", "http://example.com/\n", "\nhttp://example.com/", "http://exam\nple.com/",
    "http://example.com/\x00", "http://exa\x00mple.com/", "http://example.com/\t", "ht\ttp://example.com/",
    "http://exam\tple.com/", "http://example.com/a b", " http://example.com/", "http://example.com/ ",
    "http://example.com/\x0b", "http://example.com/\x1b[31m", "http://example.com/\x7f", "http://example.com/\x85",
    "http://example.com/\xa0", "http://example.com/\u2028", "http://example.com/\u3000", "http://example.com/\ud800",
    # Unicode hosts
    "http://①②⑦.⓪.⓪.①/", "http://127。0。0。1/", "http://127．0．0．1/", "http://１２７.0.0.1/", "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "http://loca\u212aost/", "http://\u212a.example/", "http://müller.example/", "http://example.com\u2044hook/",
    "http://example.com\uff0fhook/", "http://example\u00ad.com/", "http://exam\u200bple.com/",
    "http://пример.example/", "http://[::１]/",
    # length
    "https://example.com/" + "a" * 2029, "https://example.com/" + "ä" * 400,
]  # fmt: skip


@pytest.mark.parametrize("url", INVALID)
def test_ambiguous_or_broken_urls_are_refused(url: str) -> None:
    """Whatever two readers could understand differently is refused at save, even if everything is allowed."""
    code, message = error_of(url, allowed=EVERYTHING)
    assert "invalid_url" == code
    assert message.isprintable()
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("host", "ascii_form"),
    [("faß.de", "xn--fa-hia.de"), ("MÜLLER.example", "xn--mller-kva.example"), ("βόλος.com", "xn--nxasmm1c.com")],
)
def test_a_host_beyond_ascii_is_advised_its_form_by_idna_2008(host: str, ascii_form: str) -> None:
    """Not IDNA 2003's, which gives faß.de to the owner of fass.de."""
    assert error_of(f"https://{host}/x")[1].endswith(f"write its ASCII form: {ascii_form}.")


# --- where webhookd doesn't send --------------------------------------------------------------------------------

BLOCKED_UNLESS_ALLOWED = [
    ("http://127.0.0.1/", "http://127.0.0.1/"), ("http://127.0.0.1:9000/x", "http://127.0.0.1:9000/x"),
    ("http://127.1/", "http://127.0.0.1/"), ("http://127.0.1/", "http://127.0.0.1/"),
    ("http://2130706433/", "http://127.0.0.1/"), ("http://0x7f.1/", "http://127.0.0.1/"),
    ("http://0X7F.1/", "http://127.0.0.1/"), ("http://0x7f000001/", "http://127.0.0.1/"),
    ("http://0x7f.0x0.0x0.0x1/", "http://127.0.0.1/"), ("http://0177.0.0.1/", "http://127.0.0.1/"),
    ("http://0177.0.0.01/", "http://127.0.0.1/"), ("http://017700000001/", "http://127.0.0.1/"),
    ("http://127.0.0.1./", "http://127.0.0.1/"), ("http://127.255.255.254/", "http://127.255.255.254/"),
    ("http://0/", "http://0.0.0.0/"), ("http://0x/", "http://0.0.0.0/"), ("http://0.0.0.0/", "http://0.0.0.0/"),
    ("http://00000.0/", "http://0.0.0.0/"), ("http://[::1]/", "http://[::1]/"),
    ("http://[0:0:0:0:0:0:0:1]/", "http://[::1]/"), ("http://[::]/", "http://[::]/"),
    ("http://localhost/", "http://localhost/"), ("http://LOCALHOST./", "http://localhost./"),
    ("http://foo.localhost/", "http://foo.localhost/"), ("http://localhost:9000/x", "http://localhost:9000/x"),
    ("http://10.0.0.1/", "http://10.0.0.1/"), ("http://0xa.1/", "http://10.0.0.1/"),
    ("http://012.0.0.1/", "http://10.0.0.1/"), ("http://172.16.0.1/", "http://172.16.0.1/"),
    ("http://192.168.1.1/", "http://192.168.1.1/"), ("http://3232235777/", "http://192.168.1.1/"),
    ("http://100.64.0.1/", "http://100.64.0.1/"), ("http://192.0.0.1/", "http://192.0.0.1/"),
    ("http://192.0.2.1/", "http://192.0.2.1/"), ("http://198.18.0.1/", "http://198.18.0.1/"),
    ("http://192.88.99.1/", "http://192.88.99.1/"), ("http://224.0.0.1/", "http://224.0.0.1/"),
    ("http://255.255.255.255/", "http://255.255.255.255/"), ("http://[fc00::1]/", "http://[fc00::1]/"),
    ("http://[fec0::1]/", "http://[fec0::1]/"), ("http://[ff02::1]/", "http://[ff02::1]/"),
    ("http://[100::1]/", "http://[100::1]/"), ("http://[2001:db8::1]/", "http://[2001:db8::1]/"),
    ("http://[3fff::1]/", "http://[3fff::1]/"), ("http://[5f00::1]/", "http://[5f00::1]/"),
    ("http://[64:ff9b::7f00:1]/", "http://[64:ff9b::7f00:1]/"),
    ("http://[64:ff9b::10.0.0.1]/", "http://[64:ff9b::a00:1]/"),
]  # fmt: skip


@pytest.mark.parametrize(("url", "stored"), BLOCKED_UNLESS_ALLOWED)
def test_special_addresses_are_refused_unless_allowed(url: str, stored: str) -> None:
    """In every notation: refused by default, and stored in the plain one where egress.allow holds the address."""
    assert "blocked_address" == error_of(url)[0]
    assert stored == check_url(url, allow_http=True, allowed=EVERYTHING, own=OWN)


BLOCKED_ALWAYS = [
    "http://169.254.169.254/latest/meta-data/", "http://169.254.1/", "http://2852039166/", "http://0xa9fea9fe/",
    "http://0xa9.0xfe.0xa9.0xfe/", "http://0251.0376.0251.0376/", "http://025177524776/", "http://169.254.43518/",
    "http://[::ffff:169.254.169.254]/", "http://[::ffff:a9fe:a9fe]/", "http://[::169.254.169.254]/",
    "http://[64:ff9b::a9fe:a9fe]/", "http://[64:ff9b::169.254.169.254]/", "http://[64:ff9b:1::1]/",
    "http://[2002:a9fe:a9fe::]/", "http://[fd00:ec2::254]/", "http://[fd20:ce::254]/", "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/", "http://100.100.100.200/",
    "http://metadata.google.internal/computeMetadata/v1/", "http://METADATA.GOOGLE.INTERNAL./", "http://metadata/",
    "http://[::ffff:7f00:1]/", "http://[::ffff:127.0.0.1]/", "http://[::127.0.0.1]/", "http://[2002:7f00:1::]/",
    "http://[2001::1]/",
]  # fmt: skip


@pytest.mark.parametrize("url", BLOCKED_ALWAYS)
def test_metadata_link_local_and_wrapped_are_refused_always(url: str) -> None:
    """No egress.allow opens them."""
    assert ("blocked_address", "blocked_address") == (error_of(url)[0], error_of(url, allowed=EVERYTHING)[0])


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8780/v1/events", "http://127.1:8780/", "https://127.0.0.1:8780/", "http://0.0.0.0:8780/",
        "http://localhost:8780/", "http://foo.localhost:8780/",
    ],
)  # fmt: skip
def test_webhookd_itself_is_refused_even_on_an_allowed_network(url: str) -> None:
    """webhookd's own address and port, by number and by name."""
    code, message = error_of(url, allowed=EVERYTHING)
    assert ("blocked_address", True) == (code, "webhookd itself listens" in message)


def test_a_neighbour_of_webhookd_is_allowed() -> None:
    """Another port of the same address is somebody else."""
    url = "http://127.0.0.1:8781/"
    assert url == check_url(url, allow_http=True, allowed=LOOPBACK, own=OWN)


def test_own_default_port_is_recognised() -> None:
    """A URL without a port means the scheme's."""
    own = [OwnAddress(ip_address("127.0.0.1"), 80)]
    assert "blocked_address" == error_of("http://127.0.0.1/", allowed=LOOPBACK, own=own)[0]
    assert "https://127.0.0.1/" == check_url("https://127.0.0.1/", allow_http=True, allowed=LOOPBACK, own=own)


def test_http_is_refused_where_the_operator_turned_it_off() -> None:
    """egress.allow_http = false leaves https alone."""
    code, message = error_of("http://example.com/", allow_http=False)
    assert ("invalid_url", True) == (code, "https://" in message)
    assert "https://example.com/" == check_url("https://example.com/", allow_http=False, allowed=[])


@given(st.text(max_size=60) | st.text("aZ109xf.:/?#@%[]\\_-~é。", max_size=24))
def test_no_text_gets_past_as_something_else(text: str) -> None:
    """Whatever is accepted is read by yarl, which aiohttp goes by, as the same scheme, host and port."""
    for url in (text, f"https://{text}", f"https://example.com{text}"):
        try:
            parts = parse_url(url)
        except ApiError:
            continue
        target = URL(parts.text, encoded=True)
        assert (parts.scheme, parts.host, parts.port) == (target.scheme, target.raw_host, target.port)
        assert parts.text.isascii()
        assert parts == parse_url(parts.text)


def test_what_is_not_text_is_refused() -> None:
    """A caller that passes a number gets an error, not a traceback."""
    assert "invalid_url" == error_of(17)[0]  # type: ignore[arg-type]


# --- headers ----------------------------------------------------------------------------------------------------
def test_good_headers_are_kept_in_their_order() -> None:
    """Names as given, values as given."""
    headers = {"X-Tenant": "acme", "Authorization": "Bearer a.b-c=", "Cookie": "a=b; c=d", "X-Empty": ""}
    assert tuple(headers.items()) == check_headers(headers)


@pytest.mark.parametrize(
    "name",
    [
        "Host", "host", "Content-Length", "Content-Type", "content-encoding", "Transfer-Encoding", "Connection",
        "Transfer_Encoding", "content_Length",
        "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "TE", "Trailer", "Upgrade", "Expect", "User-Agent",
        "Accept-Encoding", "webhook-id", "Webhook-Signature", "webhook-anything", "X-Webhook-Signature",
        "x-webhook-attempt", "X-Webhook-Other", "", "X Tenant", "X-Tenant:", "X-Tenant\r\nHost", "X-Tenänt", "X\x00",
        "(comment)", "a" * 129,
    ],
)  # fmt: skip
def test_reserved_and_broken_header_names_are_refused(name: str) -> None:
    """Nothing that webhookd or the connection sets can be overridden, and a name is a token."""
    with pytest.raises(ApiError) as caught:
        check_headers({name: "x"})
    assert ("invalid_field", {"field": "headers"}) == (caught.value.code, caught.value.details)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "value",
    [
        "a\rb", "a\nb", "a\r\nHost: b", "a\x00b", "a\tb", "ä", "\x7f", "\x1b[31m", "a" * 4097, " a", "a ", "…",
        "\ud800", 5, "***",
    ],
)  # fmt: skip
def test_header_values_that_are_not_plain_text_are_refused(value: str) -> None:
    """Printable ASCII alone: no value can begin another header."""
    with pytest.raises(ApiError) as caught:
        check_headers({"X-Tenant": value})
    assert "invalid_field" == caught.value.code


def test_a_header_is_given_once_and_there_are_not_too_many() -> None:
    """Names differ in more than case, and 32 are enough."""
    for headers in ({"X-A": "1", "x-a": "2"}, {f"X-{number}": "x" for number in range(33)}):
        with pytest.raises(ApiError):
            check_headers(headers)
    assert 32 == len(check_headers({f"X-{number}": "x" for number in range(32)}))
