"""A receiver that proves that it missed nothing, for a webhook that orders by key.

    pip install standardwebhooks
    WEBHOOK_KEY=whsec_… PORT=9000 python3 receive_in_order.py

GET / tells the highest `webhook-sequence` so far, the numbers below it that never came (dropped, skipped or expired:
the log of webhookd has why; or under way in another lane just now), and the events that came before the one that
`webhook-lane-previous` says should have come first.  It keeps all that in memory; a real one keeps it with its data.
"""

import base64
import hashlib
import hmac
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

KEY = os.environ["WEBHOOK_KEY"]
WEBHOOK = Webhook(KEY)
LOCK = threading.Lock()
IDS, NUMBERS, EARLY = set(), set(), []


def is_signed(headers):
    """Whether the place in the order comes from webhookd: signed like the body, in a header of its own."""
    names = ("webhook-id", "webhook-timestamp", "webhook-sequence", "webhook-lane-previous")
    signed = ".".join(headers.get(name, "") for name in names).encode()
    key = base64.b64decode(KEY.removeprefix("whsec_"))
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    given = headers.get("webhook-sequence-signature", "").split()
    return any(hmac.compare_digest(expected, each) for each in given)


def note(headers):
    """Remember an event, and whether the one before it in its lane was here."""
    previous, event_id = headers.get("webhook-lane-previous"), headers["webhook-id"]
    with LOCK:
        if previous is not None and previous not in IDS and event_id not in IDS:
            EARLY.append({"event": event_id, "before": previous})
        IDS.add(event_id)
        NUMBERS.add(int(headers["webhook-sequence"]))


def found():
    """What is known so far; a number that comes later is no longer missing."""
    with LOCK:
        highest = max(NUMBERS, default=0)
        missing = sorted(set(range(min(NUMBERS, default=1), highest)) - NUMBERS)
        return {"highest": highest, "missing": missing, "without_the_one_before": EARLY}


class Receiver(BaseHTTPRequestHandler):
    """Answers every POST, and tells what it knows to a GET."""

    def do_POST(self):
        """Take one request."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            WEBHOOK.verify(body, {name.lower(): value for name, value in self.headers.items()})
        except WebhookVerificationError:
            return self.answer(401)
        if "webhook-sequence" in self.headers:  # a test event has none
            if not is_signed(self.headers):
                return self.answer(401)
            note(self.headers)
        return self.answer(200)

    def do_GET(self):
        """Tell what is known."""
        self.answer(200, json.dumps(found()).encode())

    def answer(self, status, body=b""):
        """Send a status and perhaps a body."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing for each request."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "9000"))), Receiver).serve_forever()
