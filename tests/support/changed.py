"""`webhookd …` with one thing changed.

    python -m tests.support.changed WHAT[=VALUE,…] ARGUMENT…

- `consumer`: an attempt never ends, whatever its timeout; a stuck consumer is noticed sooner (`missing`, too)
- `missing`: no consumer starts where there is work
- `loop`: SIGUSR1 blocks the event loop for ever
- `migration`: the database's schema takes some seconds
- `lags=FILE`: FILE gets, every few milliseconds, how late the event loop is (`Lag`)
- `dialled=NAMESERVER,FILE`: FILE gets each address that it connects to, all kept on loopback; NAMESERVER resolves
- `unswept`: retention does nothing; its first sweep, right after the start, may end in a checkpoint
- `sockets=FD,…`: descriptors 3 and on are those, as systemd hands them over
- `confined`: the unit's filter of system calls and address families
- `confined=UNIT`: those of that unit, for another program, which the arguments name
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from webhookd import systemd
from webhookd.app import App
from webhookd.cli import main
from webhookd.delivery import consumer, dispatcher
from webhookd.models import Outcome, Request
from webhookd.retention import Retention
from webhookd.sender import client
from webhookd.store import connection

UNIT = Path(__file__).resolve().parents[2] / "systemd" / "webhookd.service"
MARGIN_SECONDS = 0.5
EXTENSION_SECONDS = 0.3
PROBE_SECONDS = 0.005
SLOW_SCHEMA = """
CREATE TABLE slow AS
WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < 3000000)
SELECT max(n) AS n FROM counted
"""
HIGH_FD = 200
ALLOW = 0x7FFF0000  # of seccomp.h, as the next two
FAIL_EPERM = 0x00050000 | errno.EPERM
EQUAL = 4
PR_SET_MDWE = 65  # of linux/prctl.h; Linux 6.3 and newer, an error elsewhere


class Lag(NamedTuple):
    """`own_ms`: how much of it the process itself used the processor; a busy machine makes the loop late, too."""

    at_ms: float
    late_ms: float
    own_ms: float


def read_lags(file: Path) -> list[Lag]:
    return [Lag(*map(float, line.split())) for line in file.read_text().split("\n")[:-1]]


def probe(file: str) -> None:
    start, out = App.start, Path(file).open("a", buffering=16 * 1024)  # noqa: SIM115  (closed at exit)
    atexit.register(out.close)

    async def probing() -> None:
        while True:
            due, used = time.monotonic() + PROBE_SECONDS, time.thread_time()
            await asyncio.sleep(PROBE_SECONDS)
            late_ms = max(0.0, (time.monotonic() - due) * 1000)
            own_ms = min(late_ms, (time.thread_time() - used) * 1000)
            out.write(f"{time.time() * 1000:.0f} {late_ms:.2f} {own_ms:.2f}\n")

    async def probed(app: App, environ: Mapping[str, str]) -> None:
        await start(app, environ)
        app.tasks.start("probe", probing)

    App.start = probed  # type: ignore[method-assign]


def watch_dialled(nameserver: str, file: str) -> None:
    written = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event == "socket.connect" and isinstance(args[1], tuple):
            os.write(written, f"{args[1][0]} {args[1][1]}\n".encode())
            if not str(args[1][0]).startswith("127."):
                raise ConnectionRefusedError(errno.ECONNREFUSED, "a test dials nothing beside loopback")

    sys.addaudithook(audit)
    client.DnsResolver = partial(client.DnsResolver, [nameserver])  # type: ignore[assignment,misc]


async def never_end(self: client.HttpSender, request: Request) -> Outcome:
    while True:
        await asyncio.sleep(3600)


async def rest(self: Retention) -> None:
    await asyncio.Event().wait()


def keep_all() -> None:
    Retention.run = rest  # type: ignore[method-assign]


def block(*_: object) -> None:
    time.sleep(3600)


def make_stuck(what: str) -> None:
    changed: Any = dispatcher
    changed.STEP_MARGIN_SECONDS = consumer.STEP_MARGIN_SECONDS = MARGIN_SECONDS
    if what == "consumer":
        client.HttpSender.post = never_end  # type: ignore[method-assign]
    elif what == "missing":
        changed.Dispatcher._start = lambda *_: None
    elif what == "loop":
        signal.signal(signal.SIGUSR1, block)
    elif what == "migration":
        scripts = [*connection._migrations(), SLOW_SCHEMA]
        connection._migrations = lambda: scripts
        systemd.EXTENSION_SECONDS = EXTENSION_SECONDS
    else:
        raise ValueError(what)


class Compared(ctypes.Structure):
    """`struct scmp_arg_cmp`: a system call's argument that is to be equal to something."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def directives(path: Path) -> list[tuple[str, str]]:
    lines = [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith(("#", "["))]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def members(name: str) -> set[str]:
    """A call is itself; a set is its calls, those of the sets in it included."""
    if not name.startswith("@"):
        return {name}
    shown = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    listed = [line.strip() for line in shown.stdout.splitlines()[1:]]
    return {call for each in listed if each and not each.startswith("#") for call in members(each)}


def confine(unit: str = str(UNIT)) -> None:
    """Let this process, and what it becomes, do only what the unit allows."""
    allowed: set[str] = set()
    for name, value in directives(Path(unit)):
        if name == "SystemCallFilter":
            calls = {call for group in value.lstrip("~").split() for call in members(group)}
            allowed = allowed - calls if value.startswith("~") else allowed | calls
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(FAIL_EPERM)))

    def allow(number: int, *compared: Compared) -> None:
        array = (Compared * len(compared))(*compared)
        assert seccomp.seccomp_rule_add_array(context, ctypes.c_uint32(ALLOW), number, len(compared), array) == 0

    for call in allowed:
        number = seccomp.seccomp_syscall_resolve_name(call.encode())
        if call == "socket":
            for family in dict(directives(Path(unit)))["RestrictAddressFamilies"].split():
                allow(number, Compared(0, EQUAL, getattr(socket, family), 0))
        elif number >= 0:  # else another machine's call
            allow(number)
    ctypes.CDLL(None).prctl(PR_SET_MDWE, 1, 0, 0, 0)
    assert seccomp.seccomp_load(context) == 0


def hand_over(*fds: str) -> None:
    """Move the descriptors to 3 and on, and say in the environment that they are ours."""
    for index, fd in enumerate(fds):
        os.dup2(int(fd), HIGH_FD + index)
    for index in range(len(fds)):
        os.dup2(HIGH_FD + index, 3 + index)
        os.close(HIGH_FD + index)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)))


AT_START = {"sockets": hand_over, "confined": confine}  # another program follows in the same process
WITHIN = {"lags": probe, "dialled": watch_dialled, "unswept": keep_all}

if __name__ == "__main__":
    what, _, values = sys.argv.pop(1).partition("=")
    given = values.split(",") if values else []
    if what in AT_START:
        AT_START[what](*given)
        if what == "confined" and given:
            os.execv(sys.argv[1], sys.argv[1:])
        os.execv(sys.executable, [sys.executable, "-m", "webhookd", *sys.argv[1:]])
    WITHIN.get(what, partial(make_stuck, what))(*given)
    main()
