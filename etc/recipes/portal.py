"""Show a customer's webhooks inside a product's own settings, with nothing but Python's standard library.

    WEBHOOKD_ADMIN_TOKEN=… WEBHOOKD_URL=https://hooks.example.com python3 portal.py

`portal_link` is what your backend needs; the rest is a page around it to try it with.
"""

import json
import os
import urllib.request
from html import escape
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import quote

URL = os.environ.get("WEBHOOKD_URL", "http://127.0.0.1:8780")
TOKEN = os.environ["WEBHOOKD_ADMIN_TOKEN"]
PAGE = """<!doctype html><html lang="en"><title>Settings</title><h1>Settings</h1>
<iframe id="webhooks" title="Webhooks" src="{link}" style="width: 100%; height: 640px; border: 0"></iframe>
<script>
  addEventListener("message", ({{ source, data }}) => {{
    const frame = document.getElementById("webhooks");
    if (source === frame.contentWindow && data?.type === "webhookd:height") frame.style.height = `${{data.height}}px`;
  }});
</script></html>"""


def portal_link(workspace, **fields):
    """A link that signs in once: make a fresh one each time the page is shown."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    address = f"{URL}/v1/workspaces/{quote(workspace, safe='')}/portal-links"
    request = urllib.request.Request(address, json.dumps(fields).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["url"]


def workspace_of(request):
    """Whose webhooks: here your own sign-in decides.  Never take it from what the browser sends."""
    return os.environ.get("WORKSPACE", "default")


class Settings(BaseHTTPRequestHandler):
    """The product's settings page."""

    def do_GET(self):
        """Show it, with a fresh link in its frame."""
        if self.path != "/settings":
            self.send_error(404)
            return
        page = PAGE.format(link=escape(portal_link(workspace_of(self), language="en"))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Cache-Control", "no-store")  # the link works once
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8000"))), Settings).serve_forever()
