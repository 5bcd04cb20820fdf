"""The log of the process: decides by level, formats a line, queues it, and takes in what libraries log."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, BinaryIO, TextIO

from webhookd.log.events import LEVELS, LOG_EVENTS
from webhookd.log.format import ConsoleLines, arrange, json_line
from webhookd.log.stream import LogStream
from webhookd.log.throttle import Summary, Throttle

SILENT = 100
KEPT_ERRORS = 10


class Logger:
    """One log.  The level is checked before a line is built, because thousands of lines a second are usual."""

    def __init__(self) -> None:
        self._threshold = SILENT
        self._stream: LogStream | None = None
        self._render: Callable[[dict[str, Any]], bytes] = json_line
        self._monotonic: Callable[[], float] = time.monotonic
        self._throttle = Throttle()
        self._library_handler = _LibraryHandler(self)
        self.errors: deque[dict[str, Any]] = deque(maxlen=KEPT_ERRORS)

    def configure(
        self, form: str, threshold: int, stream: BinaryIO | TextIO | None, monotonic: Callable[[], float]
    ) -> None:
        """See `webhookd.log.configure`."""
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
        self._render = _renderer(form, self._stream.stream)
        self._threshold = threshold
        root = logging.getLogger()
        if self._library_handler not in root.handlers:
            root.addHandler(self._library_handler)
        root.setLevel(max(threshold, logging.WARNING))
        if previous is not None and previous is not self._stream:
            previous.close()

    def emit(self, event: str, fields: dict[str, Any]) -> None:
        """See `webhookd.log.emit`."""
        level = LOG_EVENTS[event].level
        if level == "error":
            self.errors.append({"at_unix_seconds": time.time(), "event": event, **fields})
        if LEVELS[level] >= self._threshold and self._stream is not None:
            line = self._render(arrange(level, event, fields))
            self._stream.write(line, urgent=level in ("warning", "error"))

    def throttled(self, event: str, key: object, fields: dict[str, Any]) -> None:
        """See `webhookd.log.throttled`."""
        if LEVELS[LOG_EVENTS[event].level] < self._threshold:
            return
        count = self._throttle.admit(event, key, fields, self._monotonic())
        if count:
            self.emit(event, {**fields, "count": count})
        if self._stream is not None:
            self._stream.wake()  # its thread sleeps until the next minute is over

    def flush(self, timeout_seconds: float = 2.0) -> bool:
        """See `webhookd.log.flush`."""
        self._emit_summaries(self._throttle.suppressed())
        return self._stream is None or self._stream.flush(timeout_seconds)

    def _on_idle(self) -> float | None:
        """Report what past minutes suppressed; returns the seconds until the next minute is over."""
        now = self._monotonic()
        self._emit_summaries(self._throttle.over(now))
        return self._throttle.next_seconds(now)

    def _emit_summaries(self, summaries: list[Summary]) -> None:
        for event, fields, count in summaries:
            self.emit(event, {**fields, "count": count})


class _LibraryHandler(logging.Handler):
    """Turns what aiohttp, asyncio and others log through `logging` into our lines, each once a minute."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - arguments that don't fit their format must not break the library
            message = str(record.msg)
        error = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        event = "library.failed" if record.levelno >= logging.ERROR else "library.warned"
        # The key is the first line alone: asyncio adds the descriptor of the connection in the following ones.
        key = (record.name, str(record.msg).partition("\n")[0])
        self._logger.throttled(event, key, {"logger": record.name, "message": message, "error": error})


def _renderer(form: str, stream: BinaryIO | TextIO) -> Callable[[dict[str, Any]], bytes]:
    on_terminal = stream.isatty()
    if form == "json" or (form == "auto" and not on_terminal):
        return json_line
    return ConsoleLines(colours=on_terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb")
