"""`webhookd …`, except that one thing in it doesn't move, and that it is noticed sooner.

python -m tests.support.stuck WHAT ARGUMENT…

WHAT is `consumer` (an attempt never ends, whatever its timeout), `missing` (no consumer starts where there is work),
`loop` (SIGUSR1 blocks the event loop for ever) or `migration` (the database's schema takes some seconds).
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from types import FrameType
from typing import Any

from webhookd import systemd
from webhookd.cli import main
from webhookd.delivery import consumer, dispatcher
from webhookd.delivery.queue import EndpointQueue
from webhookd.models import Endpoint, Outcome, Request
from webhookd.sender.client import HttpSender
from webhookd.store import connection

MARGIN_SECONDS = 0.5
EXTENSION_SECONDS = 0.3
SLOW_SCHEMA = """
CREATE TABLE slow AS
WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < 3000000)
SELECT max(n) AS n FROM counted
"""


async def never_end(self: HttpSender, request: Request) -> Outcome:
    while True:
        await asyncio.sleep(3600)


def start_nothing(self: dispatcher.Dispatcher, endpoint: Endpoint, queue: EndpointQueue) -> None:
    """Where a consumer should start."""


def block(number: int, frame: FrameType | None) -> None:
    time.sleep(3600)


def make_stuck(what: str) -> None:
    changed: Any = dispatcher
    changed.STEP_MARGIN_SECONDS = consumer.STEP_MARGIN_SECONDS = MARGIN_SECONDS
    if what == "consumer":
        HttpSender.post = never_end  # type: ignore[method-assign]
    elif what == "missing":
        dispatcher.Dispatcher._start = start_nothing  # type: ignore[method-assign]
    elif what == "loop":
        signal.signal(signal.SIGUSR1, block)
    elif what == "migration":
        scripts = [*connection._migrations(), SLOW_SCHEMA]
        connection._migrations = lambda: scripts
        systemd.EXTENSION_SECONDS = EXTENSION_SECONDS
    else:
        raise ValueError(what)


if __name__ == "__main__":
    make_stuck(sys.argv.pop(1))
    main()
