"""Celery with Redis and `requests`: its worker (`celery -A celery_rival worker`), and the producer: URL COUNT BYTES."""

import os
import sys

import requests
from celery import Celery

app = Celery("rival", broker=os.environ["RIVAL_REDIS"])


@app.task
def post(url: str, body: str) -> None:
    requests.post(url, data=body, headers={"Content-Type": "application/json"}, timeout=5).raise_for_status()


if __name__ == "__main__":
    base, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    for number in range(count):
        post.delay(f"{base}/hook/{number % 100}", "x" * size)
