"""What the page says: two catalogues with the same keys, all of them used, none missing."""

from __future__ import annotations

import ast
import json
import re
import string
from pathlib import Path

import pytest

from webhookd import config, manual
from webhookd.admin.tokens import Scope
from webhookd.delivery import replay
from webhookd.errors import ERRORS, ApiError
from webhookd.models import LANGUAGES, DeliveryState, EndpointState, Reason
from webhookd.rules import ip_policy, urls
from webhookd.rules.event_types import BUILT_IN
from webhookd.rules.plans import Plans
from webhookd.web.ui.charts import RANGES
from webhookd.web.ui.texts import Texts, choose, texts
from webhookd.web.ui.webhook_list import SORTS, STATES

WEBHOOKD = Path(__file__).parents[3] / "webhookd"
WEB = WEBHOOKD / "web" / "ui"
# The modules whose errors pages may show.
SAYING = (
    *("admin/endpoints.py", "admin/tokens.py", "admin/workspaces.py", "delivery/registry.py", "delivery/replay.py"),
    *("delivery/test_event.py", "mail/mailer.py", "retention.py", "rules/event_types.py", "rules/ordering.py"),
    *("rules/filters.py", "rules/patterns.py"),
    *("rules/signing.py", "rules/urls.py", "store/store.py", "store/workspaces.py"),
    *("store/writer.py", "web/server/memory_limit.py", "web/server/question_limit.py", "web/server/responses.py"),
    *("web/ui/help.py", "web/ui/sign_in.py", "sender/failure_reasons.py", "sender/client.py"),
)
# Keys that are put together where they are used, and what they are put together from.
FAMILIES = {
    "language": LANGUAGES,
    "state": (*DeliveryState, "retrying"),
    "log.preset": ("hour", "today", "failed", "retrying", "held"),
    "delivery.state": tuple(DeliveryState),
    "endpoint": (*EndpointState, "paused"),
    "reason": (*Reason, "delivered"),
    "short": tuple(Reason),
    "form.success": ("200", "2xx"),
    "access.scope": tuple(Scope),
    "delivery.not_replayable": ("test", "waiting", "gone", "not_active", "pruned", "delivered_since"),
    "replay.left_out": (
        "already_had",
        "filtered",
        "delivered_since",
        "waiting",
        "repeated",
        "not_active",
        "gone",
        "pruned",
        "no_room",
    ),
    "plot": tuple(RANGES),
    "webhooks.filter": STATES,
    "webhooks.sort": SORTS,
    "pick": tuple({field.path for kind in BUILT_IN for field in kind.choices}),
    "choice": tuple({value for kind in BUILT_IN for field in kind.choices for value in field.values}),
    "type": (*(kind.name for kind in BUILT_IN), *(f"{kind.name}.when" for kind in BUILT_IN)),
    "unit": ("about", "seconds", "minutes", "hours"),
    "plan": config.Plans().order,
    "help": tuple(section.lower() for section in manual.SECTIONS),
    "span": tuple(f"{unit}.{number}" for unit in ("day", "hour", "minute", "second") for number in ("one", "other")),
}
# These codes never reach a page: they belong to the API's bodies, to tokens and to callers without a session.
NOT_ON_PAGES = {
    "invalid_json", "unauthorized", "method_not_allowed", "event_id_conflict", "workspace_exists", "workspace_in_use",
    "wrong_host", "invalid_event", "missing_event_type", "invalid_event_id", "unknown_field",
    "schema_mismatch",
}  # fmt: skip


def sources() -> str:
    files = [*WEB.glob("*.py"), *(WEB / "templates").glob("*.html")]
    return "\n".join(file.read_text("utf-8") for file in files)


def test_the_catalogues_have_the_same_keys_and_nothing_empty() -> None:
    """What one language says the other says too, filled in with the same values."""
    english, vietnamese = (texts(language).texts for language in LANGUAGES)
    assert list(english) == list(vietnamese)
    for key, text in english.items():
        names = [{name for _, name, _, _ in string.Formatter().parse(each) if name} for each in (text, vietnamese[key])]
        assert names[0] == names[1], key
        assert text.strip() and vietnamese[key].strip(), key


def test_every_key_is_used_and_every_used_key_is_there() -> None:
    """Taken from the templates and the handlers; a family's members from what it is made of."""
    source = sources()
    said = set(re.findall(r'said="(\w+)"', source)) | set(
        re.findall(r'"((?:enabled|tested|settings)_\w*|enabled|tested)"', source)
    )
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
    """English texts are those of `/v1/event-types`; each meaning and note is there in Vietnamese, and no other."""
    english, vietnamese = texts("en"), texts("vi")
    said = {kind.name: (english(f"type.{kind.name}"), english(f"type.{kind.name}.when")) for kind in BUILT_IN}
    assert {kind.name: (kind.label, kind.description) for kind in BUILT_IN} == said
    meanings = {field.meaning for kind in BUILT_IN for field in kind.fields} | {
        note for kind in BUILT_IN for note in kind.notes
    }
    translated = json.loads((WEB / "texts" / "meanings.vi.json").read_text("utf-8"))
    assert meanings == set(translated)
    assert all(text.strip() for text in translated.values())
    assert ("The comment", "Bình luận") == (english.meaning("The comment"), vietnamese.meaning("The comment"))


def _template(node: ast.expr | None) -> str | None:
    """A message as the catalogue of refusals has it, with `{}` for values; None for what isn't written out."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "7" for part in node.values)
    return None


def refusals() -> set[str]:
    """Every message of an error that a page may show, from the source of the modules that pages call."""
    found = set()
    for path in SAYING:
        for node in ast.walk(ast.parse((WEBHOOKD / path).read_text("utf-8"))):
            message: ast.expr | None = None
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                code = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
                if node.func.id in ("ApiError", "field_error") and code not in NOT_ON_PAGES and len(node.args) > 1:
                    message = node.args[1]
                elif node.func.id in ("_invalid", "_blocked", "_invalid_header"):
                    message = node.args[0]
                elif node.func.id == "EgressFailure":
                    message = node.args[1]
            elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
                message = node.value.elts[-1]  # a reason and its detail
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "_wrong":
                found.add(f"The filter of 7 is wrong at 7. {_template(node.args[1])}")
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "message":
                message = node.value
            found |= {text} if (text := _template(message)) else set()
    return found


# Put together of parts, so as they stand in the source they are never said.
COMPOSED = {
    "The URL's host has characters beyond ASCII; write its ASCII form7.",
    "7. `webhookd workspace list` shows them.",
    "The filter of 7 is wrong at 7. 7",
    "7 is 7; webhookd doesn't send there. 7",
}


def test_every_refusal_is_there_in_vietnamese() -> None:
    """With what its values may be: why an address is refused, which character a URL can't have."""
    vietnamese = texts("vi")
    said = refusals() | {message for _, message in replay._ERRORS.values()}
    said |= {why for table in (ip_policy._ALWAYS, ip_policy._SPECIAL) for _, why in table}
    assert len(said) > 80
    assert COMPOSED == {each for each in said if vietnamese.refusal(each) == each}
    for plan in ("advancedd", "zzz"):
        with pytest.raises(ApiError) as refused:
            Plans(("starter", "advanced"), "advanced").check(plan)
        assert "Không có gói" in vietnamese.refusal(refused.value.message)
    assert "127.0.0.1 là địa chỉ loopback; webhookd không gửi đến đó. Hãy" in vietnamese.refusal(
        f"127.0.0.1 is a loopback address; webhookd doesn't send there. {urls.HOW_TO_ALLOW}"
    )
    for name in ("bücher.example", "xn--\u2603.example"):
        with pytest.raises(ApiError) as refused:
            urls.parse_url(f"https://{name}/")
        assert "hãy viết dạng ASCII" in vietnamese.refusal(refused.value.message)
    assert "31 lần gửi lỗi trong 30 phút ở không gian làm việc này, cho phép 30; lần cuối: phản hồi 503." == (
        vietnamese.refusal(
            "31 failed attempts in 30 minutes in this workspace, 30 are allowed; the last one: answered 503."
        )
    )
    assert "không có phản hồi trong 5 giây" == vietnamese.refusal("no answer within 5 s")
    assert "DNS: tên không tồn tại: a.example" == vietnamese.refusal("DNS: the name doesn't exist: a.example")
    assert "bị chặn: 10.0.0.1: địa chỉ nội bộ" == vietnamese.refusal("blocked: 10.0.0.1: a private address")
    assert "Không có không gian làm việc 'x'." in vietnamese.refusal(
        "There is no workspace 'x'. `webhookd workspace list` shows them."
    )
    assert "URL có dấu cách ở vị trí 9;" in vietnamese.refusal(
        "The URL has a space at position 9; write it percent-encoded or leave it out."
    )
    assert "Something new." == vietnamese.refusal("Something new.") == texts("en").refusal("Something new.")


SEED = """
conversation.closed|Cuộc trò chuyện đã đóng
contact.created|Liên hệ mới
message.sent|Tin nhắn gửi đi mới
message.received|Tin nhắn mới đến
contact.updated|Liên hệ được cập nhật
conversation.opened|Cuộc trò chuyện đã mở
contact.assignee.updated|Người được chỉ định trong Liên hệ đã cập nhật
contact.tag.updated|Thẻ liên hệ được cập nhật
comment.created|Bình luận mới
"""
AVOIDED = "trả lời|máy nhận|lần giao|trỏ vào|phát lại|ngân sách|hội thoại|bị bỏ|phép đếm|đã hết đến|chép vào"


def test_the_vietnamese_is_that_of_the_product() -> None:
    """Its own names of events; none of the words that readers took for others; a workspace is always a whole one."""
    vietnamese = texts("vi")
    for line in SEED.strip().splitlines():
        name, label = line.split("|")
        assert label == vietnamese(f"type.{name}")
    assert ("Hạn ngạch lỗi", "Hành động", "Bật", "Kết nối") == tuple(
        vietnamese(key) for key in ("budget.title", "webhooks.actions", "action.enable", "integrations.connect")
    )
    files = [
        *(WEB / "texts").glob("*.vi.json"),
        WEB / "texts" / "vi.json",
        *(WEBHOOKD / "mail/templates").glob("*.vi.*"),
    ]
    for file in files:
        text = file.read_text("utf-8").lower().replace("sao chép vào", "")
        assert [] == re.findall(AVOIDED, text), file.name
        assert [] == re.findall(r"không gian(?! làm\s*việc)", text), file.name


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
    assert ["0,6 ms", "5,0 giây"] == [vietnamese.duration_ms(each) for each in (0.6, 5000)]
    assert isinstance(english, Texts)
