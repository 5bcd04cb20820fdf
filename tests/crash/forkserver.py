"""Starts daemons quickly: everything is imported once, and each daemon is a fork of that.

    python -m tests.crash.forkserver

A start costs half a second, most of it imports; kill points need two thousand of them.  What is forked has one thread
and has opened nothing; from there on it is `webhookd serve` with a process, an event loop and threads of its own.

Orders come as JSON, one a line: `state_dir`, `config` (a file), `log` (a file), `traced` (wait for a
tracer), `migration` (a script that is one migration more than there is, or null).  Answers:
`{"started": pid}`, and at its end `{"dead": pid, "status": n}` with the exit code, or minus the signal.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import selectors
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from webhookd import daemon
from webhookd.config.loader import load
from webhookd.store import connection

PR_SET_PTRACER = 0x59616D61  # of linux/prctl.h: lets a sibling trace us where Yama asks for that
TRACER_SECONDS = 30.0


def run(order: dict[str, Any]) -> NoReturn:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
    if order["migration"] is not None:
        known = connection._migrations()
        connection._migrations = lambda: [*known, order["migration"]]
    if order["traced"]:
        await_tracer()
    code = 70
    try:
        code = asyncio.run(daemon.serve(load(Path(order["config"]), {}), Path(order["state_dir"]), environ={}))
    finally:
        sys.stdout.flush()
        os._exit(code)


def await_tracer() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1 & 0xFFFFFFFFFFFFFFFF), 0, 0, 0)
    deadline = time.monotonic() + TRACER_SECONDS
    while "\nTracerPid:\t0\n" in Path("/proc/self/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def main() -> None:
    gc.freeze()
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(read, selectors.EVENT_READ)
    orders = b""
    while True:
        for key, _ in selector.select():
            if key.fd == read:
                os.read(read, 4096)
                report_dead()
                continue
            piece = os.read(0, 65536)
            if not piece:
                return
            *complete, orders = (orders + piece).split(b"\n")
            for order in complete:
                spawn(json.loads(order))


def spawn(order: dict[str, Any]) -> None:
    pid = os.fork()
    if not pid:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        run(order)
    print(json.dumps({"started": pid}), flush=True)


def report_dead() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        print(json.dumps({"dead": pid, "status": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
