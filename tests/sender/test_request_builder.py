"""The head of a request."""

from __future__ import annotations

import pytest

from webhookd.models import Request
from webhookd.rules.urls import parse_url
from webhookd.sender.request_builder import Target


@pytest.mark.parametrize(
    ("url", "line", "host"),
    [
        ("http://example.com", "POST / HTTP/1.1", "example.com"),
        ("http://example.com:80/a", "POST /a HTTP/1.1", "example.com"),
        ("https://example.com:80/a", "POST /a HTTP/1.1", "example.com:80"),
        ("https://EXAMPLE.com:443?b=/c", "POST /?b=/c HTTP/1.1", "example.com"),
        ("https://example.com./", "POST / HTTP/1.1", "example.com"),
        ("http://[2001:db8::1]:8080/x?y", "POST /x?y HTTP/1.1", "[2001:db8::1]:8080"),
        ("http://127.1/é", "POST /%C3%A9 HTTP/1.1", "127.0.0.1"),
    ],
)
def test_the_first_lines_are_the_urls(url: str, line: str, host: str) -> None:
    """The path as it was given, the host without its default port or the root's dot."""
    sent = Target.of(parse_url(url)).encode(Request(url, (), b"{}", False), last=False)
    assert [line, f"Host: {host}", "Accept: */*", "Content-Length: 2", "", "{}"] == sent.decode().split("\r\n")


def test_headers_that_are_given_are_not_sent_twice() -> None:
    """A custom Accept replaces ours; the length is always the body's."""
    request = Request("http://a/", (("accept", "text/plain"), ("Content-Length", "9")), b"{}", False)
    sent = Target.of(parse_url(request.url)).encode(request, last=True)
    assert (
        b"POST / HTTP/1.1\r\nHost: a\r\naccept: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}" == sent
    )


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\rb", "a\nb", "a\0b", "a\r\n\r\n"])
def test_no_value_begins_another_header(value: str) -> None:
    """The gates refuse such a value when it is saved; if one came through, nothing is sent."""
    with pytest.raises(ValueError, match="line break"):
        Target.of(parse_url("http://a/")).encode(Request("http://a/", (("X", value),), b"{}", False), last=False)
