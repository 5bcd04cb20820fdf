"""Hostile callers, class by class: what is sent, byte for byte, and the verdict expected.

Each is one request on a connection of its own.  `{TOKEN}` in it stands for an ingest token, `{ADMIN}` for an admin's.
A verdict is the status with the code of the error, "" for an answer of success; or `ENDED`: no answer, for none is due.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

ENDED = (0, "")
TAKEN = (202, "")
NOT_JSON = (400, "invalid_json")
MALFORMED = (400, "invalid_request")
NOT_KNOWN = (401, "unauthorized")
FORBIDDEN = (403, "forbidden")
NOTHING_THERE = (404, "not_found")
NOT_POSSIBLE = (405, "method_not_allowed")
TOO_LARGE = (413, "payload_too_large")
NOT_TAKEN = (415, "unsupported_media_type")
NOT_OURS = (421, "wrong_host")
NO_EVENT = (422, "invalid_event")
NO_TYPE = (422, "missing_event_type")
UNKNOWN_TYPE = (422, "unknown_event_type")
BAD_ID = (422, "invalid_event_id")

KIB = 1024
EVENT_MAX = 256 * KIB
GOOD = b'{"event_type":"message.received"}'
HELLO = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(range(160))
NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Caller:
    """One hostile request.  `rejected`: the code of the first event refused, where others may stand; `half`: it ends
    its side of the connection after it; `reset`: it drops the connection."""

    kind: str
    name: str
    sent: bytes
    verdict: tuple[int, str]
    rejected: str = ""
    half: bool = False


def request(
    body: bytes = b"",
    *,
    method: str = "POST",
    path: str = "/v1/events",
    version: str = "HTTP/1.1",
    **headers: str | None,
) -> bytes:
    """A request; `_` in a header's name stands for `-`, None leaves a usual one out."""
    given: dict[str, str | None] = {
        "Host": "localhost",
        "Authorization": "Bearer {TOKEN}",
        "Content_Length": str(len(body)),
        "Content_Type": "application/json",
        **headers,
    }
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in given.items() if value is not None]
    return "\r\n".join([f"{method} {path} {version}", *lines, "", ""]).encode("utf-8", "surrogateescape") + body


def chunked(*chunks: bytes, **headers: str | None) -> bytes:
    """A request whose body is these bytes as they are, said to be chunks."""
    return request(Content_Length=None, Transfer_Encoding="chunked", **headers) + b"".join(chunks)


def raw_head(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([*lines, b"", b""]) + body


def event(rest: bytes) -> bytes:
    return b'{"event_type":"message.received",' + rest + b"}"


def _of(kind: str, cases: dict[str, tuple[bytes, tuple[int, str]]]) -> Iterator[Caller]:
    for name, (sent, verdict) in cases.items():
        yield Caller(kind, name, sent, verdict)


def _not_json() -> Iterator[Caller]:
    bodies = {
        "0 bytes": b"",
        "white space alone": b" \t\r\n ",
        "cut off": GOOD[:-1],
        "something after it": GOOD + b" x",
        "two objects": GOOD + GOOD,
        "single quotes": b"{'event_type':'message.received'}",
        "comma at the end": b'{"event_type":"message.received",}',
        "comment": b'{"event_type":"message.received"/* x */}',
        "no value": b'{"event_type":}',
        "NaN": event(b'"x":NaN'),
        "Infinity": event(b'"x":Infinity'),
        "-Infinity": event(b'"x":-Infinity'),
        "--1e999": event(b'"x":--1e999'),
        "1e999.5": event(b'"x":1e999.5'),
        "leading zero": event(b'"x":01'),
        "hexadecimal": event(b'"x":0x10'),
        "plus sign": event(b'"x":+1'),
        "bare word": b"event",
        "byte order mark": b"\xef\xbb\xbf" + GOOD,
        "line break in a string": event(b'"x":"a\nb"'),
        "NUL in a string": event(b'"x":"a\x00b"'),
        "unknown escape": event(b'"x":"\\x41"'),
        "escape cut off": event(b'"x":"\\u12"'),
        "form feed around it": b"\x0c" + GOOD,
        "a form": b"event_type=message.received",
        "10,000 arrays deep": event(b'"x":' + b"[" * 10_000 + b"]" * 10_000),
        "10,000 objects deep": event(b'"x":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
        "100,000 brackets": b"[" * 100_000,
        "array cut off": b"[" + GOOD + b",",
        "array with a fault at its end": b"[" + GOOD + b",nonsense]",
    }
    yield from _of("not JSON", {name: (request(body), NOT_JSON) for name, body in bodies.items()})


def _not_utf8() -> Iterator[Caller]:
    bodies = {
        "0xff": event(b'"x":"\xff"'),
        "overlong slash": event(b'"x":"\xc0\xaf"'),
        "cut in a character": event(b'"x":"\xe2\x82"'),
        "surrogate as bytes": event(b'"x":"\xed\xa0\x80"'),
        "beyond Unicode": event(b'"x":"\xf4\x90\x80\x80"'),
        "latin-1": event('"x":"über"'.encode("latin-1")),
        "UTF-16": GOOD.decode().encode("utf-16"),
        "0xff in a name": event(b'"\xff":1'),
        "lone high surrogate": event(b'"x":"\\ud800"'),
        "lone low surrogate": event(b'"x":"\\udc00"'),
        "surrogates the wrong way round": event(b'"x":"\\udc00\\ud800"'),
        "0xff in an array": b"[" + event(b'"x":"\xff"') + b"]",
    }
    yield from _of("not UTF-8", {name: (request(body), NOT_JSON) for name, body in bodies.items()})


def _no_event() -> Iterator[Caller]:
    named = b'{"event_type":%b}'
    with_id = b'{"event_type":"message.received","event_id":%b}'
    cases = {
        "a number": (b"5", NO_EVENT),
        "a string": (b'"message.received"', NO_EVENT),
        "null": (b"null", NO_EVENT),
        "true": (b"true", NO_EVENT),
        "empty object": (b"{}", NO_TYPE),
        "its name in capitals": (b'{"EVENT_TYPE":"message.received"}', NO_TYPE),
        "type in an object inside": (b'{"x":{"event_type":"message.received"}}', NO_TYPE),
        "type twice": (event(b'"event_type":"message.sent"'), NO_EVENT),
        "type twice, the same": (event(b'"event_type":"message.received"'), NO_EVENT),
        "type twice, once escaped": (event(b'"event_\\u0074ype":"message.sent"'), NO_EVENT),
        "id twice": (event(b'"event_id":"a","event_id":"b"'), NO_EVENT),
        "id twice, once escaped": (event(b'"event_id":"a","\\u0065vent_id":"b"'), NO_EVENT),
        "type a number": (named % b"5", UNKNOWN_TYPE),
        "type null": (named % b"null", UNKNOWN_TYPE),
        "type an array": (named % b'["message.received"]', UNKNOWN_TYPE),
        "type an object": (named % b"{}", UNKNOWN_TYPE),
        "type empty": (named % b'""', UNKNOWN_TYPE),
        "type unknown": (named % b'"message.exploded"', UNKNOWN_TYPE),
        "type in capitals": (named % b'"Message.Received"', UNKNOWN_TYPE),
        "type with a space": (named % b'"message.received "', UNKNOWN_TYPE),
        "type 100 KB": (named % (b'"' + b"a" * 100_000 + b'"'), UNKNOWN_TYPE),
        "type a script": (named % b'"<script>alert(1)</script>"', UNKNOWN_TYPE),
        "type with an escape sequence": (named % b'"\\u001b[2J"', UNKNOWN_TYPE),
        "id empty": (with_id % b'""', BAD_ID),
        "id of 65": (with_id % (b'"' + b"a" * 65 + b'"'), BAD_ID),
        "id with a space": (with_id % b'"a b"', BAD_ID),
        "id with a slash": (with_id % b'"a/b"', BAD_ID),
        "id with a line break": (with_id % b'"a\\r\\nX-Evil: 1"', BAD_ID),
        "id with NUL": (with_id % b'"a\\u0000"', BAD_ID),
        "id of other letters": (with_id % '"é"'.encode(), BAD_ID),
        "id with a digit of another script": (with_id % '"٣"'.encode(), BAD_ID),
        "id a number": (with_id % b"5", BAD_ID),
        "id null": (with_id % b"null", BAD_ID),
    }
    yield from _of("no event", {name: (request(body), verdict) for name, (body, verdict) in cases.items()})
    for name, body, code in (
        ("array in an array", b"[[]]", "invalid_event"),
        ("numbers in an array", b"[1,2]", "invalid_event"),
        ("a lone surrogate in an array", b"[" + GOOD + b"," + event(b'"x":"\\ud800"') + b"]", "invalid_json"),
        ("one without a type in an array", b"[" + GOOD + b",{}]", "missing_event_type"),
    ):
        yield Caller("no event", name, request(body), (422, ""), rejected=code)


def _sizes() -> Iterator[Caller]:
    padding = EVENT_MAX - len(event(b'"x":""'))
    at_most = event(b'"x":"' + b"x" * padding + b'"')
    array_max = 8 * KIB * KIB
    yield from _of(
        "size",
        {
            "the largest": (request(at_most), TAKEN),
            "one byte over": (request(at_most[:-2] + b'x"}'), TOO_LARGE),
            "the largest with white space around it": (request(b" " * 5000 + at_most + b"\n" * 5000), TAKEN),
            "array of 1,000": (request(b"[" + b",".join([GOOD] * 1000) + b"]"), TAKEN),
            "array of 1,001": (request(b"[" + b",".join([GOOD] * 1001) + b"]"), TOO_LARGE),
            "array of nothing": (request(b"[]"), TAKEN),
            "array of 4 million zeros": (request(b"[" + b"0," * 4_000_000 + b"0]"), TOO_LARGE),
            "announced: one byte over": (request(Content_Length=str(array_max + 1)), TOO_LARGE),
            "announced: 10 GiB": (request(Content_Length=str(10 * 1024**3)), TOO_LARGE),
            "announced: 10^30": (request(Content_Length="1" + "0" * 30), MALFORMED),
            "9 MiB in chunks": (
                chunked(b"100000\r\n" + b" " * KIB * KIB + b"\r\n", b"900000\r\n" + b" " * 0x900000),
                TOO_LARGE,
            ),
        },
    )
    yield Caller(
        "size", "one byte over, in an array", request(b"[" + at_most[:-2] + b'x"}]'), (422, ""), "payload_too_large"
    )


def _odd_but_good() -> Iterator[Caller]:
    bodies = {
        "2^64": event(b'"x":18446744073709551616'),
        "-2^64": event(b'"x":-18446744073709551616'),
        "an integer of 400 digits": event(b'"x":1' + b"0" * 400),
        "1e308": event(b'"x":1e308'),
        "1.0e+400": event(b'"x":1.0e+400'),
        "5e-324": event(b'"x":5e-324'),
        "-0": event(b'"x":-0'),
        "many decimals": event(b'"x":0.1000000000000000055511151231257827'),
        "NUL escaped": event(b'"x":"\\u0000"'),
        "bidi marks": event('"x":"\u202egnp.exe"'.encode()),
        "escape sequences": event(b'"x":"\\u001b[2J\\u001b]0;title\\u0007"'),
        "a script": event(b'"x":"<script>alert(1)</script>"'),
        "names twice, others": event(b'"x":1,"x":2'),
        "event_type in an object inside": event(b'"x":{"event_type":"y","event_type":"z"}'),
        "empty name": event(b'"":1'),
        "__proto__": event(b'"__proto__":{"admin":true}'),
        "a template": event(b'"x":"{{7*7}}${7*7}%s%n"'),
        "a surrogate pair": event(b'"x":"\\ud83d\\ude00"'),
        "900 levels": event(b'"x":' + b"[" * 900 + b"]" * 900),
        "20,000 names": event(b",".join(b'"n%d":0' % number for number in range(20_000))),
    }
    yield from _of("odd but good", {name: (request(body), TAKEN) for name, body in bodies.items()})


def _media() -> Iterator[Caller]:
    packed = gzip.compress(GOOD)
    bomb = gzip.compress(b" " * 50_000_000)
    yield from _of(
        "type and encoding",
        {
            "gzip": (request(packed, Content_Encoding="gzip"), NOT_TAKEN),
            "GZIP": (request(packed, Content_Encoding="GZIP"), NOT_TAKEN),
            "deflate": (request(zlib.compress(GOOD), Content_Encoding="deflate"), NOT_TAKEN),
            "a bomb": (request(bomb, Content_Encoding="gzip"), NOT_TAKEN),
            "gzip that isn't": (request(GOOD, Content_Encoding="gzip"), NOT_TAKEN),
            "gzip without saying so": (request(packed), NOT_JSON),
            "gzip twice": (request(packed, Content_Encoding="gzip, gzip"), NOT_TAKEN),
            "identity": (request(GOOD, Content_Encoding="identity"), TAKEN),
            "text": (request(GOOD, Content_Type="text/plain"), NOT_TAKEN),
            "a form": (request(GOOD, Content_Type="application/x-www-form-urlencoded"), NOT_TAKEN),
            "a form with files": (request(GOOD, Content_Type="multipart/form-data; boundary=x"), NOT_TAKEN),
            "JSON in UTF-16": (request(GOOD, Content_Type="application/json; charset=utf-16"), NOT_TAKEN),
            "JSON in UTF-7": (request(GOOD, Content_Type="application/json; charset=utf-7"), NOT_TAKEN),
            "JSON in UTF-8": (request(GOOD, Content_Type="Application/JSON; Charset=UTF-8"), TAKEN),
            "no type": (request(GOOD, Content_Type=None), TAKEN),
            "an empty type": (request(GOOD, Content_Type=""), NOT_TAKEN),
            "garbage": (request(GOOD, Content_Type=";;;=,/"), NOT_TAKEN),
            "a type of 7,000": (request(GOOD, Content_Type="application/" + "x" * 7000), NOT_TAKEN),
        },
    )


def _lines() -> Iterator[Caller]:
    def stream(body: bytes, **headers: str | None) -> bytes:
        return request(body, Content_Type=NDJSON, **headers)

    for name, body, code in (
        ("garbage between", GOOD + b"\nnonsense\n" + GOOD, "invalid_json"),
        ("a line that isn't UTF-8", GOOD + b"\n\xff\xfe\n", "invalid_json"),
        ("a line of 300 KB", GOOD + b"\n" + b"x" * 300_000 + b"\n", "payload_too_large"),
        ("one event over three lines", b'{\n"event_type":\n"message.received"}', "invalid_json"),
        ("an array in a line", b"[" + GOOD + b"]\n", "invalid_event"),
        ("CR alone", GOOD + b"\r" + GOOD, "invalid_json"),
        ("NUL between", GOOD + b"\x00\n", "invalid_json"),
        ("line separators of Unicode", GOOD + "\u2028".encode() + GOOD, "invalid_json"),
    ):
        yield Caller("lines", name, stream(body), (422, ""), rejected=code)
    yield from _of(
        "lines",
        {
            "nothing": (stream(b""), TAKEN),
            "blank lines alone": (stream(b"\n\r\n \t\n"), TAKEN),
            "no end of the last line": (stream(GOOD + b"\n" + GOOD), TAKEN),
            "CRLF": (stream(GOOD + b"\r\n" + GOOD + b"\r\n"), TAKEN),
            "gzip": (stream(gzip.compress(GOOD), Content_Encoding="gzip"), NOT_TAKEN),
            "chunks that aren't": (chunked(b"zz\r\n", Content_Type=NDJSON), MALFORMED),
        },
    )
    cut = chunked(b"%x\r\n%b\r\n" % (len(GOOD) + 6, GOOD + b"\n" + GOOD[:5]), Content_Type=NDJSON)
    yield Caller("lines", "pipe cut in a line", cut, ENDED, half=True)
    yield Caller("lines", "pipe cut in a chunk", cut[:-9], ENDED, half=True)


def _framing() -> Iterator[Caller]:
    post, host, token = b"POST /v1/events HTTP/1.1", b"Host: localhost", b"Authorization: Bearer {TOKEN}"
    length = b"Content-Length: %d" % len(GOOD)

    def posted(*lines: bytes, body: bytes = GOOD) -> bytes:
        return raw_head(post, host, token, *lines, body=body)

    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)
    te = b"Transfer-Encoding: chunked"
    smuggled = raw_head(b"GET /healthz HTTP/1.1", host)
    malformed = {
        "length and chunks": posted(length, te, body=chunk),
        "chunks and length": posted(te, length, body=chunk),
        "two lengths": posted(length, b"Content-Length: 0"),
        "the same length twice": posted(length, length),
        "a list of lengths": posted(b"Content-Length: 33, 33"),
        "negative length": posted(b"Content-Length: -1"),
        "length with a plus": posted(b"Content-Length: +33"),
        "length in hexadecimal": posted(b"Content-Length: 0x21"),
        "length of other digits": posted("Content-Length: ٣٣".encode()),
        "empty length": posted(b"Content-Length: "),
        "length in words": posted(b"Content-Length: many"),
        "chunked twice": posted(b"Transfer-Encoding: chunked, chunked", body=chunk),
        "chunked not at the end": posted(b"Transfer-Encoding: chunked, identity", body=chunk),
        "an unknown encoding": posted(b"Transfer-Encoding: xchunked", body=chunk),
        "chunked, misspelt": posted(b"Transfer-Encoding: \x0bchunked", body=chunk),
        "chunk size no number": posted(te, body=b"zz\r\n"),
        "chunk size negative": posted(te, body=b"-1\r\n"),
        "chunk size past 2^64": posted(te, body=b"1" + b"0" * 16 + b"\r\n"),
        "chunk size with a prefix": posted(te, body=b"0x21\r\n" + GOOD + b"\r\n0\r\n\r\n"),
        "chunk longer than it says": posted(te, body=b"5\r\n" + GOOD + b"\r\n0\r\n\r\n"),
        "chunks without end of line": posted(te, body=b"1\n{\n"),
        "header without colon": raw_head(post, host, b"nonsense"),
        "space before the colon": raw_head(post, host, b"Content-Length : 33", body=GOOD),
        "space in a name": raw_head(post, host, b"X Y: 1"),
        "no name": raw_head(post, host, b": 1"),
        "folded header": raw_head(post, host, b"X-Folded: 1", b" Content-Length: 33", body=GOOD),
        "NUL in a header": raw_head(post, host, b"X: a\x00b"),
        "CR in a header": raw_head(post, host, b"X: a\rb: c"),
        "control character in a name": raw_head(post, host, b"X\x01: 1"),
        "header of 20 KB": raw_head(post, host, b"X: " + b"a" * 20_000),
        "200 headers": raw_head(post, host, *[b"X-%d: 1" % number for number in range(200)]),
        "name of 20 KB": raw_head(post, host, b"X" * 20_000 + b": 1"),
        "target of 20 KB": raw_head(b"GET /" + b"a" * 20_000 + b" HTTP/1.1", host),
        "no Host": raw_head(b"GET /healthz HTTP/1.1"),
        "two Hosts": raw_head(b"GET /healthz HTTP/1.1", host, host),
        "empty Host": raw_head(b"GET /v1/status HTTP/1.1", b"Host:"),
        "Host with a path": raw_head(b"GET /v1/status HTTP/1.1", b"Host: localhost/x"),
        "Host with a user": raw_head(b"GET /v1/status HTTP/1.1", b"Host: u@localhost"),
        "HTTP/0.9": b"GET /v1/status\r\n\r\n",
        "HTTP/9.9": raw_head(b"GET /healthz HTTP/9.9", host),
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TLS": HELLO,
        "SSH": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "PROXY protocol": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + smuggled,
        "words": b"nonsense\r\n\r\n",
        "no target": raw_head(b"GET HTTP/1.1", host),
        "a tab for a space": raw_head(b"GET\t/healthz\tHTTP/1.1", host),
        "method with a control character": raw_head(b"G\x01T /healthz HTTP/1.1", host),
        "Expect of nonsense": request(GOOD, Expect="the-unexpected"),
    }
    yield from _of("framing", {name: (sent, MALFORMED) for name, sent in malformed.items()})


def _methods() -> Iterator[Caller]:
    cases = {
        "PUT": (request(GOOD, method="PUT"), NOT_POSSIBLE),
        "DELETE": (request(method="DELETE"), NOT_POSSIBLE),
        "TRACE": (request(method="TRACE", Content_Length=None), NOT_POSSIBLE),
        "TRACK": (request(method="TRACK"), MALFORMED),
        "three spaces": (raw_head(b"GET   /healthz   HTTP/1.1", b"Host: localhost"), (200, "")),
        "OPTIONS": (request(method="OPTIONS"), NOT_POSSIBLE),
        "OPTIONS *": (request(method="OPTIONS", path="*"), NOTHING_THERE),
        "a method of its own": (request(method="EXPLODE"), MALFORMED),
        "a method in small letters": (request(GOOD, method="post"), MALFORMED),
        "CONNECT": (request(method="CONNECT", path="example.com:443"), NOTHING_THERE),
        "another's address": (request(GOOD, path="http://evil.example/v1/events"), NOT_OURS),
        "our own address": (request(GOOD, path="http://localhost/v1/events"), TAKEN),
        "a method override": (request(GOOD, X_HTTP_Method_Override="DELETE"), TAKEN),
        "upgrade to a websocket": (request(GOOD, Connection="Upgrade", Upgrade="websocket"), TAKEN),
        "upgrade to HTTP/2": (request(GOOD, Connection="Upgrade, HTTP2-Settings", Upgrade="h2c"), TAKEN),
        "a range": (request(GOOD, Range="bytes=0-0"), TAKEN),
        "HTTP/1.0": (request(GOOD, version="HTTP/1.0"), TAKEN),
        "Expect 100": (request(GOOD, Expect="100-Continue"), (100, "")),
    }
    yield from _of("methods", cases)


def _tokens() -> Iterator[Caller]:
    def with_token(value: str | None, path: str = "/v1/events", **headers: str | None) -> bytes:
        return request(GOOD, path=path, Authorization=value, **headers)

    yield from _of(
        "tokens",
        {
            "none": (with_token(None), NOT_KNOWN),
            "wrong": (with_token("Bearer whk_ingest_wrong"), NOT_KNOWN),
            "cut by one": (request(GOOD).replace(b"{TOKEN}", b"{CUT}"), NOT_KNOWN),
            "one character more": (with_token("Bearer {TOKEN}x"), NOT_KNOWN),
            "in capitals": (request(GOOD).replace(b"{TOKEN}", b"{CAPITALS}"), NOT_KNOWN),
            "bare": (with_token("{TOKEN}"), NOT_KNOWN),
            "empty": (with_token("Bearer "), NOT_KNOWN),
            "Basic": (with_token("Basic {TOKEN}"), NOT_KNOWN),
            "twice in one": (with_token("Bearer {TOKEN} {TOKEN}"), NOT_KNOWN),
            "of other letters": (with_token("Bearer üüü"), NOT_KNOWN),
            "not UTF-8": (with_token("Bearer \udcff"), NOT_KNOWN),
            "8,000 letters": (with_token("Bearer " + "x" * 8000), NOT_KNOWN),
            "an injection": (with_token("Bearer ' OR 1=1 --"), NOT_KNOWN),
            "in the URL: token": (with_token(None, "/v1/events?token={TOKEN}"), NOT_KNOWN),
            "in the URL: access_token": (with_token(None, "/v1/events?access_token={TOKEN}"), NOT_KNOWN),
            "in the URL: Authorization": (with_token(None, "/v1/events?Authorization=Bearer%20{TOKEN}"), NOT_KNOWN),
            "in the URL, of the page": (
                request(method="GET", path="/v1/tokens?token={ADMIN}", Authorization=None),
                NOT_KNOWN,
            ),
            "in a cookie": (with_token(None, Cookie="webhookd_session={TOKEN}; token={TOKEN}"), NOT_KNOWN),
            "in X-API-Key": (with_token(None, X_API_Key="{TOKEN}"), NOT_KNOWN),
            "said by a proxy": (with_token(None, X_Forwarded_For="127.0.0.1", Forwarded="for=127.0.0.1"), NOT_KNOWN),
            "of another scope": (request(method="GET", path="/v1/tokens"), FORBIDDEN),
            "of another scope, a change": (request(b"{}", path="/v1/endpoints"), FORBIDDEN),
            "small bearer": (with_token("bearer {TOKEN}"), TAKEN),
        },
    )


def _hosts() -> Iterator[Caller]:
    named = {
        "evil.example": NOT_OURS,
        "localhost.evil.example": NOT_OURS,
        "127.0.0.1.nip.io": NOT_OURS,
        "evillocalhost": NOT_OURS,
        "10.0.0.1": NOT_OURS,
        "169.254.169.254": NOT_OURS,
        "[::ffff:7f00:1]": NOT_OURS,
        "[::2]:8780": NOT_OURS,
        "0.0.0.0": NOT_OURS,
        "2130706433": NOT_OURS,
        "localhost:port": MALFORMED,
        "localhost\\evil": MALFORMED,
        "localhost,evil.example": MALFORMED,
        "localhost:8780": TAKEN,
        "webhookd.localhost": TAKEN,
        "LOCALHOST.": TAKEN,
        "[::1]": TAKEN,
        "127.8.9.10": TAKEN,
    }
    yield from _of("Host", {host: (request(GOOD, Host=host), verdict) for host, verdict in named.items()})


def _paths() -> Iterator[Caller]:
    nothing = """
        //v1/events /v1//events /v1/events/ /v1/./events/../nope /v1/../../etc/passwd /v1/%2e%2e/%2e%2e/etc/passwd
        /static/..%2f..%2f..%2fetc%2fpasswd /static/%2e%2e/pages.py /static/....//pages.py
        /v1/workspaces/..%2fdefault/events /v1/workspaces/%00/events /v1/workspaces/default%00/events
        /v1/workspaces/a%0d%0aX-Evil:%201/events /v1/workspaces/%c0%ae%c0%ae/events /v1/workspaces/%ff/events
        /v1/workspaces/%ed%a0%80/events /v1/workspaces/Default/events /v1/workspaces/'%20OR%201=1/events
        /v1/workspaces//events /V1/EVENTS /v1/events;jsessionid=1 /v1/events%20 /v1/events%0a /v1/events\\ /% /%zz
        /.git/config /webhookd.db /admin-token
    """
    targets = {
        **dict.fromkeys(nothing.split(), NOTHING_THERE),
        "/v1/workspaces/" + "a" * 4000 + "/events": NOTHING_THERE,
        "*": MALFORMED,
        "/v1/events?x=1": (422, "unknown_field"),
        "/v1/events?%00=1": (422, "unknown_field"),
        "/v1/events#x": TAKEN,
        "v1/events": MALFORMED,
        "": MALFORMED,
    }
    named = {
        target[:60] or "no target": (
            request(GOOD, path=target) if not target.startswith("/static") else request(method="GET", path=target),
            verdict,
        )
        for target, verdict in targets.items()
    }
    named["/v1/workspaces/(bytes)/events"] = (request(GOOD, path="/v1/workspaces/\udcff\udcfe/events"), MALFORMED)
    yield from _of("paths", named)


CALLERS: tuple[Caller, ...] = tuple(
    caller
    for cases in (
        _not_json, _not_utf8, _no_event, _sizes, _odd_but_good, _media, _lines, _framing, _methods, _tokens, _hosts,
        _paths,
    )
    for caller in cases()
)  # fmt: skip
