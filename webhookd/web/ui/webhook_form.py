"""The form of a webhook: its fields as shown, as sent, and as the endpoint administration takes them."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from webhookd.errors import ApiError
from webhookd.models import EVERY_TYPE, Endpoint
from webhookd.rules.ordering import LANES_DEFAULT
from webhookd.rules.urls import MASK
from webhookd.web.ui.pages import Page, Translated

HEADERS_MAX = 100
_FIELDS = (
    *("url", "description", "event_types", "success", "headers"),
    *("x_webhook_signature", "x_webhook_signature_key", "ordering"),
)


@dataclass(frozen=True, slots=True)
class WebhookForm:
    """What stands in the fields.  `headers` is a line per header.  Secrets that are kept are masked."""

    url: str
    description: str
    every_type: bool
    event_types: tuple[str, ...]
    success: str
    headers: str
    x_webhook_signature: bool = True
    x_webhook_signature_key: str = ""
    signing_key: str = ""
    order_key: str = ""
    lanes: str = ""
    kept_headers: tuple[tuple[str, str], ...] = ()
    kept_key: str | None = None

    def fields(self, page: Page) -> dict[str, Any]:
        """The endpoint's fields; ApiError `invalid_field` for a malformed header line."""
        return {
            **({"signing_key": self.signing_key} if self.signing_key else {}),
            "url": self.url,
            "description": self.description,
            "event_types": [EVERY_TYPE] if self.every_type else list(self.event_types),
            "success": self.success,
            "headers": self._headers(page),
            "x_webhook_signature": self.x_webhook_signature,
            "x_webhook_signature_key": self.kept_key
            if self.x_webhook_signature_key == MASK
            else self.x_webhook_signature_key or None,
            "ordering": self._ordering() if self.order_key else "endpoint",
        }

    def _ordering(self) -> dict[str, Any]:
        lanes = int(self.lanes) if self.lanes.isdecimal() and len(self.lanes) < 9 else self.lanes
        return {"key": self.order_key, "lanes": lanes or LANES_DEFAULT}

    def _headers(self, page: Page) -> dict[str, str]:
        kept = {name.lower(): value for name, value in self.kept_headers}
        headers: dict[str, str] = {}
        lines = self.headers.splitlines()
        if len(lines) > HEADERS_MAX:
            raise _bad_header(page.text("form.headers.too_many", limit=HEADERS_MAX))
        for line in lines:
            name, colon, value = (part.strip() for part in line.partition(":"))
            if not name and not value:
                continue
            if not colon:
                raise _bad_header(page.text("form.headers.no_colon", line=line[:60]))
            if name.lower() in {each.lower() for each in headers}:
                raise _bad_header(page.text("form.headers.twice", name=name[:60]))
            headers[name] = kept.get(name.lower(), value) if value == MASK else value
        return headers


def of_nothing(success: str) -> WebhookForm:
    """The empty form."""
    return WebhookForm("", "", every_type=False, event_types=(), success=success, headers="")


def of_endpoint(endpoint: Endpoint) -> WebhookForm:
    """The form with what an endpoint has; values of its headers are masked."""
    return WebhookForm(
        endpoint.url,
        endpoint.description,
        every_type=endpoint.event_types == (EVERY_TYPE,),
        event_types=endpoint.event_types,
        success=endpoint.success,
        headers="\n".join(f"{name}: {MASK}" for name, _ in endpoint.headers),
        x_webhook_signature=endpoint.x_webhook_signature,
        x_webhook_signature_key=MASK if endpoint.x_webhook_signature_key else "",
        order_key=endpoint.ordering.key or "",
        lanes=str(endpoint.ordering.lanes) if endpoint.ordering.key else "",
    )


def given(page: Page, endpoint: Endpoint | None = None) -> WebhookForm:
    """The form as it was sent; `endpoint` is the one that it changes."""
    return WebhookForm(
        page.field("url").strip(),
        page.field("description").strip(),
        every_type=page.field("every_type") == "yes",
        event_types=tuple(page.fields_named("event_types")),
        success=page.field("success"),
        headers=page.field("headers"),
        x_webhook_signature=page.field("x_webhook_signature") == "yes",
        x_webhook_signature_key=page.field("x_webhook_signature_key"),
        order_key=page.field("order_key").strip(),
        lanes=page.field("lanes").strip(),
        signing_key="" if endpoint else page.field("signing_key").strip(),
        kept_headers=endpoint.headers if endpoint else (),
        kept_key=endpoint.x_webhook_signature_key if endpoint else None,
    )


def version(page: Page, endpoint: Endpoint) -> str:
    """What a form shows of an endpoint: a digest per field, so that saving can tell which ones changed meanwhile.

    Keyed with the session, because a digest of a header's value must not help to guess it.
    """
    assert page.session is not None
    key = page.session.secret.encode()
    values = (repr(getattr(endpoint, name)).encode() for name in _FIELDS)
    return ".".join(hmac.new(key, value, "sha256").hexdigest()[:16] for value in values)


def conflicts(page: Page, form: WebhookForm, endpoint: Endpoint) -> list[tuple[str, str, str]]:
    """The fields that changed since the form was opened, each with the form's value and the endpoint's."""
    shown = page.field("version").split(".")
    now = version(page, endpoint).split(".")
    mine, theirs = _readable(page, form), _readable(page, of_endpoint(endpoint))
    pairs = zip_longest(_FIELDS, shown[: len(now)], now)
    return [(name, mine[name], theirs[name]) for name, old, new in pairs if old != new]


def _readable(page: Page, form: WebhookForm) -> dict[str, str]:
    types = page.text("webhooks.every_type") if form.every_type else ", ".join(form.event_types)
    return {
        "url": form.url,
        "description": form.description,
        "event_types": types,
        "success": form.success,
        "x_webhook_signature": page.text("form.signature.on")
        if form.x_webhook_signature
        else page.text("form.signature.off"),
        "x_webhook_signature_key": MASK if form.x_webhook_signature_key else "",
        "ordering": page.text("webhook.ordering.by_key", path=form.order_key, lanes=form.lanes)
        if form.order_key
        else page.text("webhook.ordering.strict"),
        "headers": ", ".join(line.strip() for line in form.headers.splitlines() if line.strip()),
    }


def _bad_header(message: str) -> ApiError:
    return Translated("invalid_field", message, details={"field": "headers"})
