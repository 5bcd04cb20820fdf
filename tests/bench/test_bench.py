"""The benchmarks run, small: what isn't run rots."""

from __future__ import annotations

from pathlib import Path

from tests.bench import large, retention, soak
from tests.bench.peers import __main__ as compared
from tests.browser.conftest import CHROMIUM


async def test_the_bench_of_a_large_database_works() -> None:
    """Every call is made on a backlog of 3,000, every page answers 200, every kill is got over, and each is timed."""
    figures = await large.calls(3000, meanwhile_seconds=0.2)
    assert ["until", "POST", "POST", "POST", "PATCH", "PATCH", "POST", "DELETE"] == [f.what.split()[0] for f in figures]
    pages = await large.log(3000, rounds=3) + await large.webhooks(3000, rounds=3)
    assert {"/log", "/webhooks"} <= {each.what for each in pages}
    if CHROMIUM is not None:
        pages += await large.page(3000, rounds=3)
    kills = await large.ready(3000)
    assert large.KILLS == len(kills)
    assert all(0 < value for each in figures + pages + kills for value in each.values.values())


async def test_the_soak_works() -> None:
    """Seven seconds of it: under load, pruned meanwhile, every figure sampled and judged, nothing out of order."""
    found = await soak.soak(0.12, sample_seconds=0.5, people_seconds=2.0)
    assert set(soak.BOUNDS) == {each.name for each in found.verdicts}
    assert len(found.samples) >= 4
    assert found.pruned
    assert found.delivered > 0 and found.failed > 0
    assert 0 == found.out_of_order


def test_the_soak_tells_what_grows() -> None:
    """A figure that grows from quarter to quarter isn't called flat; one that only fills up at first is."""
    samples = [
        {name: 1e9 * (1 + place / 10) if name == "rss_bytes" else 1e8 * min(place, 3) for name in soak.BOUNDS}
        for place in range(20)
    ]
    assert ["rss_bytes"] == [each.name for each in soak.judge(samples) if not each.flat]


async def test_the_bench_of_retention_works() -> None:
    """Half of 1,000 goes by age, some of the rest by size, while others commit."""
    # More than retention removes, which is little beside other work, would keep it busy for ever.
    alone, by_age, by_size = await retention.measure(1000, alone_seconds=0.2, per_second=50)
    assert (0, 500) == (len(alone.steps), by_age.events)
    assert by_size.events > 200
    assert all(0 < each.others[0] and each.steps and each.transactions for each in (by_age, by_size))


def test_the_programs_that_peers_are_compared_by_are_there() -> None:
    """They run only where Redis and the network are."""
    named = {part for rival in compared.RIVALS for part in (*rival.worker, *rival.producer) if "_peer" in part}
    files = {each.name for each in Path(compared.__file__).parent.iterdir()}
    assert len(named) >= 4
    for each in named:
        assert {each, each.partition(".")[0] + ".py"} & files
