"""Log lines: one canonical line per thing done, each name in one table, JSON for programs, colours for a terminal.

`emit` refuses a name that `LOG_EVENTS` doesn't have; the table gives the level, the README's table is held against
it, and a test holds every call against its row.  structlog carries a line through three processors (arrange, render,
write); the level is decided before anything is built, because thousands of lines a second are usual.  Until
`configure` is called nothing is written: the commands and the tests of other rooms log into silence.
What a line looks like is `logformat`'s, how it goes out `logstream`'s, how often it is repeated `logthrottle`'s.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, TextIO

import structlog

from webhookd.log.format import ConsoleLines, arrange, json_line, loggable_url
from webhookd.log.stream import LogStream
from webhookd.log.throttle import Summary, Throttle

__all__ = ["LOG_EVENTS", "LogEvent", "configure", "emit", "flush", "loggable_url", "recent_errors", "throttled"]

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
SILENT = 100
KEPT_ERRORS = 10


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One row of the table: the level, what happened, and the fields that a line of it may have."""

    level: Literal["debug", "info", "warning", "error"]
    meaning: str
    fields: tuple[str, ...] = ()


_ENDPOINT = ("workspace", "endpoint_id", "url")
_DELIVERY = ("workspace", "endpoint_id", "event_id", "delivery_id", "event_type")

LOG_EVENTS: dict[str, LogEvent] = {
    "daemon.started": LogEvent("info", "The process began.", ("version", "pid", "state_dir")),
    "daemon.ready": LogEvent(
        "info", "It takes events and delivers.", ("address", "unix_socket", "waiting", "duration_ms")
    ),
    "daemon.stopping": LogEvent("info", "It was told to stop; attempts in flight end first.", ("reason",)),
    "daemon.stopped": LogEvent("info", "Everything is recorded and closed."),
    "daemon.failed": LogEvent("error", "It can't start or can't go on, and exits.", ("error", "exit_code")),
    "heartbeat.missed": LogEvent(
        "error",
        "The event loop, the database or a consumer doesn't move; if that lasts, systemd starts webhookd again.",
        ("reason", "stack", "count"),
    ),
    "config.reloaded": LogEvent("info", "SIGHUP: these keys changed.", ("changed",)),
    "config.not_reloadable": LogEvent(
        "warning", "SIGHUP: these keys need a restart, or are wrong.", ("changed", "error")
    ),
    "state.tightened": LogEvent("warning", "A file or directory of ours was open to others.", ("path", "mode")),
    "token.created": LogEvent("info", "A token was made.", ("workspace", "token_id", "scope")),
    "token.revoked": LogEvent("info", "A token ended.", ("token_id",)),
    "key.revealed": LogEvent("info", "Somebody looked at a signing key.", ("workspace", "endpoint_id", "token_id")),
    "key.rotated": LogEvent(
        "info", "An endpoint has a new signing key.", ("workspace", "endpoint_id", "overlap_seconds")
    ),
    "workspace.created": LogEvent("info", "A workspace was made.", ("workspace", "plan")),
    "workspace.changed": LogEvent("info", "A workspace was changed.", ("workspace", "plan", "fields")),
    "workspace.deleted": LogEvent("info", "A workspace was deleted.", ("workspace",)),
    "endpoint.created": LogEvent("info", "An endpoint was made.", (*_ENDPOINT, "event_types")),
    "endpoint.changed": LogEvent("info", "An endpoint was changed: these fields.", (*_ENDPOINT, "fields")),
    "endpoint.deleted": LogEvent("info", "An endpoint was deleted; what waited is cancelled.", _ENDPOINT),
    "endpoint.enabled": LogEvent(
        "info", "A person enabled an endpoint.", (*_ENDPOINT, "skip_held", "skipped", "waiting")
    ),
    "endpoint.disabled": LogEvent("info", "A person disabled an endpoint.", _ENDPOINT),
    "endpoint.auto_disabled": LogEvent(
        "warning",
        "The failure budget disabled an endpoint.",
        (*_ENDPOINT, "event_id", "delivery_id", "reason", "message", "failures", "limit", "window_seconds", "waiting"),
    ),
    "endpoint.tested": LogEvent(
        "info", "A test was sent to an endpoint.", (*_DELIVERY, "attempt", "status", "reason", "duration_ms")
    ),
    "event.accepted": LogEvent(
        "info",
        "An event, or `count` of one request, is durable and queued.",
        ("workspace", "event_id", "count", "deliveries"),
    ),
    "event.refused": LogEvent(
        "debug", "An event, or `count` of one request, was not accepted.", ("workspace", "event_id", "reason", "count")
    ),
    "delivery.attempted": LogEvent(
        "info",
        "One request to an endpoint ended and is recorded.",
        (
            *_DELIVERY,
            "attempt",
            "status",
            "reason",
            "duration_ms",
            "outcome",
            "counted",
            "connection_retried",
            "detail",
        ),
    ),
    "delivery.dropped": LogEvent(
        "warning",
        "The last retry failed; the delivery can be replayed.",
        (*_DELIVERY, "attempt", "status", "reason", "duration_ms"),
    ),
    "delivery.expired": LogEvent(
        "warning", "Held longer or more than `hold.*` allows.", ("workspace", "endpoint_id", "reason", "count")
    ),
    "delivery.skipped": LogEvent("info", "A person skipped held deliveries.", ("workspace", "endpoint_id", "count")),
    "delivery.cancelled": LogEvent("info", "Ended with its endpoint.", ("workspace", "endpoint_id", "count")),
    "delivery.replayed": LogEvent(
        "info",
        "Past deliveries were queued again.",
        ("workspace", "endpoint_id", "event_id", "delivery_id", "replay_of", "count"),
    ),
    "budget.warned": LogEvent(
        "warning",
        "A share of the failure budget is spent.",
        ("workspace", "failures", "limit", "share", "window_seconds"),
    ),
    "mail.sent": LogEvent("info", "The mail server took a notice.", ("workspace", "mail_id", "count", "recipients")),
    "mail.failed": LogEvent(
        "warning",
        "The mail server didn't take a notice; tried again.",
        ("workspace", "mail_id", "attempt", "error", "count"),
    ),
    "mail.disabled": LogEvent("info", "No `mail.host`: notices are logged and shown, not mailed."),
    "store.opened": LogEvent(
        "info", "The database is open.", ("duration_ms", "path", "sqlite_version", "schema_version", "size_bytes")
    ),
    "store.migrated": LogEvent("info", "The database has a newer schema.", ("from_version", "to_version")),
    "store.pruned": LogEvent(
        "info", "Retention removed finished events.", ("reason", "events", "deliveries", "duration_ms")
    ),
    "store.full": LogEvent("error", "The disk is nearly full: no events are taken."),
    "store.recovered": LogEvent("info", "There is space again: events are taken."),
    "backup.made": LogEvent("info", "A copy of the database was made.", ("duration_ms", "size_bytes")),
    "resource.exhausted": LogEvent(
        "warning", "No descriptor, memory or thread is left; callers are told 503, or wait.", ("error", "count")
    ),
    "request.failed": LogEvent(
        "error", "A fault of webhookd's own, answered 500.", ("status", "incident", "method", "path", "error", "count")
    ),
    "task.ended": LogEvent("error", "A task that must not end ended; the daemon ends.", ("task", "error")),
    "log.overflowed": LogEvent("warning", "Nobody read stdout; so many lines were lost.", ("count",)),
    "library.warned": LogEvent("warning", "A library's own warning.", ("logger", "message", "error", "count")),
    "library.failed": LogEvent("error", "A library's own error.", ("logger", "message", "error", "count")),
}


def emit(event: str, /, **fields: Any) -> None:
    """Log one line.  KeyError for a name that the table doesn't have.  Never blocks; from any thread."""
    _JOURNAL.emit(event, fields)


def throttled(event: str, /, *, key: object = "", **fields: Any) -> None:
    """`emit`, at most once a minute for the same event and key.

    `count` says for how many occurrences a line stands; what a minute suppressed is told when it is over, or at exit.
    """
    _JOURNAL.throttled(event, key, fields)


def configure(
    format: Literal["auto", "json", "console"] = "auto",  # noqa: A002 - the name of the setting, as api.md has it
    level: Literal["debug", "info", "warning", "error"] = "info",
    stream: BinaryIO | TextIO | None = None,
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Begin to write, or change how: to `stream` (stdout) lines of `level` and above; also what libraries log.

    `auto` is `console` on a terminal and `json` elsewhere.  May be called again while running (SIGHUP).
    """
    _JOURNAL.configure(format, LEVELS[level], stream, monotonic)


def recent_errors() -> list[dict[str, Any]]:
    """The last lines of level error, oldest first, each with its fields and `at_unix_seconds`."""
    return list(_JOURNAL.errors)


def flush(timeout_seconds: float = 2.0) -> bool:
    """Wait until all lines so far went out; False when nobody reads them.  Call it before the process ends."""
    return _JOURNAL.flush(timeout_seconds)


class _BoundLogger(structlog.BoundLoggerBase):
    """structlog's logger with one method; the level was decided before."""

    def line(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Run the processors and hand the line to `_Output`'s method named as the level.

        By hand rather than by `_proxy_to_logger`: its copies of the fields cost a fifth of a line's time.
        """
        record: Any = {**fields, "event": event}
        for processor in self._processors:
            record = processor(self._logger, level, record)
        getattr(self._logger, level)(record)


class _Output:
    """What structlog wraps: a method per level, of which warnings and errors go out at once."""

    def __init__(self, stream: LogStream) -> None:
        self._stream = stream

    def info(self, line: bytes) -> None:
        """A line that may wait for its batch."""
        self._stream.write(line)

    def error(self, line: bytes) -> None:
        """A line that somebody should see now."""
        self._stream.write(line, urgent=True)

    debug = info
    warning = error


class _Journal:
    """The one log of the process."""

    def __init__(self) -> None:
        self._threshold = SILENT
        self._stream: LogStream | None = None
        self._logger: _BoundLogger | None = None
        self._monotonic: Callable[[], float] = time.monotonic
        self._throttle = Throttle()
        self.errors: deque[dict[str, Any]] = deque(maxlen=KEPT_ERRORS)

    def configure(
        self, form: str, threshold: int, stream: BinaryIO | TextIO | None, monotonic: Callable[[], float]
    ) -> None:
        """See the function of this name."""
        previous = self._stream
        if previous is None:
            atexit.register(self.flush)
        if previous is None or (stream is not None and stream is not previous.stream):
            self._stream = LogStream(
                stream or sys.stdout or open(os.devnull, "wb"),  # noqa: SIM115 - stays open; no stdout: `serve >&-`
                on_idle=self._on_idle,
                on_lost=lambda lines: self.emit("log.overflowed", {"count": lines}),
            )
        assert self._stream is not None
        self._monotonic = monotonic
        structlog.configure(
            processors=[arrange, _renderer(form, self._stream.stream)],
            wrapper_class=_BoundLogger,
            logger_factory=lambda output: output,
        )
        self._logger = structlog.get_logger(_Output(self._stream)).bind()
        self._threshold = threshold
        _listen_to_libraries(threshold)
        if previous is not None and previous is not self._stream:
            previous.close()

    def emit(self, event: str, fields: dict[str, Any]) -> None:
        """See the function of this name."""
        level = LOG_EVENTS[event].level
        if level == "error":
            self.errors.append({"at_unix_seconds": time.time(), "event": event, **fields})
        if LEVELS[level] >= self._threshold and self._logger is not None:
            self._logger.line(level, event, fields)

    def throttled(self, event: str, key: object, fields: dict[str, Any]) -> None:
        """See the function of this name."""
        if LEVELS[LOG_EVENTS[event].level] < self._threshold:
            return
        count = self._throttle.admit(event, key, fields, self._monotonic())
        if count:
            self.emit(event, {**fields, "count": count})
        if self._stream is not None:
            self._stream.wake()  # its thread sleeps until a minute is over, then tells what that suppressed

    def flush(self, timeout_seconds: float = 2.0) -> bool:
        """See the function of this name."""
        self._tell(self._throttle.suppressed())
        return self._stream is None or self._stream.flush(timeout_seconds)

    def _on_idle(self) -> float | None:
        """Tell what the minutes that are over suppressed; returns the seconds until the next is."""
        now = self._monotonic()
        self._tell(self._throttle.over(now))
        return self._throttle.next_seconds(now)

    def _tell(self, summaries: list[Summary]) -> None:
        for event, fields, count in summaries:
            self.emit(event, {**fields, "count": count})


class _FromLibraries(logging.Handler):
    """What aiohttp, asyncio and others say through `logging`, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """A line for the record; the same complaint of the same library once a minute."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a record whose arguments don't fit must not end whoever logged it
            message = str(record.msg)
        error = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        event = "library.failed" if record.levelno >= logging.ERROR else "library.warned"
        # Its first line alone: asyncio's complaints go on with the descriptor of the connection that they are about.
        throttled(
            event,
            key=(record.name, str(record.msg).partition("\n")[0]),
            logger=record.name,
            message=message,
            error=error,
        )


def _listen_to_libraries(threshold: int) -> None:
    root = logging.getLogger()
    if not any(isinstance(handler, _FromLibraries) for handler in root.handlers):
        root.addHandler(_FromLibraries())
    root.setLevel(max(threshold, logging.WARNING))


def _renderer(form: str, stream: BinaryIO | TextIO) -> Any:
    """The last processor: makes the bytes of a line."""
    on_terminal = stream.isatty()
    if form == "json" or (form == "auto" and not on_terminal):
        return json_line
    return ConsoleLines(colours=on_terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb")


_JOURNAL = _Journal()
