"""The charts of webhooks: what became of the deliveries and how long answers took, as geometry for an SVG.

Everything is computed here, in the chart's own units; the template only writes it out.  Colours are classes, because
the policy of the page allows no style in the markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from webhookd.store.attempts import TALLIED, Span

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
WIDTH = 960.0
HEIGHT = 160.0
TIMES_HEIGHT = 80.0
SPARK_WIDTH = 96.0
SPARK_HEIGHT = 24.0
_LEAST = 3.0  # a single failure among thousands must be seen
_TICKS = 4

# How long a chart reaches back by its name, and how long each of its spans is.
RANGES = {"hour": (HOUR_MS, MINUTE_MS), "day": (DAY_MS, 30 * MINUTE_MS), "week": (7 * DAY_MS, 2 * HOUR_MS)}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a bar, from the bottom up: which outcome, where it begins (from the top), how high it is."""

    kind: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    """One span: where it lies, its outcomes, and its answer times; y are None where nothing answered or failed."""

    span: Span
    x: float
    width: float
    parts: tuple[Part, ...]
    median_ms: float | None
    median_y: float | None
    failed_y: float | None

    @property
    def empty(self) -> bool:
        """Whether nothing fell into it."""
        return not self.parts and not self.span.failed_attempts


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart by its name in `RANGES`.  `top` and `top_ms` are what the highest bar and answer time may reach.

    Durations are of samples, in milliseconds; None where there are none.
    """

    name: str
    step_ms: int
    bars: tuple[Bar, ...]
    delivered: int
    failed: int
    waiting: int
    failed_attempts: int
    top: int
    top_ms: float
    median_ms: float | None
    slowest_ms: float | None
    ticks_ms: tuple[int, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing fell into any of its spans."""
        return all(bar.empty for bar in self.bars)

    @property
    def exact(self) -> bool:
        """Whether nothing in any of its spans was estimated."""
        return all(bar.span.exact for bar in self.bars)


def bounds_ms(name: str, now_ms: int) -> list[int]:
    """Where the spans of a chart begin, on round times, and now, where the last one ends."""
    reach_ms, width_ms = RANGES[name]
    last_ms = now_ms // width_ms * width_ms
    return [*range(last_ms - reach_ms + width_ms, last_ms + 1, width_ms), max(now_ms, last_ms + 1)]


def chart(name: str, spans: Sequence[Span]) -> Chart:
    """The chart of spans, oldest first."""
    durations = [duration for span in spans for duration in span.durations_ms]
    slowest = max((duration for span in spans for duration in (*span.durations_ms, *span.failed_ms)), default=None)
    top = _round_up(max(span.delivered + span.failed + span.waiting for span in spans))
    top_ms = float(_round_up(slowest or 1.0))
    step = WIDTH / len(spans)
    return Chart(
        name=name,
        step_ms=RANGES[name][1],
        bars=tuple(_bar(span, place * step, step, top, top_ms) for place, span in enumerate(spans)),
        delivered=sum(span.delivered for span in spans),
        failed=sum(span.failed for span in spans),
        waiting=sum(span.waiting for span in spans),
        failed_attempts=sum(span.failed_attempts for span in spans),
        top=top,
        top_ms=top_ms,
        median_ms=median(durations) if durations else None,
        slowest_ms=slowest,
        ticks_ms=tuple(spans[len(spans) * tick // _TICKS].since_ms for tick in range(_TICKS)),
    )


def _bar(span: Span, x: float, step: float, top: int, top_ms: float) -> Bar:
    middle = median(span.durations_ms) if span.durations_ms else None
    counts = (("delivered", span.delivered), ("waiting", span.waiting), ("failed", span.failed))
    return Bar(
        span=span,
        x=round(x, 2),
        width=round(step * 0.86, 2),
        parts=_stack(counts, HEIGHT, top),
        median_ms=middle,
        median_y=None if middle is None else _time_y(middle, top_ms),
        failed_y=_time_y(median(span.failed_ms), top_ms) if span.failed_ms else None,
    )


def _stack(counts: Sequence[tuple[str, int]], height: float, top: int) -> tuple[Part, ...]:
    """The counts on top of each other; what is there at all is seen, and nothing leaves the chart."""
    parts: list[Part] = []
    floor = height
    heights = {kind: max(_LEAST, height * count / top) for kind, count in counts if count}
    shrink = min(1.0, height / (sum(heights.values()) or 1.0))
    for kind, wanted in heights.items():
        part = round(wanted * shrink, 2)
        floor = round(floor - part, 2)
        parts.append(Part(kind, max(0.0, floor), part))
    return tuple(parts)


def _time_y(duration_ms: float, top_ms: float) -> float:
    return round(2 + (TIMES_HEIGHT - 4) * (1 - min(1.0, duration_ms / top_ms)), 2)


def _round_up(value: float) -> int:
    """The next number with which an axis can end: its half is round as well."""
    size = 1
    while True:
        for step in (2, 4, 6, 10):
            if value <= step * size:
                return step * size
        size *= 10


@dataclass(frozen=True, slots=True)
class Sparkline:
    """A webhook's last day in a row of the table, as an SVG path for each outcome; a page has many, so few elements.

    Not `exact`: some of it was estimated.
    """

    paths: dict[str, str]
    delivered: int
    failed: int
    exact: bool

    @property
    def rate(self) -> float | None:
        """How many percent of the attempts succeeded, None without any; never rounded up to all of them."""
        tried = self.delivered + self.failed
        if not tried:
            return None
        percent = 100.0 * self.delivered / tried
        return percent if not self.failed else min(percent, 99.9)


def sparkline(tally: Sequence[tuple[int, int]]) -> Sparkline:
    """The sparkline of what was delivered and what failed in each span, oldest first."""
    step = SPARK_WIDTH / len(tally)
    top = max(1, *(delivered + failed for delivered, failed in tally))
    paths = {"delivered": "", "failed": ""}
    for place, (delivered, failed) in enumerate(tally):
        floor = SPARK_HEIGHT
        for kind, count in (("delivered", delivered), ("failed", failed)):
            if count:
                height = min(floor, max(_LEAST, SPARK_HEIGHT * count / top))
                paths[kind] += f"M{place * step:g} {floor:.4g}h{step - 1:g}v{-height:.4g}h{1 - step:g}z"
                floor -= height
    return Sparkline(
        paths={kind: path for kind, path in paths.items() if path},
        delivered=sum(delivered for delivered, _ in tally),
        failed=sum(failed for _, failed in tally),
        exact=all(max(counts) < TALLIED for counts in tally),
    )
