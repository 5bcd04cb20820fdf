"""Log lines: one canonical line per thing done, JSON for programs, colours for a terminal.

`events` has the table of names, `format` makes a line, `stream` writes it out, `throttle` limits repetition, and
`logger` connects the four.  Until `configure` is called nothing is written: commands and tests log nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, BinaryIO, Literal, TextIO

from webhookd.log.events import LEVELS, LOG_EVENTS, LogEvent
from webhookd.log.format import loggable_url
from webhookd.log.logger import Logger

__all__ = ["LOG_EVENTS", "LogEvent", "configure", "emit", "flush", "loggable_url", "recent_errors", "throttled"]

_LOGGER = Logger()


def emit(event: str, /, **fields: Any) -> None:
    """Log one line.  KeyError for a name that the table doesn't have.  Never blocks; safe from any thread."""
    _LOGGER.emit(event, fields)


def throttled(event: str, /, *, key: object = "", **fields: Any) -> None:
    """`emit`, at most once a minute for the same event and key; `count` is the number of occurrences it stands for."""
    _LOGGER.throttled(event, key, fields)


def configure(
    format: Literal["auto", "json", "console"] = "auto",  # noqa: A002 - the setting's name
    level: Literal["debug", "info", "warning", "error"] = "info",
    stream: BinaryIO | TextIO | None = None,
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Start, or go on, writing lines of `level` and above, also those of libraries, to `stream` (stdout)."""
    _LOGGER.configure(format, LEVELS[level], stream, monotonic)


def recent_errors() -> list[dict[str, Any]]:
    """The last lines of level error, oldest first, each with its fields and `at_unix_seconds`."""
    return list(_LOGGER.errors)


def flush(timeout_seconds: float = 2.0) -> bool:
    """Wait until all lines so far are written; False if the reader doesn't take them in time."""
    return _LOGGER.flush(timeout_seconds)
