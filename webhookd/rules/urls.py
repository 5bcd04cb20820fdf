"""Validates endpoints' URLs and custom headers: the first of three gates against SSRF (the others: `sender.egress`).

A URL is dangerous where two programs read it differently.  So what parsers are known to disagree about (userinfo,
backslashes, percent signs and Unicode in the host, control characters, empty ports) is refused, not repaired.  The
result is canonical: scheme and host in lower case, an IPv4 address as four decimal numbers; characters beyond ASCII in
path and query become percent codes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NoReturn
from urllib.parse import quote

from webhookd.errors import ApiError, field_error
from webhookd.rules.ip_policy import (
    Address,
    Network,
    OwnAddress,
    Verdict,
    is_localhost,
    is_own,
    loopbacks,
    name_verdict,
    verdict,
)
from webhookd.text import ascii_name

__all__ = [
    "OwnAddress",
    "UrlParts",
    "Verdict",
    "check_headers",
    "check_url",
    "judge_url",
    "normal_form",
    "parse_url",
    "verdict",
]

MAX_URL_CHARACTERS = 2048
MAX_HEADERS = 32
MASK = "***"  # stands for the value of a custom header where it is shown
MAX_HEADER_CHARACTERS = 4096

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"(https?)://", re.IGNORECASE | re.ASCII)
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|[^\[\]:]*)(?P<port>:.*)?", re.DOTALL)
_PORT = re.compile(r":([1-9][0-9]{0,4})")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\s\\]")

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_VALUE = re.compile(r"[\x20-\x7e]*")
_RESERVED_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
_RESERVED_PREFIXES = ("webhook-", "x-webhook-")


@dataclass(frozen=True, slots=True)
class UrlParts:
    """A parsed URL: `text` is its canonical form, `address` the host if it is an IP address, else None."""

    text: str
    scheme: str
    host: str
    port: int
    address: Address | None
    rest: str

    @property
    def site(self) -> str:
        """Scheme and host in normal form: every URL with this host begins so."""
        host = f"[{self.host}]" if ":" in self.host else self.host.removesuffix(".")
        return f"{self.scheme}://{host}"

    @property
    def normal_form(self) -> str:
        """The form in which URLs are compared."""
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        path, _, query = self.rest.partition("?")
        return f"{self.site}{port}{path or '/'}{'?' if query else ''}{query}"


def normal_form(url: str) -> str:
    """The form in which URLs are compared; a text that is no endpoint's URL is its own."""
    try:
        return parse_url(url).normal_form
    except ApiError:
        return url


def check_url(
    url: str, *, allow_http: bool, allowed: Sequence[Network], own: Iterable[OwnAddress] = frozenset()
) -> str:
    """The URL in its canonical form, to be stored and requested.

    `allowed` are the networks of `egress.allow`, `own` the sockets that webhookd listens on.  Raises ApiError
    `invalid_url` for a text that can't be an endpoint's URL, `blocked_address` for an address that webhookd doesn't
    send to; `details.field` is `url`.
    """
    return judge_url(parse_url(url), allow_http=allow_http, allowed=allowed, own=own).text


def judge_url(
    parts: UrlParts,
    *,
    allow_http: bool,
    allowed: Sequence[Network],
    denied: Sequence[Network] = (),
    own: Iterable[OwnAddress] = frozenset(),
) -> UrlParts:
    """`parts`, if the URL alone doesn't forbid sending there; otherwise the errors of `check_url`."""
    if parts.scheme == "http" and not allow_http:
        _invalid("The URL must begin with https://: this webhookd has egress.allow_http turned off.")
    if parts.address is not None:
        judged, targets = verdict(parts.address, allowed, denied), [parts.address]
    else:
        judged = name_verdict(parts.host, allowed, denied)
        targets = loopbacks(allowed, denied) if is_localhost(parts.host) else []
    if not judged.allowed:
        _blocked(f"{parts.host} is {judged.why}; webhookd doesn't send there. {HOW_TO_ALLOW}")
    if any(is_own(target, parts.port, own) for target in targets):
        _blocked(f"{parts.host}:{parts.port} is where webhookd itself listens; give the address of the receiver.")
    return parts


HOW_TO_ALLOW = "Give a public address, or have the operator add its network to egress.allow, where that is possible."


def parse_url(url: str) -> UrlParts:
    """Parse a URL; ApiError `invalid_url` for whatever two parsers could read differently."""
    if not isinstance(url, str) or not url:
        _invalid("The URL is missing: give one like https://example.com/webhooks.")
    if len(url) > MAX_URL_CHARACTERS:
        _invalid(f"The URL has {len(url)} characters; at most {MAX_URL_CHARACTERS} are taken.")
    _check_characters(url)
    match = _SCHEME.match(url)
    if match is None:
        _invalid("The URL must begin with https:// (or http://).")
    scheme = match[1].lower()
    end = next((at for at in range(match.end(), len(url)) if url[at] in "/?"), len(url))
    host, address, port = _parse_authority(url[match.end() : end])
    shown = f"[{host}]" if isinstance(address, IPv6Address) else host
    rest = _ascii_only(url[end:])
    text = f"{scheme}://{shown}{'' if port is None else f':{port}'}{rest}"
    if len(text) > MAX_URL_CHARACTERS:
        _invalid(f"The URL in its ASCII form has {len(text)} characters; at most {MAX_URL_CHARACTERS} are taken.")
    return UrlParts(text, scheme, host, _DEFAULT_PORTS[scheme] if port is None else port, address, rest)


def _check_characters(url: str) -> None:
    unsafe = _UNSAFE.search(url)
    if unsafe is not None:
        what = {"\\": "a backslash", " ": "a space"}.get(unsafe[0], f"the character U+{ord(unsafe[0]):04X}")
        _invalid(f"The URL has {what} at position {unsafe.start() + 1}; write it percent-encoded or leave it out.")
    if "#" in url:
        _invalid("The URL has a fragment (#…), which is never sent to a server; leave it out.")


def _parse_authority(authority: str) -> tuple[str, Address | None, int | None]:
    if "@" in authority:
        _invalid("The URL has a user or password before the host; use a custom header like Authorization instead.")
    match = _AUTHORITY.fullmatch(authority)
    if match is None or not match["host"]:
        _invalid("The URL has no host, or one that can't be read: write https://host/path.")
    host = match["host"]
    if not host.isascii():  # before lower(), which maps some to ASCII (U+212A becomes k)
        _invalid(f"The URL's host has characters beyond ASCII; write its ASCII form{_ascii_form(host)}.")
    host = host.lower()
    address = _parse_ipv6(host[1:-1]) if host.startswith("[") else _parse_name(host)
    return (host if address is None else str(address)), address, _parse_port(match["port"])


def _parse_port(text: str | None) -> int | None:
    if text is None:
        return None
    match = _PORT.fullmatch(text)
    if match is None or int(match[1]) > 65535:
        _invalid("The URL's port must be a number from 1 to 65535, without leading zeros.")
    return int(match[1])


def _parse_ipv6(text: str) -> IPv6Address:
    bare, percent, _ = text.partition("%")
    try:
        address = IPv6Address(bare)
    except ValueError:
        _invalid("The URL's host is in brackets, but is not an IPv6 address.")
    if percent:
        if address.is_link_local:
            _blocked(f"{bare} is a link-local address; webhookd never sends there.")
        _invalid("The URL's IPv6 address has a zone (%…), which means nothing outside of this machine; leave it out.")
    return address


def _parse_name(host: str) -> IPv4Address | None:
    """The address for an IPv4 address in any notation, None for a valid DNS name."""
    labels = host.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _parse_ipv4(labels)
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        _invalid("The URL's host is not a name: labels of a-z, 0-9, - and _, up to 63 characters, with dots between.")
    return None


def _parse_ipv4(labels: list[str]) -> IPv4Address:
    """The address as browsers and the C library read it: 1 to 4 numbers, each decimal, octal (0…) or hex (0x…).

    URL Standard, section 3.5 (the *IPv4 parser*): a host whose last label is a number is an address or an error.
    """
    try:
        numbers = [_parse_number(label) for label in labels]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 4 or any(n > 255 for n in numbers[:-1]) or numbers[-1] >= 256 ** (5 - len(numbers)):
        _invalid("The URL's host ends in a number, but is not an IPv4 address: write it like 203.0.113.7.")
    leading = sum(number << (8 * (3 - at)) for at, number in enumerate(numbers[:-1]))
    return IPv4Address(leading + numbers[-1])


def _parse_number(label: str) -> int:
    if not _NUMBER.fullmatch(label) or len(label) > 16:  # int() alone accepts signs and underscores
        raise ValueError(label)
    if label.startswith("0x"):
        return int(label[2:] or "0", 16)
    return int(label, 8) if label.startswith("0") else int(label)


def _ascii_form(host: str) -> str:
    try:
        return f": {ascii_name(host)}"
    except UnicodeError:
        return " (xn--…)"


def _ascii_only(rest: str) -> str:
    if rest.isascii():
        return rest
    try:
        return "".join(char if char.isascii() else quote(char, safe="") for char in rest)
    except UnicodeEncodeError:
        _invalid("The URL has characters that are not valid Unicode.")


def check_headers(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The custom headers of an endpoint as pairs, in their order.

    ApiError `invalid_field` (`details.field` is `headers`) for a name that isn't a token or that webhookd or the
    connection sets itself, and for a value with anything but printable ASCII (RFC 9110, section 5.5, without its
    obsolete parts), so that no value can inject a header.
    """
    if len(headers) > MAX_HEADERS:
        _invalid_header(f"There are {len(headers)} custom headers; at most {MAX_HEADERS} are taken.")
    seen: set[str] = set()
    for name, value in headers.items():
        _check_header_name(name)
        if name.lower() in seen:
            _invalid_header(f"The header {name} is given twice; names differ in more than case.")
        seen.add(name.lower())
        _check_header_value(name, value)
    return tuple(headers.items())


def _check_header_name(name: str) -> None:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        _invalid_header(f"{name!a:.140} is not a header name: 1 to 128 letters, digits or any of !#$%&'*+-.^_`|~.")
    read_as = name.lower().replace("_", "-")  # CGI and its heirs read `Transfer_Encoding` as Transfer-Encoding
    if read_as in _RESERVED_HEADERS or read_as.startswith(_RESERVED_PREFIXES):
        _invalid_header(f"The header {name} is set by webhookd or by the connection itself; leave it out.")


def _check_header_value(name: str, value: str) -> None:
    if value == MASK:
        _invalid_header(f"{MASK} hides a value and is none itself: write the value of {name}, or leave the header out.")
    if not isinstance(value, str) or not _VALUE.fullmatch(value) or len(value) > MAX_HEADER_CHARACTERS:
        _invalid_header(f"The value of {name} must be at most {MAX_HEADER_CHARACTERS} printable ASCII characters.")
    if value != value.strip(" "):
        _invalid_header(f"The value of {name} begins or ends with a space, which no receiver sees; leave it out.")


def _invalid(message: str) -> NoReturn:
    raise ApiError("invalid_url", message, details={"field": "url"})


def _blocked(message: str) -> NoReturn:
    raise ApiError("blocked_address", message, details={"field": "url"})


def _invalid_header(message: str) -> NoReturn:
    raise field_error("headers", message)
