"""The figures of speed, measured small: what isn't run rots.  What an event costs may not grow with what is there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.bench import growth, processes, report, stalls, stock
from tests.bench.measure import SMALL, Figure, Yard
from tests.bench.rows import ROWS

# Of what an event costs in processor time with 30 times as much in the table.
GROWTH_TOLERANCE = 1.5
GROWTH_SIZES = (1_000, 30_000)


@pytest.mark.parametrize("row", ROWS)
async def test_a_row_is_measured(row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row of the table yields figures, made of what the reference and webhookd did; nothing is lost on the way."""
    monkeypatch.setattr(processes, "loops", lambda: ["stock"])
    async with processes.peer() as peer:
        figures = await ROWS[row](Yard(tmp_path, peer, SMALL))
    assert figures
    assert all(0 < value for figure in figures for value in figure.values)
    assert all(f"| {figure.row} |" in report.table(figures) for figure in figures)


async def test_an_event_costs_the_same_whatever_is_there(tmp_path: Path) -> None:
    """Processor time of an event, in and out, with little and with 30 times as much subscribed, waiting, finished."""
    async with processes.peer() as peer:
        curves = await growth.curves(Yard(tmp_path, peer, SMALL), GROWTH_SIZES, seconds=0.2, events=800)
    assert ["idle endpoints", "waiting events", "rows of history"] == [curve.name for curve in curves]
    for curve in curves:
        little, much = curve.points
        assert much.event_us < GROWTH_TOLERANCE * little.event_us, curve
    assert "| waiting events | 30,000 |" in report.growth_table(curves)


def test_a_figure_tells_its_median_its_noise_and_its_verdict() -> None:
    """The middle of the rounds; half of the middle half's width; against a goal from either side."""
    figure = Figure("row", "stock", " ms", 10.0, at_least=False, values=[8.0, 9.0, 30.0, 7.0, 10.0])
    assert (9.0, True) == (figure.median, figure.met)
    assert 0.694 == round(figure.noise, 3)
    assert "| row | stock | 9 ms ± 69% | ≤ 10 ms reached |" in figure.line()
    assert not Figure("row", "stock", "", 0.6, at_least=True, values=[0.59]).met


async def test_the_recorder_names_what_was_slow(tmp_path: Path) -> None:
    """The daemon runs with the recorder in it; its commits are timed, and so is the thread that only sleeps."""
    latencies, found = await stalls.measure(100, 0.5, tmp_path)
    assert 0 < latencies["p50"] <= latencies["p99"]
    assert all(each["longest_ms"] > 0 and each["moments"] >= each["long"] for each in found.values())
    recorder = stalls.Recorder()
    recorder.note("SQLite: a commit", 0.02)
    recorder.note("SQLite: a commit", 0.001)
    assert {"SQLite: a commit": {"moments": 2, "long": 1, "longest_ms": 20.0}} == recorder.found()


async def test_the_peer_takes_requests_in_pieces() -> None:
    """The sink answers each request once, in whatever pieces it comes, several at once included."""
    request = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
    async with processes.peer() as peer:
        reader, writer = await asyncio.open_connection("127.0.0.1", peer.port)
        for piece in (request[:10], request[10:40], request[40:] + request, request):
            writer.write(piece)
            await asyncio.sleep(0.02)
        for _ in range(3):
            assert b"ok" == (await reader.readuntil(b"ok"))[-2:]
        assert 3 == (await peer.ask("watch", count=3, timeout_seconds=5))["taken"]
        writer.close()


def test_the_catalogue_of_the_bench_is_its_own() -> None:
    """As many types as asked for, each in the configuration."""
    assert ["bench.t0", "bench.t1"] == stock.type_names(2)
    assert '[events."bench.t1"]' in stock.config(2)
