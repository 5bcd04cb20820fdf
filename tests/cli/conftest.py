"""The real command (`run`: as a fork; `start`: as a process of its own), and a small API for it to talk to.

The API is a real server on a real socket with answers set by the test, in the forms of manual/api.md.  It replaces the
daemon where that can't easily be brought to an answer (a full disk, a lost connection).  test_daemon.py uses the real
daemon.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest
from aiohttp import web

from tests.support.listening import served

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 30.0


@dataclass
class Ran:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


Answer = Callable[[Asked], Any]


@dataclass
class Api:
    """A programmable API: answers by method and path; `asked` is what came, in order."""

    url: str = ""
    token: str = "the-admin-token-1"
    asked: list[Asked] = field(default_factory=list)
    routes: dict[tuple[str, str], Any] = field(default_factory=dict)

    def answers(self, method: str, path: str, answer: Any) -> None:
        """`answer`: a JSON value, an aiohttp response, or a callable that gives one from the request."""
        self.routes[method, path] = answer

    def refuses(self, method: str, path: str, status: int, code: str, message: str) -> None:
        body = {"error": {"code": code, "message": message, "details": {}}}
        self.answers(method, path, lambda _: web.json_response(body, status=status))

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        asked = Asked(request.method, request.path, dict(request.query), dict(request.headers), body)
        self.asked.append(asked)
        if asked.headers.get("Authorization") != f"Bearer {self.token}":
            error = {"code": "unauthorized", "message": "No token that webhookd knows.", "details": {}}
            return web.json_response({"error": error}, status=401)
        answer = self.routes.get((request.method, request.path))
        if answer is None:
            error = {"code": "not_found", "message": f"No {request.path} here.", "details": {}}
            return web.json_response({"error": error}, status=404)
        if callable(answer):
            answer = answer(asked)
        if hasattr(answer, "__await__"):
            answer = await answer
        if isinstance(answer, web.StreamResponse):
            return answer
        return web.json_response(answer)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    made = Api()
    async with served(made.handle) as made.url:
        yield made


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment without anything of the developer's own webhookd."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WEBHOOKD_", "STATE_DIRECTORY"))}
    return kept | {"HOME": str(tmp_path / "home"), "TZ": "UTC", "NO_COLOR": "1", "COLUMNS": "120"}


Start = Callable[..., Awaitable[asyncio.subprocess.Process]]
Run = Callable[..., Awaitable[Ran]]


@pytest.fixture
async def start(environ: dict[str, str]) -> AsyncIterator[Start]:
    """Start `webhookd` with some words; what still runs at the end of the test is killed."""
    started: list[asyncio.subprocess.Process] = []

    async def starting(*words: str, env: dict[str, str] | None = None, **options: Any) -> asyncio.subprocess.Process:
        pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
        command = (sys.executable, "-m", "webhookd", *words)
        process = await asyncio.create_subprocess_exec(*command, env=environ | (env or {}), **(pipes | options))
        started.append(process)
        return process

    yield starting
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture(scope="session")
def forkserver() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = (sys.executable, "-m", "tests.cli.forkserver", str(theirs.fileno()))
    with subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT, stdout=subprocess.DEVNULL), ours:
        theirs.close()
        yield ours


@pytest.fixture
def run(forkserver: socket.socket, environ: dict[str, str]) -> Run:
    """Run `webhookd` with some words to its end, as a fork: a start of its own would be most of a test's time."""

    async def running(*words: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Ran:
        order = json.dumps({"words": words, "environ": environ | (env or {})}).encode()
        ended, code = socket.socketpair()
        read, write = os.pipe()
        with ended, TemporaryFile() as out, TemporaryFile() as err:
            socket.send_fds(forkserver, [order], [read, out.fileno(), err.fileno(), code.fileno()])
            code.close()
            os.close(read)
            await asyncio.to_thread(_feed, write, stdin)
            ended.setblocking(False)
            async with asyncio.timeout(TIMEOUT_SECONDS):
                (status,) = await asyncio.get_running_loop().sock_recv(ended, 1)
            for each in (out, err):
                each.seek(0)
            return Ran(status, out.read().decode(), err.read().decode())

    return running


def _feed(descriptor: int, data: bytes) -> None:
    with suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as pipe:
        pipe.write(data)


@pytest.fixture
def ask(api: Api, run: Run) -> Run:
    async def asking(*words: str, env: dict[str, str] | None = None, **options: Any) -> Ran:
        there = {"WEBHOOKD_URL": api.url, "WEBHOOKD_TOKEN": api.token}
        return await run(*words, env=there | (env or {}), **options)

    return asking
