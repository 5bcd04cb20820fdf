"""The form of a webhook: its fields as shown, as sent, and as the endpoint administration takes them."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from webhookd.errors import ApiError
from webhookd.models import EVERY_TYPE, Endpoint, Json
from webhookd.rules.event_types import BUILT_IN
from webhookd.rules.filters import filters_json
from webhookd.rules.ordering import LANES_DEFAULT
from webhookd.rules.urls import MASK
from webhookd.web.ui.pages import Page, Translated

HEADERS_MAX = 100
_FIELDS = (
    *("url", "description", "event_types", "success", "headers"),
    *("x_webhook_signature", "x_webhook_signature_key", "ordering", "filters"),
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
    picked: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)  # by event type and path
    filters: str = ""  # those that aren't picked, as JSON

    def fields(self, page: Page) -> dict[str, Any]:
        """The endpoint's fields; ApiError `invalid_field` for a malformed header line, or filters that are no JSON."""
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
            "filters": self._filters(page),
        }

    def _filters(self, page: Page) -> Json:
        try:
            written = json.loads(self.filters) if self.filters.strip() else {}
        except (ValueError, RecursionError):
            written = None
        if not isinstance(written, dict):
            raise Translated("invalid_field", page.text("form.filters.no_json"), details={"field": "filters"})
        patterns: dict[str, Json] = {}
        for (event_type, path), values in self.picked.items():
            if event_type in written:
                message = page.text("form.filters.both", type=event_type)
                raise Translated("invalid_field", message, details={"field": "filters"})
            at = patterns.setdefault(event_type, {})
            *parents, name = path.split(".")
            for each in parents:
                at = at.setdefault(each, {})
            at[name] = list(values)
        return written | patterns

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


def of_endpoint(page: Page, endpoint: Endpoint) -> WebhookForm:
    """The form with what an endpoint has; values of its headers are masked."""
    picked, others = _picked(page, endpoint)
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
        picked=picked,
        filters=json.dumps(others, indent=2, ensure_ascii=False) if others else "",
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
        picked=dict(_given_picks(page)),
        filters=page.field("filters"),
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
    mine, theirs = _readable(page, form), _readable(page, of_endpoint(page, endpoint))
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
        "filters": _filter_words(page, form),
        "headers": ", ".join(line.strip() for line in form.headers.splitlines() if line.strip()),
    }


def _bad_header(message: str) -> ApiError:
    return Translated("invalid_field", message, details={"field": "headers"})


# Picking events by the usual choices


@dataclass(frozen=True, slots=True)
class Picker:
    """A field of an event type by whose values a webhook picks its events.  `options`: value, label, whether picked.

    `more`: the values beside those known, with commas, where any may come; else None.
    """

    name: str
    label: str
    options: tuple[tuple[str, str, bool], ...]
    more: str | None

    @property
    def values(self) -> list[str]:
        """What it picks, for reading."""
        return [label for _, label, is_picked in self.options if is_picked] + ([self.more] if self.more else [])


_LABELS = {value: label for kind in BUILT_IN for each in kind.choices for value, label in each.values.items()}
_BUILT_IN_PATHS = {each.path for kind in BUILT_IN for each in kind.choices}


def pickers(page: Page, form: WebhookForm) -> dict[str, list[Picker]]:
    """The pickers by event type, without those of types whose filter is written out."""
    try:
        written = json.loads(form.filters) if form.filters.strip() else {}
    except (ValueError, RecursionError):
        written = {}
    found: dict[str, list[Picker]] = {}
    for kind, path, values, is_list in _choices(page):
        if kind not in written:
            picked = form.picked.get((kind, path), ())
            others = tuple(value for value in picked if value not in values)
            shown = (*values, *(() if is_list else others))
            options = tuple((value, _label(page, value, values.get(value, value)), value in picked) for value in shown)
            more = ", ".join(others) if is_list else None
            label = page.text(f"pick.{path}") if path in _BUILT_IN_PATHS else path
            found.setdefault(kind, []).append(Picker(_name(kind, path), label, options, more))
    return found


def filter_lines(page: Page, endpoint: Endpoint) -> list[tuple[str, str]]:
    """What an endpoint's filters pick, by event type, for reading; "" where it is written out, with its JSON."""
    form = of_endpoint(page, endpoint)
    lines = []
    for kind, each in pickers(page, form).items():
        words = [f"{one.label}: {', '.join(one.values)}" for one in each if one.values]
        lines += [(kind, "; ".join(words))] if words else []
    _, others = _picked(page, endpoint)
    return lines + [(kind, json.dumps(pattern, ensure_ascii=False)) for kind, pattern in others.items()]


def _choices(page: Page) -> Iterator[tuple[str, str, Mapping[str, str], bool]]:
    """Event type, path, known values with their labels, and whether the field is a list, of each choice."""
    types = page.services.event_types()
    for name in types.names:
        known = types.get(name)
        for each in known.choices if known else ():
            yield name, each.path, each.values, each.type.startswith("array")


def _label(page: Page, value: str, label: str) -> str:
    return page.text(f"choice.{value}") if _LABELS.get(value) == label else label


def _name(event_type: str, path: str) -> str:
    return f"pick {event_type} {path}"


def _given_picks(page: Page) -> Iterator[tuple[tuple[str, str], tuple[str, ...]]]:
    for kind, path, _, _ in _choices(page):
        name = _name(kind, path)
        more = (each.strip() for each in page.field(f"more {name}").split(","))
        values = tuple(dict.fromkeys([*page.fields_named(name), *filter(None, more)]))
        if values:
            yield (kind, path), values


def _picked(page: Page, endpoint: Endpoint) -> tuple[dict[tuple[str, str], tuple[str, ...]], Json]:
    """An endpoint's filters as far as the pickers can show them, and the others."""
    paths: dict[str, set[str]] = {}
    for kind, path, _, _ in _choices(page):
        paths.setdefault(kind, set()).add(path)
    picked: dict[tuple[str, str], tuple[str, ...]] = {}
    others = {}
    for kind, pattern in filters_json(endpoint.filters).items():
        found = dict(_leaves(pattern))
        if found.keys() <= paths.get(kind, set()) and all(map(_is_texts, found.values())):
            picked |= {(kind, path): tuple(values) for path, values in found.items()}
        else:
            others[kind] = pattern
    return picked, others


def _leaves(pattern: Json, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, wanted in pattern.items():
        if isinstance(wanted, dict) and "." not in name:
            yield from _leaves(wanted, f"{above}{name}.")
        else:
            yield above + name, wanted if "." not in name else None


def _is_texts(values: Any) -> bool:
    # A comma would part it where it is typed.
    return isinstance(values, list) and all(
        isinstance(each, str) and each == each.strip() and each and "," not in each for each in values
    )


def _filter_words(page: Page, form: WebhookForm) -> str:
    try:
        found = form._filters(page)
    except ApiError:
        return form.filters
    return json.dumps(found, sort_keys=True, ensure_ascii=False) if found else ""
