"""`webhookd endpoint …`: the webhooks of a workspace."""

from __future__ import annotations

import json
from typing import Any

import click

from webhookd.cli.endpoint.settings import with_settings
from webhookd.cli.options import (
    Call,
    common,
    complete_endpoint,
    complete_event,
    complete_event_type,
    confirm,
    examples,
    find,
    for_workspace,
    in_workspace,
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


@endpoint.command(
    epilog=examples(
        "webhookd endpoint add https://example.com/hook -e message.received",
        "webhookd endpoint add https://example.com/all -e '*' -H 'X-Tenant: acme' \\",
        "    --description 'the data warehouse'",
    )
)
@click.argument("url")
@for_workspace
@with_settings
def add(call: Call, url: str, settings: dict[str, Any]) -> None:
    """Add an endpoint; prints its id and its signing key."""
    if "event_types" not in settings:
        raise click.UsageError("which events does it want? Name them with -e message.received (or -e '*' for all).")
    if "filters" in settings:
        settings["filters"] = without_none(**settings["filters"])
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
            *(("filter", f"{name}: {json.dumps(one['filters'][name])}") for name in one.get("filters", ())),
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
        """webhookd endpoint edit ep_… --filter '*={"channel": ["whatsapp"]}'""",
    )
)
@_WHICH
@click.option("--url", help="The new URL.")
@click.option("--no-headers", is_flag=True, help="Remove its own headers.")
@click.option("--no-filters", is_flag=True, help="Remove its filters; one of them with --filter TYPE=")
@for_workspace
@with_settings
def edit(
    call: Call, which: str, url: str | None, settings: dict[str, Any], *, no_headers: bool, no_filters: bool
) -> None:
    """Change an endpoint: what isn't named stays. -e and -H replace all of theirs, --filter that of its type."""
    if "headers" in settings and no_headers:
        raise click.UsageError("--header sets headers and --no-headers takes them away: name one of them.")
    changes = without_none(url=url) | settings | ({"headers": {}} if no_headers else {})
    if not changes and not no_filters:
        raise click.UsageError("nothing to change. See webhookd endpoint edit --help.")
    client, path = call.client(), call.path("endpoints", find(call, which))
    if no_filters or "filters" in changes:
        kept = {} if no_filters else client.get(path)["filters"]
        changes["filters"] = without_none(**(kept | changes.get("filters", {})))
    changed = client.patch(path, changes)
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


@endpoint.command(epilog=examples("webhookd endpoint explain ep_… 6f1d4a0e-2f0f-4b6e-9a53-0a1c6de7b000"))
@_WHICH
@click.argument("event", metavar="EVENT", shell_complete=complete_event)
@for_workspace
def explain(call: Call, which: str, event: str) -> None:
    """Explain why an endpoint got an event, or didn't."""
    found = call.client().get(call.path("endpoints", find(call, which), "explain", event))
    if call.as_json:
        return print_json(found)
    return fields(
        [
            ("event", f"{found['event_id']} ({found['event_type']})"),
            ("accepted", local_time(found["accepted_at"])),
            ("reason", found["reason"]),
            ("", found["message"]),
            *((f"at {each['path']}", _mismatch_words(each)) for each in found["mismatches"]),
            *(("delivery", f"{each['id']}, {each['state']}") for each in found["deliveries"]),
        ]
    )


def _mismatch_words(each: dict[str, Any]) -> str:
    there = "nothing" if each["missing"] else json.dumps(each["found"], ensure_ascii=False)
    return f"found {there}, wanted {json.dumps(each['wanted'], ensure_ascii=False)}"
