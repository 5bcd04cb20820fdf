"""A producer of webhookd's: URL FIRST COUNT; each event is a request of its own, as many at a time as callers."""

import asyncio
import os
import sys

import aiohttp
import job

CALLERS = 64


async def produce(base, first, count):
    waiting = iter(list(job.events(first, count)))
    headers = {"Authorization": f"Bearer {os.environ['WEBHOOKD_TOKEN']}", "Content-Type": "application/json"}

    async def caller():
        for _, _, text in waiting:
            async with session.post(base + "/v1/events", data=text.encode()) as answer:
                await answer.read()
                assert answer.status == 202, answer.status

    async with aiohttp.ClientSession(headers=headers) as session:
        with job.Told():
            await asyncio.gather(*[caller() for _ in range(CALLERS)])


if __name__ == "__main__":
    asyncio.run(produce(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
