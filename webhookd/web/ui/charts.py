"""The small plots of an endpoint: outcomes and durations over the last hour and day, as geometry for an SVG.

Everything is computed here, in the plot's own units; the template only writes it out.  Colours are classes, because
the policy of the page allows no style in the markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from webhookd.store.attempts import Span

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WIDTH = 480.0
OUTCOMES_HEIGHT = 72.0
DURATIONS_HEIGHT = 48.0
_GAP = 1.0
_LEAST = 2.0  # a single failure among thousands must be seen


@dataclass(frozen=True, slots=True)
class Bar:
    """One span's bar: where it begins, how wide it is, and its two parts from the bottom up (y, height)."""

    x: float
    width: float
    delivered: tuple[float, float]
    failed: tuple[float, float]
    since_ms: int
    delivered_count: int
    failed_count: int


@dataclass(frozen=True, slots=True)
class Mark:
    """One span's durations: the median as a dot, from the quickest to the slowest as a line."""

    x: float
    median_y: float
    top_y: float
    bottom_y: float


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot: `name` is `hour` or `day`.  Durations are of samples, in milliseconds; None where there are none."""

    name: str
    since_ms: int
    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]
    delivered: int
    failed: int
    most_in_span: int
    median_ms: float | None
    slowest_ms: float | None

    @property
    def empty(self) -> bool:
        """Whether nothing was attempted."""
        return not self.delivered and not self.failed


def plot(name: str, spans: Sequence[Span]) -> Plot:
    """The plot of some spans of equal length, oldest first."""
    step = WIDTH / len(spans)
    most = max(span.delivered + span.failed for span in spans)
    durations = [duration for span in spans for duration in span.durations_ms]
    slowest = max(durations, default=None)
    return Plot(
        name=name,
        since_ms=spans[0].since_ms,
        bars=tuple(_bar(span, place * step, step, most) for place, span in enumerate(spans)),
        marks=tuple(
            _mark(span, (place + 0.5) * step, slowest or 1.0) for place, span in enumerate(spans) if span.durations_ms
        ),
        delivered=sum(span.delivered for span in spans),
        failed=sum(span.failed for span in spans),
        most_in_span=most,
        median_ms=median(durations) if durations else None,
        slowest_ms=slowest,
    )


def _bar(span: Span, x: float, step: float, most: int) -> Bar:
    failed = _height(span.failed, most)
    delivered = min(_height(span.delivered, most), OUTCOMES_HEIGHT - failed)
    return Bar(
        x=round(x, 2),
        width=round(step - _GAP, 2),
        delivered=(round(OUTCOMES_HEIGHT - delivered, 2), round(delivered, 2)),
        failed=(round(OUTCOMES_HEIGHT - delivered - failed, 2), round(failed, 2)),
        since_ms=span.since_ms,
        delivered_count=span.delivered,
        failed_count=span.failed,
    )


def _height(count: int, most: int) -> float:
    return max(_LEAST, OUTCOMES_HEIGHT * count / most) if count else 0.0


def _mark(span: Span, x: float, slowest_ms: float) -> Mark:
    def y(duration_ms: float) -> float:
        return round(2 + (DURATIONS_HEIGHT - 4) * (1 - duration_ms / max(slowest_ms, 0.001)), 2)

    return Mark(round(x, 2), y(median(span.durations_ms)), y(max(span.durations_ms)), y(min(span.durations_ms)))
