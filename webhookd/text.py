"""Text that strangers wrote, made safe to show; names of hosts and mail addresses; durations for people.

Characters that move a terminal's cursor, hide, or turn the direction of the text are written out (`\\x1b`, `\\u202e`).
The joiners U+200C and U+200D stay: some scripts and many emoji need them.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable

_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
)
# The local part of RFC 5321, unquoted and in ASCII: any other needs SMTPUTF8, which few servers have.
_MAIL_LOCAL_PART = re.compile(r"(?=.{1,64}\Z)[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_MAIL_ADDRESS_CHARACTERS = 254  # RFC 5321, section 4.5.3.1.3: a path of 256 octets, without its brackets
_UNSAFE = (
    "\x00-\x1f\x7f-\x9f"  # controls: C0, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # the marks and overrides of bidirectional text (UAX #9)
    "\u2028\u2029"  # line and paragraph separators
    "\u00ad\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"  # no width, not visible
    "\U000e0000-\U000e007f"  # tags
    "\ud800-\udfff"  # surrogates
)
_UNSAFE_IN_LINE = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_LINES = re.compile(f"(?![\n\t])[{_UNSAFE}]")


def escaped(character: str) -> str:
    """One character as Python writes it: `\\n`, `\\x1b`, `\\u202e`."""
    return ascii(character)[1:-1]


def escape(value: object) -> str:
    """`value` as one line: newlines and tabs are written out too; None is empty."""
    return "" if value is None else _UNSAFE_IN_LINE.sub(lambda found: escaped(found[0]), str(value))


def escape_lines(text: str, write: Callable[[str], str] = escaped) -> str:
    """`text` over several lines: newlines and tabs stay, `write` writes out every other unsafe character."""
    return _UNSAFE_IN_LINES.sub(lambda found: write(found[0]), text.replace("\r\n", "\n"))


def escape_json(document: str) -> str:
    """A JSON document with unsafe characters as JSON escapes: it parses to the same value."""
    return _UNSAFE_IN_LINES.sub(lambda found: json.dumps(found[0])[1:-1].replace("\x7f", "\\u007f"), document)


def one_line(value: object, longest: int) -> str:
    """`value` as one line of at most `longest` characters before escaping; each run of white space is one space."""
    text = " ".join(("" if value is None else str(value)).split())
    return escape(text if len(text) <= longest else f"{text[:longest]}…")


def ascii_name(name: str) -> str:
    """A domain name in its ASCII form (IDNA 2008, UTS 46 without its transitional rules: faß.de isn't fass.de).

    Raises UnicodeError if it has none.
    """
    if name.isascii():
        return name
    import idna

    return idna.encode(name, uts46=True).decode()


def duration(seconds: float) -> str:
    """A measured time, in its two largest units: `45s`, `3m 20s`, `5h 12m`, `3d 4h`."""
    whole = round(seconds)
    for size, name, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size}{name} {rest}{smaller}" if rest else f"{whole // size}{name}"
    return f"{whole}s"


def duration_words(seconds: float) -> str:
    """A configured time, exactly: `1 hour`, `30 minutes`, `90 seconds`."""
    units = ((3600, "hour"), (60, "minute"))
    size, name = next((unit for unit in units if seconds >= unit[0] and seconds % unit[0] == 0), (1, "second"))
    return f"{seconds / size:g} {name}{'' if seconds == size else 's'}"


def is_host(value: str) -> bool:
    """Whether `value` is an IP address (without brackets) or a host name."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return _HOST_NAME.fullmatch(value) is not None
    return "%" not in value


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def is_mail_address(value: str) -> bool:
    """Whether `value` is one bare mail address that any mail server accepts, its domain a host name."""
    local, at, domain = value.rpartition("@")
    try:
        name = ascii_name(domain)
    except UnicodeError:
        return False
    long = len(local) + len(at) + len(name) > _MAIL_ADDRESS_CHARACTERS
    return not long and bool(_MAIL_LOCAL_PART.fullmatch(local) and _HOST_NAME.fullmatch(name))
