"""A small part of what `python -m tests.hostile.schemathesis` does: the same daemon, checks and allowances."""

from __future__ import annotations

from pathlib import Path

from tests.hostile import schemathesis


async def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """A few examples for each operation, good and bad, always the same ones."""
    assert [] == await schemathesis.run(tmp_path, examples=3, deep=False)
