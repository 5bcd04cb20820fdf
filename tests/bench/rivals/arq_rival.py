"""arq with Redis and aiohttp: `arq arq_rival.WorkerSettings`, and as a program the producer: URL COUNT BODY_BYTES."""

import asyncio
import os
import sys

import aiohttp
from arq import create_pool
from arq.connections import RedisSettings

REDIS = RedisSettings.from_dsn(os.environ["RIVAL_REDIS"])


async def post(ctx, url, body):
    async with ctx["session"].post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
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


async def produce(base, count, size):
    pool = await create_pool(REDIS)
    for number in range(count):
        await pool.enqueue_job("post", f"{base}/hook/{number % 100}", "x" * size)


if __name__ == "__main__":
    asyncio.run(produce(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
