"""The addresses of the page, all in one table, and how they come into the daemon's application."""

from __future__ import annotations

from aiohttp import web

from webhookd.web.ui import access, audit, log, portal, settings, sign_in, webhook_list, webhooks
from webhookd.web.ui.files import brand_file, static
from webhookd.web.ui.help import show_contents, show_event_types, show_image, show_topic
from webhookd.web.ui.pages import PORTAL, Answering, Handler, page

_STREAM = "/log/stream"
_OPEN: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/sign-in", sign_in.show_sign_in),
    ("POST", "/sign-in", sign_in.sign_in),
    ("POST", "/sign-out", sign_in.sign_out),
    ("POST", "/language", sign_in.set_language),
    ("GET", "/confirm-address", sign_in.show_confirm),
    ("POST", "/confirm-address", sign_in.confirm),
    ("GET", "/confirm-address/done", sign_in.show_confirmed),
    ("GET", "/help", show_contents),
    ("GET", "/help/{topic}", show_topic),
    ("GET", "/help/images/{name}", show_image),
)
_OPEN_IN_PORTAL: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "", portal.show_entrance),
    ("POST", "", portal.enter),
    ("POST", "/language", sign_in.set_language),
    ("GET", "/help", show_contents),
    ("GET", "/help/{topic}", show_topic),
    ("GET", "/help/images/{name}", show_image),
)
_SIGNED_IN: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/", webhooks.front),
    ("GET", "/settings", settings.show_settings),
    ("POST", "/settings", settings.change),
    ("GET", "/settings/integrations", webhooks.show_integrations),
    ("GET", "/webhooks", webhook_list.show_webhooks),
    ("GET", "/webhooks/new", webhooks.show_new),
    ("POST", "/webhooks/new", webhooks.create),
    ("GET", "/webhooks/{endpoint}", webhooks.show_webhook),
    ("GET", "/webhooks/{endpoint}/edit", webhooks.show_edit),
    ("POST", "/webhooks/{endpoint}/edit", webhooks.edit),
    ("GET", "/webhooks/{endpoint}/key", webhooks.show_key),
    ("POST", "/webhooks/{endpoint}/key", webhooks.reveal),
    ("POST", "/webhooks/{endpoint}/rotate-key", webhooks.rotate),
    ("GET", "/webhooks/{endpoint}/enable", webhooks.show_enable),
    ("POST", "/webhooks/{endpoint}/enable", webhooks.enable),
    ("POST", "/webhooks/{endpoint}/disable", webhooks.disable),
    ("POST", "/webhooks/{endpoint}/test", webhooks.send_test),
    ("GET", "/webhooks/{endpoint}/delete", webhooks.show_delete),
    ("POST", "/webhooks/{endpoint}/delete", webhooks.delete),
    ("GET", "/webhooks/{endpoint}/backfill", log.show_backfill),
    ("POST", "/webhooks/{endpoint}/backfill", log.backfill),
    ("GET", "/workspaces/{workspace}/endpoints/{endpoint}", webhooks.from_mail),
    ("GET", "/event-types", show_event_types),
    ("GET", "/access", access.show_access),
    ("POST", "/access/tokens", access.make_token),
    ("POST", "/access/tokens/{token}/revoke", access.revoke_token),
    ("POST", "/access/sessions/{session}/end", access.end_session),
    ("GET", "/audit", audit.show_audit),
    ("GET", "/log", log.show_log),
    ("GET", "/log/replay", log.show_replay),
    ("POST", "/log/replay", log.replay),
    ("GET", _STREAM, log.stream),
    ("GET", "/log/{delivery}", log.show_delivery),
    ("POST", "/log/{delivery}/replay", log.replay_one),
)


def add_pages(app: web.Application) -> None:
    """Add every address of the page to the application."""
    for method, path, handler in _OPEN:
        _add(app, method, path, page(handler, open_to_all=True))
    for method, path, handler in _OPEN_IN_PORTAL:
        _add(app, method, PORTAL + path, page(handler, open_to_all=True))
    for method, path, handler in _SIGNED_IN:
        answer = page(handler, endless=path == _STREAM, changes=portal.changes(method, path))
        _add(app, method, path, answer)
        if portal.in_portal(path):
            _add(app, method, PORTAL + path, answer)
    app.router.add_get("/static/{name}", static)
    app.router.add_get("/brand.css", brand_file)
    app.router.add_get("/logo", brand_file)


def _add(app: web.Application, method: str, path: str, handler: Answering) -> None:
    app.router.add_route(method, path, handler)
    # RFC 9110 wants HEAD wherever GET is; a live stream has no end that a HEAD could wait for.
    if method == "GET" and not path.endswith(_STREAM):
        app.router.add_route("HEAD", path, handler)
