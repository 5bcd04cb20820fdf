"""A producer of webhookd's: `singly URL FIRST COUNT`, a request an event, or `stream …`, a line an event of one."""

import asyncio
import itertools
import os
import sys

import aiohttp
import job

CALLERS = 64
LINES = 100  # handed to the connection at once


async def singly(session, url, events):
    async def caller():
        for _, _, text in events:
            async with session.post(url, data=text.encode(), headers={"Content-Type": "application/json"}) as answer:
                await answer.read()
                assert answer.status == 202, answer.status

    await asyncio.gather(*[caller() for _ in range(CALLERS)])


async def stream(session, url, events):
    async def lines():
        while some := "".join(text + "\n" for _, _, text in itertools.islice(events, LINES)):
            yield some.encode()

    async with session.post(url, data=lines(), headers={"Content-Type": "application/x-ndjson"}) as answer:
        await answer.read()
        assert answer.status == 202, answer.status


async def main(how, base, first, count):
    headers = {"Authorization": f"Bearer {os.environ['WEBHOOKD_TOKEN']}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        with job.Told():
            await {"singly": singly, "stream": stream}[how](session, base + "/v1/events", job.events(first, count))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
