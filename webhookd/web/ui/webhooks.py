"""The pages of a webhook, and all actions on it."""

from __future__ import annotations

import hmac
import importlib.resources
import secrets
from dataclasses import replace
from functools import cache

from aiohttp import web

from webhookd import log
from webhookd.delivery.queue_view import EndpointStatus
from webhookd.errors import ApiError
from webhookd.models import DeliveryState, DeliveryView, Endpoint
from webhookd.rules.ids import delivery_id
from webhookd.rules.urls import MASK
from webhookd.store import attempts, delivery_log
from webhookd.store.connection import Late
from webhookd.store.delivery_log.log_filter import LogFilter
from webhookd.store.store import Db
from webhookd.web.log_search import DeliveryFilter, log_filter
from webhookd.web.ui.charts import RANGES, bounds_ms, chart
from webhookd.web.ui.log import explain
from webhookd.web.ui.pages import Page
from webhookd.web.ui.view_models import TONES, budget_gauge, event_type_view, event_type_views
from webhookd.web.ui.webhook_form import (
    WebhookForm,
    conflicts,
    filter_lines,
    given,
    of_endpoint,
    of_nothing,
    pickers,
    version,
)

RECENT = 10
ROTATE_OVERLAP_SECONDS = 86_400
# How long reloading shows a key that was just made or revealed.
SHOWN_SECONDS = 600
# How a request is verified, by language: with the library of Standard Webhooks, and by hand.
SAMPLES = ("python", "node", "go", "php", "shell")
_FORM_ERRORS = {
    "invalid_url",
    "blocked_address",
    "endpoint_changed",
    "endpoint_exists",
    "endpoint_malformed",
    "unknown_event_type",
    "invalid_field",
    "too_many_endpoints",
    "plan_required",
}


async def front(page: Page) -> web.StreamResponse:
    """`/` redirects to the webhooks."""
    return page.go("/webhooks")


async def show_integrations(page: Page) -> web.StreamResponse:
    """Settings › Integrations: the one integration, to connect or to manage."""
    return page.show("integrations.html", count=len(_endpoints(page)))


async def show_webhook(page: Page) -> web.StreamResponse:
    """One webhook: why it is as it is, its chart, its newest deliveries, its settings."""
    services, endpoint = page.services, _endpoint(page)
    everything = await log_filter(services, page.workspace, DeliveryFilter(endpoint=endpoint.id))
    reach = page.asked("range") if page.asked("range") in RANGES else "day"
    bounds = bounds_ms(reach, services.clock.wall_ms())

    def question(db: Db, _: Late) -> tuple[list[attempts.Span], list[DeliveryView]]:
        return attempts.spans(db, endpoint, bounds), _recent(db, everything, endpoint)

    spans, recent = await services.store.search(page.workspace.seq, question)
    status = await _status(page, endpoint)
    failing = status.last_attempt if status.last_attempt and status.last_attempt["outcome"] != "delivered" else None
    return page.show(
        "webhook.html",
        endpoint_status=status,
        why=explain(page, failing, endpoint) if failing else "",
        gauge=budget_gauge(page),
        chart=chart(reach, spans),
        ranges=RANGES,
        recent=recent,
        tones=TONES,
        kinds=event_type_views(page, endpoint),
        kind=lambda name: event_type_view(page, name),
        filters=filter_lines(page, endpoint),
        budget=services.settings().budget,
    )


def _recent(db: Db, everything: LogFilter, endpoint: Endpoint) -> list[DeliveryView]:
    """The newest deliveries; what was tried goes before what only waits, which may be thousands behind one failure."""
    found = {each.seq: each for each in delivery_log.page(db, everything, before_seq=None, limit=RECENT)}
    if any(not each.attempt_count for each in found.values()):
        failed = attempts.failed_deliveries(db, endpoint.seq, RECENT)
        delivered = replace(everything, state=DeliveryState.DELIVERED)
        tried = delivery_log.views(db, failed, paused=everything.paused)
        tried += delivery_log.page(db, delivered, before_seq=None, limit=RECENT)
        found |= {each.seq: each for each in tried}
    return sorted(found.values(), key=lambda each: (not each.attempt_count, -each.seq))[:RECENT]


# Adding and changing


async def show_new(page: Page) -> web.StreamResponse:
    """The empty form."""
    return _form(page, of_nothing(page.services.settings().delivery.success))


async def create(page: Page) -> web.StreamResponse:
    """Add a webhook, and redirect to its signing key."""
    form = given(page)
    try:
        endpoint = await page.services.endpoints.create(page.workspace.seq, **form.fields(page))
    except ApiError as error:
        return _again(page, form, error, None)
    page.made = f"/webhooks/{endpoint.id}"
    return _show_key(page, endpoint, fresh=True)


async def show_edit(page: Page) -> web.StreamResponse:
    """The form with what the webhook has now."""
    endpoint = _endpoint(page)
    return _form(page, of_endpoint(page, endpoint), endpoint)


async def edit(page: Page) -> web.StreamResponse:
    """Change a webhook that is still as the form showed it."""
    endpoint = _endpoint(page)
    form = given(page, endpoint)

    def as_shown(now: Endpoint) -> bool:
        return version(page, now) == page.field("version")

    try:
        # A form that shows what is no longer so has nothing to say of headers that may be gone.
        fields = form.fields(page) if as_shown(endpoint) else {}
        await page.services.endpoints.change(page.workspace.seq, endpoint.id, fields, only_if=as_shown)
    except ApiError as error:
        return _again(page, form, error, _endpoint(page))
    return page.go(f"/webhooks/{endpoint.id}", said="changed")


def _form(
    page: Page, form: WebhookForm, endpoint: Endpoint | None = None, fault: ApiError | None = None, status: int = 200
) -> web.Response:
    return page.show(
        "webhook_form.html",
        status,
        form=form,
        mask=MASK,
        endpoint=endpoint,
        shown_version=version(page, endpoint) if endpoint else "",
        conflicts=conflicts(page, form, endpoint) if endpoint and fault and fault.code == "endpoint_changed" else (),
        kinds=event_type_views(page, endpoint),
        pickers=pickers(page, form),
        fault=fault,
        fault_field=_field_of(fault),
        allow_http=page.services.settings().egress.allow_http,
        plan_needed=_plan_needed(page),
        plan_name=lambda plan: page.text.maybe(f"plan.{plan}", plan),
    )


def _plan_needed(page: Page) -> str:
    """The lowest plan that has webhooks, where the workspace's has none; else ""."""
    paused = page.services.registry.paused(page.workspace.seq)
    return page.services.settings().plans.webhooks_from if paused else ""


def _again(page: Page, form: WebhookForm, error: ApiError, endpoint: Endpoint | None) -> web.Response:
    if error.code not in _FORM_ERRORS:
        raise error
    return _form(page, form, endpoint, error, error.status)


def _field_of(fault: ApiError | None) -> str:
    """The field of the form that an error is about, "" for the form as a whole."""
    if fault is None:
        return ""
    if fault.code in ("invalid_url", "blocked_address", "endpoint_exists"):
        return "url"
    if fault.code == "unknown_event_type":
        return "event_types"
    return str(fault.details.get("field", "")) if fault.code == "invalid_field" else ""


# The signing key


async def show_key(page: Page) -> web.StreamResponse:
    """How requests are verified, with a button that reveals the key; the key itself right after that or its making."""
    endpoint, now_ms = _endpoint(page), page.services.clock.wall_ms()
    since, _, proof = page.asked("shown").partition(".")
    shown = since.isdecimal() and len(since) < 19 and 0 <= now_ms - int(since) < SHOWN_SECONDS * 1000
    shown = shown and secrets.compare_digest(proof.encode(), _key_proof(page, endpoint, since).encode())
    return page.show(
        "webhook_key.html",
        endpoint=endpoint,
        key=endpoint.signing_key if shown else "",
        body_key=endpoint.x_webhook_signature_key if shown else "",
        fresh=page.asked("new") == "yes",
        previous_keys=endpoint.live_previous_keys(now_ms),
        samples=verify_samples(),
    )


async def reveal(page: Page) -> web.StreamResponse:
    """Redirect to the signing key; this is logged."""
    endpoint = _endpoint(page)
    assert page.session is not None
    log.emit("key.revealed", workspace=page.workspace.id, endpoint_id=endpoint.id, token_id=page.session.token.id)
    return _show_key(page, endpoint, fresh=False)


async def rotate(page: Page) -> web.StreamResponse:
    """Rotate the signing key, and redirect to the new one; for a day both sign."""
    endpoint = _endpoint(page)
    rotated = await page.services.endpoints.rotate_key(page.workspace.seq, endpoint.id, ROTATE_OVERLAP_SECONDS)
    return _show_key(page, rotated, fresh=True)


def _show_key(page: Page, endpoint: Endpoint, *, fresh: bool) -> web.Response:
    """Redirect, so that reloading does nothing twice.  The address shows the key to this session, and for a while."""
    since = str(page.services.clock.wall_ms())
    shown = f"{since}.{_key_proof(page, endpoint, since)}"
    return page.go(f"/webhooks/{endpoint.id}/key", shown=shown, new="yes" if fresh else None)


def _key_proof(page: Page, endpoint: Endpoint, since: str) -> str:
    assert page.session is not None
    shown = f"{endpoint.id} {endpoint.signing_key} {endpoint.x_webhook_signature_key} {since}".encode()
    return hmac.new(page.session.secret.encode(), shown, "sha256").hexdigest()


@cache
def verify_samples() -> dict[str, str]:
    """How to verify a request, by language: programs that work as they stand."""
    folder = importlib.resources.files("webhookd.web.ui") / "templates" / "verify"
    return {name: (folder / f"{name}.txt").read_text("utf-8") for name in SAMPLES}


# Enabling, disabling, testing, deleting


async def show_enable(page: Page) -> web.StreamResponse:
    """Ask whether held events are delivered or skipped, and offer a test first."""
    status = await _status(page, _endpoint(page))
    last, test = status.last_attempt, page.asked("test")
    return page.show(
        "webhook_enable.html",
        endpoint_status=status,
        why=explain(page, last, status.endpoint) if last and last["outcome"] != "delivered" else "",
        test=test if test.isidentifier() else "",
        gauge=budget_gauge(page),
    )


async def enable(page: Page) -> web.StreamResponse:
    """Enable a webhook; its held events are delivered or skipped."""
    endpoint, skip = _endpoint(page), page.field("held") == "skip"
    waiting = page.services.dispatcher.view(endpoint.seq).waiting
    await page.services.endpoints.enable(page.workspace.seq, endpoint.id, skip_held=skip)
    said = "enabled" if not waiting else "enabled_skipped" if skip else "enabled_delivering"
    path = "/webhooks" if page.field("then") == "list" else f"/webhooks/{endpoint.id}"
    return page.go(path, said=said, n=waiting or None)


async def disable(page: Page) -> web.StreamResponse:
    """Disable a webhook."""
    endpoint = _endpoint(page)
    await page.services.endpoints.disable(page.workspace.seq, endpoint.id)
    return page.go(f"/webhooks/{endpoint.id}", said="disabled")


async def send_test(page: Page) -> web.StreamResponse:
    """Send a test event and show its delivery in the log, or the dialog that it was sent from."""
    endpoint, services = _endpoint(page), page.services
    attempt = await services.test_events.send(page.workspace.seq, endpoint.id, page.field("event_type") or None)
    event_id = attempt["request"]["headers"]["webhook-id"]
    wanted = await log_filter(services, page.workspace, DeliveryFilter(event_id=event_id))
    found = await services.store.search(
        page.workspace.seq, lambda db, _: delivery_log.page(db, wanted, before_seq=None, limit=1)
    )
    said = "tested" if found[0].state is DeliveryState.DELIVERED else "tested_failed"
    if page.field("then") == "enable":
        return page.go(f"/webhooks/{endpoint.id}/enable", said=said, test=delivery_id(found[0].seq))
    return page.go(f"/log/{delivery_id(found[0].seq)}", said=said)


async def show_delete(page: Page) -> web.StreamResponse:
    """Ask for confirmation."""
    return page.show("webhook_delete.html", endpoint_status=await _status(page, _endpoint(page)))


async def delete(page: Page) -> web.StreamResponse:
    """Delete a webhook; what waits is cancelled, the log stays."""
    endpoint = _endpoint(page)
    await page.services.endpoints.delete(page.workspace.seq, endpoint.id)
    return page.go("/webhooks", said="deleted")


async def from_mail(page: Page) -> web.StreamResponse:
    """Redirect from the address of an endpoint in a mail to its page."""
    endpoint_id = page.request.match_info["endpoint"]
    if page.chooses:
        page.workspace = page.services.registry.workspace(page.request.match_info["workspace"])
    return page.go(f"/webhooks/{page.services.registry.endpoint(page.workspace.seq, endpoint_id).id}")


def _endpoints(page: Page) -> list[Endpoint]:
    return page.services.registry.endpoints(page.workspace.seq)


def _endpoint(page: Page) -> Endpoint:
    return page.services.registry.endpoint(page.workspace.seq, page.request.match_info["endpoint"])


async def _status(page: Page, endpoint: Endpoint) -> EndpointStatus:
    return (await page.services.dispatcher.statuses([endpoint]))[0]
