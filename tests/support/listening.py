"""Ports and small servers: a port that is free, a handler that listens on one."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from aiohttp import web


def free_port() -> int:
    """A free port of loopback, for a program that can't choose one itself."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def served(
    handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
) -> AbstractAsyncContextManager[str]:
    return listening(web.ServerRunner(web.Server(handle), shutdown_timeout=0.1))


@asynccontextmanager
async def listening(runner: web.BaseRunner[Any]) -> AsyncIterator[str]:
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
