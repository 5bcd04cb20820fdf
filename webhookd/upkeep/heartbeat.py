"""The heartbeat: how late the event loop is, and a word to systemd as long as everything that matters is alive.

The protocol is sd_notify's: datagrams of `NAME=value` lines to the socket that `$NOTIFY_SOCKET` names
(sd_notify(3)).  `WATCHDOG=1` goes out every third of `$WATCHDOG_USEC`, and only if the daemon's own check is clean.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping

BEAT_SECONDS = 1.0


class Heartbeat:
    """A root task.  `alive` answers "" or what is wrong; `on_beat` is called at each beat."""

    def __init__(self, alive: Callable[[], Awaitable[str]], on_beat: Callable[[], None]) -> None:
        self._alive = alive
        self._on_beat = on_beat
        self.lag_seconds = 0.0

    async def run(self, environ: Mapping[str, str] = os.environ) -> None:
        """Beat for ever."""
        loop = asyncio.get_running_loop()
        watchdog_seconds = int(environ.get("WATCHDOG_USEC", "0")) / 1_000_000
        interval_seconds = min(BEAT_SECONDS, watchdog_seconds / 3) if watchdog_seconds else BEAT_SECONDS
        while True:
            due = loop.time() + interval_seconds
            await asyncio.sleep(interval_seconds)
            self.lag_seconds = max(0.0, loop.time() - due)
            self._on_beat()
            if watchdog_seconds and not await self._alive():
                notify("WATCHDOG=1", environ)


def notify(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Tell systemd `state` (`READY=1`, `STOPPING=1`, `STATUS=…`); nothing happens when it doesn't listen."""
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # An abstract socket's name begins with a NUL, which the environment writes as @.
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(state.encode(), target)
        except OSError:
            return  # systemd has gone, or its buffer is full: the next beat comes soon
