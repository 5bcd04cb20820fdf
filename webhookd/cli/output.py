"""Output on a terminal: tables, times, states, and text that strangers wrote.

Everything that was stored goes through `text.escape` (or, as JSON, through `json_text`) before it is printed.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import click

from webhookd.cli.options import Call
from webhookd.text import duration, escape, escape_json, escape_lines

_RELATIVE = re.compile(r"(?:\d+[smhdw])+")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_NARROWEST = 8
_KEPT_COLUMNS = ("id", "delivery", "state", "accepted", "type")  # shortened last: they are copied, or tell most
_STATE_COLOURS = {
    "active": "green",
    "delivered": "green",
    "pending": "yellow",
    "held": "yellow",
    "disabled": "yellow",
    "auto_disabled": "red",
    "dropped": "red",
    "failed": "red",
    "expired": "red",
}


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """`value` as JSON that reads the same to a program and can't steer a terminal."""
    return escape_json(json.dumps(value, indent=indent, ensure_ascii=False))


def print_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json_text(value))


def print_json_line(value: Any) -> None:
    """Print one line of NDJSON and flush it."""
    click.echo(json_text(value, indent=None))


def without_none(**values: Any) -> dict[str, Any]:
    """The values that aren't None: the options that were given."""
    return {name: value for name, value in values.items() if value is not None}


def print_done(call: Call, value: dict[str, Any], words: str) -> None:
    """Print what a command did: `value` with `--json`, else `words`."""
    if call.as_json:
        return print_json(value)
    return click.echo(words)


def width(text: str) -> int:
    """The columns that `text` takes: two for a wide East Asian character, none for a combining mark."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Print a table; the columns named in `right` are aligned to the right.

    On a terminal it fits: long cells are shortened in the middle, ids and states last.  `--wide`, a pipe and a file get
    them whole.
    """
    cells = [[escape(value) for value in row] for row in rows]
    widths = [max([width(name), *(width(row[n]) for row in cells)]) for n, name in enumerate(header)]
    widths = fitting(header, widths)
    click.echo(_line(header, header, widths, right).upper())
    for row in cells:
        click.echo(coloured_states(_line(row, header, widths, right)))


def table_line(header: Sequence[str], row: Sequence[str], widths: Sequence[int]) -> None:
    """Print one line of a table whose rows come one by one: `widths` are what to expect."""
    cells = [escape(value) for value in row]
    fitted = fitting(header, widths)
    if fitted == list(widths):  # nothing is shortened
        fitted = [max(columns, width(cell)) for columns, cell in zip(widths, cells, strict=True)]
    click.echo(coloured_states(_line(cells, header, fitted, ())))


def fitting(header: Sequence[str], widths: Sequence[int]) -> list[int]:
    """The widths of a table's columns, made narrower where the terminal is; the widest first."""
    fitted = list(widths)
    context = click.get_current_context(silent=True)
    call = context.find_object(Call) if context else None
    if (call is not None and call.wide) or not sys.stdout.isatty():
        return fitted
    too_wide = sum(fitted) + 2 * (len(fitted) - 1) - shutil.get_terminal_size().columns
    kept = [n for n, name in enumerate(header) if name in _KEPT_COLUMNS]
    for columns in ([n for n in range(len(fitted)) if n not in kept], kept):
        while too_wide > 0 and columns:
            widest = max(columns, key=lambda n: fitted[n])
            if fitted[widest] <= _NARROWEST:
                break
            fitted[widest] -= 1
            too_wide -= 1
    return fitted


def shortened(text: str, columns: int) -> str:
    """`text` in at most `columns`, with … in place of its middle where it is longer."""
    if width(text) <= columns:
        return text
    head, tail = "", ""
    for n in range(len(text)):  # from both ends in turn
        longer = (head + text[len(head)], tail) if n % 2 == 0 else (head, text[-len(tail) - 1] + tail)
        if width(longer[0]) + width(longer[1]) > columns - 1:
            break
        head, tail = longer
    return f"{head}…{tail}"


def _line(row: Sequence[str], header: Sequence[str], widths: Sequence[int], right: Sequence[str]) -> str:
    parts = []
    for whole, name, columns in zip(row, header, widths, strict=True):
        text = shortened(whole, columns)
        gap = " " * (columns - width(text))
        parts.append(gap + text if name in right else text + gap)
    return "  ".join(parts).rstrip()


def coloured_states(line: str) -> str:
    """Colour the words of a line that name a state; click strips colours where stdout is no terminal."""
    return re.sub(r"(?<!\S)[a-z_]+(?!\S)", lambda found: state(found.group()), line)


def state(name: str) -> str:
    """A state, in its colour."""
    colour = _STATE_COLOURS.get(name)
    return click.style(name, fg=colour) if colour else name


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values below each other; values that are None or empty are left out."""
    shown = [(name, escape(value)) for name, value in pairs if value not in (None, "", [], {})]
    columns = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name:<{columns}}  {state(value)}")


def outcome_words(attempt: dict[str, Any]) -> str:
    """The outcome of an attempt: `200`, `503`, `timeout`."""
    reason = attempt.get("reason")
    if reason in (None, "status"):
        return str(attempt.get("status") or reason or attempt.get("outcome"))
    return str(reason)


def failure_words(attempt: dict[str, Any]) -> str:
    """Why an attempt failed, with its detail."""
    words = outcome_words(attempt)
    return f"{words} ({attempt['detail']})" if attempt.get("detail") else words


def print_body(body: str | None, *, indent: str = "  ") -> None:
    """Print a response body, escaped and indented."""
    for line in escape_lines(body or "").splitlines():
        click.echo(indent + line)


def local_time(stamp: str | None, *, millis: bool = False) -> str:
    """An RFC 3339 time of the API in local time: `2026-01-31 14:32:07`."""
    if stamp is None:
        return ""
    try:
        moment = datetime.fromisoformat(stamp).astimezone()
    except ValueError:
        return escape(stamp)
    return moment.strftime("%Y-%m-%d %H:%M:%S") + (f".{moment.microsecond // 1000:03d}" if millis else "")


def ago(stamp: str | None) -> str:
    """A time of the API relative to now: `3m 20s ago`, `in 25s`."""
    if stamp is None:
        return ""
    try:
        seconds = time.time() - datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        return escape(stamp)
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"


def lane_words(path: str, lane: dict[str, Any]) -> str:
    """A lane that waits for a retry: `lane of contact.id 4711 waits since …, retry at …, 12 events`."""
    key = lane["key"]
    named = "a lane" if key is None else f"lane of {path} {json_text(key, indent=None) if key != str(key) else key}"
    retry = lane["next_attempt_at"]
    return escape(
        f"{named} waits since {local_time(lane['since'])}, retry at {local_time(retry)} ({ago(retry)}), "
        f"{count(lane['waiting'], 'event')}"
    )


def size(byte_count: float) -> str:
    """Bytes in the largest fitting unit: `512 B`, `1.4 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if byte_count < 1024:
            return f"{byte_count:.0f} {unit}" if unit == "B" else f"{byte_count:.1f} {unit}"
        byte_count /= 1024
    return f"{byte_count:.1f} GiB"


def bar(part: float, whole: float, *, columns: int = 30) -> str:
    """A bar of `columns` characters, filled in proportion of `part` to `whole`."""
    filled = columns if part >= whole else int(columns * part / whole)
    return "█" * filled + "░" * (columns - filled)


def count(number: int, noun: str) -> str:
    """`1 event`, `1,200 events`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def moment(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The callback of `--since` and `--until`: a time as RFC 3339, from one, from local time or from `2h`, `1d12h`."""
    return _moment(ctx, param, value, -1)


def moment_to_come(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The callback of `--expires`: as `moment`, but `2h` is from now on."""
    return _moment(ctx, param, value, 1)


def _moment(ctx: click.Context, param: click.Parameter, value: str | None, sign: int) -> str | None:
    if value is None:
        return None
    try:
        if _RELATIVE.fullmatch(value):
            seconds = sum(int(number) * _UNIT_SECONDS[unit] for number, unit in re.findall(r"(\d+)([smhdw])", value))
            return _stamp(datetime.now().astimezone() + sign * timedelta(seconds=seconds))
        return _stamp(datetime.fromisoformat(value).astimezone())
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(
            f"{value!r} is no time: write it as 2h, 30m or 3d ({'that long ago' if sign < 0 else 'from now'}), "
            "as 2026-01-31T12:00:00Z, or as '2026-01-31 14:00' in local time",
            ctx=ctx,
            param=param,
        ) from error


def _stamp(moment: datetime) -> str:
    from webhookd.clock import rfc3339

    return rfc3339(int(moment.timestamp() * 1000))
