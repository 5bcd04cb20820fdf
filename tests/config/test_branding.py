"""`[page]`: the accent's contrast, the logo's content, and what the page makes of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.api import running_api
from tests.support.reader import Browser
from webhookd.config import Config, Page
from webhookd.config.branding import CONTRAST_MIN, DARK, LOGO_MAX_BYTES, brand_of, contrast
from webhookd.config.loader import check

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def test_the_contrast_is_that_of_wcag() -> None:
    """The extremes, and a grey that is known to be just enough on white."""
    assert (21.0, 1.0) == (round(contrast("#000000", "#ffffff"), 2), contrast("#2a55cc", "#2a55cc"))
    assert 4.54 == round(contrast("#767676", "#ffffff"), 2)


@pytest.mark.parametrize("accent", ["#ffcc00", "#7f9fff", "#FFFFFF"])
def test_an_accent_that_cannot_be_read_is_refused_with_its_ratio(tmp_path: Path, accent: str) -> None:
    """The message has the ratio and the nearest shade that would do."""
    path = tmp_path / "webhookd.toml"
    path.write_text(f'[page]\naccent = "{accent}"\n')
    (mistake,) = check(path)
    assert (2, "page.accent") == (mistake.line, mistake.key)
    assert re.search(r"a contrast of \d\.\d\d:1", mistake.what)
    better = re.findall("#[0-9a-f]{6}", mistake.form)[0]
    path.write_text(f'[page]\naccent = "{better}"\n')
    assert [] == check(path)


@pytest.mark.parametrize("accent", ["#2a55cc", "#000000", "#7a0000", "#005500"])
def test_the_accent_is_made_readable_on_dark_grounds(accent: str) -> None:
    """With its own text on it as well."""
    light, dark = re.findall(r"--accent: (\S+); --accent-text: (\S+);", brand_of(Page(accent=accent)).css)
    assert accent == light[0] and contrast(dark[0], DARK) >= CONTRAST_MIN
    assert all(contrast(*each) >= CONTRAST_MIN for each in (light, dark))


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "can't be read"), (b"<html>", "no picture"), (b"", "no picture"), (PNG + bytes(LOGO_MAX_BYTES), "larger")],
)
def test_a_file_that_is_no_logo_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    """By its content, whatever its name."""
    logo = tmp_path / "logo.png"
    if content is not None:
        logo.write_bytes(content)
    path = tmp_path / "webhookd.toml"
    path.write_text(f'[page]\nlogo = "{logo}"\n')
    (mistake,) = check(path)
    assert "page.logo" == mistake.key and says in mistake.what


@pytest.mark.parametrize(("content", "media"), [(PNG, "image/png"), (SVG, "image/svg+xml")])
async def test_the_page_is_the_products_own(tmp_path: Path, content: bytes, media: str) -> None:
    """Name, accent and logo on every page; a script in a logo runs nowhere."""
    logo = tmp_path / "logo"
    logo.write_bytes(content)
    async with running_api(tmp_path, Config(page=Page(name="Acme", accent="#aa3300", logo=str(logo)))) as api:
        browser = Browser(api)
        shown = (await browser.get("/sign-in")).body.decode()
        assert "· Acme</title>" in shown
        css = await browser.get(re.findall(r'href="(/brand\.css[^"]+)"', shown)[0])
        assert "text/css" in css.headers["Content-Type"] and "--accent: #aa3300" in css.body.decode()
        picture = await browser.get(re.findall(r'url\("([^"]+)"\)', css.body.decode())[0])
        assert (content, media) == (picture.body, picture.headers["Content-Type"])
        assert "sandbox" in picture.headers["Content-Security-Policy"]


def test_embedding_takes_https(tmp_path: Path) -> None:
    """A browser keeps cookies in a frame of another site by https alone."""
    path = tmp_path / "webhookd.toml"
    for url, expected in (("", 1), ("http://hooks.example.com", 1), ("https://hooks.example.com", 0)):
        path.write_text(f'[listen]\nframe_ancestors = ["https://app.example.com"]\npublic_url = "{url}"\n')
        assert expected == len(check(path))
    for wrong in ("app.example.com", "https://app.example.com/", "*", "https://*", "'self'", "https://a b"):
        path.write_text(f'[listen]\npublic_url = "https://h.example"\nframe_ancestors = ["{wrong}"]\n')
        assert "listen.frame_ancestors" == check(path)[0].key, wrong
