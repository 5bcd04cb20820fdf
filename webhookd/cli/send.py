"""`webhookd send`: posts events from a file or a pipe; each line is accepted once, however often it is sent.

A line without an `event_id` gets one before the first try, so the daemon recognises repeated requests as duplicates.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import click

from webhookd.cli.ndjson import MAX_LINE_BYTES, Line, batches, ensure_id, jq_filter, new_id
from webhookd.cli.options import Call, examples, for_workspace
from webhookd.cli.output import count, print_json
from webhookd.text import escape

if TYPE_CHECKING:
    from webhookd.cli.client import Answer, Client

_COMMIT_TIMEOUT_SECONDS = 120.0
_RECONNECT_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_LATER = (408, 429, 503, 507)
_LISTED = 100
_KEPT_IDS = 10_000  # a pipe may never end


@dataclass(slots=True)
class Summary:
    """What became of the lines so far."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    warned: int = 0
    without_id: int = 0
    repeated: int = 0
    done_to_line: int = 0
    listed: list[dict[str, Any]] = field(default_factory=list)
    unsubscribed: Counter[str] = field(default_factory=Counter)
    below_plan: bool = False
    made_ids: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The summary in the API's form, with at most 100 refused lines and 10,000 of the ids that were made up."""
        reported: dict[str, Any] = {"unsubscribed": dict(self.unsubscribed)} if self.unsubscribed else {}
        if self.below_plan:
            reported["paused_by"] = "plan"
        if self.warned:
            reported["warned_count"] = self.warned
        if self.made_ids:
            reported["made_ids"] = self.made_ids
        return reported | {
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "rejected": self.listed,
            "rejected_count": self.rejected,
        }


class Sender:
    """Posts batches, and retries while the daemon is away or its disk is full."""

    def __init__(
        self,
        find: Callable[[], Client],
        path: str,
        *,
        complain: Callable[[str], None],
        give_up_after_seconds: float | None = None,
    ) -> None:
        self._find = find
        self._client: Client | None = None
        self._path = path
        self._complain = complain
        self._give_up_after_seconds = give_up_after_seconds
        self._reached = False
        self._refused: set[int] = set()  # lines of the batch
        self._waiting_since: float | None = None
        self._tries = 0
        self.summary = Summary()

    def push(self, batch: list[Line]) -> None:
        """Send a batch until every line of it is accepted or refused.

        Raises `Unreachable` if the daemon was never reached, `ApiRefused` for an error that a retry can't cure (a wrong
        token), and either after `give_up_after_seconds`.
        """
        from webhookd.cli.client import ApiRefused

        self._refused.clear()
        rest, made = self._prepared(batch)
        counting = True
        while rest:
            answer = self._answer(rest)
            if answer is None:
                continue
            body = answer.body or {}
            if answer.status not in _LATER:
                self._waiting_since = None
                self._count(body, rest, counting=counting)
                rest, counting = _lines_to_ask_again(body, rest), False
            else:
                taken = self._taken(body, rest, counting=counting)
                rest = rest[taken:]
                why = ApiRefused(answer.status, answer.body, answer.reason)
                self._wait(why, _retry_after(answer), progress=taken > 0)
        self.summary.done_to_line = batch[-1].number
        left = _KEPT_IDS - len(self.summary.made_ids)
        accepted = [one for one in made if one["line"] not in self._refused]
        self.summary.made_ids += accepted[:left]

    def _prepared(self, batch: list[Line]) -> tuple[list[tuple[int, bytes]], list[dict[str, Any]]]:
        """The lines with their ids, without those that are refused here; and the ids that were made up."""
        prepared, made_ids = [], []
        for line in batch:
            if line.data is None:
                message = f"The line is longer than {MAX_LINE_BYTES >> 20} MiB: send a reference to what is large."
                self._refuse(line.number, {"code": "payload_too_large", "message": message, "details": {}})
                self.summary.rejected += 1
                continue
            data, made = ensure_id(line.data, new_id)
            if made:
                self.summary.without_id += 1
                made_ids.append({"line": line.number, "event_id": made})
            prepared.append((line.number, data))
        return prepared, made_ids

    def _answer(self, rest: list[tuple[int, bytes]]) -> Answer | None:
        """Send once; None if the connection was lost: try again."""
        from webhookd.cli.client import Unreachable

        body = b"\n".join(data for _, data in rest) + b"\n"
        try:
            # A restarted daemon may have another address, so it is looked up again.
            client = self._client = self._client or self._find()
            answer = client.request(
                "POST",
                self._path,
                body=body,
                content_type="application/x-ndjson",
                timeout_seconds=_COMMIT_TIMEOUT_SECONDS,
            )
        except Unreachable as error:
            if not self._reached:
                raise
            self._client = None
            self.summary.repeated += 1
            self._wait(error, None, progress=False)
            return None
        self._reached = True
        taken = answer.status in (202, 422) and isinstance(answer.body, dict) and "accepted" in answer.body
        if not taken and answer.status not in _LATER:
            raise client.refused(answer)
        return answer

    def _count(self, body: dict[str, Any], rest: list[tuple[int, bytes]], *, counting: bool) -> None:
        """Add an answer to the summary; when the same lines are sent again, only the listed refusals are new."""
        rejected = body.get("rejected") or []
        if counting:
            self.summary.accepted += body.get("accepted", 0)
            self.summary.duplicates += body.get("duplicates", 0)
            self.summary.rejected += body.get("rejected_count", len(rejected))
            self.summary.warned += body.get("warned_count", 0)
            self.summary.unsubscribed.update(body.get("unsubscribed") or {})
            self.summary.below_plan |= body.get("paused_by") == "plan"
        for one in rejected:
            self._refuse(rest[one["index"]][0], one["error"])

    def _taken(self, body: dict[str, Any], rest: list[tuple[int, bytes]], *, counting: bool) -> int:
        taken = int(body.get("next_index") or 0)
        if taken:
            self._count(body, rest, counting=counting)
        return min(taken, len(rest))

    def _refuse(self, number: int, error: dict[str, Any]) -> None:
        self._refused.add(number)
        if len(self.summary.listed) < _LISTED:
            self.summary.listed.append({"line": number, "error": error})
        self._complain(f"line {number}: {escape(error.get('message'))}")

    def _wait(self, why: click.ClickException, seconds: float | None, *, progress: bool) -> None:
        """Wait before the next try, and print why once; raises `why` when it is time to give up."""
        now = time.monotonic()
        if progress or self._waiting_since is None:
            self._waiting_since, self._tries = now, 0
            self._complain(f"waiting, and trying again: {why.format_message()}")
        limit = self._give_up_after_seconds
        if limit is not None and now - self._waiting_since >= limit:
            raise why
        if seconds is None:
            seconds = _RECONNECT_SECONDS[min(self._tries, len(_RECONNECT_SECONDS) - 1)]
        self._tries += 1
        time.sleep(seconds)


def _lines_to_ask_again(body: dict[str, Any], rest: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """The lines to send again, which is safe, because the answer listed only the first refusals."""
    listed = body.get("rejected") or []
    if body.get("rejected_count", len(listed)) <= len(listed) or not listed:
        return []
    return rest[listed[-1]["index"] + 1 :]


def _retry_after(answer: Answer) -> float | None:
    value = answer.headers.get("retry-after", "")
    return min(max(float(value), 0.1), 60.0) if value.isdigit() else None


@click.command(
    short_help="Send events from a file or a pipe.",
    epilog=examples(
        "webhookd send events.ndjson",
        "cat samples/*.json | webhookd send",
        "tail -F /var/log/product/events.ndjson | webhookd send --workspace acme",
        "jq -c '.[]' events.json | webhookd send",
        exits="0 all accepted, 1 some refused, 2 wrong usage, 3 the daemon can't be reached.",
    ),
)
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
@click.option(
    "--give-up-after",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long to try without getting on  [else: as long as it takes]",
)
@for_workspace
def send(call: Call, file: str, give_up_after: float | None) -> None:
    """Send events, one JSON object per line, from FILE or from a pipe.

    What is accepted is never lost. A line that is refused is named on stderr with its number and the reason, and
    the others go on (exit code 1 in the end). While the daemon's disk is full, or it restarts, send waits and tries
    again. Running it again is safe for lines that bring their event_id: they are delivered once. An array, or JSON over
    several lines, becomes lines by jq -c.
    """
    descriptor = _open_input(file)
    if file == "-" and os.isatty(descriptor):
        click.echo("Reading events from the keyboard, one JSON object per line; Ctrl-D ends.", err=True)
    with _Progress(descriptor) as progress:
        sender = Sender(
            lambda: call.client(ingest=True),
            call.path("events"),
            complain=progress.say,
            give_up_after_seconds=give_up_after,
        )
        try:
            for batch in batches(descriptor):
                if not sender.summary.done_to_line:
                    _check_form(batch.lines[0], file)
                sender.push(batch.lines)
                progress.show(batch.read_bytes)
        except (click.ClickException, KeyboardInterrupt) as error:
            if sender.summary.done_to_line or not isinstance(error, click.UsageError):
                progress.say(_unfinished(sender.summary))
            raise
    _end(call, sender.summary)


def _open_input(file: str) -> int:
    if file == "-":
        return sys.stdin.fileno()
    try:
        return os.open(file, os.O_RDONLY)
    except OSError as error:
        raise click.BadParameter(f"{escape(file)} can't be read: {error.strerror}", param_hint="FILE") from error


def _check_form(first: Line, file: str) -> None:
    """UsageError, before anything is sent, for an array and for JSON over several lines."""
    wanted = jq_filter(first.data or b"")
    if wanted is not None:
        what = "an array" if wanted == ".[]" else "JSON over several lines"
        lines = f"jq -c '{wanted}'" + ("" if file == "-" else f" {shlex.quote(file)}")
        raise click.UsageError(
            f"this begins like {what}; send takes one event per line: {escape(lines)} | webhookd send"
        )


def _unfinished(summary: Summary) -> str:
    return (
        f"Stopped: {_summary(summary)}. Nothing after line {summary.done_to_line} is confirmed; "
        "send it again, which is safe for lines that bring their event_id."
    )


def _summary(summary: Summary) -> str:
    accepted, words = f"{summary.accepted:,} accepted", f"{summary.duplicates:,} known already"
    words = f"{accepted}, {words}, {summary.rejected:,} refused"
    unsubscribed = summary.unsubscribed.total()
    reported = f"0 webhooks subscribe ({', '.join(map(escape, summary.unsubscribed))})"
    if summary.below_plan:
        words += "; the workspace's plan has no webhooks, so nothing is delivered"
    elif unsubscribed and unsubscribed == summary.accepted and not summary.duplicates and not summary.rejected:
        words = f"{accepted}, {reported}"
    elif unsubscribed:
        words += f"; {unsubscribed:,} of them: {reported}"
    if summary.warned:
        words += f"; {summary.warned:,} don't fit the schema of their type"
    return words


def _print_made_ids(summary: Summary) -> None:
    for one in summary.made_ids[:_LISTED]:
        click.echo(f"line {one['line']}: event_id {one['event_id']}")
    more = summary.without_id - _LISTED
    if more > 0:
        click.echo(f"… and {more:,} more (with --json the first {_KEPT_IDS:,})")


def _end(call: Call, summary: Summary) -> NoReturn:
    if call.as_json:
        print_json(summary.as_json())
    else:
        click.echo(f"{_summary(summary)}.")
        _print_made_ids(summary)
        if summary.rejected or summary.repeated:
            click.echo(_repeat_advice(summary), err=True)
        elif summary.without_id and summary.accepted:
            click.echo(_repeat_advice(summary))
    click.get_current_context().exit(1 if summary.rejected else 0)


def _repeat_advice(summary: Summary) -> str:
    """Whether it is safe to run the same command again."""
    words = "Running it again is safe: a line with an event_id is delivered once."
    if summary.without_id and (summary.accepted or summary.repeated):
        words = (
            "Running it again is safe for lines that bring their event_id; "
            f"{count(summary.without_id, 'line')} had none, got a new one, and would be delivered again."
        )
    if summary.repeated:
        words += " (The connection was lost on the way: lines that were sent twice may count as known already.)"
    return words


class _Progress:
    """The progress bar: on a terminal, and where it is known how much there is to read."""

    def __init__(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        length = status.st_size if stat.S_ISREG(status.st_mode) else 0
        self._bar: Any = None
        if sys.stderr.isatty() and not os.isatty(descriptor):
            self._bar = click.progressbar(length=length or None, file=sys.stderr, label="Sending", width=30)
        self._shown_bytes = 0

    def __enter__(self) -> _Progress:
        if self._bar:
            self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.render_finish()

    def show(self, read_bytes: int) -> None:
        """Move the bar on."""
        if self._bar:
            self._bar.update(read_bytes - self._shown_bytes)
            self._shown_bytes = read_bytes

    def say(self, message: str) -> None:
        """Print a line on stderr, above the bar."""
        if self._bar:
            click.echo(f"\r\x1b[K{message}", err=True, color=True)  # NO_COLOR is not about clearing the line
        else:
            click.echo(message, err=True)
