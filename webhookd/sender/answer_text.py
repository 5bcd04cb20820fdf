"""The body of an answer as text for the log: decompressed and decoded as its headers say, within bounds.

webhookd asks for no compression, but some receivers compress all the same.  What is kept of an attempt are the bytes
as they came; here they become readable.  A bomb stays shut: no more than 16 KiB are ever unpacked.
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Iterable

TEXT_LIMIT_BYTES = 16 * 1024

_CODINGS = frozenset({"gzip", "x-gzip", "deflate"})  # brotli and zstd are not in the standard library
_MOST_CODINGS = 2
_CHARSET = re.compile(r"""charset\s*=\s*"?([\w.:+-]{1,40})""", re.IGNORECASE)
# Names as `codecs.lookup` gives them.  Others may take long, or mean something else than text.
_CHARSETS = re.compile(
    r"utf-8|utf-16|ascii|iso8859-\d+|cp125\d|koi8-[ru]|shift_jis|euc_jp|euc_kr|gb2312|gbk|gb18030|big5"
)


def answer_text(headers: Iterable[tuple[str, str]], body: bytes, *, truncated: bool) -> tuple[str, bool]:
    """`body`, which came with `headers`, as text, and whether that is `truncated`, as `body` may be already.

    What can't be unpacked is shown as it came; what can't be decoded becomes U+FFFD.
    """
    codings, content_type = [], ""
    for name, value in headers:
        if name.lower() == "content-encoding":
            codings += [coding.strip().lower() for coding in value.split(",")]
        elif name.lower() == "content-type":
            content_type = value
    unpacked, cut = _unpack(body, [coding for coding in codings if coding != "identity"])
    return _decode(unpacked, content_type, truncated=truncated or cut), truncated or cut


def _unpack(body: bytes, codings: list[str]) -> tuple[bytes, bool]:
    if len(codings) > _MOST_CODINGS or not _CODINGS.issuperset(codings):
        return body, False
    unpacked, cut = body, False
    for _ in codings:
        try:
            unpacked, more = _inflate(unpacked)
        except zlib.error:
            return body, False
        cut = cut or more
    return unpacked, cut


def _inflate(packed: bytes) -> tuple[bytes, bool]:
    """gzip or zlib, recognised by the first bytes, or the raw deflate that some servers send for zlib."""
    try:
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
        unpacked = inflater.decompress(packed, TEXT_LIMIT_BYTES)
    except zlib.error:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        unpacked = inflater.decompress(packed, TEXT_LIMIT_BYTES)
    return unpacked, bool(inflater.unconsumed_tail)


def _decode(body: bytes, content_type: str, *, truncated: bool) -> str:
    """By the charset that is declared; without one UTF-8, or Latin-1 for a text that can't be UTF-8."""
    declared = _CHARSET.search(content_type)
    charset = "utf-8" if declared is None else _known_charset(declared[1])
    if declared is None and content_type.lower().startswith("text/"):
        try:
            codecs.getincrementaldecoder("utf-8")().decode(body, not truncated)
        except UnicodeDecodeError:
            charset = "cp1252"
    return body.decode(charset, "replace")


def _known_charset(name: str) -> str:
    try:
        known = codecs.lookup(name).name
    except LookupError:
        return "utf-8"
    if known == "iso8859-1":
        return "cp1252"  # its superset, as browsers read it (WHATWG Encoding Standard)
    return known if _CHARSETS.fullmatch(known) else "utf-8"
