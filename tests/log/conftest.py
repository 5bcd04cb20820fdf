"""A log of the test's own; that of the process stays silent."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from webhookd import log
from webhookd.log.logger import Logger


@pytest.fixture(autouse=True)
def logger(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fresh = Logger()
    monkeypatch.setattr(log, "_LOGGER", fresh)
    root = logging.getLogger()
    before, level = [*root.handlers], root.level
    yield
    if fresh._stream is not None:
        fresh._stream.close(0.1)
    root.handlers[:] = before
    root.setLevel(level)
