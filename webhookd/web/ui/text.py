"""Foreign text made safe and readable; the templates also escape it as HTML.

Invisible characters are shown by their number.  JSON is laid out without being understood: every character of a name, a
number or a string stays as it came, but for escapes by number (`\\u00e0`) of what can be read.
"""

from __future__ import annotations

import re

from webhookd.errors import ApiError
from webhookd.rules.parsing import load_json
from webhookd.text import escape_lines

# A string's escapes: a pair of surrogates, one character by its number, any other.
_ESCAPES = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})|\\.")
_JSON_PARTS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+', re.DOTALL)
SHOWN_CHARACTERS = 100_000
_DEEPEST = 40
_INDENT = "  "
_URL = re.compile(r"(https?://[^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_SHORT_CHARACTERS = 64


def visible(text: str) -> str:
    """`text` with what can't be seen shown as `‹U+202E›`; tabs and line ends stay."""
    return escape_lines(text, lambda character: f"‹U+{ord(character):04X}›")


def one_line(text: str) -> str:
    """`visible`, and line ends and tabs as spaces."""
    return visible(" ".join(text.split("\n"))).replace("\t", " ")


def short_url(url: str) -> str:
    """A URL for two lines of a table: its host, whole where that fits, and the end.  Of other text the beginning."""
    if len(url) <= _SHORT_CHARACTERS:
        return url
    parts = _URL.fullmatch(url)
    if parts is None:
        return f"{url[: _SHORT_CHARACTERS - 1]}…"
    host = parts[1] if len(parts[1]) <= 48 else f"{parts[1][:16]}…{parts[1][-31:]}"
    left = _SHORT_CHARACTERS - len(host) - 2
    return f"{host}/…{parts[2][-left:]}" if len(parts[2]) > left + 2 else f"{host}{parts[2]}"


def pretty(body: bytes | str) -> str:
    """A body for reading: JSON laid out over lines, anything else as it is; visible, and at most so long."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    if len(text) <= SHOWN_CHARACTERS and text[:1] in "{[":
        try:
            load_json(text.encode())
        except (ApiError, UnicodeEncodeError):
            pass
        else:
            text = _laid_out(text) or text
    return visible(text[:SHOWN_CHARACTERS])


def is_cut(body: bytes | str) -> bool:
    """Whether `pretty` leaves some of it out."""
    return len(body) > SHOWN_CHARACTERS


def _laid_out(text: str) -> str:
    """Valid JSON over several lines; "" where it is nested so deep that lines would only be white space."""
    lines: list[str] = []
    depth = 0
    previous = ""
    for found in _JSON_PARTS.finditer(text):
        part = found[0]
        if part in "]}":
            depth -= 1
            if previous not in "[{":
                lines.append("\n" + _INDENT * depth)
        elif previous in ("[", "{", ","):
            lines.append("\n" + _INDENT * depth)
        lines.append(": " if part == ":" else _ESCAPES.sub(_unescaped, part))
        if part in "[{":
            depth += 1
            if depth > _DEEPEST:
                return ""
        previous = part
    return "".join(lines)


def _unescaped(escape: re.Match[str]) -> str:
    """The character that `\\u` means, if it can be read and would not end the string; any other escape as it is."""
    high, low, single = escape.groups()
    if high:
        character = chr(0x10000 + (int(high, 16) - 0xD800) * 0x400 + int(low, 16) - 0xDC00)
    elif single:
        character = chr(int(single, 16))
    else:
        return escape[0]
    return character if character.isprintable() and character not in '"\\' else escape[0]
