"""The benchmarks run, small: what isn't run rots."""

from __future__ import annotations

from tests.bench import log_page, million


async def test_the_bench_of_a_great_backlog_works() -> None:
    """Every call is made on a backlog of 3,000, and the healthy endpoint's commits are timed."""
    figures = await million.measure(3000, meanwhile_seconds=0.2)
    assert ["POST", "POST", "POST", "PATCH", "PATCH", "POST", "DELETE"] == [each.call.split()[0] for each in figures]
    assert all(0 < each.p99_ms for each in figures)


async def test_the_bench_of_the_log_works() -> None:
    """Every address answers 200 while events go through, and is timed."""
    figures = await log_page.measure(3000, rounds=3)
    assert 8 == len(figures)
    assert all(0 < each.median_ms for each in figures)
