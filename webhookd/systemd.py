"""What webhookd and systemd exchange: notifications (sd_notify(3)), the watchdog heartbeat, listening sockets.

The heartbeat is sent each second, or every third of a `$WATCHDOG_USEC` under three seconds, only while the daemon's own
check is clean; otherwise the log has the reason, from a thread when the event loop itself is blocked.  Sockets come as
sd_listen_fds(3) has it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from webhookd import log
from webhookd.errors import ConfigError
from webhookd.text import is_loopback

BEAT_SECONDS = 1.0
# The daemon's own check goes with one of so many beats, while it is clean (figures in manual/decisions.md).
BEATS_PER_CHECK = 5
# A loop that is blocked for so long is logged: well before systemd's WatchdogSec=30, or a part of a shorter one.
STILL_SECONDS = 10.0
STACK_DEPTH = 8
FIRST_FD = 3
SEND_SECONDS = 0.5
# While it starts or stops, systemd is asked again and again for this much more time.
EXTENSION_SECONDS = 30.0
# No migration takes longer; a start or a stop that does hangs, and is left to systemd's own limits.
EXTENDED_MAX_SECONDS = 3600.0


class Heartbeat:
    """A root task.  `alive` answers "" or what is wrong; `on_beat` gets at each beat how late it is, in seconds."""

    def __init__(self, alive: Callable[[], Awaitable[str]], on_beat: Callable[[float], None]) -> None:
        self._alive = alive
        self._on_beat = on_beat
        self._beat_at = 0.0
        self._trouble = ""

    async def run(self, environ: Mapping[str, str] = os.environ) -> None:
        """Beat for ever."""
        loop = asyncio.get_running_loop()
        watchdog_seconds = int(environ.get("WATCHDOG_USEC", "0")) / 1_000_000
        interval_seconds = min(BEAT_SECONDS, watchdog_seconds / 3) if watchdog_seconds else BEAT_SECONDS
        still_seconds = min(STILL_SECONDS, watchdog_seconds / 2) if watchdog_seconds else STILL_SECONDS
        ended = threading.Event()
        self._beat_at = time.monotonic()
        threading.Thread(
            target=self._watch, args=(threading.get_ident(), still_seconds, ended), name="heartbeat", daemon=True
        ).start()
        try:
            for number in itertools.count():
                due = loop.time() + interval_seconds
                await asyncio.sleep(interval_seconds)
                self._beat_at = time.monotonic()
                self._on_beat(max(0.0, loop.time() - due))
                if self._trouble or number % BEATS_PER_CHECK == 0:
                    await self._check(environ)
                else:
                    notify("WATCHDOG=1", environ)
        finally:
            ended.set()

    async def _check(self, environ: Mapping[str, str]) -> None:
        trouble = await self._alive()
        self._beat_at = time.monotonic()
        if trouble:
            log.throttled("heartbeat.missed", key=re.sub(r"\d+ s\b", "", trouble), reason=trouble)
            notify(f"STATUS=no heartbeat: {trouble}", environ)
        else:
            notify("WATCHDOG=1\nSTATUS=taking events" if self._trouble else "WATCHDOG=1", environ)
        self._trouble = trouble

    def _watch(self, loop_thread: int, still_seconds: float, ended: threading.Event) -> None:
        """On a thread of its own: log where the event loop is blocked."""
        while not ended.wait(still_seconds / 4):
            silent_seconds = time.monotonic() - self._beat_at
            if silent_seconds > still_seconds:
                stack = _stack_of(loop_thread)
                reason = f"the event loop has stood still for {silent_seconds:.0f} s"
                log.throttled("heartbeat.missed", key=stack[-1:], reason=reason, stack=stack)


def _stack_of(thread: int) -> tuple[str, ...]:
    frame = sys._current_frames().get(thread)
    frames = traceback.extract_stack(frame)[-STACK_DEPTH:] if frame is not None else []
    return tuple(f"{each.filename}:{each.lineno} {each.name}" for each in frames)


@asynccontextmanager
async def extend_timeout(environ: Mapping[str, str]) -> AsyncIterator[None]:
    """While this is open, systemd waits for the start, or the stop, beyond its own limit (EXTEND_TIMEOUT_USEC)."""
    asking = asyncio.create_task(_keep_extending(environ))
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.wait([asking])


async def _keep_extending(environ: Mapping[str, str]) -> None:
    asked = 0.0
    while asked < EXTENDED_MAX_SECONDS:
        notify(f"EXTEND_TIMEOUT_USEC={round(EXTENSION_SECONDS * 1_000_000)}", environ)
        await asyncio.sleep(EXTENSION_SECONDS / 3)
        asked += EXTENSION_SECONDS / 3


def notify(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Notify systemd of `state` (`READY=1`, `STOPPING=1`, `STATUS=…`); does nothing without `$NOTIFY_SOCKET`."""
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # An abstract socket's name begins with a NUL, which the environment writes as @.
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.settimeout(SEND_SECONDS)  # the event loop waits meanwhile
            channel.sendto(state.encode(), target)
        except OSError:
            return  # systemd has gone, or its buffer stays full: the next beat comes soon


def activated_sockets(environ: Mapping[str, str], *, insecure_public: bool) -> list[socket.socket]:
    """The sockets meant for this process; ConfigError for one that webhookd can't, or may not, serve on."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environ.get("LISTEN_FDS", "")
    if not count.isdecimal():
        raise ConfigError(f"LISTEN_FDS is {count!r}; expected the number of sockets that are handed over")
    return [_activated_socket(fd, insecure_public=insecure_public) for fd in range(FIRST_FD, FIRST_FD + int(count))]


def _activated_socket(fd: int, *, insecure_public: bool) -> socket.socket:
    try:
        found = socket.socket(fileno=fd)
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigError(f"descriptor {fd}, handed over by LISTEN_FDS, is no socket ({error.strerror})") from error
    if not listens or found.type != socket.SOCK_STREAM:
        raise ConfigError(f"socket {fd}, handed over by systemd, doesn't listen for streams: use ListenStream=")
    if found.family != socket.AF_UNIX:
        host = found.getsockname()[0]
        if not is_loopback(host) and not insecure_public:
            raise ConfigError(
                f'"{host}", which systemd listens on for webhookd, can be reached from other machines, in clear text: '
                "give webhookd.socket a loopback address, or set listen.insecure_public = true"
            )
    found.set_inheritable(False)
    return found
