"""arq with Redis and aiohttp: its worker (`arq arq_rival.WorkerSettings`), and its producer: URL FIRST COUNT."""

import asyncio
import os
import sys

import aiohttp
import job
from arq import create_pool
from arq.connections import RedisSettings

REDIS = RedisSettings.from_dsn(os.environ["RIVAL_REDIS"])


async def post(ctx, url, event_id, text):
    body = text.encode()
    async with ctx["session"].post(url, data=body, headers=job.headers(event_id, body)) as answer:
        await answer.read()
        answer.raise_for_status()


async def startup(ctx):
    ctx["session"] = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))


async def shutdown(ctx):
    await ctx["session"].close()


class WorkerSettings:
    functions = (post,)
    on_startup = startup
    on_shutdown = shutdown
    redis_settings = REDIS
    max_jobs = job.ENDPOINTS  # its own 10, and looking for at most 100 jobs each half second, come to 200 a second
    poll_delay = 0.01


async def produce(base, first, count):
    pool = await create_pool(REDIS)
    with job.Told():
        for endpoint, event_id, text in job.events(first, count):
            await pool.enqueue_job("post", f"{base}/hook/{endpoint}", event_id, text)


if __name__ == "__main__":
    asyncio.run(produce(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
