"""The page in Vietnamese, whole: every page, and every form that is refused, without a word of English."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

from tests.support.api import Answer, running_api
from tests.support.reader import Browser
from webhookd.config import Budget, Config

pytestmark = pytest.mark.slow
VI = {"Accept_Language": "vi"}
# Words of every other English sentence, and none of Vietnamese.
ENGLISH = (
    r"(?i)\b(the|this|that|was|were|is|are|its|and|of|with|from|for|after|once|which|will|not|no|only|page|made|every|"
    r"failed|events?|webhook was|endpoint|given|refused|answer|expected|must|before|hold|give)\b"
)
FORMS: list[tuple[str, dict[str, str | list[str]]]] = [
    ("/webhooks/new", {"url": "ftp://x", "every_type": "yes", "success": "200"}),
    ("/webhooks/new", {"url": "https://x/", "event_types": [], "success": "200"}),
    ("/webhooks/new", {"url": "https://x/", "every_type": "yes", "success": "9"}),
    ("/webhooks/new", {"url": "https://x/", "every_type": "yes", "success": "200", "headers": "Host: a"}),
    ("/webhooks/new", {"url": "https://x/", "every_type": "yes", "success": "200", "headers": "nothing"}),
    ("/webhooks/new", {"url": "https://x/", "every_type": "yes", "success": "200", "signing_key": "whsec_x"}),
    ("/webhooks/new", {"url": "https://x/", "every_type": "yes", "success": "200", "description": "x" * 9999}),
    ("/webhooks/new", {"url": "https://good.example/hook", "every_type": "yes", "success": "200"}),
    ("/webhooks/new", {"url": "https://169.254.169.254/", "every_type": "yes", "success": "200"}),
    ("/webhooks/new", {"url": "https://u:p@x/", "every_type": "yes", "success": "200"}),
    ("/settings", {"name": "", "notify": "", "plan": "advanced", "language": "vi"}),
    ("/settings", {"name": "A", "notify": "nobody", "plan": "advanced", "language": "vi"}),
    ("/settings", {"name": "A", "notify": "", "plan": "gold", "language": "vi"}),
    ("/access/tokens", {"scope": "admin", "expires": "2020-01-01T00:00"}),
    ("/access/tokens/tok_admin/revoke", {}),
    ("/access/tokens/tok_nothing/revoke", {}),
    ("/webhooks/ep_nothing/disable", {}),
    ("/log/dlv_nothing/replay", {}),
]


def english(answer: Answer) -> list[str]:
    """What a reader sees or hears of a page that is English; code and what says that it is English are no fault."""
    body = re.sub(r"(?s)<(code|pre|script|svg)\b.*?</\1>", " ", answer.body.decode())
    body = re.sub(r'(?s)<(\w+)[^>]* lang="en"[^>]*>.*?</\1>', " ", body)
    spoken = re.findall(r'(?:aria-label|title|placeholder|data-[a-z]+)="([^"]*)"', body)
    shown = re.sub(r"(?s)<[^>]+>", "\n", body).split("\n")
    lines = [re.sub(r"\{\w+\}", "", unescape(each)).strip() for each in (*shown, *spoken)]
    return [line for line in lines if re.search(ENGLISH, line) and not line.startswith("/")]


async def test_no_word_of_english_is_left(tmp_path: Path) -> None:
    """Webhooks that work, fail and are stopped; their deliveries; what was refused and done."""
    async with running_api(tmp_path, Config(budget=Budget(limit=2))) as api:
        await api.app.services.workspaces.create("acme", name="Acme")
        good = await api.engine.endpoint("https://good.example/hook")
        bad = await api.engine.endpoint("http://bad.example/hook")
        api.engine.network.answer = lambda url, webhook_id: 503 if "bad." in url else 200
        for name in ("a", "b", "c", "d"):
            await api.engine.send(name)
        for _ in range(6):
            await api.engine.quiet()
            await api.engine.clock.advance(60)
        browser = Browser(api)
        await browser.sign_in(api.admin_token)
        deliveries = [each["id"] for each in (await api.get("/v1/deliveries")).json["data"]]
        paths = [
            *("/settings", "/settings/integrations", "/webhooks", "/webhooks?workspace=acme", "/webhooks/new"),
            *(f"/webhooks/{each.id}" for each in (good, bad)),
            *(f"/webhooks/{bad.id}/{page}" for page in ("edit", "key", "enable", "delete")),
            f"/webhooks/{good.id}/backfill?since=2026-01-01T00:00:00",
            *(
                "/log",
                "/log?workspace=acme",
                "/log?state=nonsense",
                "/log/dlv_nothing",
                *(f"/log/{i}" for i in deliveries),
            ),
            f"/log/replay?endpoint={good.id}&state=delivered",
            *("/webhooks/ep_nothing", "/access", "/audit", "/help", "/help/receiving", "/sign-in", "/portal"),
        ]
        found = {path: english(await browser.get(path, **VI)) for path in paths}
        for path, fields in FORMS:
            answer = await browser.send_form(path, fields, "/webhooks", **VI)
            assert 400 <= answer.status < 500, (path, fields)
            found[f"{path} {fields}"] = english(answer)
        found["a wrong token"] = english(await Browser(api).send_form("/sign-in", {"secret": "x"}, "/sign-in", **VI))
        assert {} == {path: lines for path, lines in found.items() if lines}
