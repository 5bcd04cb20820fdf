"""Send events from Python, with nothing but its standard library.

    WEBHOOKD_INGEST_TOKEN=… python3 send.py

Once `send` returns, the event is durable.  It goes on trying while webhookd can't be reached or can't take it now, with
the same event_id, so that it is delivered once.  For very many events put up to 1,000 of them in one list.
"""

import json
import os
import time
import urllib.error
import urllib.request
import uuid

URL = os.environ.get("WEBHOOKD_URL", "http://127.0.0.1:8780") + "/v1/events"
TOKEN = os.environ["WEBHOOKD_INGEST_TOKEN"]
LATER = (408, 429, 500, 503, 507)


def send(event_type, event_id=None, give_up_after_seconds=600, **payload):
    """Send one event; returns webhookd's answer.  Raises ValueError for an event that it will never take."""
    event = {"event_type": event_type, "event_id": event_id or str(uuid.uuid4()), **payload}
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    # Compact, and characters as they are: as JSON.stringify writes, which some receivers compare with.
    body = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
    request = urllib.request.Request(URL, body, headers)
    deadline = time.monotonic() + give_up_after_seconds
    while True:
        wait_seconds = 1.0
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code not in LATER:
                raise ValueError(f"{error.code}: {error.read().decode()}") from error
            wait_seconds = float(error.headers.get("Retry-After", 1))
            problem = error
        except OSError as error:  # refused, reset, timed out: it may restart just now
            problem = error
        if time.monotonic() + wait_seconds > deadline:
            raise problem
        time.sleep(wait_seconds)


if __name__ == "__main__":
    print(send("message.received", text="hello from Python"))
