"""Writes log lines in a thread of its own, so that logging never blocks the event loop.

stdout is often a pipe, and writing to one blocks once 64 KiB are unread; `O_NONBLOCK` belongs to the open file, which
the shell shares.  Past `capacity_bytes` the newest lines are lost, counted, and reported once the reader takes lines
again.  A closed pipe or a full disk loses lines and nothing else.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from typing import Any, BinaryIO, TextIO

LINGER_SECONDS = 0.05
BATCH_BYTES = 256 * 1024
CAPACITY_BYTES = 4 * 1024 * 1024


class LogStream:
    """Takes whole lines from any thread; never blocks, never raises.

    The thread calls `on_idle` before it sleeps, which returns the seconds until its next call (None: not before the
    next line or `wake`), and `on_lost` with the number of lost lines once lines go out again.
    """

    def __init__(
        self,
        stream: BinaryIO | TextIO,
        *,
        on_idle: Callable[[], float | None] = lambda: None,
        on_lost: Callable[[int], None] = lambda lines: None,
        linger_seconds: float = LINGER_SECONDS,
        capacity_bytes: int = CAPACITY_BYTES,
    ) -> None:
        self.stream = stream
        self._write, self._descriptor = _writer(stream)
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._linger_seconds = linger_seconds
        self._capacity_bytes = capacity_bytes
        self._lines: list[bytes] = []
        self._waiting_bytes = 0  # queued or being written
        self._queued = self._settled = 0  # counts of all lines: ever queued; ever written or given up
        self._lost = 0
        self._torn = False
        self._closed = False
        self._lock = threading.Lock()  # guards the fields above
        self._progress = threading.Condition(self._lock)
        self._work = threading.Event()
        self._urgent = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: bytes, *, urgent: bool = False) -> None:
        """Queue one line with its newline; an urgent one is written at once, others within `linger_seconds`."""
        with self._lock:
            if self._closed or self._waiting_bytes > self._capacity_bytes:
                self._lost += 1
                return
            self._lines.append(line)
            self._queued += 1
            self._waiting_bytes += len(line)
            urgent = urgent or self._waiting_bytes > BATCH_BYTES
        if not self._work.is_set():
            self._work.set()
        if urgent and not self._urgent.is_set():
            self._urgent.set()

    def wake(self) -> None:
        """Call `on_idle` again."""
        self._work.set()

    def flush(self, timeout_seconds: float = 2.0) -> bool:
        """Wait until everything queued so far is written; False if the reader doesn't take it in time."""
        if threading.current_thread() is self._thread:
            return False
        with self._progress:
            goal = self._queued
            self._work.set()
            self._urgent.set()
            return self._progress.wait_for(lambda: self._settled >= goal, timeout_seconds)

    def close(self, timeout_seconds: float = 2.0) -> bool:
        """`flush`, then accept no more lines.  The thread ends once its last write does."""
        flushed = self.flush(timeout_seconds)
        with self._lock:
            self._closed = True
        self._work.set()
        self._urgent.set()
        if flushed:
            self._thread.join(timeout_seconds)
        return flushed

    def _run(self) -> None:
        while not self._closed:
            self._work.wait(self._on_idle())
            if not self._work.is_set():
                continue
            self._urgent.wait(self._linger_seconds)
            self._work.clear()
            self._urgent.clear()
            self._write_batch()

    def _write_batch(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
        if not lines:
            return
        batch = b"".join(lines)
        went_out = self._put(batch)
        with self._progress:
            self._settled += len(lines)
            self._waiting_bytes -= len(batch)
            lost, self._lost = (self._lost, 0) if went_out else (0, self._lost + len(lines))
            self._progress.notify_all()
        if lost:
            self._on_lost(lost)

    def _put(self, batch: bytes) -> bool:
        # After an error in the middle of a line, the next line must start on a new one.
        whole = b"\n" + batch if self._torn else batch
        rest = memoryview(whole)
        while rest:
            try:
                rest = rest[self._write(rest) :]
            except BlockingIOError:
                if self._closed:
                    return False
                select.select([], [self._descriptor], [], 1.0)
            except (OSError, ValueError):
                written = len(whole) - len(rest)
                self._torn = whole[written - 1] != ord("\n") if written else self._torn
                return False
        self._torn = False
        return True


def _writer(stream: BinaryIO | TextIO) -> tuple[Callable[[memoryview], int], int]:
    """How to write bytes to `stream` (returning how many it took), and its descriptor, -1 for one in memory."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        in_memory: Any = getattr(stream, "buffer", stream)
        return in_memory.write, -1
    return lambda data: os.write(descriptor, data), descriptor
