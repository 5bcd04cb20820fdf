"""A receiver in Python, typed by what datamodel-code-generator made of webhookd's document (`events.py`, pydantic).

It verifies X-Webhook-Signature over the raw bytes.  POST /generated takes what the generated types take, POST /aikit
what those of an integrator's SDK take (`aikit.py`).  Ids of what it took are lines of the file `taken`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aikit
from events import CallEnded, ConversationClosed, MessageReceived, TextContent, WebhookEvent
from pydantic import ValidationError

KEY = os.environ["WEBHOOK_KEY"].encode()


def line(event: WebhookEvent) -> str:
    """What it is about, in one line: mypy knows the fields of each type."""
    of = event.root
    if isinstance(of, MessageReceived):
        content = of.message.message.root
        return content.text if isinstance(content, TextContent) else content.type
    if isinstance(of, ConversationClosed):
        return f"closed by {of.conversation.closedBySource}"
    if isinstance(of, CallEnded):
        return f"{of.call.direction}, {len(of.call.transcript or [])} lines"
    return of.event_type


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def do_POST(self) -> None:
        """Verify, check against the types, remember, answer."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        expected = base64.b64encode(hmac.digest(KEY, body, hashlib.sha256)).decode()
        if not hmac.compare_digest(expected, self.headers.get("X-Webhook-Signature", "")):
            return self.answer(401)
        try:
            if self.path == "/generated":
                event = WebhookEvent.model_validate_json(body)
                shown, event_id = line(event), event.root.event_id
            else:
                shown, event_id = aikit.take(body)
        except ValidationError as error:
            print(error, flush=True)
            return self.answer(422)
        with Path("taken").open("a", encoding="utf-8") as taken:
            taken.write(f"{self.path} {event_id}\n")
        print(shown, flush=True)
        return self.answer(200)

    def answer(self, status: int) -> None:
        """An answer without a body."""
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """No line for each request."""


if __name__ == "__main__":
    Handler.protocol_version = "HTTP/1.1"
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
