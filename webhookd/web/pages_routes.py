"""The addresses of the page, all in one table, and how they come into the daemon's application."""

from __future__ import annotations

from aiohttp import web

from webhookd.web import pages_log, pages_sign_in, pages_types, pages_webhooks
from webhookd.web.pages import Answering, Handler, page, static

_STREAM = "/log/stream"
_OPEN: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/sign-in", pages_sign_in.show_sign_in),
    ("POST", "/sign-in", pages_sign_in.sign_in),
    ("POST", "/sign-out", pages_sign_in.sign_out),
    ("POST", "/language", pages_sign_in.set_language),
)
_SIGNED_IN: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/", pages_webhooks.front),
    ("GET", "/settings/integrations", pages_webhooks.show_integrations),
    ("GET", "/webhooks", pages_webhooks.show_webhooks),
    ("GET", "/webhooks/new", pages_webhooks.show_new),
    ("POST", "/webhooks/new", pages_webhooks.create),
    ("GET", "/webhooks/{endpoint}", pages_webhooks.show_webhook),
    ("GET", "/webhooks/{endpoint}/edit", pages_webhooks.show_edit),
    ("POST", "/webhooks/{endpoint}/edit", pages_webhooks.edit),
    ("GET", "/webhooks/{endpoint}/key", pages_webhooks.show_key),
    ("POST", "/webhooks/{endpoint}/key", pages_webhooks.reveal),
    ("POST", "/webhooks/{endpoint}/rotate-key", pages_webhooks.rotate),
    ("GET", "/webhooks/{endpoint}/enable", pages_webhooks.show_enable),
    ("POST", "/webhooks/{endpoint}/enable", pages_webhooks.enable),
    ("POST", "/webhooks/{endpoint}/disable", pages_webhooks.disable),
    ("POST", "/webhooks/{endpoint}/test", pages_webhooks.send_test),
    ("GET", "/webhooks/{endpoint}/delete", pages_webhooks.show_delete),
    ("POST", "/webhooks/{endpoint}/delete", pages_webhooks.delete),
    ("GET", "/workspaces/{workspace}/endpoints/{endpoint}", pages_webhooks.from_mail),
    ("GET", "/event-types", pages_types.show_event_types),
    ("GET", "/log", pages_log.show_log),
    ("GET", "/log/replay", pages_log.show_replay),
    ("POST", "/log/replay", pages_log.replay),
    ("GET", _STREAM, pages_log.stream),
    ("GET", "/log/{delivery}", pages_log.show_delivery),
    ("POST", "/log/{delivery}/replay", pages_log.replay_one),
)


def add_pages(app: web.Application) -> None:
    """Add every address of the page to the application."""
    for method, path, handler in _OPEN:
        _add(app, method, path, page(handler, open_to_all=True))
    for method, path, handler in _SIGNED_IN:
        _add(app, method, path, page(handler))
    app.router.add_get("/static/{name}", static)


def _add(app: web.Application, method: str, path: str, handler: Answering) -> None:
    app.router.add_route(method, path, handler)
    # RFC 9110 wants HEAD wherever GET is; a live stream has no end that a HEAD could wait for.
    if method == "GET" and path != _STREAM:
        app.router.add_route("HEAD", path, handler)
