"""`webhookd endpoint …`: the webhooks of a workspace."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from webhookd.cli.event_types import expanded
from webhookd.cli.options import (
    Call,
    common,
    complete_endpoint,
    complete_event_type,
    confirm,
    examples,
    find,
    for_workspace,
    in_workspace,
    secret_file_option,
)
from webhookd.cli.output import (
    ago,
    count,
    failure_words,
    fields,
    lane_words,
    local_time,
    outcome_words,
    print_body,
    print_done,
    print_json,
    state,
    table,
    without_none,
)
from webhookd.text import duration, escape

# A test may take as long as the longest `delivery.timeout_seconds`, and some time for the answer.
_TEST_TIMEOUT_SECONDS = 75.0

_WHICH = click.argument("which", metavar="ENDPOINT", shell_complete=complete_endpoint)


@click.group(
    epilog=examples(
        "webhookd endpoint add https://example.com/hook -e message.received",
        "webhookd endpoint list",
        "webhookd endpoint enable ep_…",
    )
)
@in_workspace
@common
def endpoint() -> None:
    """Add, show and change endpoints (webhooks).

    ENDPOINT is an id (ep_…) or the endpoint's URL, in any form of it (https://h:443 is https://h/).
    """


def _headers(given: tuple[str, ...]) -> dict[str, str]:
    headers = {}
    for one in given:
        name, colon, value = one.partition(":")
        if not colon or not name.strip():
            raise click.BadParameter(f"{one!r} is no header: write it as 'X-Tenant: acme'", param_hint="--header")
        headers[name.strip()] = value.strip()
    return headers


def _ordering(path: str | None, lanes: int | None) -> dict[str, Any]:
    if not path and lanes is not None:
        raise click.UsageError("--lanes goes with a key: name that too, as --order-by contact.id.")
    if path is None:
        return {}
    return {"ordering": {"key": path} | without_none(lanes=lanes) if path else "endpoint"}


_SETTINGS = (
    click.option(
        *("--event-type", "-e", "events"), multiple=True, metavar="TYPE", shell_complete=complete_event_type,
        help="What it wants: a type, several (a,b), 'message.*', or '*' for all. Repeat it.",
    ),
    click.option("--description", metavar="TEXT", help="What it is for."),
    click.option("--success", type=click.Choice(["200", "2xx"]), help="Which answers count as delivered  [else 200]"),
    click.option(
        *("--header", "-H", "headers"), multiple=True, metavar="'NAME: VALUE'",
        help="A header for its requests. Repeat it.",
    ),
    secret_file_option("--header-file", "More headers, one a line."),
    click.option("--signing-key", metavar="whsec_…", help="Sign with this key; it holds at once."),
    secret_file_option("--signing-key-file", "The same, from a file."),
    click.option(
        "--x-webhook-signature/--no-x-webhook-signature", default=None, help="Send X-Webhook-Signature, or don't."
    ),
    click.option(
        "--x-webhook-signature-key", metavar="TEXT", help="The key for it that the receiver has; '': the signing key."
    ),
    secret_file_option("--x-webhook-signature-key-file", "The same, from a file."),
    click.option(
        "--order-by", metavar="PATH",
        help="Deliver in order by this key, as contact.id, others beside; '': all one by one.",
    ),
    click.option("--lanes", type=int, metavar="N", help="With a key: so many requests at a time, 2 to 64  [else 8]"),
)  # fmt: skip


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of an endpoint's settings; the command gets those given as `settings`, by the API's names."""

    @wraps(command)
    def run(call: Call, *args: Any, **given: Any) -> None:
        events, headers, lines = given.pop("events"), given.pop("headers"), given.pop("header_file")
        settings = without_none(event_types=expanded(call, events) or None)
        if headers or lines is not None:
            settings["headers"] = _headers((*headers, *filter(str.strip, (lines or "").splitlines())))
        for name in ("signing_key", "x_webhook_signature_key"):
            value, of_file = given.pop(name), given.pop(f"{name}_file")
            if value is not None and of_file is not None:
                option = f"--{name.replace('_', '-')}"
                raise click.UsageError(f"{option} and {option}-file both set it: name one of them.")
            settings |= without_none(**{name: value if of_file is None else of_file})
        if settings.get("x_webhook_signature_key") == "":
            settings["x_webhook_signature_key"] = None
        settings |= without_none(**{n: given.pop(n) for n in ("description", "success", "x_webhook_signature")})
        settings |= _ordering(given.pop("order_by"), given.pop("lanes"))
        command(call, *args, settings=settings, **given)

    for option in reversed(_SETTINGS):
        run = option(run)
    return run


@endpoint.command(
    epilog=examples(
        "webhookd endpoint add https://example.com/hook -e message.received",
        "webhookd endpoint add https://example.com/all -e '*' -H 'X-Tenant: acme' \\",
        "    --description 'the data warehouse'",
    )
)
@click.argument("url")
@for_workspace
@_with_settings
def add(call: Call, url: str, settings: dict[str, Any]) -> None:
    """Add an endpoint; prints its id and its signing key."""
    if "event_types" not in settings:
        raise click.UsageError("which events does it want? Name them with -e message.received (or -e '*' for all).")
    made = call.client().post(call.path("endpoints"), {"url": url, **settings})
    print_done(
        call,
        made,
        f"Added {escape(made['id'])}: {escape(made['url'])} gets {escape(', '.join(made['event_types']))}.\n"
        f"Its signing key, for the receiver: {escape(made['signing_key'])}\n"
        f"Try it: webhookd endpoint test {escape(made['id'])}{_workspace_words(call)}",
    )


def _workspace_words(call: Call) -> str:
    return f" --workspace {call.workspace}" if call.workspace else ""


@endpoint.command("list", epilog=examples("webhookd endpoint list", "webhookd endpoint list --workspace acme --json"))
@for_workspace
def list_(call: Call) -> None:
    """List the endpoints with their state and what waits for them."""
    found = list(call.client().pages(call.path("endpoints")))
    if call.as_json:
        return print_json({"data": found, "next": None})
    if not found:
        return click.echo(
            "No endpoints yet. Add one: webhookd endpoint add https://example.com/hook -e message.received"
        )
    rows = [
        (one["id"], _state_words(one), one["queue"]["waiting"], _last_answer(one), one["url"], _types_words(one))
        for one in found
    ]
    return table(("id", "state", "waiting", "last answer", "url", "events"), rows, right=("waiting",))


def _state_words(one: dict[str, Any]) -> str:
    return str(one["state"]) + (" (paused: plan)" if one.get("paused_by") == "plan" else "")


def _types_words(one: dict[str, Any]) -> str:
    types = one["event_types"]
    return ", ".join(types) if len(types) <= 2 else f"{', '.join(types[:2])} and {len(types) - 2} more"


def _last_answer(one: dict[str, Any]) -> str:
    last = one.get("last_attempt")
    return f"{outcome_words(last)}, {ago(last['started_at'])}" if last else "none yet"


@endpoint.command(
    epilog=examples("webhookd endpoint show ep_… ", "webhookd endpoint show https://example.com/hook --signing-key")
)
@_WHICH
@click.option("--signing-key", "reveal", is_flag=True, help="Reveal the signing key too (this is logged).")
@for_workspace
def show(call: Call, which: str, *, reveal: bool) -> None:
    """Show one endpoint: settings, state, queue, last answer."""
    client = call.client()
    path = call.path("endpoints", find(call, which))
    one = client.get(path)
    if reveal:
        one |= client.get(f"{path}/signing-key")
    if call.as_json:
        return print_json(one)
    return _print(one)


def _print(one: dict[str, Any]) -> None:
    queue, last, disabled = one["queue"], one.get("last_attempt"), one.get("disabled") or {}
    blocked = (queue.get("lanes") or {}).get("blocked", ())
    fields(
        [
            ("id", one["id"]),
            ("url", one["url"]),
            ("workspace", one["workspace"]),
            ("description", one["description"]),
            ("state", one["state"]),
            ("why", disabled.get("message") or disabled.get("reason")),
            ("disabled", local_time(disabled.get("at"))),
            (
                "paused by",
                one.get("paused_by") and "the plan: it has no webhooks; what waits goes out when the plan returns",
            ),
            ("events", ", ".join(one["event_types"])),
            ("success is", one["success"]),
            ("headers", ", ".join(f"{name}: {value}" for name, value in one["headers"].items())),
            ("order", _ordering_words(one)),
            ("X-Webhook-Signature", _body_signature_words(one)),
            ("its key", one.get("x_webhook_signature_key") if "signing_key" in one else None),
            ("signing key", one.get("signing_key")),
            ("waiting", _waiting_words(queue)),
            *(("blocked", lane_words(one["ordering"]["key"], lane)) for lane in blocked),
            ("in flight", "a request is under way" if queue.get("in_flight") else None),
            (
                "next attempt",
                queue.get("next_attempt_at")
                and f"{local_time(queue['next_attempt_at'])} ({ago(queue['next_attempt_at'])})",
            ),
            (
                "last answer",
                last and f"{outcome_words(last)}, {ago(last['started_at'])}, after {last['duration_ms']:.0f} ms",
            ),
            ("created", local_time(one["created_at"])),
            ("updated", local_time(one["updated_at"])),
        ]
    )


def _ordering_words(one: dict[str, Any]) -> str | None:
    ordering = one.get("ordering", "endpoint")
    return None if ordering == "endpoint" else f"by {ordering['key']}, {ordering['lanes']} at a time"


def _body_signature_words(one: dict[str, Any]) -> str | None:
    if not one.get("x_webhook_signature", True):
        return "not sent"
    return "with a key of the receiver's own" if one.get("x_webhook_signature_key") else None


def _waiting_words(queue: dict[str, Any]) -> str:
    if not queue["waiting"]:
        return "nothing"
    held = f", {queue['held']:,} held" if queue.get("held") else ""
    since = (
        f", the oldest since {local_time(queue['oldest_at'])} ({ago(queue['oldest_at'])})"
        if queue.get("oldest_at")
        else ""
    )
    return count(queue["waiting"], "event") + held + since


@endpoint.command(
    epilog=examples(
        "webhookd endpoint edit ep_… --url https://example.com/new",
        "webhookd endpoint edit ep_… -e message.received,message.sent",
    )
)
@_WHICH
@click.option("--url", help="The new URL.")
@click.option("--no-headers", is_flag=True, help="Remove its own headers.")
@for_workspace
@_with_settings
def edit(call: Call, which: str, url: str | None, settings: dict[str, Any], *, no_headers: bool) -> None:
    """Change an endpoint: what isn't named stays. -e and -H replace all of theirs."""
    if "headers" in settings and no_headers:
        raise click.UsageError("--header sets headers and --no-headers takes them away: name one of them.")
    changes = without_none(url=url) | settings | ({"headers": {}} if no_headers else {})
    if not changes:
        raise click.UsageError("nothing to change. See webhookd endpoint edit --help.")
    changed = call.client().patch(call.path("endpoints", find(call, which)), changes)
    if call.as_json:
        return print_json(changed)
    return _print(changed)


@endpoint.command(epilog=examples("webhookd endpoint enable ep_…", "webhookd endpoint enable ep_… --skip-held"))
@_WHICH
@click.option("--skip-held", is_flag=True, help="Leave out the events that were held meanwhile.")
@for_workspace
def enable(call: Call, which: str, *, skip_held: bool) -> None:
    """Start an endpoint again: the held events go out, in order."""
    client = call.client()
    one = client.post(call.path("endpoints", find(call, which), "enable"), {"skip_held": skip_held})
    words = f"{escape(one['id'])} is {state(escape(one['state']))}. Waiting: {_waiting_words(one['queue'])}."
    print_done(call, one, words)
    if one.get("budget") and not call.as_json:  # spent: the next failure disables it again
        click.echo(escape(one["budget"]["message"]), err=True)


@endpoint.command(epilog=examples("webhookd endpoint disable ep_…"))
@_WHICH
@for_workspace
def disable(call: Call, which: str) -> None:
    """Stop an endpoint: its events are held, in order."""
    one = call.client().post(call.path("endpoints", find(call, which), "disable"))
    again = f"webhookd endpoint enable {escape(one['id'])}{_workspace_words(call)}"
    words = f"{escape(one['id'])} is {state(escape(one['state']))}; its events are held.\nTo start it again: {again}"
    print_done(call, one, words)


@endpoint.command(
    epilog=examples("webhookd endpoint delete ep_…", "webhookd endpoint delete https://example.com/hook --yes")
)
@_WHICH
@click.option("--yes", is_flag=True, help="Don't ask.")
@for_workspace
def delete(call: Call, which: str, *, yes: bool) -> None:
    """Delete an endpoint: what waits for it is cancelled. Its log stays."""
    client = call.client()
    path = call.path("endpoints", find(call, which))
    if not yes:
        one = client.get(path)
        waiting = count(one["queue"]["waiting"], "waiting event")
        confirm(f"Delete {escape(one['url'])}, with {waiting}, which will be cancelled?", yes=yes)
    client.delete(path)
    print_done(call, {"deleted": path.rsplit("/", 1)[1]}, "Deleted.")


@endpoint.command(
    epilog=examples(
        "webhookd endpoint test ep_…",
        "webhookd endpoint test ep_… --event-type message.sent",
        exits="0 delivered, 1 refused or failed, 2 wrong usage, 3 the daemon can't be reached.",
    )
)
@_WHICH
@click.option(
    "--event-type",
    "-e",
    metavar="TYPE",
    shell_complete=complete_event_type,
    help="Which sample to send  [else the endpoint's first]",
)
@for_workspace
def test(call: Call, which: str, event_type: str | None) -> None:
    """Send an endpoint a test event and show its answer. Exit code 1 if it didn't take it."""
    path = call.path("endpoints", find(call, which), "test")
    attempt = call.client().post(path, without_none(event_type=event_type), timeout_seconds=_TEST_TIMEOUT_SECONDS)
    if call.as_json:
        print_json(attempt)
    else:
        took = f"after {attempt['duration_ms']:.0f} ms"
        if attempt["outcome"] == "delivered":
            click.echo(f"Delivered: {attempt['status']} {took}.")
        else:
            click.echo(f"Failed: {escape(failure_words(attempt))}, {took}.")
        print_body((attempt.get("response") or {}).get("body"))
    if attempt["outcome"] != "delivered":
        click.get_current_context().exit(1)


@endpoint.command(
    "rotate-key",
    epilog=examples("webhookd endpoint rotate-key ep_…", "webhookd endpoint rotate-key ep_… --overlap-seconds 3600"),
)
@_WHICH
@click.option(
    "--overlap-seconds", type=click.IntRange(min=0), metavar="N", help="How long the old key signs too  [else 86400]"
)
@for_workspace
def rotate_key(call: Call, which: str, overlap_seconds: int | None) -> None:
    """Give an endpoint a new signing key. Both sign until the overlap ends."""
    client = call.client()
    path = call.path("endpoints", find(call, which))
    one = client.post(f"{path}/rotate-key", without_none(overlap_seconds=overlap_seconds))
    one |= client.get(f"{path}/signing-key")
    overlap = 86400 if overlap_seconds is None else overlap_seconds
    old = f"The old one signs too for {duration(overlap)}: give the receiver the new one before that."
    words = f"The new signing key of {escape(one['id'])}: {escape(one['signing_key'])}\n"
    words += old if overlap else "The old one no longer signs."
    for older in one["previous_keys"][bool(overlap) :]:
        words += f"\nOne from before signs until {local_time(older['until'])}, as it was going to."
    print_done(call, one, words)
