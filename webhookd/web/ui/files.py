"""The page's files: its style and scripts, and the product's accent and logo.  Their addresses carry their version."""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
from functools import cache

from aiohttp import web

from webhookd.config.branding import brand_of
from webhookd.errors import ApiError
from webhookd.web.server.requests import services_of

_HEADERS = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


async def static(request: web.Request) -> web.Response:
    """A file of the page's own; its address carries its version, so it may be kept."""
    found = static_files().get(request.match_info["name"])
    if found is None:
        raise ApiError("not_found", f"There is no file {request.path[:200]!r}.")
    body, media = found
    headers = _HEADERS | {"Vary": "Accept-Encoding"}
    # Pages aren't compressed: they have secrets beside what a stranger's link may put there (breachattack.com).
    accepted = request.headers.get("Accept-Encoding", "").replace(" ", "").lower()
    if "gzip" in accepted and "gzip;q=0" not in accepted:
        body, headers = _packed(request.match_info["name"]), headers | {"Content-Encoding": "gzip"}
    return web.Response(body=body, content_type=media, charset="utf-8", headers=headers)


@cache
def _packed(name: str) -> bytes:
    return gzip.compress(static_files()[name][0], mtime=0)


@cache
def static_files() -> dict[str, tuple[bytes, str]]:
    """The page's own files by name, each with its media type."""
    folder = importlib.resources.files("webhookd.web.ui") / "static"
    types = {file.name: _TYPES.get(file.name.rpartition(".")[2]) for file in folder.iterdir()}
    return {name: ((folder / name).read_bytes(), media) for name, media in types.items() if media}


@cache
def static_url(name: str) -> str:
    """The address of a file of the page's own."""
    digest = hashlib.sha256(static_files()[name][0]).hexdigest()[:12]
    return f"/static/{name}?v={digest}"


async def brand_file(request: web.Request) -> web.Response:
    """The product's accent as a style sheet, and its logo; their addresses carry their version."""
    brand = brand_of(services_of(request).settings().page)
    body, media = (brand.css.encode(), "text/css") if request.path.endswith(".css") else (brand.logo, brand.logo_type)
    if not body:
        raise ApiError("not_found", f"There is no file {request.path[:200]!r}.")
    headers = _HEADERS | {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
    return web.Response(body=body, content_type=media, headers=headers)
