"""What goes on the wire for a delivery (manual/api.md): built once per endpoint, filled in per attempt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from webhookd._version import __version__
from webhookd.models import Endpoint, PreviousKey, Request
from webhookd.rules.signing import Signer, body_key
from webhookd.rules.trace_context import trace_headers
from webhookd.rules.urls import UrlParts

_FIXED = (("Content-Type", "application/json"), ("User-Agent", f"webhookd/{__version__}"))
REPLAY = (("X-Webhook-Replay", "true"),)
BACKFILL = (("X-Webhook-Backfill", "true"),)
TEST = (("X-Webhook-Test", "true"),)


_DEFAULT_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int]  # scheme, host, port: what a connection may be shared by


class RequestBuilder:
    """Makes the requests of one endpoint as it is now; a changed endpoint gets a new builder."""

    __slots__ = ("_endpoint", "_has_trace", "_secret_headers", "_signer", "_until_ms")

    def __init__(self, endpoint: Endpoint, now_ms: int) -> None:
        self._endpoint = endpoint
        previous = endpoint.live_previous_keys(now_ms)
        keys = [each.key for each in previous]
        self._signer = Signer(endpoint.signing_key, *keys, body_text=_body_text(endpoint, previous))
        self._until_ms = min((each.until_ms for each in previous), default=0)
        self._secret_headers = frozenset(name for name, _ in endpoint.headers)
        self._has_trace = not {"traceparent", "tracestate"}.isdisjoint(name.lower() for name, _ in endpoint.headers)

    def fits(self, endpoint: Endpoint, now_ms: int) -> bool:
        """Whether it is still right for `endpoint` at `now_ms`: nothing changed, and the same keys are live."""
        return endpoint is self._endpoint and (not self._until_ms or now_ms < self._until_ms)

    def build(
        self,
        webhook_id: str,
        body: bytes,
        *,
        number: int,
        now_ms: int,
        marks: tuple[tuple[str, str], ...] = (),
        trace: str | None = None,
        place: tuple[int, str | None] | None = None,
    ) -> Request:
        """The request of attempt `number` made at `now_ms`; `marks` say what it is: `REPLAY`, `BACKFILL`, `TEST`.

        `trace`, see `rules.trace_context`, gives way to a header of the endpoint's own.  `place`, where its endpoint
        orders by key: the delivery's number, and the id of the event before it in its lane.
        """
        endpoint = self._endpoint
        signature = self._signer.headers(webhook_id, now_ms // 1000, body)
        if place is not None:
            signature += self._signer.order_headers(webhook_id, now_ms // 1000, *place)
        attempt = ("X-Webhook-Attempt", str(number))
        traced = trace_headers(trace) if trace and not self._has_trace else ()
        return Request(
            url=endpoint.url,
            headers=(*_FIXED, *signature, attempt, *marks, *traced, *endpoint.headers),
            body=body,
            accept_any_2xx=endpoint.success == "2xx",
            secret_headers=self._secret_headers,
        )


def _body_text(endpoint: Endpoint, previous: Sequence[PreviousKey]) -> str | None:
    """The key of `X-Webhook-Signature`: the receiver's own, else the oldest that signs, which it may still have."""
    if not endpoint.x_webhook_signature:
        return None
    oldest = next((each.key for each in reversed(previous) if each.signs_body), endpoint.signing_key)
    return endpoint.x_webhook_signature_key or body_key(oldest)


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests for one URL go, and what each of them begins with: made once per URL."""

    origin: Origin
    head: str

    @classmethod
    def of(cls, url: UrlParts) -> Target:
        """The target for a URL that has passed the first gate.  Path and query are sent as they are."""
        rest = url.text[len(url.scheme) + 3 :]
        begin = re.search("[/?]|$", rest)
        assert begin is not None
        path = rest[begin.start() :]
        name = f"[{url.host}]" if ":" in url.host else url.host.rstrip(".")
        host = name if url.port == _DEFAULT_PORTS[url.scheme] else f"{name}:{url.port}"
        slash = "" if path.startswith("/") else "/"
        return cls((url.scheme, url.host, url.port), f"POST {slash}{path} HTTP/1.1\r\nHost: {host}\r\n")

    def encode(self, request: Request, *, last: bool) -> bytes:
        """Head and body of `request` as they go out, `last` on its connection; ValueError for a broken header."""
        lines, accepts = [self.head], False
        for name, value in request.headers:
            lowered = name.lower()
            if lowered != "content-length":
                accepts = accepts or lowered == "accept"
                lines.append(f"{name}: {value}\r\n")
        if not accepts:
            lines.append("Accept: */*\r\n")  # without Accept-Encoding: answers are kept as they come
        lines.append(f"Content-Length: {len(request.body)}\r\n")
        if last:
            lines.append("Connection: close\r\n")
        lines.append("\r\n")
        head = "".join(lines)
        # One line each, and one more of the target's own: a value that begins another header is a bug of the gates.
        if not head.count("\r") == head.count("\n") == len(lines) + 1 or "\0" in head:
            raise ValueError("a header holds a line break or NUL")
        return head.encode() + request.body
