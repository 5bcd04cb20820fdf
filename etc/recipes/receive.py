"""A receiver of webhooks in Python: verifies, keeps, answers 200, and only then works.

    pip install standardwebhooks
    WEBHOOK_KEY=whsec_… PORT=9000 python3 receive.py

Each request is kept as the file inbox/<time>.<webhook-id> before it is answered, so that no crash of this program loses
it, and one that comes twice is kept once.  A thread does the work in the order of arrival, file by file, and moves what
is done to done/<webhook-id>.  (The id has only letters, digits, - and _, and is signed too.)
"""

import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from standardwebhooks import Webhook, WebhookVerificationError

WEBHOOK = Webhook(os.environ["WEBHOOK_KEY"])
INBOX, DONE = Path("inbox"), Path("done")
MAX_BYTES = 1 << 20


class Receiver(BaseHTTPRequestHandler):
    """Answers every POST."""

    def do_POST(self):
        """Take one request."""
        length = int(self.headers.get("Content-Length", 0))
        if length > MAX_BYTES:
            return self.answer(413)
        body = self.rfile.read(length)  # the raw bytes: what was signed is these, not what a parser makes of them
        try:
            # Checks the signature, and that the time stamp is no more than five minutes off.
            WEBHOOK.verify(body, {name.lower(): value for name, value in self.headers.items()})
        except WebhookVerificationError:
            return self.answer(401)
        keep(self.headers["webhook-id"], body)
        return self.answer(200)

    def answer(self, status):
        """Send a status and nothing else."""
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


def keep(webhook_id, body):
    """Write the event to the disk, whole or not at all, unless it was there before."""
    if any(INBOX.glob(f"[0-9]*.{webhook_id}")) or (DONE / webhook_id).exists():
        return
    part = INBOX / f".{webhook_id}"
    with part.open("wb") as file:
        file.write(body)
        os.fsync(file.fileno())
    part.rename(INBOX / f"{time.time_ns()}.{webhook_id}")


def work():
    """Do what is to be done, in the order of arrival, for ever."""
    while True:
        until = str(time.time_ns())  # what comes during the listing is for the next one, which misses nothing before it
        for path in sorted(path for path in INBOX.glob("[0-9]*") if path.name < until):
            webhook_id = path.name.partition(".")[2]
            print("working on", webhook_id, path.read_text(), flush=True)  # your own work goes here
            path.rename(DONE / webhook_id)
        time.sleep(0.1)


if __name__ == "__main__":
    INBOX.mkdir(exist_ok=True)
    DONE.mkdir(exist_ok=True)
    threading.Thread(target=work, daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "9000"))), Receiver).serve_forever()
