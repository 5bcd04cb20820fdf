"""`webhookd log`: what became of every event."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from webhookd.cli.options import (
    Call,
    Words,
    common,
    complete_endpoint,
    complete_event,
    complete_event_type,
    complete_logged,
    examples,
    find,
    for_workspace,
    in_workspace,
)
from webhookd.cli.output import (
    ago,
    failure_words,
    fields,
    json_text,
    local_time,
    moment,
    outcome_words,
    print_body,
    print_json,
    print_json_line,
    table,
    table_line,
    without_none,
)
from webhookd.text import escape, escape_json

if TYPE_CHECKING:
    from webhookd.cli.client import Client

DELIVERY_PREFIX = "dlv_"  # ids of deliveries begin with it
_PRUNED = "(the body was pruned)"
FINISHED = ("delivered", "dropped", "expired", "skipped", "cancelled")
_COLUMNS = ("accepted", "state", "event", "attempts", "delivery", "event id", "endpoint")
_FOLLOWED_WIDTHS = (19, 9, 24, 20, 30, 36, 40)  # what comes isn't known yet
_BEFORE_FOLLOWING = 10
_AFTER_RESET = 500
# The daemon sends a comment every 15 seconds; after a longer silence the connection is dead.
_SILENCE_SECONDS = 60.0
_RECONNECT_SECONDS = (0.2, 0.5, 1.0, 2.0)


@click.group(
    short_help="Show the event log.",
    invoke_without_command=True,
    epilog=examples(
        "webhookd log -f",
        "webhookd log --state dropped --since 2h",
        "webhookd log --status 5xx --text order-4711",
        "webhookd log --endpoint https://example.com/hook --type message.received",
        "webhookd log show dlv_…",
    ),
)
@click.option("--follow", "-f", is_flag=True, help="Go on printing what happens.")
@click.option(
    "--endpoint",
    metavar="ENDPOINT",
    shell_complete=complete_endpoint,
    help="Only deliveries to this one (id or URL).",
)
@click.option("--state", "of_state", type=Words("pending", "held", *FINISHED), help="Only those in this state.")
@click.option(
    "--type", "event_type", metavar="TYPE", shell_complete=complete_event_type, help="Only events of this type."
)
@click.option("--retrying", is_flag=True, help="Only what failed and is tried again.")
@click.option("--status", metavar="STATUS", help="Only this status of the last answer: 404, 5xx, or none.")
@click.option("--text", metavar="TEXT", help="Only with this in the event's id or body; not with -f.")
@click.option("--event-id", metavar="ID", shell_complete=complete_event, help="Only this event.")
@click.option("--since", metavar="TIME", callback=moment, help="Accepted since then: 2h, 30m, 3d, or a time.")
@click.option("--until", metavar="TIME", callback=moment, help="Accepted until then.")
@click.option("--limit", "-n", type=click.IntRange(1, 500), help="How many, the newest  [else 50; 10 with -f]")
@click.option("--cursor", metavar="CURSOR", help="Go on where the page before ended: its `next`.")
@click.option("--all", "everything", is_flag=True, help="All of them, page after page.")
@in_workspace
@common
@click.pass_context
def log(
    ctx: click.Context,
    *,
    follow: bool,
    endpoint: str | None,
    of_state: str | None,
    event_type: str | None,
    retrying: bool,
    status: str | None,
    text: str | None,
    event_id: str | None,
    since: str | None,
    until: str | None,
    limit: int | None,
    cursor: str | None,
    everything: bool,
) -> None:
    """Show the event log, the newest last; `log show DELIVERY` has the whole story of one."""
    if ctx.invoked_subcommand is not None:
        return
    if (everything and limit) or (follow and (everything or cursor)):
        raise click.UsageError("--all takes no --limit, and -f neither --all nor --cursor.")
    if follow and text:
        raise click.UsageError("-f takes no --text: the stream has no bodies.")
    call = ctx.ensure_object(Call)
    query = without_none(
        endpoint=_endpoint_id(call, endpoint),
        state=of_state,
        event_type=event_type,
        retrying="true" if retrying else None,
        status=status,
        text=text,
        event_id=event_id,
        since=since,
        until=until,
    )
    if follow:
        _follow(call, query, limit or _BEFORE_FOLLOWING)
    else:
        _list(call, query | without_none(limit=limit, cursor=cursor), everything=everything)


def _endpoint_id(call: Call, which: str | None) -> str | None:
    return find(call, which) if which else None


def _list(call: Call, query: dict[str, Any], *, everything: bool) -> None:
    client, path = call.client(), call.path("deliveries")
    if everything:
        found, following = client.pages(path, **query), None
    else:
        page = client.get(path, **query)
        if call.as_json:
            return print_json(page)
        found, following = iter(page["data"]), page["next"]
    if call.as_json:
        return _print_all_json(found)
    urls = _Urls(call)
    rows = [_row(one, urls) for one in found]
    if rows:
        table(_COLUMNS, reversed(rows))
    else:
        click.echo("Nothing in the log." if following is None else "Nothing in the newest part of the log.")
    if following is not None:
        click.echo(f"There are older ones: --cursor {escape(following)} shows them, --all shows all.", err=True)
    return None


def _print_all_json(found: Iterator[dict[str, Any]]) -> None:
    """One JSON document, in the API's form, printed as it comes: the log may be larger than the memory."""
    click.echo('{"data": [', nl=False)
    for number, one in enumerate(found):
        click.echo(",\n" if number else "\n", nl=False)
        click.echo(json_text(one, indent=None), nl=False)
    click.echo('\n], "next": null}')


class _Urls:
    """The URLs of endpoints by id, read again when an unknown id turns up."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._known: dict[str, str] = {}

    def of(self, endpoint_id: str) -> str:
        """The URL; the id for a deleted endpoint."""
        if endpoint_id not in self._known:
            listed = self._call.client().pages(self._call.path("endpoints"))
            self._known |= {one["id"]: one["url"] for one in listed}
            self._known.setdefault(endpoint_id, f"{endpoint_id} (deleted)")
        return self._known[endpoint_id]


_MARKS = (("replay", "replay_of"), ("test", "test"), ("backfill", "backfill"))


def _attempt_words(one: dict[str, Any]) -> str:
    """The attempts so far, the last outcome, and the next attempt: `2: 503, next in 40s`."""
    last = one.get("last_attempt")
    words = f"{one['attempt_count']}: {outcome_words(last)}" if last else str(one["attempt_count"])
    if one.get("next_attempt_at") and one["state"] == "pending" and last:
        words += f", next {ago(one['next_attempt_at'])}"
    return words + next((f" ({mark})" for mark, name in _MARKS if one.get(name)), "")


def _follow(call: Call, query: dict[str, Any], limit: int) -> None:
    """Print the newest deliveries, then each change as it happens, none missed and none twice."""
    client, urls, seen = call.client(), _Urls(call), set[tuple[Any, ...]]()

    def show(one: dict[str, Any]) -> None:
        key = (one["id"], one["state"], one["attempt_count"])
        if key in seen:
            return
        seen.add(key)
        if call.as_json:
            print_json_line(one)
        else:
            table_line(_COLUMNS, _row(one, urls), _FOLLOWED_WIDTHS)

    def show_newest(how_many: int) -> None:
        for one in reversed(client.get(call.path("deliveries"), limit=how_many, **query)["data"]):
            show(one)

    if not call.as_json:
        table_line(_COLUMNS, [name.upper() for name in _COLUMNS], _FOLLOWED_WIDTHS)
    for change in _changes(call, query, when_open=lambda: show_newest(limit)):
        if change is None:
            click.echo("More happened than could be streamed; the newest deliveries follow.", err=True)
            show_newest(_AFTER_RESET)
        else:
            show(change)
        if len(seen) > 100_000:  # so old a delivery doesn't come twice
            seen.clear()


def _row(one: dict[str, Any], urls: _Urls) -> tuple[str, ...]:
    """A delivery in the columns of the table."""
    accepted, url = local_time(one["accepted_at"]), urls.of(one["endpoint_id"])
    return (accepted, one["state"], one["event_type"], _attempt_words(one), one["id"], one["event_id"], url)


def _changes(call: Call, query: dict[str, Any], *, when_open: Callable[[], None]) -> Iterator[dict[str, Any] | None]:
    """The changes in the stream, over lost connections; None: too much was missed, the list has to be read again."""
    from webhookd.cli.client import Unreachable

    last_id, was_open, tries = "", False, 0
    path = call.path("deliveries", "stream")
    while True:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        try:
            with call.client().stream(
                "GET", path, query=query, headers=headers, timeout_seconds=_SILENCE_SECONDS
            ) as reply:
                if not was_open:
                    was_open = True
                    when_open()
                for event in server_sent_events(reply.lines()):
                    last_id, tries = event.id or last_id, 0
                    if event.data:
                        yield None if event.kind == "reset" else json.loads(event.data)
        except Unreachable:
            if not was_open:
                raise
        time.sleep(_RECONNECT_SECONDS[min(tries, len(_RECONNECT_SECONDS) - 1)])
        tries += 1


class ServerSentEvent(NamedTuple):
    """One event of a stream; one without data only carries the id to resume after."""

    id: str
    kind: str
    data: str


def server_sent_events(lines: Iterator[bytes]) -> Iterator[ServerSentEvent]:
    """The events of a stream (WHATWG HTML, section 9.2.6): an id holds until the next one, comments are skipped."""
    event_id, kind, data = "", "", list[str]()
    for line in lines:
        name, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id":
            event_id = value
        elif not name and not value:
            yield ServerSentEvent(event_id, kind, "\n".join(data))
            kind, data = "", []


@log.command(
    short_help="Show a delivery or an event, and each attempt.",
    epilog=examples("webhookd log show dlv_…", "webhookd log show EVENT_ID", "webhookd log show dlv_… --json"),
)
@click.argument("which", metavar="DELIVERY|EVENT_ID", shell_complete=complete_logged)
@for_workspace
def show(call: Call, which: str) -> None:
    """Show a delivery with every attempt, or an event with all its deliveries.

    When, how long, what was sent, what came back.
    """
    if not which.startswith(DELIVERY_PREFIX):
        return _show_event(call, which)
    client = call.client()
    one = client.get(call.path("deliveries", which))
    if call.as_json:
        return print_json(one)
    return _print_delivery(one, _Urls(call), _event_text(client, call, one["event_id"]) if one["attempts"] else "")


def _show_event(call: Call, event_id: str) -> None:
    """An event: its fields, its payload, and the story of each of its deliveries."""
    client, urls = call.client(), _Urls(call)
    raw = client.read(call.path("events", event_id))
    if call.as_json:  # as it came: no number loses a digit
        return click.echo(escape_json(raw.decode()))
    event = json.loads(raw, parse_int=len)  # an integer of the payload may have any length
    fields(
        [
            ("event", f"{event['event_type']} {event['event_id']}"),
            ("workspace", event["workspace"]),
            ("accepted", local_time(event["accepted_at"], millis=True)),
            ("deliveries", len(event["deliveries"]) or "none: no endpoint wanted it"),
        ]
    )
    payload = _payload(raw)
    click.echo()
    print_body(payload or _PRUNED)
    for one in reversed(event["deliveries"]):
        click.echo()
        _print_delivery(client.get(call.path("deliveries", one["id"])), urls, payload)
    return None


def _event_text(client: Client, call: Call, event_id: str) -> str:
    return _payload(client.read(call.path("events", event_id)))


def _payload(raw: bytes) -> str:
    """The payload of an event's answer, byte for byte; "" once it was pruned."""
    from msgspec import Raw
    from msgspec.json import decode

    text = bytes(decode(raw, type=dict[str, Raw])["payload"]).decode()
    return "" if text == "null" else text


def _print_delivery(one: dict[str, Any], urls: _Urls, payload: str) -> None:
    """A delivery with each of its attempts; `payload` is what each request's body was, "" once it was pruned."""
    upcoming = one["next_attempt_at"] if one["state"] == "pending" else None
    url = urls.of(one["endpoint_id"])
    fields(
        [
            ("delivery", one["id"]),
            ("state", one["state"]),
            ("event", f"{one['event_type']} {one['event_id']}"),
            ("workspace", one["workspace"]),
            ("endpoint", f"{url} {one['endpoint_id']}"),
            ("replay of", one["replay_of"]),
            ("backfill", "yes" if one.get("backfill") else None),
            ("sequence", one.get("sequence")),
            ("accepted", local_time(one["accepted_at"], millis=True)),
            ("next attempt", upcoming and f"{local_time(upcoming)} ({ago(upcoming)})"),
            ("finished", local_time(one["finished_at"], millis=True)),
        ]
    )
    for attempt in one["attempts"]:
        _print_attempt(attempt, url, payload)


def _print_attempt(attempt: dict[str, Any], url: str, payload: str) -> None:
    words = attempt["outcome"] if attempt["outcome"] == "delivered" else f"failed: {failure_words(attempt)}"
    status = f" {attempt['status']}" if attempt["outcome"] == "delivered" else ""
    marks = [
        "" if attempt.get("counted", True) or attempt["outcome"] == "delivered" else "not counted",
        "on a fresh connection after a stale one" if attempt.get("connection_retried") else "",
    ]
    click.echo()
    click.echo(
        f"Attempt {attempt['number']}, {local_time(attempt['started_at'], millis=True)}, "
        f"{attempt['duration_ms']:.1f} ms: " + escape(", ".join(filter(None, [f"{words}{status}", *marks])))
    )
    request, response = attempt.get("request") or {}, attempt.get("response")
    _print_message(">", f"POST {request.get('url') or url}", request.get("headers"), payload or _PRUNED)
    if response:
        _print_message("<", f"{attempt['status']}", response.get("headers"), response.get("body"))
        if response.get("truncated"):
            click.echo("  < … (cut here)")


def _print_message(arrow: str, line: str, headers: Any, body: str | None) -> None:
    click.echo(f"  {arrow} {escape(line)}")
    for name, value in _pairs(headers):
        click.echo(f"  {arrow} {escape(name)}: {escape(value)}")
    if body:
        click.echo(f"  {arrow}")
        print_body(body, indent=f"  {arrow} ")


def _pairs(headers: Any) -> list[tuple[str, str]]:
    return list(headers.items()) if isinstance(headers, dict) else [tuple(pair) for pair in headers or []]
