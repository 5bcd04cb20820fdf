"""`webhookd status` and `webhookd budget`: how the daemon stands, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from webhookd.cli.options import Call, examples, for_workspace, with_call
from webhookd.cli.output import ago, bar, count, fields, json_text, lane_words, local_time, print_json, size, table
from webhookd.text import duration, escape

if TYPE_CHECKING:
    from webhookd.cli.client import Client

_ERRORS_SHOWN = 5
_BUDGET_ALARMING = 0.8
_LAG_ALARMING_MS = 250


@click.command(
    short_help="Show what waits and fails, and what to do next.",
    epilog=examples("webhookd status", "webhookd status --json", "watch webhookd status"),
)
@with_call
def status(call: Call) -> None:
    """Show what waits, what fails, what is disabled, and what to do next.

    Also the rates, the space that is left, and the slowest endpoints.
    """
    client = call.client()
    look = client.get("/v1/status")
    if call.as_json:
        return print_json(look)
    click.echo(
        f"webhookd {escape(look['version'])} at {escape(client.address)}, up {duration(look['uptime_seconds'])}\n"
    )
    fields(_lines(look))
    _print_disabled(client, look)
    _print_dropping(look.get("dropping_endpoints", []))
    _print_blocked(look.get("blocked_lanes", []))
    _print_slowest(look["slowest_endpoints"])
    _print_errors(look.get("last_errors", []))
    advice = list(_advice(look)) or ["nothing: all is well."]
    click.echo("\nWhat to do: " + "\n            ".join(advice))
    return None


def _advice(look: dict[str, Any]) -> Iterator[str]:
    """What to do next, the most urgent first."""
    mail, reasons = look.get("unsent_mail", {}), look.get("failures_by_reason", {})
    if look.get("database", {}).get("full"):
        yield "free some space: events are refused (507) until there is store.min_free_mb."
    if reasons.get("local"):
        yield "look at this machine's network, resolver, descriptors: some attempts failed by it (webhookd log)."
    yield from _advice_on_endpoints(look)
    for warning in look.get("warnings", ()):
        yield f"think about {escape(warning['key'])} again: {escape(warning['message'])}."
    for budget in look["budgets"]:
        if budget["failures"] >= budget["limit"] * _BUDGET_ALARMING:
            where = f" --workspace {escape(budget['workspace'])}" if budget["workspace"] != "default" else ""
            yield f"see who spends the failure budget before it disables: webhookd budget{where}"
    if mail.get("count") and mail.get("last_error"):
        yield "repair the mail, so that notices arrive: webhookd mail test"
    if look.get("loop_lag_ms", 0) > _LAG_ALARMING_MS:
        yield f"give it more processor: its event loop was {look['loop_lag_ms']:.0f} ms late."
    if not look["endpoints"]["total"]:
        yield "add a first endpoint: webhookd endpoint add https://example.com/hook -e '*'"


def _advice_on_endpoints(look: dict[str, Any]) -> Iterator[str]:
    if look["endpoints"]["auto_disabled"]:
        yield "repair the receivers of the auto-disabled endpoints, then webhookd endpoint enable ID."
    if look.get("dropping_endpoints"):
        yield "see why events were dropped in the last hour: webhookd log --state dropped --since 1h"


def _lines(look: dict[str, Any]) -> Iterator[tuple[str, object]]:
    endpoints, backlog = look["endpoints"], look["backlog"]
    yield (
        "endpoints",
        f"{endpoints['active']:,} of {endpoints['total']:,} active, {endpoints['auto_disabled']:,} auto-disabled",
    )
    yield (
        "waiting",
        f"{count(backlog['waiting'], 'event')} ({size(backlog['waiting_bytes'])}), {backlog['held']:,} of them held; "
        f"{count(backlog['in_flight'], 'request')} in flight",
    )
    for budget in look["budgets"]:
        spent, limit = budget["failures"], budget["limit"]
        yield f"budget {budget['workspace']}", f"{bar(spent, limit, columns=20)} {spent} of {limit} failures"
    if "database" in look:  # a token that is bound to a workspace sees that workspace alone
        yield from _lines_of_the_daemon(look)


def _lines_of_the_daemon(look: dict[str, Any]) -> Iterator[tuple[str, object]]:
    database, rates, totals = look["database"], look["rates_per_second"], look["totals"]
    yield (
        "last minute",
        ", ".join(f"{rates[name]:g} {name}" for name in ("accepted", "delivered", "failed")) + " a second",
    )
    yield "since the start", ", ".join(f"{number:,} {name}" for name, number in totals.items())
    reasons = sorted(look["failures_by_reason"].items(), key=lambda pair: -pair[1])
    yield "failures", ", ".join(f"{number:,} {reason}" for reason, number in reasons)
    yield (
        "database",
        f"{size(database['size_bytes'])}, write-ahead log {size(database['wal_bytes'])}, "
        f"{size(database['free_bytes'])} free on its disk",
    )
    if "encrypted" in database:  # an older webhookd doesn't say
        kept = "encrypted by the database key" if database["encrypted"] else "not encrypted (webhookd help security)"
        yield "signing keys", f"and header values are {kept}"
    yield "unsent mail", _mail_words(look["unsent_mail"])


def _mail_words(unsent: dict[str, Any]) -> str:
    if not unsent["count"]:
        return "none"
    oldest = f", the oldest for {duration(unsent['oldest_age_seconds'])}" if unsent["oldest_age_seconds"] else ""
    return f"{count(unsent['count'], 'notice')}{oldest}" + (f": {unsent['last_error']}" if unsent["last_error"] else "")


def _print_disabled(client: Client, look: dict[str, Any]) -> None:
    """List the endpoints that the budget disabled, if the token may see them."""
    from webhookd.cli.client import ApiRefused

    if not look["endpoints"]["auto_disabled"]:
        return
    rows = []
    try:
        for workspace in client.pages("/v1/workspaces"):
            for one in client.pages(f"/v1/workspaces/{workspace['id']}/endpoints"):
                if one["state"] == "auto_disabled":
                    since = (one["disabled"] or {}).get("at")
                    rows.append((one["id"], workspace["id"], one["queue"]["held"], ago(since), one["url"]))
    except ApiRefused as refused:
        if refused.code != "forbidden":
            raise
        return
    click.echo(click.style("\nAuto-disabled:", fg="red"))
    table(("id", "workspace", "held", "disabled", "url"), rows, right=("held",))


def _print_dropping(dropping: list[dict[str, Any]]) -> None:
    if dropping:
        click.echo(click.style("\nDropped events in the last hour:", fg="red"))
        rows = [(one["id"], one["workspace"], f"{one['dropped']:,}", one["url"]) for one in dropping]
        table(("id", "workspace", "dropped", "url"), rows, right=("dropped",))


def _print_blocked(blocked: list[dict[str, Any]]) -> None:
    if blocked:
        click.echo("\nLanes that wait for a retry:")
        for one in blocked:
            click.echo(f"{escape(one['id'])}  {lane_words(one['path'], one)}")


def _print_slowest(slowest: list[dict[str, Any]]) -> None:
    if slowest:
        click.echo("\nSlowest:")
        rows = [(one["id"], one["workspace"], f"{one['attempt_ms']:,.0f}", one["url"]) for one in slowest]
        table(("id", "workspace", "ms", "url"), rows, right=("ms",))


def _print_errors(errors: list[dict[str, Any]]) -> None:
    if not errors:
        return
    click.echo("\nLast errors:")
    for error in errors[-_ERRORS_SHOWN:]:
        click.echo(f"{local_time(error['at'])}  {escape(error['event'])}  {json_text(error['fields'], indent=None)}")


@click.command(epilog=examples("webhookd budget", "webhookd budget --workspace acme --json"))
@for_workspace
def budget(call: Call) -> None:
    """Show a workspace's failure budget and who spends it."""
    client = call.client()
    view = client.get(call.path("budget"))
    if call.as_json:
        return print_json(view)
    failures, limit = view["failures"], view["limit"]
    click.echo(f"{bar(failures, limit)}  {failures} of {limit} failures in {duration(view['window_seconds'])}")
    if view["by_endpoint"]:
        urls = {one["id"]: one["url"] for one in client.pages(call.path("endpoints"))}
        for endpoint_id, spent in sorted(view["by_endpoint"].items(), key=lambda pair: -pair[1]):
            click.echo(f"{spent:>5}  {escape(endpoint_id)}  {escape(urls.get(endpoint_id, '(deleted)'))}")
    if view.get("oldest_expires_at"):
        leaves = view["oldest_expires_at"]
        click.echo(f"The oldest failure leaves the count at {local_time(leaves)} ({ago(leaves)}).")
    if view["spent_until"]:
        until = local_time(view["spent_until"])
        click.echo(click.style(f"Spent until {until}: one more failure disables its endpoint.", fg="red"))
    return None
