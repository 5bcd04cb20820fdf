"""A stream for log lines in memory, and a clock that stands still, for the tests of the log."""

from __future__ import annotations

import io
import json
from typing import Any

from webhookd import log

TIMEOUT_SECONDS = 20.0


class Lines:
    def __init__(self, form: Any = "json", level: Any = "debug", **options: Any) -> None:
        self.stream = io.BytesIO()
        log.configure(form, level, self.stream, **options)

    def raw(self) -> list[bytes]:
        assert log.flush(TIMEOUT_SECONDS)
        return self.stream.getvalue().split(b"\n")[:-1]

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw()]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
