"""The application: every route of every table, behind the guard; what `daemon` serves."""

from __future__ import annotations

import asyncio
from collections import Counter

from aiohttp import web

from webhookd.web import (
    api_endpoints,
    api_events,
    api_log,
    api_operate,
    api_stream,
    api_tokens,
    api_workspaces,
    pages_sign_in,
)
from webhookd.web.holding import HOLDING, Holding
from webhookd.web.http import PATIENCE, SERVICES, Patience, Route
from webhookd.web.ingest_stream import STREAMS
from webhookd.web.intake import REFUSALS
from webhookd.web.middleware import GUARD, Guard, expect
from webhookd.web.openapi import document, paths_of
from webhookd.web.pages_routes import add_pages
from webhookd.web.services import Services

ROUTES: list[Route] = [
    *api_events.ROUTES,
    *api_endpoints.ROUTES,
    *api_stream.ROUTES,  # before the log's /deliveries/{delivery}, which would take its path
    *api_log.ROUTES,
    *api_workspaces.ROUTES,
    *api_tokens.ROUTES,
    *api_operate.ROUTES,
    *pages_sign_in.ROUTES,
]


def make_app(services: Services, *, patience: Patience | None = None) -> web.Application:
    """The application on these services; `patience` bounds how long callers may take."""
    guard = Guard(services)
    app = web.Application(client_max_size=api_events.BODY_MAX_BYTES)
    app[SERVICES] = services
    app[GUARD] = guard
    app[PATIENCE] = patience or Patience()
    app[HOLDING] = Holding()
    app[REFUSALS] = Counter()
    app[STREAMS] = set()
    app[api_operate.COPYING] = asyncio.Lock()
    app[api_operate.DOCUMENT] = document(ROUTES)
    for route in ROUTES:
        _register(app, route, guard)
    add_pages(app)
    app.on_shutdown.append(api_events.end_streams)
    return app


def _register(app: web.Application, route: Route, guard: Guard) -> None:
    handler = guard.protect(route)
    for path in paths_of(route):
        app.router.add_route(route.method, path, handler, expect_handler=expect)
        # RFC 9110 wants HEAD wherever GET is; a live stream has no end that a HEAD could wait for.
        if route.method == "GET" and "text/event-stream" not in route.answers.values():
            app.router.add_route("HEAD", path, handler, expect_handler=expect)
