"""What a run leaves behind: the table on stdout, `results.json`, and the plots."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from tests.bench.growth import Curve, Point
from tests.bench.measure import Figure

WIDTH, LINE, LEFT, BAR = 820, 22, 400, 280
COLOURS = ("#2a6f97", "#c1666b", "#6a994e", "#8d6a9f")
_STYLE = 'font-family="sans-serif" font-size="12"'
COSTS: dict[str, Callable[[Point], float]] = {
    "µs per event": lambda point: point.event_us,
    "MB": lambda point: point.memory_mb,
    "ms per idle second": lambda point: point.idle_ms_per_s,
    "s to start": lambda point: point.start_seconds,
}


def table(figures: Sequence[Figure]) -> str:
    """The figures as a table for people."""
    head = "| what | loop | median ± noise | goal | made of (medians) |\n| --- | --- | --- | --- | --- |"
    return "\n".join([head, *[figure.line() for figure in figures]])


def growth_table(curves: Sequence[Curve]) -> str:
    """Cost against size, for people."""
    lines = [
        "| what | size | start, s | memory, MB | idle, ms/s | µs per event |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for curve in curves:
        lines += [
            f"| {curve.name} | {p.size:,} | {p.start_seconds:.2f} | {p.memory_mb:.1f} | {p.idle_ms_per_s:.1f} "
            f"| {p.event_us:.0f} |"
            for p in curve.points
        ]
    return "\n".join(lines)


def write(folder: Path, figures: Sequence[Figure], curves: Sequence[Curve]) -> None:
    """Leave results and plots in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
        "figures": [figure.as_json() for figure in figures],
        "growth": [asdict(curve) for curve in curves],
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    if figures:
        (folder / "figures.svg").write_text(bars(figures))
    if curves:
        (folder / "growth.svg").write_text(growth_plot(curves))


def bars(figures: Sequence[Figure]) -> str:
    """How near each median comes to its goal: a bar as long as the share of the goal reached, at most twice it."""
    parts = []
    for number, figure in enumerate(figures):
        y = 30 + number * LINE
        share = figure.median / figure.goal if figure.at_least else figure.goal / max(figure.median, 1e-9)
        length = min(share, 2.0) / 2 * BAR
        colour = COLOURS[2] if figure.met else COLOURS[1]
        name = escape(f"{figure.row} ({figure.loop})")
        said = f"{figure.median:.3g}{figure.unit} of {figure.goal:g}{figure.unit}, ± {figure.noise:.0%}"
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end" {_STYLE}>{name}</text>'
            f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{LINE - 6}" fill="{colour}"/>'
            f'<text x="{LEFT + BAR + 8}" y="{y + 12}" {_STYLE}>{said}</text>'
        )
    goal_x, height = LEFT + BAR / 2, 40 + len(figures) * LINE
    parts.append(
        f'<line x1="{goal_x}" y1="22" x2="{goal_x}" y2="{height - 10}" stroke="black" stroke-dasharray="3 3"/>'
        f'<text x="{goal_x}" y="16" text-anchor="middle" {_STYLE}>goal</text>'
    )
    return _svg(WIDTH + 80, height, parts)


def growth_plot(curves: Sequence[Curve]) -> str:
    """A panel for each cost; sizes on a logarithmic axis, costs from zero."""
    panel_width, panel_height = 400, 230
    parts = []
    for number, (name, cost) in enumerate(COSTS.items()):
        x, y = number % 2 * panel_width, number // 2 * panel_height
        parts.append(f'<g transform="translate({x} {y})">{_panel(name, cost, curves, panel_width, panel_height)}</g>')
    return _svg(2 * panel_width, 2 * panel_height, parts)


def _panel(name: str, cost: Callable[[Point], float], curves: Sequence[Curve], width: int, height: int) -> str:
    left, top, right, bottom = 50, 30, width - 130, height - 35
    sizes = [max(1, point.size) for curve in curves for point in curve.points]
    low, high = math.log10(min(sizes)), math.log10(max(sizes)) + 1e-9
    highest = max(cost(point) for curve in curves for point in curve.points) * 1.1 or 1.0

    def place(point: Point) -> tuple[float, float]:
        across = (math.log10(max(1, point.size)) - low) / (high - low)
        return left + across * (right - left), bottom - cost(point) / highest * (bottom - top)

    parts = [
        f'<text x="{left}" y="18" {_STYLE} font-weight="bold">{name}</text>',
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#888"/>',
        f'<text x="{left - 4}" y="{top + 6}" text-anchor="end" {_STYLE}>{highest:.3g}</text>',
        f'<text x="{left - 4}" y="{bottom}" text-anchor="end" {_STYLE}>0</text>',
        f'<text x="{left}" y="{bottom + 16}" {_STYLE}>{min(sizes):,}</text>',
        f'<text x="{right}" y="{bottom + 16}" text-anchor="end" {_STYLE}>{max(sizes):,}</text>',
    ]
    for curve, colour in zip(curves, COLOURS, strict=False):
        places = [place(point) for point in curve.points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        x, y = places[-1]
        parts.append(f'<text x="{x + 6:.1f}" y="{y + 4:.1f}" fill="{colour}" {_STYLE}>{curve.name}</text>')
    return "".join(parts)


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )
