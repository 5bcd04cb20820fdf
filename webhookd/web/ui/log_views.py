"""What the pages of the log draw and quote: the histogram, a delivery's attempts on a line of time, a request as curl.

Geometry is in the unit of each SVG; the template only writes it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from shlex import quote

from webhookd.models import DeliveryState, DeliveryView, Json
from webhookd.store import delivery_log
from webhookd.store.delivery_log.histogram import Bar, histogram
from webhookd.store.delivery_log.log_filter import LogFilter
from webhookd.store.store import Db
from webhookd.web.ui.charts import DAY_MS, HOUR_MS

WIDTH = 960.0
HEIGHT = 64.0
BARS = 60  # at most
_MINUTE_MS = 60_000
# How wide a bar may be: what a clock or a calendar divides evenly.
_WIDTHS_MS = (
    *(seconds * 1000 for seconds in (1, 2, 5, 10, 15, 30)),
    *(minutes * _MINUTE_MS for minutes in (1, 2, 5, 10, 15, 30)),
    *(hours * HOUR_MS for hours in (1, 2, 3, 6, 12)),
    *(days * DAY_MS for days in (1, 2, 7, 14, 28)),
)
_GAP = 2.0
_LEAST = 3.0  # one among thousands must be seen


@dataclass(frozen=True, slots=True)
class ChartBar:
    """A bar with its two parts from the bottom up, each as (y, height)."""

    x: float
    width: float
    good: tuple[float, float]
    bad: tuple[float, float]
    since_ms: int
    total: int
    failed: int


@dataclass(frozen=True, slots=True)
class LogChart:
    """The bars that have something in them, of `count` that are `step` wide each; `exact` as in `Histogram`."""

    bars: tuple[ChartBar, ...]
    since_ms: int
    width_ms: int
    count: int
    step: float
    total: int
    failed: int
    exact: bool


def log_chart(db: Db, wanted: LogFilter, now_ms: int) -> LogChart | None:
    """The histogram of a filter: its times, else the last 24 hours in which there was anything; None without rows."""
    first_ms, last_ms = delivery_log.reach(db)
    if first_ms is None or last_ms is None:
        return None
    until_ms = min(wanted.until_ms or now_ms + 1, now_ms + 1)
    since_ms = wanted.since_ms
    if since_ms is None:
        until_ms = until_ms if wanted.until_ms is not None or last_ms >= now_ms - DAY_MS else last_ms + 1
        since_ms = until_ms - DAY_MS
    since_ms = max(since_ms, first_ms - HOUR_MS)
    if since_ms >= until_ms:
        return None
    width_ms = next((each for each in _WIDTHS_MS if (until_ms - since_ms) / each <= BARS - 1), None)
    width_ms = width_ms or -(-(until_ms - since_ms) // BARS // DAY_MS) * DAY_MS
    begin_ms = since_ms // width_ms * width_ms
    count = -(-(until_ms - begin_ms) // width_ms)
    found = histogram(db, wanted, since_ms=begin_ms, width_ms=width_ms, count=count)
    shown = (lambda number: number) if found.exact else _about
    step, most = WIDTH / count, max(bar.total for bar in found.bars)
    return LogChart(
        bars=tuple(_bar(bar, n * step, step, most, shown) for n, bar in enumerate(found.bars) if bar.total),
        since_ms=begin_ms,
        width_ms=width_ms,
        count=count,
        step=round(step, 2),
        total=shown(sum(bar.total for bar in found.bars)),
        failed=shown(sum(bar.failed for bar in found.bars)),
        exact=found.exact,
    )


def _about(number: int) -> int:
    """An estimate, without digits that it doesn't have."""
    return int(float(f"{number:.2g}"))


def _bar(bar: Bar, x: float, step: float, most: int, shown: Callable[[int], int]) -> ChartBar:
    bad = _height(bar.failed, most)
    good = min(_height(bar.total - bar.failed, most), HEIGHT - bad)
    return ChartBar(
        x=round(x, 2),
        width=round(max(step - _GAP, 1.0), 2),
        good=(round(HEIGHT - good, 2), round(good, 2)),
        bad=(round(HEIGHT - good - bad, 2), round(bad, 2)),
        since_ms=bar.since_ms,
        total=shown(bar.total),
        failed=shown(bar.failed),
    )


def _height(count: int, most: int) -> float:
    return max(_LEAST, HEIGHT * count / most) if count > 0 else 0.0


MARKS = 10  # at most, the newest


@dataclass(frozen=True, slots=True)
class Mark:
    """An attempt on the line, or one to come; `gap_seconds` since the one before it, None for the first.

    `x` and `from_x` are percent of the width.  Marks stand at equal distances, so that none hides another.
    """

    x: float
    from_x: float
    number: int
    gap_seconds: float | None
    attempt: Json | None  # None: to come
    at_ms: int | None


def timeline(attempts: Sequence[Json], delivery: DeliveryView, retry_seconds: Sequence[float]) -> list[Mark]:
    """The marks of a delivery, oldest first: what was attempted, then the retries that it still has."""
    starts = [datetime.fromisoformat(str(each["started_at"])).timestamp() for each in attempts]
    gaps = [None, *(late - early for early, late in pairwise(starts))][: len(attempts)]
    rows: list[tuple[int, float | None, Json | None, int | None]] = [
        (number + 1, gap, each, None) for number, (each, gap) in enumerate(zip(attempts, gaps, strict=True))
    ]
    if delivery.state is DeliveryState.PENDING and delivery.next_attempt_at_ms is not None and attempts:
        for number, gap in enumerate(retry_seconds[len(attempts) - 1 :]):
            at_ms = delivery.next_attempt_at_ms if not number else None
            rows.append((len(attempts) + number + 1, gap, None, at_ms))
    rows = rows[-MARKS:]
    width = 100 / max(1, len(rows))
    return [
        Mark(round(width * (place + 0.5), 2), round(width * (place - 0.5), 2), number, gap, attempt, at_ms)
        for place, (number, gap, attempt, at_ms) in enumerate(rows)
    ]


def as_curl(attempt: Json, body: bytes) -> str:
    """The request of an attempt as a command of a shell; the values of the endpoint's own headers are masked."""
    request = attempt["request"]
    lines = ["curl -X POST " + quote(str(request.get("url", "")))]
    lines += [f"-H {quote(f'{name}: {value}')}" for name, value in request.get("headers", {}).items()]
    lines.append("--data-binary " + quote(body.decode("utf-8", "replace")))
    return " \\\n  ".join(lines)
