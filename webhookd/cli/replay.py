"""`webhookd replay` and `webhookd endpoint backfill`: sending past events."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from webhookd.cli.endpoint import endpoint as endpoint_group
from webhookd.cli.log import DELIVERY_PREFIX, FINISHED
from webhookd.cli.options import (
    Call,
    Words,
    complete_endpoint,
    complete_event_type,
    complete_logged,
    examples,
    find,
    for_workspace,
)
from webhookd.cli.output import count, moment, print_done, without_none
from webhookd.text import escape

# A million go in short steps.
_TIMEOUT_SECONDS = 600.0
# Why deliveries, or events, are left out.
_LEFT_OUT = {
    "already_had": "that it had already",
    "filtered": "that its filters leave out",
    "delivered_since": "delivered since",
    "waiting": "waiting already",
    "repeated": "of the same event and endpoint",
    "not_active": "of endpoints that are not active",
    "gone": "of deleted endpoints",
    "pruned": "without their body, which was pruned",
    "no_room": "for which there is no room now: too much waits already",
}


@click.command(
    short_help="Send past deliveries again.",
    epilog=examples(
        "webhookd replay dlv_…",
        "webhookd replay EVENT_ID              to every endpoint where it was dropped",
        "webhookd replay --endpoint ep_… --state dropped --since 1d --dry-run",
        "webhookd replay --type message.received --since 3h",
        "webhookd replay --since '2026-01-31 14:00' --until '2026-01-31 16:00'",
    ),
)
@click.argument("which", metavar="[DELIVERY|EVENT_ID]", required=False, shell_complete=complete_logged)
@click.option("--endpoint", metavar="ENDPOINT", shell_complete=complete_endpoint, help="Only to this one (id or URL).")
@click.option(
    "--type", "event_type", metavar="TYPE", shell_complete=complete_event_type, help="Only events of this type."
)
@click.option("--state", "of_state", type=Words(*FINISHED), help="Those in this state  [else dropped]")
@click.option("--since", metavar="TIME", callback=moment, help="Accepted since then: 2h, 30m, 3d, or a time.")
@click.option("--until", metavar="TIME", callback=moment, help="Accepted until then.")
@click.option("--dry-run", is_flag=True, help="Only count them.")
@for_workspace
def replay(
    call: Call,
    *,
    which: str | None,
    endpoint: str | None,
    event_type: str | None,
    of_state: str | None,
    since: str | None,
    until: str | None,
    dry_run: bool,
) -> None:
    """Send a finished delivery again, or all of an event or a filter.

    They go to the end of the queue, with the same webhook-id.
    """
    client = call.client()
    if which and which.startswith(DELIVERY_PREFIX):
        if endpoint or event_type or of_state or since or until or dry_run:
            raise click.UsageError("name one delivery, or a filter, not both.")
        made = client.post(call.path("deliveries", which, "replay"))
        return print_done(call, made, f"{escape(which)} goes out again.")
    if not which and not endpoint and not since:
        raise click.UsageError("which? Name a DELIVERY, an EVENT_ID, or --endpoint, or --since.")
    event = client.get(call.path("events", which)) if which else {}  # an id that isn't there is an error
    body = without_none(
        event_id=which, endpoint=find(call, endpoint) if endpoint else None, event_type=event_type, state=of_state
    )
    body |= without_none(since=since, until=until)
    answer = client.post(call.path("replay"), body | {"dry_run": dry_run}, timeout_seconds=_TIMEOUT_SECONDS)
    deliveries = count(answer["replayed"], "delivery").replace("deliverys", "deliveries")
    verb = "would go" if dry_run else "goes" if answer["replayed"] == 1 else "go"
    print_done(call, answer, f"{deliveries} {verb} out again.{_left_out(answer)}")
    if event and not answer["replayed"] and not call.as_json:
        states = Counter(str(one["state"]) for one in event["deliveries"])
        words = ", ".join(f"{number} {name}" for name, number in states.items()) or "none"
        click.echo(f"Its deliveries: {escape(words)}. --state says which go out again  [else dropped]", err=True)
    return None


@endpoint_group.command(
    epilog=examples(
        "webhookd endpoint backfill ep_… --since 7d --dry-run",
        "webhookd endpoint backfill ep_… --since 7d",
        "webhookd endpoint backfill ep_… --since 3d --type message.received",
    )
)
@click.argument("which", metavar="ENDPOINT", shell_complete=complete_endpoint)
@click.option("--since", metavar="TIME", callback=moment, required=True, help="Accepted since then: 2h, 3d, or a time.")
@click.option("--until", metavar="TIME", callback=moment, help="Accepted until then.")
@click.option(
    "--type",
    "event_type",
    metavar="TYPE",
    shell_complete=complete_event_type,
    help="Only events of this type  [else of all that it subscribes to]",
)
@click.option("--dry-run", is_flag=True, help="Only count them.")
@for_workspace
def backfill(call: Call, *, which: str, since: str, until: str | None, event_type: str | None, dry_run: bool) -> None:
    """Send an endpoint past events that it never had.

    Because it wasn't there, or wasn't subscribed then.  They go out in order of acceptance, before what is accepted
    from now on, and with X-Webhook-Backfill: true.
    """
    client = call.client()
    body = {"since": since, "dry_run": dry_run} | without_none(until=until, event_type=event_type)
    path = call.path("endpoints", find(call, which), "backfill")
    answer = client.post(path, body, timeout_seconds=_TIMEOUT_SECONDS)
    events = count(answer["backfilled"], "event")
    verb = "would go" if dry_run else "goes" if answer["backfilled"] == 1 else "go"
    print_done(call, answer, f"{events} {verb} out.{_left_out(answer)}")


def _left_out(answer: dict[str, Any]) -> str:
    words = ", ".join(f"{number:,} {_LEFT_OUT.get(why, why)}" for why, number in answer["left_out"].items())
    return f" Left out: {words}." if words else ""
