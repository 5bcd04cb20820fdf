"""What goes on the wire for a delivery (manual/api.md): built once per endpoint, filled in per attempt."""

from __future__ import annotations

from webhookd._version import __version__
from webhookd.models import Endpoint, Request
from webhookd.rules.signing import Signer

_FIXED = (("Content-Type", "application/json"), ("User-Agent", f"webhookd/{__version__}"))
REPLAY = (("X-Webhook-Replay", "true"),)
TEST = (("X-Webhook-Test", "true"),)


class RequestBuilder:
    """Makes the requests of one endpoint as it is now; a changed endpoint gets a new builder."""

    __slots__ = ("_endpoint", "_secret_headers", "_signer", "_until_ms")

    def __init__(self, endpoint: Endpoint, now_ms: int) -> None:
        self._endpoint = endpoint
        self._until_ms = endpoint.previous_key_until_ms or 0
        overlaps = endpoint.previous_key is not None and now_ms < self._until_ms
        self._signer = Signer(endpoint.signing_key, endpoint.previous_key if overlaps else None)
        if not overlaps:
            self._until_ms = 0
        self._secret_headers = frozenset(name for name, _ in endpoint.headers)

    def fits(self, endpoint: Endpoint, now_ms: int) -> bool:
        """Whether it is still right for `endpoint` at `now_ms`: nothing changed, and the same keys are live."""
        return endpoint is self._endpoint and (not self._until_ms or now_ms < self._until_ms)

    def build(
        self, webhook_id: str, body: bytes, *, number: int, now_ms: int, marks: tuple[tuple[str, str], ...] = ()
    ) -> Request:
        """The request of attempt `number` made at `now_ms`; `marks` are `REPLAY` or `TEST` where it is one."""
        endpoint = self._endpoint
        signature = self._signer.headers(webhook_id, now_ms // 1000, body)
        attempt = ("X-Webhook-Attempt", str(number))
        return Request(
            url=endpoint.url,
            headers=(*_FIXED, *signature, attempt, *marks, *endpoint.headers),
            body=body,
            accept_any_2xx=endpoint.success == "2xx",
            secret_headers=self._secret_headers,
        )
