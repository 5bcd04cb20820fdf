"""What the machine gives with aiohttp and nothing else: the references that webhookd is measured against.

    python -m tests.bench.bare server LOOP
    python -m tests.bench.bare client LOOP PORT ENDPOINTS EACH

The server reads each body and answers 202.  The client has one task per endpoint, which posts 1 KB EACH times over a
keep-alive connection and reads each answer.  LOOP is `stock` or `uvloop`.
"""

from __future__ import annotations

import asyncio
import importlib
import sys

import aiohttp
from aiohttp import web

from tests.bench.peer import event


async def server() -> None:
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


async def client(port: int, endpoints: int, each: int) -> None:
    body = event("message.received", 0)
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=5, ceil_threshold=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def post(number: int) -> None:
            url = f"http://127.0.0.1:{port}/hook/{number}"
            for _ in range(each):
                async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
                    await answer.read()

        await asyncio.gather(*[post(number) for number in range(endpoints)])


def main() -> None:
    kind, loop, *numbers = sys.argv[1:]
    factory = importlib.import_module("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        if kind == "server":
            runner.run(server())
        else:
            runner.run(client(int(numbers[0]), int(numbers[1]), int(numbers[2])))


if __name__ == "__main__":
    main()
