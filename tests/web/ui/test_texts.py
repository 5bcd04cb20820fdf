"""What the page says: two catalogues with the same keys, all of them used, none missing."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path

import pytest

from webhookd.admin.tokens import Scope
from webhookd.errors import ERRORS
from webhookd.models import DeliveryState, EndpointState, Reason
from webhookd.rules.event_types import BUILT_IN
from webhookd.web.ui.texts import LANGUAGES, Texts, choose, texts

WEB = Path(__file__).parents[3] / "webhookd" / "web" / "ui"
# Keys that are put together where they are used, and what they are put together from.
FAMILIES = {
    "language": LANGUAGES,
    "state": tuple(DeliveryState),
    "delivery.state": tuple(DeliveryState),
    "endpoint": (*EndpointState, "paused"),
    "reason": (*Reason, "delivered"),
    "short": tuple(Reason),
    "form.success": ("200", "2xx"),
    "access.scope": tuple(Scope),
    "delivery.not_replayable": ("test", "waiting", "gone", "not_active", "pruned", "delivered_since"),
    "replay.left_out": (
        "already_had",
        "delivered_since",
        "waiting",
        "repeated",
        "not_active",
        "gone",
        "pruned",
        "no_room",
    ),
    "plot": ("hour", "day"),
    "type": (*(kind.name for kind in BUILT_IN), *(f"{kind.name}.when" for kind in BUILT_IN)),
    "span": tuple(f"{unit}.{number}" for unit in ("day", "hour", "minute", "second") for number in ("one", "other")),
}
# These codes never reach a page: they belong to the API's bodies, to tokens and to callers without a session.
NOT_ON_PAGES = {
    "invalid_json", "unauthorized", "method_not_allowed", "event_id_conflict", "workspace_exists", "workspace_in_use",
    "wrong_host", "invalid_event", "missing_event_type", "invalid_event_id", "unknown_field", "mail_disabled",
    "mail_failed", "rate_limited",
}  # fmt: skip


def sources() -> str:
    files = [*WEB.glob("*.py"), *(WEB / "templates").glob("*.html")]
    return "\n".join(file.read_text("utf-8") for file in files)


def test_the_catalogues_have_the_same_keys_and_nothing_empty() -> None:
    """What one language says the other says too, filled in with the same values; the help for an error apart."""
    english, vietnamese = (texts(language).texts for language in LANGUAGES)
    helps = {f"error.{code}.help" for code in ERRORS.keys() - NOT_ON_PAGES}  # in English the error's own message
    assert helps == vietnamese.keys() - english.keys()
    assert list(english) == [key for key in vietnamese if key not in helps]
    for key, text in english.items():
        names = [{name for _, name, _, _ in string.Formatter().parse(each) if name} for each in (text, vietnamese[key])]
        assert names[0] == names[1], key
        assert text.strip() and vietnamese[key].strip(), key


def test_every_key_is_used_and_every_used_key_is_there() -> None:
    """Taken from the templates and the handlers; a family's members from what it is made of."""
    source = sources()
    said = set(re.findall(r'said="(\w+)"', source)) | set(re.findall(r'"((?:enabled|tested)_?\w*)"', source))
    used = set(re.findall(r"""(?<![\w.])(?:page\.text|made\.text|t)\(\s*["']([\w.]*\w)["']""", source))
    counted = set(re.findall(r"""(?:text|t)\.count\(\s*["']([\w.]+)["']""", source))
    used |= {f"{key}.{number}" for key in counted for number in ("one", "other")}
    used |= {f"{family}.{member}" for family, members in FAMILIES.items() for member in members}
    used |= {f"error.{code}" for code in ERRORS.keys() - NOT_ON_PAGES}
    known = set(texts("en").texts)
    used |= {key for key in known if key.startswith("said.") and key.split(".")[1] in said}
    assert set() == used - known
    assert set() == known - used
    assert set() == {key for key in said if not any(each.startswith(f"said.{key}") for each in known)}


def test_the_catalogue_says_the_same_on_the_page() -> None:
    """English texts are those of `/v1/event-types`; every meaning of a field is there in Vietnamese, and no other."""
    english, vietnamese = texts("en"), texts("vi")
    said = {kind.name: (english(f"type.{kind.name}"), english(f"type.{kind.name}.when")) for kind in BUILT_IN}
    assert {kind.name: (kind.label, kind.description) for kind in BUILT_IN} == said
    meanings = {field.meaning for kind in BUILT_IN for field in kind.fields}
    translated = json.loads((WEB / "texts" / "meanings.vi.json").read_text("utf-8"))
    assert meanings == set(translated)
    assert all(text.strip() for text in translated.values())
    assert ("The comment", "Bình luận") == (english.meaning("The comment"), vietnamese.meaning("The comment"))


@pytest.mark.parametrize(
    ("cookie", "accepts", "language"),
    [
        (None, "", "en"),
        (None, "vi", "vi"),
        (None, "fr, vi-VN;q=0.8, en;q=0.5", "vi"),
        (None, "vi;q=0.2, en-GB;q=0.7", "en"),
        (None, "vi;q=0", "en"),
        (None, "vi;q=x,,;;", "en"),
        ("vi", "en", "vi"),
        ("xx", "vi", "vi"),
    ],
)
def test_the_language_is_the_readers(cookie: str | None, accepts: str, language: str) -> None:
    """The switch first, then what the browser ranks highest, then English."""
    assert language == choose(cookie, accepts)


def test_numbers_and_durations_read_well() -> None:
    """Thousands set apart, one thing not called things, durations in a fitting unit."""
    english, vietnamese = texts("en"), texts("vi")
    assert ("1,234,567", "1.234.567") == (english.number(1234567), vietnamese.number(1234567))
    assert ["1 attempt", "2 attempts", "2 lần gửi"] == [
        english.count("delivery.attempts", 1),
        english.count("delivery.attempts", 2),
        vietnamese.count("delivery.attempts", 2),
    ]
    assert ["0.6 ms", "41 ms", "1.0 s", "5.0 s"] == [english.duration_ms(each) for each in (0.6, 41.2, 999.9, 5000)]
    assert ["30 minutes", "1 hour", "0 seconds"] == [english.span(each) for each in (1800, 3600, 0)]
    assert isinstance(english, Texts)
