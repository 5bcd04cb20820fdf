"""What the rivals in Python share: the events, and the headers that webhookd would send with one."""

import base64
import hashlib
import hmac
import json
import resource
import time

ENDPOINTS = 100
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECRET, OLD_SECRET = base64.b64decode(KEY[6:]), KEY[6:].encode()


def events(first, count, size=1024):
    """Each event's endpoint, id and body, of `size` bytes."""
    for number in range(first, first + count):
        endpoint, event_id = number % ENDPOINTS, f"b-{number:012d}"
        head = f'{{"event_type":"bench.t{endpoint}","event_id":"{event_id}","text":"'
        yield endpoint, event_id, head + "x" * (size - len(head) - 2) + '"}'


def headers(event_id, body):
    stamp = str(int(time.time()))
    signed = b".".join((event_id.encode(), stamp.encode(), body))
    return {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": stamp,
        "webhook-signature": "v1," + base64.b64encode(hmac.digest(SECRET, signed, hashlib.sha256)).decode(),
        "X-Webhook-Signature": base64.b64encode(hmac.digest(OLD_SECRET, body, hashlib.sha256)).decode(),
        "X-Webhook-Attempt": "1",
    }


class Told:
    """When a producer began to hand over, and its processor time from then on: printed at the end."""

    def __enter__(self):
        self.began, self.cpu_began = time.monotonic(), _cpu_seconds()
        return self

    def __exit__(self, *_):
        print(json.dumps({"began": self.began, "cpu_seconds": _cpu_seconds() - self.cpu_began}), flush=True)


def _cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
