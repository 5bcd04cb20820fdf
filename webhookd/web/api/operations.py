"""What keeps a webhookd running well: is it alive, how does it do, a copy of its database, a test of its mail."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from webhookd import log, metrics
from webhookd.admin.tokens import Scope
from webhookd.errors import ApiError
from webhookd.store.writer import storage_full
from webhookd.text import is_mail_address
from webhookd.web.api.batch_ingest import REFUSED
from webhookd.web.api.metrics import metric_values
from webhookd.web.server.requests import Routes, caller, read_fields, services_of
from webhookd.web.server.responses import SECURITY_HEADERS, json_response

READY_RETRY_SECONDS = 1
COPY_PREFIX = ".backup-"
COPY_PIECE_BYTES = 1024 * 1024

COPYING = web.AppKey("copying", asyncio.Lock)

ROUTES = Routes()


class HealthSchema(Struct):
    """The process answers."""

    status: str


class TestMailRequest(Struct, frozen=True, kw_only=True):
    """Whom to send a test mail."""

    to: (
        Annotated[
            list[str], Meta(min_length=1, max_length=20, description="Mail addresses; left out: those of mail.notify")
        ]
        | UnsetType
    ) = UNSET


class TestMailSchema(Struct):
    """The mail server took it."""

    to: list[str]


@ROUTES("GET", "/healthz", {200: HealthSchema}, scope=None)
async def healthz(request: web.Request) -> web.Response:
    """Is the process up?"""
    return json_response({"status": "ok"})


@ROUTES("GET", "/readyz", {200: HealthSchema}, scope=None, errors=("unavailable",))
async def readyz(request: web.Request) -> web.Response:
    """Does it accept and deliver events?"""
    services = services_of(request)
    trouble = "it is stopping" if services.ingest.closed else await services.ready()
    if trouble:
        raise ApiError("unavailable", f"Not ready: {trouble}.", retry_after_seconds=READY_RETRY_SECONDS)
    return json_response({"status": "ready"})


@ROUTES("GET", "/v1/status", {200: dict[str, Any]}, scope=Scope.OBSERVE)
async def show_status(request: web.Request) -> web.Response:
    """Get the state of the daemon: backlog, rates, disk, last errors.

    Version, uptime, backlog, rates, slowest endpoints, budgets, database size, unsent mail, errors. A token bound
    to a workspace gets endpoints, backlog, slowest endpoints and budget of its workspace alone.
    """
    return json_response(await services_of(request).status(_own_workspace(request)))


@ROUTES("GET", "/metrics", {200: "text/plain"}, scope=Scope.OBSERVE)
async def show_metrics(request: web.Request) -> web.Response:
    """Get the metrics, for Prometheus.

    A token bound to a workspace gets those of its workspace alone.
    """
    workspace = _own_workspace(request)
    values = await metric_values(services_of(request), request.app[REFUSED], workspace)
    text = metrics.render(values, process=workspace is None)
    return web.Response(body=text, headers={"Content-Type": metrics.CONTENT_TYPE})


def _own_workspace(request: web.Request) -> int | None:
    token = caller(request)
    return token.workspace_seq if token is not None else None


@ROUTES(
    "POST",
    "/v1/mail/test",
    {200: TestMailSchema},
    body=TestMailRequest,
    errors=("mail_disabled", "mail_failed"),
    unbound=True,
)
async def send_test_mail(request: web.Request) -> web.Response:
    """Send a test mail."""
    services = services_of(request)
    fields = await read_fields(request, TestMailRequest)
    to = list(services.settings().mail.notify) if fields.to is UNSET else fields.to
    for address in to:
        if not is_mail_address(address):
            message = f"{address!r} is not a mail address like ops@example.com."
            raise ApiError("invalid_field", message, details={"field": "to"})
    await services.send_test_mail(to)
    return json_response({"to": to})


@ROUTES("POST", "/v1/backup", {200: "application/octet-stream"}, errors=("storage_full",), unbound=True)
async def make_backup(request: web.Request) -> web.StreamResponse:
    """Stream a consistent copy of the database."""
    services = services_of(request)
    began = time.monotonic()
    async with request.app[COPYING], _copy(services.store.path.parent, request) as (file, size_bytes):
        response = web.StreamResponse(
            headers={
                **SECURITY_HEADERS,
                "Content-Type": "application/octet-stream",
                "Content-Disposition": 'attachment; filename="webhookd.db"',
                "Content-Length": str(size_bytes),
            }
        )
        await response.prepare(request)
        while piece := await asyncio.to_thread(os.read, file, COPY_PIECE_BYTES):
            await response.write(piece)
        await response.write_eof()
    duration_ms = round((time.monotonic() - began) * 1000, 1)
    log.emit("backup.made", duration_ms=duration_ms, size_bytes=size_bytes)
    return response


@asynccontextmanager
async def _copy(registry: Path, request: web.Request) -> AsyncIterator[tuple[int, int]]:
    """A copy of the database, opened: its descriptor and its size.  It has no name any more once it is open."""
    services = services_of(request)
    for left in _left_over(registry):
        left.unlink(missing_ok=True)
    needed = services.store.size_bytes() + services.store.wal_bytes()
    if services.store.disk_space.spare_bytes() < needed:
        raise storage_full()
    path = registry / f"{COPY_PREFIX}{secrets.token_hex(8)}"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            await services.store.backup(path)
        finally:
            path.unlink(missing_ok=True)
        yield file, os.fstat(file).st_size
    finally:
        os.close(file)


def _left_over(registry: Path) -> Iterator[Path]:
    """Copies that a kill kept from being removed."""
    return registry.glob(f"{COPY_PREFIX}*")
