"""What the machine gives with aiohttp and nothing else: the references that webhookd is measured against.

    python -m tests.bench.bare server LOOP
    python -m tests.bench.bare client LOOP PORT ENDPOINTS SECONDS

The server reads each body and answers 202.  The client has one task per endpoint, which posts 1 KB after 1 KB over
keep-alive connections and reads each answer.  LOOP is `stock` or `uvloop`.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import sys
import time

import aiohttp
from aiohttp import web

from tests.bench.peer import STAMP_EVERY, event

AT_LEAST = 6 * STAMP_EVERY  # posts, whatever the time: on a busy machine a short run had too few for a rate


async def server() -> None:
    """Answer 202 for ever."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=202)

    app = web.Application()
    app.router.add_post("/v1/events", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


async def client(port: int, endpoints: int, seconds: float) -> None:
    """Post for a while."""
    body = event("message.received", 0)
    ends = time.monotonic() + seconds
    made = itertools.count()
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=5, ceil_threshold=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def post(number: int) -> None:
            url = f"http://127.0.0.1:{port}/hook/{number}"
            while next(made) < AT_LEAST or time.monotonic() < ends:
                async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
                    await answer.read()

        await asyncio.gather(*[post(number) for number in range(endpoints)])


def main() -> None:
    """As the arguments say."""
    kind, loop, *numbers = sys.argv[1:]
    factory = importlib.import_module("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        if kind == "server":
            runner.run(server())
        else:
            runner.run(client(int(numbers[0]), int(numbers[1]), float(numbers[2])))


if __name__ == "__main__":
    main()
