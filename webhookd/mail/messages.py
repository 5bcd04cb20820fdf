"""The messages of notices, as text and as HTML.

Half of a message is untrusted: every value goes through `clean`, the HTML templates escape, and no link leads to an
endpoint or carries a secret.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from webhookd.config import Config
from webhookd.mail.words import WORDS, Words
from webhookd.models import DEFAULT_WORKSPACE, Json, Reason
from webhookd.store.outbox import Notice
from webhookd.text import ascii_name, one_line

SHOWN_IN_FULL = 20
_LONGEST_TEXT = 400
_HOSTS_IN_SUBJECT = 2

# Folded to 78 characters a long subject would begin on a line of its own, and some programs show the space before it.
_LONG_HEADERS = SMTP.clone(max_line_length=900)

_TEMPLATES = Environment(
    loader=PackageLoader("webhookd.mail"),
    autoescape=select_autoescape(("html",), ("txt",)),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def notice_message(
    notices: Sequence[Notice],
    settings: Config,
    *,
    sender: str,
    to: Sequence[str],
    now_ms: int,
    limited: bool = False,
    language: str = "en",
) -> str:
    """One mail with all of `notices` (of one workspace), ready to send: ASCII, under the first notice's Message-ID.

    `limited`: they waited because the workspace had as many mails as an hour allows.
    """
    words = WORDS[language]
    shown = {
        kind: [show(each.payload, settings, words) for each in notices if each.kind == kind]
        for kind, show in _SHOWN.items()
    }
    disabled = shown["auto_disabled"]
    facts = {
        "headline": _headline(shown, words),
        "dropped": shown["dropped"],
        "held": shown["expired"] + shown["expiring"],
        "disabled": disabled[:SHOWN_IN_FULL],
        "more_disabled": disabled[SHOWN_IN_FULL:],
        "warned": shown["budget_warned"],
        "timeout": words.duration(settings.delivery.timeout_seconds),
        "hold": words.hold.format(
            time=words.duration(settings.hold.max_age_hours * 3600), n=words.number(settings.hold.max_events)
        ),
        "page": clean(settings.listen.public_url),
        "gathered": len(notices) if limited else 0,
        "max_per_hour": settings.mail.max_per_hour,
    }
    subject, template = _subject(shown, words), _named("notice", language)
    return _mail(template, facts, subject, sender=sender, to=to, message_id=notices[0].message_id, now_ms=now_ms)


def test_message(settings: Config, *, sender: str, to: Sequence[str], message_id: str, now_ms: int) -> str:
    """The mail of `webhookd mail test`."""
    facts = {
        "at": WORDS["en"].moment(datetime.fromtimestamp(now_ms / 1000, UTC)),
        "page": clean(settings.listen.public_url),
    }
    subject = f"[webhookd] {WORDS['en'].test_subject}"
    return _mail("test", facts, subject, sender=sender, to=to, message_id=message_id, now_ms=now_ms)


def confirmation_message(
    settings: Config,
    *,
    workspace: str,
    link: str,
    until_ms: int,
    sender: str,
    to: Sequence[str],
    message_id: str,
    now_ms: int,
    language: str = "en",
) -> str:
    """The mail that asks an address whether it wants a workspace's notices: nothing in it is a customer's own text."""
    facts = {
        "workspace": clean(workspace),
        "site": _host(settings.listen.public_url),
        "link": link,
        "until": WORDS[language].moment(datetime.fromtimestamp(until_ms / 1000, UTC)),
    }
    subject = f"[webhookd {facts['workspace']}] {WORDS[language].confirm_subject}"
    return _mail(
        _named("confirm", language), facts, subject, sender=sender, to=to, message_id=message_id, now_ms=now_ms
    )


def mailbox(address: str) -> str:
    """A mail address as it goes over the wire: a domain with other letters in its ASCII form (IDNA)."""
    local, at, domain = address.strip().rpartition("@")
    try:
        return local + at + ascii_name(domain)
    except UnicodeError:
        return address


def clean(value: object, longest: int = _LONGEST_TEXT) -> str:
    """`value` as one harmless line: what can't be seen is written out (`\\x1b`, `\\u202e`), white space is a space."""
    return one_line(value, longest)


# The facts, as the templates take them


def _named(template: str, language: str) -> str:
    return template if language == "en" else f"{template}.{language}"


def _of_endpoint(payload: Json, settings: Config, words: Words) -> dict[str, Any]:
    """What the notices about an endpoint have in common; `where` completes a command."""
    endpoint, workspace = payload["endpoint"], str(payload["workspace"])
    where = "" if workspace == DEFAULT_WORKSPACE else f" --workspace {shlex.quote(clean(workspace))}"
    waiting = int(payload.get("waiting") or 0)
    return {
        "url": _without_query(endpoint["url"]),
        "host": _host(endpoint["url"]),
        "id": clean(endpoint["id"]),
        "description": _unlinked(clean(endpoint.get("description"))),
        "workspace": clean(workspace),
        "at": _time(payload.get("at"), words),
        "failures": [_failure(each, words) for each in payload.get("failures") or ()],
        "waiting": words.waiting(waiting),
        "command": f"webhookd endpoint enable {clean(endpoint['id'])}{where}",
        "link": _page_of(settings.listen.public_url, workspace, str(endpoint["id"])),
        "where": where,
    }


def _disabled(payload: Json, settings: Config, words: Words) -> dict[str, Any]:
    spent_until = _parsed(payload.get("spent_until"))
    too_many = words.too_many.format(limit=payload["limit"], window=words.duration(payload["window_seconds"]))
    message = clean(payload.get("message")) if words.language == "en" else ""  # it is in English
    return _of_endpoint(payload, settings, words) | {
        "why": message or f"{too_many}.",
        "too_many": too_many,
        "spent_until": f"{spent_until:%H:%M} UTC" if spent_until else "",
    }


def _held(payload: Json, settings: Config, words: Words) -> dict[str, Any]:
    """Held events that will expire, or the first of which did."""
    limits = {
        "max_age_hours": words.held_for.format(time=words.duration(settings.hold.max_age_hours * 3600)),
        "max_events": words.held_count.format(n=words.number(settings.hold.max_events)),
        "max_mb": words.held_size.format(mb=words.decimal(f"{settings.hold.max_mb:g}")),
    }
    return _of_endpoint(payload, settings, words) | {
        "paused": bool(payload.get("paused")),
        "expires_at": _time(payload["expires_at"], words) if "expires_at" in payload else "",
        "limit": limits.get(str(payload.get("reason")), ""),
    }


def _dropped(payload: Json, settings: Config, words: Words) -> dict[str, Any]:
    facts = _of_endpoint(payload, settings, words)
    return facts | {
        "event": f"{clean(payload.get('event_id'))} ({clean(payload.get('event_type'))})",
        "command": f"webhookd replay --endpoint {facts['id']} --since 1d{facts['where']}",
    }


def _failure(attempt: Json, words: Words) -> dict[str, str]:
    reason = attempt.get("reason")
    why = words.reasons[Reason(reason)] if reason in set(Reason) else words.failed
    detail = clean(attempt.get("detail"))
    if detail and words.language != "en":
        detail = f"{why} ({detail})"  # the detail is the machine's own, in English
    return {
        "at": _time(attempt.get("started_at"), words),
        "status": clean(attempt["status"]) if attempt.get("status") is not None else "–",
        "reason": detail or why,
    }


def _warned(payload: Json, _: Config, words: Words) -> dict[str, Any]:
    share = words.percent.format(n=words.decimal(f"{float(payload['fraction']) * 100:g}"))
    return {
        "workspace": clean(payload["workspace"]),
        "at": _time(payload.get("at"), words),
        "share": share,
        "failures": int(payload["failures"]),
        "limit": int(payload["limit"]),
        "window": words.duration(payload["window_seconds"]),
        "by_endpoint": [
            {"failures": int(each["failures"]), "url": _without_query(each["url"]), "id": clean(each["id"])}
            for each in payload.get("by_endpoint") or ()
        ],
    }


# How each kind is shown; a mail of several is named by the first one here that it has.
_SHOWN: dict[str, Callable[[Json, Config, Words], dict[str, Any]]] = {
    "auto_disabled": _disabled,
    "expired": _held,
    "expiring": _held,
    "dropped": _dropped,
    "budget_warned": _warned,
}


def _subject(shown: dict[str, list[dict[str, Any]]], words: Words) -> str:
    kind, first = next((kind, each) for kind, each in shown.items() if each)
    workspace = first[0]["workspace"]
    tag = "[webhookd]" if workspace == DEFAULT_WORKSPACE else f"[webhookd {workspace}]"
    if kind == "budget_warned":
        return f"{tag} {_headline(shown, words)}"
    hosts = list(dict.fromkeys(each["host"] for each in first))
    named = ", ".join(hosts[:_HOSTS_IN_SUBJECT])
    if len(hosts) > _HOSTS_IN_SUBJECT:
        named = words.more_hosts.format(hosts=named, n=len(hosts) - _HOSTS_IN_SUBJECT)
    return f"{tag} {_headline(shown, words)} ({named})"


def _headline(shown: dict[str, list[dict[str, Any]]], words: Words) -> str:
    kind, first = next((kind, each) for kind, each in shown.items() if each)
    of_several = len(first) > 1 and kind != "budget_warned"  # the last warning says it all
    return words.headlines[f"{kind}.many" if of_several else kind].format(
        n=len(first), **first[-1 if kind == "budget_warned" else 0]
    )


def _unlinked(text: str) -> str:
    """A customer's own words without anything that a mail program makes a link of: `evil[.]example`."""
    dots = r"[.\u3002\uff0e\uff61]"  # IDNA: each of them separates labels
    return re.sub(rf"(?<=\S){dots}(?=[^\W\d_])", "[.]", text).replace("://", "[:]//").replace("@", "[at]")


def _page_of(public_url: str, workspace: str, endpoint_id: str) -> str:
    """The endpoint on the page, or "" where the page can't be reached from outside."""
    if not public_url:
        return ""
    return clean(f"{public_url.rstrip('/')}/workspaces/{workspace}/endpoints/{endpoint_id}", 2048)


def _without_query(url: object) -> str:
    """The URL up to its query: that may hold a secret, and mail is read on many machines."""
    shown, question_mark, _ = str(url).partition("?")
    return clean(shown + ("?…" if question_mark else ""), 2100)


def _host(url: object) -> str:
    try:
        return clean(urlsplit(str(url)).hostname or url, 100)
    except ValueError:
        return clean(url, 100)


def _time(stamp: object, words: Words) -> str:
    moment = _parsed(stamp)
    return words.moment(moment) if moment else clean(stamp)


def _parsed(stamp: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(stamp)).astimezone(UTC)
    except ValueError:
        return None


# The mail around them


def _mail(
    template: str, facts: dict[str, Any], subject: str, *, sender: str, to: Sequence[str], message_id: str, now_ms: int
) -> str:
    mail = EmailMessage(policy=SMTP)
    mail["From"] = f"webhookd <{sender}>"
    mail["To"] = ", ".join(to)
    mail["Subject"] = subject
    mail["Date"] = format_datetime(datetime.fromtimestamp(now_ms // 1000, UTC))
    mail["Message-ID"] = message_id
    # RFC 3834: nothing that answers mail by itself should answer this one; the second header says it to Exchange.
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Auto-Response-Suppress"] = "All"
    mail.set_content(_TEMPLATES.get_template(f"{template}.txt").render(facts), cte="quoted-printable")
    mail.add_alternative(
        _TEMPLATES.get_template(f"{template}.html").render(facts), subtype="html", cte="quoted-printable"
    )
    return mail.as_bytes(policy=_LONG_HEADERS).decode("ascii")
