"""The application that the daemon serves: all routes, behind the guard."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import cache

from aiohttp import web

from webhookd.web.api import (
    audit,
    cluster,
    deliveries,
    endpoints,
    event_types,
    events,
    explanations,
    operations,
    sessions,
    tokens,
    workspaces,
)
from webhookd.web.api.batch_ingest import REFUSED
from webhookd.web.api.event_stream import STREAMS
from webhookd.web.api.openapi import document, paths_of
from webhookd.web.server.caller_address import ADDRESS_OF, address_behind
from webhookd.web.server.guard import GUARD, PROBES, Guard, expect
from webhookd.web.server.memory_limit import MEMORY_LIMIT, MemoryLimit
from webhookd.web.server.question_limit import QUESTION_LIMIT, QuestionLimit
from webhookd.web.server.requests import REQUEST_TIMEOUTS, SERVICES, RequestTimeouts, Route
from webhookd.web.services import Services
from webhookd.web.ui import portal, sign_in
from webhookd.web.ui.routes import add_pages

ROUTES: list[Route] = [
    *events.ROUTES,
    *endpoints.ROUTES,
    *deliveries.ROUTES,
    *explanations.ROUTES,
    *workspaces.ROUTES,
    *tokens.ROUTES,
    *sessions.ROUTES,
    *audit.ROUTES,
    *operations.ROUTES,
    *event_types.ROUTES,
    *cluster.ROUTES,
    *sign_in.ROUTES,
    *portal.ROUTES,
]


def make_app(services: Services, *, timeouts: RequestTimeouts | None = None) -> web.Application:
    """The application on these services; `timeouts` bounds how long callers may take."""
    guard = Guard(services)
    app = web.Application(client_max_size=events.BODY_MAX_BYTES)
    app[SERVICES] = services
    app[GUARD] = guard
    app[ADDRESS_OF] = address_behind(services.settings().listen.trusted_proxies)
    app[REQUEST_TIMEOUTS] = timeouts or RequestTimeouts()
    app[MEMORY_LIMIT] = MemoryLimit()
    app[QUESTION_LIMIT] = QuestionLimit(lambda: services.settings().limits.questions_per_token)
    app[REFUSED] = Counter()
    app[STREAMS] = set()
    app[operations.COPYING] = asyncio.Lock()
    app[event_types.DOCUMENT] = _document()
    for route in ROUTES:
        _register(app, route, guard)
    add_pages(app)
    app.on_shutdown.append(events.end_streams)
    return app


@cache
def _document() -> bytes:
    """The OpenAPI document, which is the same for every application of a process."""
    return document(ROUTES)


def _register(app: web.Application, route: Route, guard: Guard) -> None:
    handler = guard.protect(route)
    for path in paths_of(route):
        app.router.add_route(route.method, path, handler, expect_handler=expect)
        # RFC 9110 wants HEAD wherever GET is; a live stream has no end that a HEAD could wait for.
        if route.method == "GET" and "text/event-stream" not in route.answers.values():
            app.router.add_route("HEAD", path, handler, expect_handler=expect)
        if path in PROBES:  # the stock check of HAProxy asks by this method: `option httpchk /healthz`
            app.router.add_route("OPTIONS", path, handler, expect_handler=expect)
