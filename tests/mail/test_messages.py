"""The messages: what they say, and that untrusted text stays text."""

from __future__ import annotations

import email
import email.policy
import re
from email.message import EmailMessage
from typing import Any

import pytest

from tests.support.clock import START_WALL_MS
from webhookd.config import Config, Listen
from webhookd.mail import messages
from webhookd.models import Reason
from webhookd.store.outbox import Notice

HOSTILE = "<script>alert(1)</script>\r\nBcc: victim@example.com\r\n\r\nX\x1b[31m\u202egpj.exe\x00\u2028\ud800"


def disabled(**facts: Any) -> Notice:
    payload = {
        "workspace": "default",
        "endpoint": {"id": "ep_01j8", "url": "https://example.com/hook?token=t0psecret", "description": "Helpdesk"},
        "at": "2026-01-31T14:02:11.123Z",
        "message": "31 failed attempts in 30 minutes in this workspace, 30 are allowed; the last one: answered 503.",
        "failures": [
            {"number": 4, "started_at": "2026-01-31T14:02:11.000Z", "reason": "status", "status": 503, "detail": ""},
            {
                "number": 3,
                "started_at": "2026-01-31T14:00:41.000Z",
                "reason": "timeout",
                "status": None,
                "detail": "no answer within 5 s",
            },
        ],
        "waiting": 12,
        "spent_until": None,
        "limit": 30,
        "window_seconds": 1800,
        **facts,
    }
    return Notice("auto_disabled", "<1@hooks.example.com>", START_WALL_MS, payload)


def held(kind: str, **facts: Any) -> Notice:
    payload = disabled().payload | {"paused": False} | facts
    return Notice(kind, "<3@hooks.example.com>", START_WALL_MS, payload)


def written(*notices: Notice, settings: Config | None = None, language: str = "en") -> EmailMessage:
    text = messages.notice_message(
        notices,
        settings or Config(),
        sender="hooks@example.com",
        to=["ops@example.com"],
        now_ms=START_WALL_MS,
        language=language,
    )
    assert text.isascii() and max(map(len, text.split("\r\n"))) <= 998
    return email.message_from_string(text, policy=email.policy.default)


def texts(mail: EmailMessage) -> tuple[str, str]:
    plain, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert plain is not None and html is not None
    return plain.get_content(), html.get_content()


def test_a_disabling_says_all_that_one_has_to_know() -> None:
    """What, which endpoint, why, the last failures, how many wait, what to do and the command: in both parts."""
    mail = written(disabled())
    assert "[webhookd] Webhook disabled: more than 30 failures in 30 minutes (example.com)" == mail["Subject"]
    for part in texts(mail):
        for shown in (
            "https://example.com/hook?…",
            "ep_01j8",
            "Helpdesk",
            "2026-01-31 14:02:11 UTC",
            "31 failed attempts in 30 minutes",
            "503",
            "the answer was not a success",
            "2026-01-31 14:00:41 UTC",
            "no answer within 5 s",
            "12 events wait",
            "72 hours and 100,000 events",
            "answer 200",
            "webhook-id",
            "webhookd endpoint enable ep_01j8",
            "Times are UTC",
        ):
            assert shown in part
        for hidden in ("t0psecret", "--workspace", "spent until", "page"):
            assert hidden not in part


def test_a_first_drop_says_which_event_why_and_how_to_send_it_again() -> None:
    """In both parts; beside a disabling in the same mail."""
    facts = {"event_id": "evt-7", "event_type": "message.sent", "workspace": "acme", "description": HOSTILE}
    dropped = held("dropped", **facts)
    mail = written(dropped)
    assert "[webhookd acme] Webhook drops events (example.com)" == mail["Subject"]
    for part in texts(mail):
        for words in ("evt-7 (message.sent)", "answer was not a success", "no answer within 5 s", "ep_01j8"):
            assert words in part
        assert "webhookd replay --endpoint ep_01j8 --since 1d --workspace acme" in part
        assert "t0psecret" not in part and "hook?" in part and "Enable the webhook" not in part
    both = written(dropped, disabled(workspace="acme"))
    assert "[webhookd acme] Webhook disabled" in both["Subject"] and "evt-7" in texts(both)[0]


def test_headers_of_a_machines_mail() -> None:
    """From, To, Date, Message-ID, and that automatic replies are not wanted."""
    mail = written(disabled())
    assert ("hooks@example.com", "ops@example.com") == (mail["From"].addresses[0].addr_spec, mail["To"])
    assert ("<1@hooks.example.com>", "Thu, 01 Jan 2026 00:00:00 +0000") == (mail["Message-ID"], mail["Date"])
    assert ("auto-generated", "multipart/alternative") == (mail["Auto-Submitted"], mail.get_content_type())


@pytest.mark.parametrize("host_length", range(10, 60))
def test_a_subject_of_any_length_comes_out_as_it_went_in(host_length: int) -> None:
    """No header is folded so that white space is added to what a reader sees."""
    host = "a" * host_length + ".example"
    mail = written(disabled(endpoint={"id": "ep_1", "url": f"https://{host}/", "description": ""}))
    assert f"[webhookd] Webhook disabled: more than 30 failures in 30 minutes ({host})" == mail["Subject"]


def test_another_workspace_and_a_spent_budget_are_named() -> None:
    """The workspace in the subject and in the command to copy; until when one more failure disables, in UTC."""
    mail = written(disabled(workspace="acme", spent_until="2026-01-31T15:32:00.000+01:00"))
    assert mail["Subject"].startswith("[webhookd acme] ")
    for part in texts(mail):
        assert "webhookd endpoint enable ep_01j8 --workspace acme" in part
        assert "spent until 14:32 UTC: until then, one more failure disables it again" in part


def test_the_link_leads_to_the_page_and_nowhere_else() -> None:
    """With `listen.public_url` the page is linked, without a secret; the endpoint's own URL never is a link."""
    settings = Config(listen=Listen(public_url="https://hooks.example.com/"))
    plain, html = texts(written(disabled(), settings=settings))
    link = "https://hooks.example.com/workspaces/default/endpoints/ep_01j8"
    assert link in plain and f'<a href="{link}">' in html
    assert 2 == html.count("<a ") == html.count('href="https://hooks.example.com')


def test_many_go_in_one_message() -> None:
    """The first 20 in full, the others in a line each; hosts in the subject are few."""
    notices = [
        disabled(endpoint={"id": f"ep_{n}", "url": f"https://h{n}.example/", "description": ""}, failures=[])
        for n in range(25)
    ]
    mail = written(*notices)
    expected = (
        "[webhookd] 25 webhooks disabled: more than 30 failures in 30 minutes (h0.example, h1.example and 23 more)"
    )
    assert expected == mail["Subject"]
    for part in texts(mail):
        assert 20 == part.count("no failures of its own on record")
        assert all(f"webhookd endpoint enable ep_{n}" in part for n in range(25))


def test_a_warning_names_who_spent_the_budget() -> None:
    """Half of the budget: how much, and by whom; with a disabling in one message, the disabling leads."""
    payload = {
        "workspace": "default",
        "at": "2026-01-31T14:02:11.123Z",
        "fraction": 0.5,
        "failures": 15,
        "limit": 30,
        "window_seconds": 1800,
        "by_endpoint": [{"id": "ep_01j8", "url": "https://example.com/hook", "failures": 14}],
    }
    warned = Notice("budget_warned", "<2@hooks.example.com>", START_WALL_MS, payload)
    mail = written(warned)
    assert "[webhookd] Failure budget 50 % spent: 15 of 30 failures in 30 minutes" == mail["Subject"]
    for part in texts(mail):
        assert "14" in part and "https://example.com/hook" in part and "endpoint enable" not in part
    both = written(warned, disabled())
    assert both["Subject"].startswith("[webhookd] Webhook disabled")
    assert all("50 %" in part and "endpoint enable" in part for part in texts(both))


@pytest.mark.parametrize(
    ("notice", "subject", "words"),
    [
        (
            held("expiring", expires_at="2026-01-31T14:02:11.123Z"),
            "Held events expire within 12 hours (example.com)",
            ["expires at 2026-01-31 14:02:11 UTC", "12 events wait", "webhookd endpoint enable ep_01j8"],
        ),
        (
            held("expired", reason="max_age_hours"),
            "Held events expired (example.com)",
            ["expired at 2026-01-31 14:02:11 UTC, because it was held for 72 hours", "endpoint enable ep_01j8"],
        ),
        (
            held("expired", reason="max_events", paused=True, workspace="acme"),
            "Held events expired (example.com)",
            ["because more than 100,000 wait", "the plan of its workspace has no webhooks"],
        ),
        (held("expired", reason="max_mb"), "Held events expired (example.com)", ["takes more than 1024 MiB"]),
    ],
    ids=["expiring", "expired", "by-number-and-paused", "by-size"],
)
def test_held_events_that_expire(notice: Notice, subject: str, words: list[str]) -> None:
    """When, why, how many wait, and what keeps the others."""
    mail = written(notice)
    workspace = " acme" if notice.payload["workspace"] == "acme" else ""
    assert f"[webhookd{workspace}] {subject}" == mail["Subject"]
    for part in texts(mail):
        assert [] == [each for each in words if each not in " ".join(part.split())]
        assert "t0psecret" not in part


@pytest.mark.parametrize("field", ["url", "description", "id", "message", "workspace", "detail", "status", "at"])
def test_what_strangers_wrote_stays_text(field: str) -> None:
    """Tags, line breaks, escapes and bidi marks in any value: one header each, no tag, nothing that is obeyed."""
    endpoint = {"id": "ep_1", "url": "https://example.com/", "description": ""}
    failure: dict[str, Any] = {"started_at": "2026-01-31T14:02:11.000Z", "reason": "status", "status": 503}
    facts: dict[str, Any] = {"endpoint": endpoint, "failures": [failure]}
    if field in endpoint:
        endpoint[field] += HOSTILE
    elif field in ("detail", "status"):
        failure[field] = HOSTILE
    else:
        facts[field] = HOSTILE
    mail = written(disabled(**facts))
    assert None is mail["Bcc"]
    assert {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "X-Auto-Response-Suppress"} == set(
        mail.keys()
    ) - {"MIME-Version", "Content-Type"}
    plain, html = texts(mail)
    assert "<script" not in html and "&lt;script&gt;" in html
    for part in (plain, html, mail["Subject"]):
        assert not set("\x1b\u202e\x00\u2028") & set(part)
    assert not any(line.startswith("Bcc") for line in plain.splitlines())


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_plain_words(reason: Reason) -> None:
    """A failure without a detail is put in words."""
    failure = {"started_at": "2026-01-31T14:02:11.000Z", "reason": str(reason), "status": None}
    plain, _ = texts(written(disabled(failures=[failure])))
    line = next(line for line in plain.splitlines() if line.startswith("  2026-01-31 14:02:11 UTC  –"))
    assert 5 < len(line.partition("–")[2].strip())


def test_long_texts_are_cut() -> None:
    """A description of 100,000 characters doesn't make a mail of that size."""
    endpoint = {"id": "ep_1", "url": "https://example.com/" + "a" * 9000, "description": "ä" * 100_000}
    assert 20_000 > len(written(disabled(endpoint=endpoint)).as_string())


def test_the_test_message_says_what_it_is() -> None:
    """`webhookd mail test`: a mail that explains itself."""
    text = messages.test_message(
        Config(), sender="a@example.com", to=["b@example.com"], message_id="<t@example.com>", now_ms=START_WALL_MS
    )
    mail = email.message_from_string(text, policy=email.policy.default)
    assert "Test" in mail["Subject"]
    assert all("2026-01-01 00:00:00 UTC" in part for part in texts(mail))


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("Sign in at https://evil.example/a?b=c now", "Sign in at https[:]//evil[.]example/a?b=c now"),
        ("www.evil.example", "www[.]evil[.]example"),
        ("write to ceo@evil.example", "write to ceo[at]evil[.]example"),
        ("evil\u3002example, evil\uff0eexample, evil\uff61example", "evil[.]example, evil[.]example, evil[.]example"),
        ("CRM, v1.2. All contacts.", "CRM, v1.2. All contacts."),
    ],
)
def test_a_description_carries_no_link(words: str, shown: str) -> None:
    """It is a customer's text in webhookd's mail: mail programs make links of what looks like one."""
    endpoint = {"id": "ep_1", "url": "https://example.com/", "description": words}
    for part in texts(written(disabled(endpoint=endpoint))):
        assert shown in " ".join(part.split()) and (words == shown or words not in part)


ENGLISH = (
    r"(?i)\b(the|its|was|were|events|failures?|failed|enable[ds]?|disabled|expires?|because|waits?|mails?|replies)\b"
)


def test_a_workspaces_mails_are_in_its_language() -> None:
    """Every notice, with what it has in all of its states; no English is left but the machine's own details."""
    warned = {
        "fraction": 0.5,
        "failures": 15,
        "by_endpoint": [{"failures": 15, "url": "https://a.example/", "id": "ep_1"}],
    }
    several = written(
        disabled(spent_until="2026-01-31T15:00:00Z", failures=[*disabled().payload["failures"], {}]),
        disabled(failures=[]),
        held("expiring", expires_at="2026-02-01T00:00:00Z"),
        held("expired", reason="max_events"),
        held("expired", reason="max_mb", paused=True),
        Notice("dropped", "<2@h>", START_WALL_MS, disabled(event_id="m-1", event_type="message.sent").payload),
        Notice("budget_warned", "<4@h>", START_WALL_MS, disabled(**warned).payload),
        language="vi",
    )
    assert "[webhookd] 2 webhook bị tắt: hơn 30 lỗi trong 30 phút (example.com)" == several["Subject"]
    for part in texts(several):
        shown = re.sub(r"<[^>]+>|&\w+;|\(no answer within 5 s\)|webhookd \w+ \w+.*", " ", part)
        assert [] == re.findall(ENGLISH, shown)
        for words in ("14:02:11 31/01/2026 UTC", "phản hồi không thành công", "100.000 sự kiện", "12 sự kiện đang chờ"):
            assert words in shown
        assert "không có phản hồi đầy đủ kịp thời (no answer within 5 s)" in part
    confirm = messages.confirmation_message(
        Config(),
        workspace="acme",
        link="https://h.example/",
        until_ms=START_WALL_MS,
        sender="h@example.com",
        to=["o@example.com"],
        message_id="<5@h>",
        now_ms=START_WALL_MS,
        language="vi",
    )
    mail = email.message_from_string(confirm, policy=email.policy.default)
    assert "Xác nhận" in mail["Subject"]
    assert [] == re.findall(ENGLISH, re.sub(r"<[^>]+>", " ", "".join(texts(mail))))
