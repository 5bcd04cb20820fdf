"""The figures as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.growth import Curve
from tests.bench.measure import Figure


def table(figures: Sequence[Figure]) -> str:
    head = "| what | loop | median ± noise | goal | made of (medians) |\n| --- | --- | --- | --- | --- |"
    return "\n".join([head, *[figure.line() for figure in figures]])


def growth_table(curves: Sequence[Curve]) -> str:
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
