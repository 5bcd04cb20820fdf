"""`[page]`: the product's own name, accent and logo on the page, checked before they are shown.

Contrast is WCAG 2.2's: text needs 4.5:1.  The accent is written on the page's light grounds; the one for dark grounds
is made from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from webhookd.config import Config, Contradiction, Page

LOGO_MAX_BYTES = 256 * 1024
CONTRAST_MIN = 4.5
# The grounds that the accent is written on, the least favourable of `static/page.css`.
LIGHT, DARK = "#f0f2f5", "#171c24"
_DARK_CONTRAST = 6.0
_DARK_TEXT = "#0b0f15"
_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}


@dataclass(frozen=True, slots=True)
class Brand:
    """What the page shows of `[page]`; `css` and `logo` are empty where the page's own serve."""

    name: str
    css: str = ""
    css_url: str = ""
    logo: bytes = b""
    logo_type: str = ""


@lru_cache(4)
def brand_of(page: Page) -> Brand:
    """The brand of these settings.  The logo is read once: another picture needs another file name, or a restart."""
    logo, media = b"", ""
    if page.logo:
        with suppress(OSError, ValueError):  # it was there when the settings were checked; the page does without
            logo, media = read_logo(page.logo)
    rules = [_accents(page.accent)] if page.accent else []
    if logo:
        rules.append(f'.logo {{ background-image: url("/logo?v={_version(logo)}"); }}\n')
    css = "".join(rules)
    return Brand(page.name or "webhookd", css, f"/brand.css?v={_version(css.encode())}" if css else "", logo, media)


def contradictions(config: Config) -> Iterator[Contradiction]:
    """What is wrong with `[page]`, and with embedding it, beyond the form of the values."""
    page, listen = config.page, config.listen
    if listen.frame_ancestors and not listen.public_url.startswith("https:"):
        keys = ("listen.frame_ancestors", "listen.public_url")
        yield Contradiction(
            keys, "a browser keeps an embedded page's cookies by https alone", "listen.public_url too, with https"
        )
    ratio = contrast(page.accent, LIGHT) if page.accent else CONTRAST_MIN
    if ratio < CONTRAST_MIN:
        better = _until(page.accent, "#000000", LIGHT, CONTRAST_MIN)
        what = f'"{page.accent}" has a contrast of {ratio:.2f}:1 with the page\'s light ground'
        yield Contradiction(("page.accent",), what, f'{CONTRAST_MIN}:1 or more, as "{better}" has')
    try:
        if page.logo:
            read_logo(page.logo)
    except OSError as error:
        yield Contradiction(
            ("page.logo",), f"it can't be read: {error.strerror or error}", "a file that webhookd may read"
        )
    except ValueError as error:
        yield Contradiction(
            ("page.logo",), str(error), f"an SVG, PNG, JPEG or GIF of at most {LOGO_MAX_BYTES // 1024} KiB"
        )


def read_logo(path: str) -> tuple[bytes, str]:
    """The picture and its media type, by its content.  OSError; ValueError with what is wrong with it."""
    with Path(path).open("rb") as file:
        logo = file.read(LOGO_MAX_BYTES + 1)
    if len(logo) > LOGO_MAX_BYTES:
        raise ValueError(f"the file is larger than {LOGO_MAX_BYTES // 1024} KiB")
    for magic, media in _TYPES.items():
        if logo.startswith(magic):
            return logo, media
    if b"<svg" in logo[:4096]:
        return logo, "image/svg+xml"
    raise ValueError("the file is no picture that the page can show")


def contrast(one: str, other: str) -> float:
    """The contrast of two colours (`#rrggbb`), from 1 to 21."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in _rgb(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _mixed(one: str, other: str, share: float) -> str:
    pairs = zip(_rgb(one), _rgb(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _until(colour: str, toward: str, ground: str, ratio: float) -> str:
    """The colour, moved toward another one by as little as gives it the contrast."""
    tried = (_mixed(colour, toward, step / 50) for step in range(51))
    return next(each for each in tried if contrast(each, ground) >= ratio)


def _accents(accent: str) -> str:
    light = (accent, "#ffffff", _mixed(accent, "#ffffff", 0.9))
    dark_accent = _until(accent, "#ffffff", DARK, _DARK_CONTRAST)
    dark = (dark_accent, _DARK_TEXT, _mixed(dark_accent, DARK, 0.84))
    named = [":root {{ --accent: {}; --accent-text: {}; --accent-soft: {}; }}".format(*each) for each in (light, dark)]
    return f"{named[0]}\n@media (prefers-color-scheme: dark) {{ {named[1]} }}\n"


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
