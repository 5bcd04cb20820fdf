"""Celery with Redis and `requests`: its worker (`celery -A celery_rival worker`), and its producer: URL FIRST COUNT."""

import os
import sys

import job
import requests
from celery import Celery

app = Celery("rival", broker=os.environ["RIVAL_REDIS"])
session = requests.Session()


@app.task(name="post")  # the producer, run as a program, would call it something else than the worker
def post(url, event_id, text):
    body = text.encode()
    session.post(url, data=body, headers=job.headers(event_id, body), timeout=5).raise_for_status()


if __name__ == "__main__":
    base, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with job.Told():
        for endpoint, event_id, text in job.events(first, count):
            post.delay(f"{base}/hook/{endpoint}", event_id, text)
