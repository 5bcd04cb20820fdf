"""The statements of retention use the indexes that they name, so that no step walks through the whole log."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.stores import open_store
from webhookd.store import retention

TERMS = {"counted_since_ms": 0, "settled_before_ms": 0}


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        (retention._EXAMINE, TERMS | {"after_seq": 0}),
        (retention._JUDGE, TERMS | {"seq": 1}),
        (f"DELETE FROM attempts WHERE delivery_seq IN {retention._SOME_OF_EVENT}", (1,)),
        (f"DELETE FROM deliveries WHERE seq IN {retention._SOME_OF_EVENT}", (1,)),
    ],
)
async def test_no_statement_scans_a_table(tmp_path: Path, sql: str, parameters: dict[str, int] | tuple[int]) -> None:
    """Every row is found by a search; the query plan has no SCAN of events, deliveries or attempts."""
    async with open_store(tmp_path) as store:
        plan = await store.read(lambda db: db.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall())
    steps = [row[3] for row in plan]
    assert steps and not [step for step in steps if step.startswith("SCAN")]
